from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from testbed.stats import (
    ArmOutcomes,
    StatsError,
    creation_curve,
    decompose,
    decompose_cross_fitted,
    decompose_cross_fitted_at_spend,
    reach_at_k,
    sample_equivalent,
)
from testbed.stats.reach import posterior_reach

unit = st.floats(0, 1)


@given(unit, unit, unit)
def test_the_parts_add_up_to_the_gain_and_are_never_negative(x: float, y: float, t: float) -> None:
    x, y = min(x, y), max(x, y)
    parts = decompose(x, y, t)
    total = parts.elicitation + parts.creation - parts.loss
    assert abs(total[0] - (t - x)) <= 1e-12
    assert min(parts.elicitation[0], parts.creation[0], parts.loss[0]) >= 0
    assert parts.creation[0] * parts.loss[0] == 0
    assert not parts.cross_fitted


def test_each_regime_is_called_by_its_name() -> None:
    parts = decompose([0.1, 0.1, 0.5], [0.4, 0.4, 0.9], [0.9, 0.3, 0.2])
    assert parts.creation.tolist() == pytest.approx([0.5, 0, 0])
    assert parts.elicitation.tolist() == pytest.approx([0.3, 0.2, 0])
    assert parts.loss.tolist() == pytest.approx([0, 0, 0.3])


