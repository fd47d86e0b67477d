from __future__ import annotations

import numpy as np
import pytest
from scipy.special import beta as beta_function

from testbed.stats import (
    ArmOutcomes,
    Replicates,
    StatsError,
    cluster_bootstrap,
    reach_at_k,
    reach_bands,
    simultaneous_band,
)


def suite(tasks: int, n: int, seed: int, name: str = "bare", power: int = 1) -> ArmOutcomes:
    rng = np.random.default_rng(seed)
    p = 1 - (1 - rng.beta(0.3, 2, tasks)) ** power
    return ArmOutcomes.from_counts(name, [f"t{i}" for i in range(tasks)], n, rng.binomial(n, p))


def curves_of(p: np.ndarray, n: int, grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    table = reach_at_k(n, np.arange(n + 1)[:, None], grid[None, :])
    return np.hstack([table[rng.binomial(n, p)], table[rng.binomial(n, 1 - (1 - p) ** 3)]])


def coverage(
    tasks: int, n: int, zeros: float, suites: int, seed: int, cluster: int = 1
) -> tuple[float, float, float, float]:
    """Share of suites whose two curves lie in the band everywhere; the same for pointwise intervals; mean widths."""
    rng = np.random.default_rng(seed)
    a, b = 0.3, 2.0
    grid = np.unique(np.geomspace(1, n, 20).round()).astype(int)
    spends = np.concatenate([grid, 3 * grid])  # an attempt of the second arm is worth three of the first
    truth = (1 - zeros) * (1 - beta_function(a, b + spends) / beta_function(a, b))
    labels = np.repeat(np.arange(tasks), cluster).tolist()
    found = np.zeros((suites, 4))
    for i in range(suites):
        p = np.repeat(rng.beta(a, b, tasks) * (rng.random(tasks) >= zeros), cluster)
        replicates = cluster_bootstrap(
            curves_of(p, n, grid, rng), clusters=labels, replicates=1000, seed=int(rng.integers(1 << 30))
        )
        for j, limits in enumerate((simultaneous_band(replicates), replicates.intervals())):
            assert limits.low is not None
            assert limits.high is not None
            found[i, j] = ((limits.low - 1e-12 <= truth) & (truth <= limits.high + 1e-12)).all()
            found[i, 2 + j] = (limits.high - limits.low).mean()
    covered, pointwise, width, narrow = found.mean(axis=0)
    return float(covered), float(pointwise), float(width), float(narrow)


def test_bands_hold_whole_curves_where_pointwise_intervals_do_not() -> None:
    covered, pointwise, _, _ = coverage(30, 16, 0.2, suites=200, seed=1)
    assert covered >= 0.94
    assert pointwise < 0.92


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "n", "zeros", "cluster"),
    [(3, 16, 0, 1), (10, 16, 0, 1), (30, 16, 0.2, 1), (100, 16, 0, 1), (100, 64, 0.3, 1), (30, 8, 0.3, 5)],
)
def test_bands_at_95_percent_hold_at_least_94(tasks: int, n: int, zeros: float, cluster: int) -> None:
    covered, pointwise, width, narrow = coverage(tasks, n, zeros, 2000, seed=tasks * n, cluster=cluster)
    print(f"{tasks=} {n=} {zeros=} {cluster=} {covered:.3f} pointwise {pointwise:.3f} width {width:.3f} / {narrow:.3f}")
    assert covered >= 0.94


def test_one_point_has_its_pointwise_interval() -> None:
    found = cluster_bootstrap(np.random.default_rng(0).random(40), replicates=4000)
    band, point = simultaneous_band(found), found.drawn.intervals()
    assert band.low == pytest.approx(point.low, abs=2e-3)
    assert band.high == pytest.approx(point.high, abs=2e-3)
    assert band.each == pytest.approx(0.05, abs=1e-3)


def test_copies_of_a_point_cost_nothing_and_independent_ones_cost_what_independence_does() -> None:
    rng = np.random.default_rng(1)
    low = rng.standard_normal((8000, 1))
    copies = simultaneous_band(Replicates(np.zeros(50), low + np.zeros(50), low + np.zeros(50), 9))
    assert copies.each == pytest.approx(0.05, abs=0.002)
    draws = rng.standard_normal((40_000, 10))
    independent = simultaneous_band(Replicates(np.zeros(10), draws, draws, 9))
    assert independent.each == pytest.approx(1 - 0.95 ** (1 / 10), rel=0.1)


