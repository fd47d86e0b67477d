"""Limits of the parts of the gain hold for the true parts, whatever the folds could tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from testbed.stats import ArmOutcomes, StatsError, compare_arms, decompose_cross_fitted
from testbed.stats.energy import bernoulli_kl, free_energy, log_partition, tilt_kl
from testbed.stats.verdicts import accessibility


def expected(p: float, q: float, n: int, b: int, big: int) -> dict[str, float]:
    """Exact expectation of each form over both arms' counts."""
    c0, c1 = (v.ravel() for v in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    chance = binom.pmf(c0, n, p) * binom.pmf(c1, n, q)
    parts = decompose_cross_fitted(n + 0 * c0, c0, n + 0 * c1, c1, operating=b, elicitation=big)
    names = ("elicitation", "elicitation_least", "elicitation_most", "creation", "creation_most", "loss", "loss_most")
    return {name: float(chance @ getattr(parts, name)) for name in names}


@pytest.mark.parametrize(("n", "b", "big"), [(4, 1, 2), (4, 1, 3), (8, 2, 4), (16, 1, 15), (16, 2, 8)])
def test_each_form_errs_to_its_own_side_of_the_true_part(n: int, b: int, big: int) -> None:
    for p, q in itertools.product((0.0, 0.03, 0.2, 0.6, 1.0), (0.0, 0.1, 0.3, 0.9, 1.0)):
        x, y, t = 1 - (1 - p) ** b, 1 - (1 - p) ** big, 1 - (1 - q) ** b
        truth = {"elicitation": max(0, min(t, y) - x), "creation": max(0, t - y), "loss": max(0, x - t)}
        found = expected(p, q, n, b, big)
        assert found["elicitation_least"] <= truth["elicitation"] + 1e-9
        assert found["elicitation_most"] >= truth["elicitation"] - 1e-9
        for part in ("creation", "loss"):
            assert found[part] - 1e-9 <= truth[part] <= found[f"{part}_most"] + 1e-9


def test_cross_fitted_elicitation_itself_is_biased_upward() -> None:
    assert expected(0.0, 0.25, 32, 1, 16)["elicitation"] == pytest.approx(0.158, abs=1e-3)  # true: 0


def test_a_point_estimate_lies_between_its_two_forms_whatever_the_counts() -> None:
    for n0, n1, b, big in ((4, 3, 1, 3), (8, 6, 2, 4), (12, 8, 3, 8), (6, 2, 1, 1)):
        c0, c1 = (v.ravel() for v in np.meshgrid(np.arange(n0 + 1), np.arange(n1 + 1)))
        d = decompose_cross_fitted(n0 + 0 * c0, c0, n1 + 0 * c1, c1, operating=b, elicitation=big)
        for part, least, most in (
            (d.elicitation, d.elicitation_least, d.elicitation_most),
            (d.creation, d.creation, d.creation_most),
            (d.loss, d.loss, d.loss_most),
        ):
            assert (least <= part + 1e-12).all()
            assert (part <= most + 1e-12).all()
        assert d.elicitation_least.min() >= -1
        assert d.elicitation_most.max() <= 1


def pair(p: float, q: float, n: int, tasks: int, seed: int = 0) -> tuple[ArmOutcomes, ArmOutcomes]:
    rng = np.random.default_rng(seed)
    names = [str(i) for i in range(tasks)]
    return (
        ArmOutcomes.from_counts("bare", names, n, rng.binomial(n, p, tasks)),
        ArmOutcomes.from_counts("tool", names, n, rng.binomial(n, q, tasks)),
    )


@pytest.mark.parametrize(
    ("p", "q", "n", "big"), [(0.5, 0.5, 4, 3), (0, 0.6, 16, 15), (0, 0.25, 32, 16), (0.2, 0.8, 2, 1)]
)
def test_no_elicitation_is_claimed_where_there_is_none(p: float, q: float, n: int, big: int) -> None:
    found = compare_arms(*pair(p, q, n, 120), elicitation=big, replicates=300).figures
    assert found.elicitation_part.value is not None
    assert found.elicitation_part.low == 0
    y = 1 - (1 - p) ** big
    assert (found.creation.low or 0) <= max(0, q - y) <= (found.creation.high or 0)
    total = found.elicitation_part.value + (found.creation.value or 0) - (found.loss.value or 0)
    assert found.gain.value == pytest.approx(total, abs=1e-12)


def test_limits_of_parts_are_never_below_zero_and_never_without_width() -> None:
    found = compare_arms(*pair(0.5, 0.2, 8, 40), elicitation=4, replicates=300)
    assert found.creation_by_spend is not None
    figures = found.figures
    for part in (figures.elicitation_part, figures.creation, figures.loss, *found.creation_by_spend.creation):
        assert part.low is not None
        assert part.high is not None
        assert 0 <= part.low < part.high <= 1


def test_a_bare_task_short_of_attempts_does_not_change_what_the_null_row_is_read_at() -> None:
    rng = np.random.default_rng(0)
    names, n = [str(i) for i in range(40)], np.full(40, 32)
    n[5] = 10
    bare, tool = (ArmOutcomes.from_counts(name, names, n, rng.binomial(n, 0.3)) for name in ("bare", "tool"))
    found = compare_arms(bare, tool, elicitation=8, replicates=100)
    assert found.null is not None
    assert found.null.elicitation == 8
    assert len(found.null.tasks) == 39
    assert found.at_null is None


def test_where_the_null_row_is_read_at_another_spend_the_arms_support_at_it_is_given_too() -> None:
    found = compare_arms(*pair(0.2, 0.2, 17, 60), elicitation=16, replicates=100)
    assert found.null is not None
    assert found.null.elicitation == 7
    assert found.at_null is not None
    assert (found.at_null.ndr.value or 0) > (found.figures.support.ndr.value or 1)
    same = compare_arms(*pair(0.2, 0.2, 17, 60), elicitation=7, replicates=100).figures.support
    assert found.at_null.ndr.value == pytest.approx(same.ndr.value)


def test_verdicts_are_read_at_a_spend_of_their_own() -> None:
    found = compare_arms(*pair(0.2, 0.6, 16, 12), elicitation=4, accessible=16, replicates=100)
    assert found.figures.verdicts.bare.p_out == pytest.approx(1 - 0.5 ** (1 / 16))


def test_evidence_of_creation_is_not_evidence_of_reach_at_the_same_spend() -> None:
    within, beyond = pair(0.02, 0.12, 500, 20), pair(0.0, 0.9, 200, 20)
    assert compare_arms(*within, elicitation=16, replicates=100).figures.verdicts.log_e_expanded.max() > np.log(20)
    assert compare_arms(*within, elicitation=16, replicates=100).figures.log_e_created.max() < 0
    assert compare_arms(*beyond, elicitation=16, replicates=100).figures.log_e_created.min() > np.log(20)


# ---- nats where they used to be lost ---------------------------------------------------------------------------------


def test_free_energy_of_a_sure_success_at_a_low_temperature_is_finite() -> None:
    assert log_partition(1.0, [-40.0, -800.0]).tolist() == [-40.0, -800.0]
    assert free_energy(1.0, -40.0) == -1.0


@pytest.mark.parametrize(
    ("p", "beta", "nats"),
    [(1e-17, 1.0, 1e-17), (0.3, 1e-8, 0.21 * 1e-16 / 2), (1e-17, -1.0, 1e-17 * (1 - 2 / np.e)), (0.5, 0.1, 0.00124844)],
)
def test_the_divergence_of_a_tilt_is_right_where_its_terms_cancel(p: float, beta: float, nats: float) -> None:
    assert tilt_kl(p, beta) == pytest.approx(nats, rel=1e-4)
    assert float(bernoulli_kl(2e-17, 1e-17)) == pytest.approx(1e-17 * (2 * np.log(2) - 1), rel=1e-6)


def test_levels_that_are_arrays_and_costs_that_overflow_are_refused_by_name() -> None:
    with pytest.raises(StatsError, match="alpha must be one number"):
        accessibility([4], [1], 2, alpha=np.array([0.1, 0.2]))  # type: ignore[arg-type]
    with pytest.raises(StatsError, match="arm 'x', task 'a'.*at most"):
        ArmOutcomes.from_rows("x", ["a"] * 4, [0, 1, 0, 1], costs={"t": [1e308] * 4})