@pytest.mark.parametrize(("reach", "words"), [((0.5, 0.4, 0.1), "falls from 0.5 to 0.4"), ((0, 1, np.nan), "between")])
def test_reaches_that_cannot_be_are_refused(reach: tuple[float, float, float], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        decompose(*reach)


def over_all_splits(n0: int, c0: int, n1: int, c1: int, b: int, big: int) -> tuple[float, float, float]:
    """Elicitation, creation and loss over every split, by brute force."""
    sums = np.zeros(3)
    splits = 0
    for kept0 in combinations(range(n0), big):
        hits0 = sum(i < c0 for i in kept0)
        x, y = (float(posterior_reach(n0 - big, c0 - hits0, k)) for k in (b, big))
        rx, ry = (float(reach_at_k(big, hits0, k)) for k in (b, big))
        for kept1 in combinations(range(n1), b):
            hits1 = sum(i < c1 for i in kept1)
            t, rt = float(posterior_reach(n1 - b, c1 - hits1, b)), float(reach_at_k(b, hits1, b))
            if t > y + 1e-12:
                parts = (ry - rx, rt - ry, 0.0)
            elif t < x - 1e-12:
                parts = (0.0, 0.0, rx - rt)
            else:
                parts = (rt - rx, 0.0, 0.0)
            assert parts[0] + parts[1] - parts[2] == pytest.approx(rt - rx, abs=1e-12)
            sums += parts
            splits += 1
    return tuple(sums / splits)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cross_fitting_is_the_mean_over_all_splits(data: st.DataObject) -> None:
    n0, n1 = data.draw(st.integers(2, 7)), data.draw(st.integers(2, 6))
    big = data.draw(st.integers(1, n0 - 1))
    b = data.draw(st.integers(1, min(big, n1 - 1)))
    c0, c1 = data.draw(st.integers(0, n0)), data.draw(st.integers(0, n1))
    found = decompose_cross_fitted([n0], [c0], [n1], [c1], operating=b, elicitation=big)
    expected = over_all_splits(n0, c0, n1, c1, b, big)
    got = (found.elicitation[0], found.creation[0], found.loss[0])
    assert got == pytest.approx(expected, abs=1e-10)
    assert found.gain[0] == pytest.approx(float(reach_at_k(n1, c1, b) - reach_at_k(n0, c0, b)), abs=1e-12)


def expected_parts(p: float, q: float, n: int, b: int, big: int, fitted: bool) -> tuple[float, float, float]:
    """Exact expectation of gain, creation and loss over both arms' binomial counts."""
    c0, c1 = (m.ravel() for m in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    if fitted:
        parts = decompose_cross_fitted(n, c0, n, c1, operating=b, elicitation=big)
    else:
        parts = decompose(reach_at_k(n, c0, b), reach_at_k(n, c0, big), reach_at_k(n, c1, b))
    chance = binom.pmf(c0, n, p) * binom.pmf(c1, n, q)
    return chance @ parts.gain, chance @ parts.creation, chance @ parts.loss


@pytest.mark.parametrize("p", [0.0, 0.02, 0.2, 0.7])
@pytest.mark.parametrize("q", [0.0, 0.02, 0.2, 0.7, 1.0])
@pytest.mark.parametrize(("b", "big"), [(1, 1), (1, 8), (2, 12)])
def test_cross_fitted_parts_are_never_biased_upward_and_the_gain_not_at_all(
    p: float, q: float, b: int, big: int
) -> None:
    x, y, t = 1 - (1 - p) ** b, 1 - (1 - p) ** big, 1 - (1 - q) ** b
    gain, creation, loss = expected_parts(p, q, 16, b, big, fitted=True)
    assert gain == pytest.approx(t - x, abs=1e-12)
    assert creation <= max(0, t - y) + 1e-12
    assert loss <= max(0, x - t) + 1e-12


def test_under_no_effect_the_plug_in_creates_and_cross_fitting_does_not() -> None:
    plug_in = np.mean([expected_parts(p, p, 16, 1, 1, fitted=False)[1] for p in (0.05, 0.2, 0.5)])
    fitted = np.mean([expected_parts(p, p, 16, 1, 1, fitted=True)[1] for p in (0.05, 0.2, 0.5)])
    assert plug_in > 0.025
    assert abs(fitted) < 1e-12


def test_a_large_effect_is_found_in_full() -> None:
    gain, creation, loss = expected_parts(0.0, 0.9, 64, 1, 32, fitted=True)
    assert gain == pytest.approx(0.9)
    assert creation == pytest.approx(0.9, abs=1e-6)
    assert loss == pytest.approx(0, abs=1e-6)
    assert expected_parts(0.9, 0.1, 32, 1, 8, fitted=True)[2] == pytest.approx(0.8, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=6))
def test_the_cross_fitted_identity_holds_to_1e_12_in_every_task(rows: list[tuple[int, int]]) -> None:
    c0, c1 = np.array(rows).T
    parts = decompose_cross_fitted(40, c0, 30, c1, operating=2, elicitation=20)
    assert np.abs(parts.gain - (parts.elicitation + parts.creation - parts.loss)).max() <= 1e-12


def test_spends_that_leave_nothing_to_choose_with_are_refused_by_name() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b"], [9, 8], [1, 1])
    with pytest.raises(StatsError, match=r"arm 'bare', task 'b': 8 attempts .* elicitation spend 8.* 9 "):
        decompose_cross_fitted(bare.n, bare.c, [9, 9], [1, 1], elicitation=8, bare=bare.where)
    with pytest.raises(StatsError, match="1 ≤ operating ≤ elicitation, not 3 and 2"):
        decompose_cross_fitted([9], [1], [9], [1], operating=3, elicitation=2)
    with pytest.raises(StatsError, match="2 tasks in the bare arm but 1"):
        decompose_cross_fitted([9, 9], [1, 1], [9], [1], elicitation=2)


def test_creation_against_the_elicitation_spend_falls_in_the_mean() -> None:
    rng = np.random.default_rng(0)
    tasks = [str(i) for i in range(2000)]
    bare = ArmOutcomes.from_counts("bare", tasks, 64, rng.binomial(64, rng.beta(0.3, 2, 2000)))
    tool = ArmOutcomes.from_counts("tool", tasks, 64, rng.binomial(64, np.full(2000, 0.9)))
    curve = creation_curve(bare, tool, [1, 4, 16, 32]).mean(axis=0)
    assert (np.diff(curve) < 0).all()


def test_the_sample_equivalent_is_the_first_number_that_reaches_and_else_censored() -> None:
    assert sample_equivalent([0.1, 0.3, 0.5], 0.3, [1, 2, 4]) == 2
    assert sample_equivalent([0.1, 0.3, 0.5], 0.31, [1, 2, 4]) == 4
    assert sample_equivalent([0.1, 0.3, 0.5], 0.51, [1, 2, 4]) is None


# ---- cost axis ------------------------------------------------------------------------------------------------------


def an_arm(name: str, p: np.ndarray, n: int, rng: np.random.Generator, mean: float = 100.0) -> ArmOutcomes:
    tasks = np.repeat([f"t{i}" for i in range(p.size)], n).tolist()
    success = rng.random((p.size, n)) < p[:, None]
    return ArmOutcomes.from_rows(
        name, tasks, success.ravel(), costs={"tokens": rng.gamma(4, mean / 4, success.size) + 1}
    )


def test_on_a_cost_axis_too_the_parts_add_up_in_every_task() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 2, 40)
    bare, tool = an_arm("bare", p, 30, rng), an_arm("tool", np.minimum(1, p + 0.3), 30, rng, mean=250)
    parts = decompose_cross_fitted_at_spend(bare, tool, axis="tokens", operating=300, elicitation=1200)
    assert np.abs(parts.gain - (parts.elicitation + parts.creation - parts.loss)).max() <= 1e-12
    assert parts.cross_fitted


