"""What an earlier run says about the next: unbiased variances, correlation within clusters, and what it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.stats import ArmOutcomes, StatsError, reach_at_k
from testbed.stats.bootstrap import cluster_codes
from testbed.stats.pilot import cluster_size, estimate_spread, figure


def arms(
    rng: np.random.Generator, tasks: int, attempts: tuple[int, int], cluster: int = 1, alike: float = 1.0
) -> tuple[ArmOutcomes, ArmOutcomes, dict[str, str]]:
    """Half of the clusters gain .5 of what is missing; a task follows its cluster with probability ``alike``."""
    names = [f"t{i}" for i in range(tasks)]
    bare = rng.beta(0.5, 1.5, tasks)
    shared = np.repeat(rng.random(-(-tasks // cluster)) < 0.5, cluster)[:tasks]
    gains = np.where(rng.random(tasks) < alike, shared, rng.random(tasks) < 0.5)
    tool = np.where(gains, bare + 0.5 * (1 - bare), bare)
    labels = {name: f"c{i // cluster}" for i, name in enumerate(names)}
    return (
        ArmOutcomes.from_counts("bare", names, attempts[0], rng.binomial(attempts[0], bare)),
        ArmOutcomes.from_counts("tool", names, attempts[1], rng.binomial(attempts[1], tool)),
        labels,
    )


def moments(b: int) -> tuple[float, list[float]]:
    """True variance of the gain in reach@b between tasks, and the bare arm's variance of a single draw of b."""
    rng = np.random.default_rng(7)
    bare = rng.beta(0.5, 1.5, 2_000_000)
    tool = np.where(rng.random(bare.size) < 0.5, bare + 0.5 * (1 - bare), bare)
    gain = (1 - bare) ** b - (1 - tool) ** b
    return float(gain.var()), [float(np.mean((1 - p) ** b - (1 - p) ** (2 * b))) for p in (bare, tool)]


