"""Valid input to the statistics, however odd, gives no NaN and no interval that claims certainty."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.nans import nans
from testbed.stats import (
    ArmOutcomes,
    Estimate,
    StatsError,
    accessibility,
    clopper_pearson,
    compare_arms,
    confidence_sequence,
    energy,
    near_identical,
    reach,
    reach_at_k,
    verdicts,
)

some_counts = st.lists(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=5
)


@st.composite
def two_arms(draw: st.DrawFn) -> tuple[ArmOutcomes, ArmOutcomes]:
    """Two arms that share a task or more, with costs (also 0), missing attempts, arms that always fail or succeed."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    arms = []
    for name in ("bare", "tool"):
        tasks, success, tokens, calls = [], [], [], []
        for task in [*names, *draw(st.lists(st.sampled_from("xyz"), max_size=1))]:
            least = 2 if task == names[0] else 0
            rows = draw(st.lists(st.sampled_from([0, 1, 1, 0, None]), min_size=1, max_size=7))
            rows = [*rows, *[draw(st.sampled_from([0, 1])) for _ in range(least)]]
            tasks += [task] * len(rows)
            success += rows
            tokens += draw(st.lists(st.sampled_from([0.0, 1.0, 2.5, 1e9]), min_size=len(rows), max_size=len(rows)))
            calls += [1.0] * len(rows)
        arms.append(ArmOutcomes.from_rows(name, tasks, success, costs={"tokens": tokens, "calls": calls}))
    return arms[0], arms[1]


PARTS = ("elicitation_part", "creation", "creation_upper", "loss")  # in [0, 1], which their estimates may leave


def bounded(found: Any, path: str = "") -> list[str]:
    """Places of intervals that do not hold their value, or that claim certainty without a width from one cluster."""
    if isinstance(found, Estimate):
        if found.value is None:
            return [] if (found.low, found.high) == (None, None) else [path]
        if found.low is None or found.high is None:
            return [] if found.low is found.high else [path]
        holds = found.low <= found.value <= found.high
        if path.endswith(PARTS):
            holds = 0 <= found.low <= found.high <= 1 and (holds or not 0 <= found.value <= 1)
        return [] if holds and found.high - found.low > 1e-9 else [path]
    if dataclasses.is_dataclass(found):
        return [p for f in dataclasses.fields(found) for p in bounded(getattr(found, f.name), f"{path}.{f.name}")]
    return []


def test_a_part_that_noise_takes_above_one_has_limits_that_do_not_follow_it() -> None:
    """One of 5 and one of 7 bare attempts succeed; where they stand decides what the folds make of it."""
    successes = [*[0, 0, 1, 0, 0], *[0, 0, 0, 0, 1, 0, 0]]
    bare = ArmOutcomes.from_rows("bare", [*"aaaaabbbbbbb"], successes, costs={"calls": [1.0] * 12})
    tool = ArmOutcomes.from_rows("tool", [*"aaabb"], [0] * 5, costs={"calls": [1.0] * 5})
    found = compare_arms(bare, tool, operating=2, elicitation=3, axis="calls", replicates=100)
    assert found.null is not None
    part = found.null.elicitation_part
    assert part.value is not None
    assert part.value > 1
    assert (part.low, part.high) == (0.0, 1.0)
    assert bounded(found) == []


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    two_arms(), st.booleans(), st.sampled_from(["attempts", "tokens", "calls"]), st.integers(1, 3), st.integers(0, 9)
)
def test_a_comparison_is_refused_or_has_no_nan_and_no_interval_of_width_zero(
    arms: tuple[ArmOutcomes, ArmOutcomes], cross_fit: bool, axis: str, operating: int, more: int
) -> None:
    try:
        found = compare_arms(
            *arms, operating=operating, elicitation=operating + more, axis=axis, replicates=100, cross_fit=cross_fit
        )
    except StatsError as refused:
        assert str(refused)  # noqa: PT017
        return
    assert nans(found) == []
    assert bounded(found) == []


@settings(deadline=None, max_examples=100)
@given(some_counts, st.floats(0.05, 1e4), st.floats(0.01, 0.99), st.floats(0.001, 0.5))
def test_statements_about_counts_have_no_nan(rows: list[tuple[int, int]], k: float, rho: float, alpha: float) -> None:
    n, c = np.array(rows).T
    judged = accessibility(n, c, k, rho=rho, alpha=alpha)
    assert nans(judged) == []
    assert nans(verdicts(judged, judged)) == []
    assert nans(confidence_sequence(n, c, alpha)) == []
    assert nans(clopper_pearson(n, c, alpha)) == []
    low, high = confidence_sequence(n, c, alpha)
    assert (high > low).all()


@settings(deadline=None, max_examples=100)
@given(some_counts, st.data())
def test_reach_and_free_energy_of_counts_have_no_nan(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    n, c = np.array(rows).T
    k = data.draw(st.integers(1, int(n.min())))
    assert nans(reach_at_k(n, c, k)) == []
    assert nans(energy.budgeted_free_energy_estimate(n, c, k)) == []
    assert nans(energy.tool_gain_nats(n, c, n, n - c, k)) == []
    assert nans(reach.posterior_reach(n, c, data.draw(st.floats(0.01, 1e9)))) == []
    assert nans(near_identical(ArmOutcomes.from_counts("bare", [str(i) for i in range(n.size)], n, c))) == []


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1e6, 1e6), st.integers(1, 10**9), st.floats(0, 1e6))
def test_free_energies_of_any_policy_have_no_nan(p: float, q: float, beta: float, draws: int, bits: float) -> None:
    found = [
        energy.log_partition(p, beta), energy.free_energy(p, beta), energy.tilt(p, beta), energy.tilt_kl(p, beta),
        energy.bernoulli_kl(q, p), energy.best_of_n_kl(p, draws), energy.best_of_n_kl_bound(draws),
        energy.success_ceiling(p, bits), energy.budgeted_free_energy(p, 5),
    ]  # fmt: skip
    assert nans(found) == []