def test_on_a_cost_axis_identical_policies_create_nothing() -> None:
    rng = np.random.default_rng(1)
    p = np.tile([0.02, 0.1, 0.3, 0.6], 150)
    bare, tool = an_arm("bare", p, 40, rng), an_arm("tool", p, 40, rng)
    for spend in (250, 1000):
        parts = decompose_cross_fitted_at_spend(bare, tool, axis="tokens", operating=250, elicitation=spend)
        error = parts.creation.std() / np.sqrt(p.size)
        assert parts.creation.mean() <= 3 * error
        assert parts.creation.mean() >= -0.03
        assert abs(parts.gain.mean()) <= 4 * parts.gain.std() / np.sqrt(p.size)


def test_a_tool_that_always_wins_where_bare_never_does_creates_all_of_it() -> None:
    rng = np.random.default_rng(2)
    bare, tool = an_arm("bare", np.zeros(5), 60, rng), an_arm("tool", np.ones(5), 60, rng)
    parts = decompose_cross_fitted_at_spend(bare, tool, axis="tokens", operating=1000, elicitation=1000)
    assert parts.creation.tolist() == [1.0] * 5
    assert parts.settled.all()


def test_bare_attempts_that_run_out_before_the_spend_leave_creation_open() -> None:
    rng = np.random.default_rng(3)
    bare, tool = an_arm("bare", np.zeros(3), 6, rng), an_arm("tool", np.ones(3), 60, rng)
    parts = decompose_cross_fitted_at_spend(bare, tool, axis="tokens", operating=400, elicitation=5000)
    assert parts.creation.tolist() == [0.0] * 3
    assert parts.creation_upper.tolist() == [1.0] * 3
    assert not parts.settled.any()


def test_cost_decompositions_refuse_what_cannot_be_split_or_paired() -> None:
    rng = np.random.default_rng(4)
    bare, tool = an_arm("bare", np.zeros(2), 6, rng), an_arm("tool", np.ones(2), 1, rng)
    with pytest.raises(StatsError, match="arm 'tool', task 't0': 1 attempts cannot be cross-fitted"):
        decompose_cross_fitted_at_spend(bare, tool, axis="tokens", operating=10, elicitation=20)
    with pytest.raises(StatsError, match="0 < operating ≤ elicitation"):
        decompose_cross_fitted_at_spend(bare, bare, axis="tokens", operating=30, elicitation=20)
    with pytest.raises(StatsError, match="aligned"):
        decompose_cross_fitted_at_spend(bare, tool.take([0]), axis="tokens", operating=10, elicitation=20)