@pytest.mark.parametrize(("b", "attempts"), [(1, (4, 2)), (1, (16, 8)), (2, (8, 5))])
def test_variances_are_estimated_without_bias(b: int, attempts: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    pilots = [estimate_spread(*arms(rng, 200, attempts)[:2], operating=b) for _ in range(150)]
    between, within = moments(b)
    for truth, seen in [
        (between, [p.spread.between for p in pilots]),
        (within[0], [p.spread.bare[-1] for p in pilots]),
        (within[1], [p.spread.tool[-1] for p in pilots]),
    ]:
        assert np.mean(seen) == pytest.approx(truth, abs=4 * np.std(seen) / np.sqrt(len(seen)) + 2e-4)


def test_the_spread_of_a_pilot_gives_back_the_variance_it_was_taken_from() -> None:
    bare, tool, _ = arms(np.random.default_rng(2), 300, (16, 8))
    pilot = estimate_spread(bare, tool)
    gain = tool.c / tool.n - bare.c / bare.n
    assert pilot.spread.variance(16, 8) == pytest.approx(gain.var(ddof=1))
    assert pilot.gain.variance == pytest.approx(gain.var(ddof=1))
    assert pilot.gain.mean == pytest.approx(gain.mean())


@pytest.mark.parametrize(("alike", "truth"), [(1.0, 0.8), (0.0, 0.0)])
def test_the_correlation_within_clusters_is_found(alike: float, truth: float) -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(30):
        bare, tool, labels = arms(rng, 400, (16, 16), 4, alike)
        pilot = estimate_spread(bare, tool, clusters=labels)
        assert (pilot.clusters, pilot.spread.cluster_size) == (100, 4.0)
        found.append(pilot.spread.icc)
    # Clusters that gain alike do not gain the same: what is missing differs from task to task.
    assert np.mean(found) == pytest.approx(truth, abs=0.12 if truth else 0.06)


def test_the_variance_of_a_mean_over_clusters_is_that_of_simulated_means() -> None:
    rng = np.random.default_rng(4)
    means, planned, direct = [], [], []
    for _ in range(200):
        bare, tool, labels = arms(rng, 120, (8, 8), 4)
        pilot = estimate_spread(bare, tool, clusters=labels)
        means.append(pilot.gain.mean)
        planned.append(pilot.spread.variance(8, 8))
        direct.append(pilot.gain.variance or 0.0)
    truth = 120 * np.var(means)
    assert np.mean(direct) == pytest.approx(truth, rel=0.25)
    assert np.mean(planned) == pytest.approx(truth, rel=0.25)


def test_the_error_of_a_variance_is_that_of_simulated_pilots() -> None:
    rng = np.random.default_rng(5)
    pilots = [estimate_spread(*arms(rng, 150, (8, 8))[:2]) for _ in range(200)]
    variances = [p.gain.variance or 0.0 for p in pilots]
    assert np.mean([p.gain.error or 0.0 for p in pilots]) == pytest.approx(
        np.std(variances) / np.mean(variances), rel=0.2
    )


def test_one_attempt_per_task_cannot_tell_noise_from_variation() -> None:
    bare, tool, _ = arms(np.random.default_rng(6), 100, (1, 1))
    pilot = estimate_spread(bare, tool)
    assert not pilot.separated
    assert (pilot.spread.bare, pilot.spread.tool) == ((0.0,), (0.0,))
    assert pilot.spread.between == pytest.approx((tool.c - bare.c).var(ddof=1))


def test_tasks_with_too_few_attempts_to_separate_are_left_out_where_others_have_enough() -> None:
    names = [f"t{i}" for i in range(6)]
    bare = ArmOutcomes.from_counts("bare", names, [8, 8, 8, 8, 1, 0], [0, 2, 4, 8, 1, 0])
    tool = ArmOutcomes.from_counts("tool", names, [8, 8, 8, 8, 8, 8], [8, 2, 5, 8, 1, 0])
    pilot = estimate_spread(bare, tool)
    assert pilot.tasks == ("t0", "t1", "t2", "t3")
    assert pilot.separated


def test_arms_that_always_agree_vary_in_nothing() -> None:
    names = [f"t{i}" for i in range(40)]
    bare, tool = (ArmOutcomes.from_counts(name, names, 4, 0) for name in ("bare", "tool"))
    pilot = estimate_spread(bare, tool)
    assert pilot.spread.variance(1, 1) == 0
    assert (pilot.gain.variance, pilot.gain.error) == (0.0, None)


def test_the_skewness_is_that_of_the_clusters_gains() -> None:
    rng = np.random.default_rng(9)
    lost = np.where(rng.random(400) < 0.1, -0.7, 0.2)
    each = figure(lost, np.arange(400))
    standard = (lost - lost.mean()) / lost.std()
    assert each.skewness == pytest.approx((standard**3).mean())
    assert each.skewness < -2
    assert figure(np.repeat(lost, 3), np.repeat(np.arange(400), 3)).skewness == pytest.approx(each.skewness)
    bare = ArmOutcomes.from_counts("bare", [f"t{i}" for i in range(400)], 20, 14)
    tool = ArmOutcomes.from_counts("tool", bare.tasks, 20, 14 + np.rint(20 * lost).astype(int))
    assert estimate_spread(bare, tool).spread.skewness(20, 20) == pytest.approx(each.skewness)


def test_a_single_cluster_has_no_variance() -> None:
    found = figure(np.array([0.0, 1.0, 0.5]), cluster_codes(("a", "b", "c"), {"a": 0, "b": 0, "c": 0}))
    assert (found.mean, found.variance, found.error) == (0.5, None, None)


def test_the_cluster_of_a_random_task_is_larger_than_a_random_cluster() -> None:
    assert cluster_size(cluster_codes(("a", "b", "c", "d"), {"a": 0, "b": 0, "c": 0, "d": 1})) == pytest.approx(2.5)


def test_reach_at_several_attempts_is_planned_from_its_own_differences() -> None:
    bare, tool, _ = arms(np.random.default_rng(8), 80, (12, 12))
    pilot = estimate_spread(bare, tool, operating=4)
    gain = reach_at_k(tool.n, tool.c, 4) - reach_at_k(bare.n, bare.c, 4)
    assert pilot.spread.operating == 4
    assert pilot.gain.mean == pytest.approx(gain.mean())
    assert pilot.spread.variance(12, 12) == pytest.approx(gain.var(ddof=1))


def test_copies_are_told() -> None:
    names = [f"t{i}" for i in range(40)]
    copies = ArmOutcomes.from_counts("bare", names, 5, [5 * (i % 2) for i in range(40)])
    live = ArmOutcomes.from_counts("tool", names, 4, 2)
    pilot = estimate_spread(copies, live)
    assert (pilot.bare_repeats.flagged, pilot.tool_repeats.flagged) == (True, False)


def test_too_few_tasks_are_refused_with_the_arms_names() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b"], [4, 0], [1, 0])
    tool = ArmOutcomes.from_counts("tool", ["a", "b"], 4, 2)
    with pytest.raises(StatsError, match="'bare' and 'tool' share 1 tasks with 1 scored attempts"):
        estimate_spread(bare, tool)
    with pytest.raises(StatsError, match="no task in common"):
        estimate_spread(bare, ArmOutcomes.from_counts("tool", ["x", "y"], 4, 2))