def test_limits_lie_in_the_unit_interval_rise_with_the_spend_and_never_meet() -> None:
    arms = [suite(25, 16, 2), suite(25, 16, 2, "tool", 3), ArmOutcomes.from_counts("none", ["a", "b", "c"], 16, 0)]
    for band in reach_bands(arms, [np.arange(1, 17)] * 3):
        assert band.low is not None
        assert band.high is not None
        assert (band.low >= 0).all()
        assert (band.high <= 1).all()
        assert (np.diff(band.low) >= -1e-12).all()
        assert (np.diff(band.high) >= -1e-12).all()
        assert (band.low <= band.value).all()
        assert (band.value <= band.high).all()
        assert (band.high - band.low > 0.01).all()


def test_a_band_is_never_inside_the_pointwise_interval_even_without_a_success() -> None:
    found = cluster_bootstrap(np.zeros((20, 3)), replicates=2000)
    band = simultaneous_band(found)
    assert band.high == pytest.approx(found.intervals().high, abs=2e-3)
    assert found.intervals().high == pytest.approx(np.full(3, 1 - 0.025 ** (1 / 20)), abs=0.02)


def test_more_arms_in_a_figure_make_every_band_wider() -> None:
    grid = np.arange(1, 17)
    alone = reach_bands([suite(30, 16, 3)], [grid], replicates=8000)[0]
    among = reach_bands(
        [suite(30, 16, 3), *(suite(30, 16, s, f"arm {s}") for s in range(4, 9))], [grid] * 6, replicates=8000
    )[0]
    assert among.each < 0.7 * alone.each
    assert among.value == pytest.approx(alone.value)
    assert among.high is not None
    assert alone.high is not None
    assert (among.high >= alone.high - 5e-3).all()


def test_arms_with_different_tasks_keep_their_own_means() -> None:
    whole = suite(12, 8, 4)
    half = ArmOutcomes.from_counts("half", whole.tasks[:6], 8, whole.c[:6])
    band = reach_bands([whole, half], [np.arange(1, 9), np.arange(1, 5)])
    assert band[0].value == pytest.approx(reach_at_k(8, whole.c[:, None], np.arange(1, 9)).mean(axis=0))
    assert band[1].value == pytest.approx(reach_at_k(8, half.c[:, None], np.arange(1, 5)).mean(axis=0))
    assert (band[0].clusters, band[1].clusters) == (12, 6)
    assert band[1].high is not None
    assert band[0].high is not None
    assert band[1].high[0] - band[1].low[0] > band[0].high[0] - band[0].low[0]  # type: ignore[index]


def test_an_arm_with_one_cluster_has_no_band_and_widens_no_other() -> None:
    many, one = suite(12, 8, 5), ArmOutcomes.from_counts("one", ["t0", "t1"], 8, 4)
    grid, label = np.arange(1, 9), {f"t{i}": str(i // 2) for i in range(12)}
    both, alone = reach_bands([many, one], [grid, grid], clusters=label), reach_bands([many], [grid], clusters=label)
    assert both[1].low is None
    assert both[1].high is None
    assert both[1].value == pytest.approx(reach_at_k(8, 4, grid))
    assert both[0].low == pytest.approx(alone[0].low)
    assert both[0].clusters == 6


def test_few_replicates_are_raised_until_they_settle_the_limits_or_are_refused() -> None:
    band = reach_bands([suite(30, 16, 6)], [np.arange(1, 17)], replicates=100)[0]
    assert band.low is not None
    draws = np.random.default_rng(2).standard_normal((100, 30))
    with pytest.raises(StatsError, match="100 bootstrap replicates are too few for a band of 30 points"):
        simultaneous_band(Replicates(np.zeros(30), draws, draws, 9))


def test_bad_input_is_refused_by_name() -> None:
    arm = suite(5, 8, 7)
    with pytest.raises(StatsError, match="1 arms but 0 lists"):
        reach_bands([arm], [])
    with pytest.raises(StatsError, match="arm 'bare': task 't1' has no cluster label"):
        reach_bands([arm], [[1, 2]], clusters={"t0": "x"})
    with pytest.raises(StatsError, match=r"arm 'bare'.*k ≤ n only"):
        reach_bands([arm], [[1, 9]])
    with pytest.raises(StatsError, match="figure number 1 has no value"):
        simultaneous_band(cluster_bootstrap(np.zeros((3, 2)), np.array([[1.0, 0.0]] * 3)))
