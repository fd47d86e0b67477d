"""Ranks and their limits: exact cases, what they must not depend on, and coverage by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import binomtest

from testbed.stats import StatsError
from testbed.stats.ranks import rank_intervals

# ---- exact cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", range(2, 12))
def test_two_rows_that_never_agree_are_told_apart_exactly_where_the_sign_test_tells_them_apart(tasks: int) -> None:
    found = rank_intervals([[1] * tasks, [0] * tasks])
    told = binomtest(tasks, tasks).pvalue <= 0.05
    assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == (
        [(1, 1), (2, 2)] if told else [(1, 2)] * 2
    )


def test_equal_rows_share_every_rank_and_a_row_alone_is_first() -> None:
    found = rank_intervals([[0.5] * 50] * 4)
    assert found.low.tolist() == [1] * 4
    assert found.high.tolist() == [4] * 4
    alone = rank_intervals([[0.2] * 50])
    assert (alone.low.tolist(), alone.high.tolist()) == ([1], [1])


def test_a_clear_ladder_has_its_exact_ranks() -> None:
    rng = np.random.default_rng(1)
    steps = rng.permutation(6)
    figures = [(rng.random(200) < 0.05 + 0.15 * step).astype(float) for step in steps]
    found = rank_intervals(figures)
    assert found.low.tolist() == found.high.tolist() == [6 - step for step in steps]


def test_one_cluster_of_tasks_tells_nothing_apart() -> None:
    found = rank_intervals([[1] * 40, [0] * 40], clusters=["one"] * 40)
    assert found.high.tolist() == [2, 2]


def test_copies_of_a_task_in_its_cluster_add_no_evidence() -> None:
    rng = np.random.default_rng(2)
    x = rng.random((5, 12))
    once, tenfold = (
        rank_intervals(x),
        rank_intervals(np.repeat(x, 10, axis=1), clusters=np.repeat(range(12), 10).tolist()),
    )
    assert np.array_equal(once.better, tenfold.better)
    assert tenfold.critical == pytest.approx(once.critical)


def test_unknown_figures_never_make_a_claim_that_some_filling_would_not() -> None:
    rng = np.random.default_rng(3)
    x = (rng.random((4, 60)) < np.array([[0.9], [0.6], [0.5], [0.2]])).astype(float)
    hidden = rng.random(x.shape) < 0.1
    found = rank_intervals(np.where(hidden, 0, x), np.where(hidden, 1, x))
    assert found.better.any()
    for filling in (0.0, 1.0, 0.5):
        some = rank_intervals(np.where(hidden, filling, x))
        assert not (found.better & ~some.better).any()


def test_leaving_out_the_hard_tasks_does_not_raise_a_rank() -> None:
    figures = np.array([[1.0] * 20 + [0.0] * 20, [1.0] * 30 + [0.0] * 10])
    left_out = np.array([[False] * 20 + [True] * 20, [False] * 40])  # its mean is now 1
    found = rank_intervals(np.where(left_out, 0, figures), np.where(left_out, 1, figures))
    assert found.high.tolist() == [2, 2]
    assert not found.better[0, 1]


def test_ranks_among_some_rows_count_only_those() -> None:
    figures = [[step] * 100 for step in (1, 1, 0.5, 0)]
    low, high = rank_intervals(figures).among([0, 2, 3])
    assert (low.tolist(), high.tolist()) == ([1, 2, 3], [1, 2, 3])


def test_order_of_rows_and_tasks_does_not_matter_but_for_the_draw() -> None:
    rng = np.random.default_rng(4)
    x = (rng.random((6, 300)) < np.linspace(0.1, 0.9, 6)[:, None]).astype(float)
    order = rng.permutation(6)
    assert np.array_equal(rank_intervals(x).low[order], rank_intervals(x[order]).low)
    assert np.array_equal(rank_intervals(x).low, rank_intervals(x[:, rng.permutation(300)]).low)


def test_the_same_seed_gives_the_same_ranks_and_few_clusters_need_more() -> None:
    x = np.random.default_rng(5).random((8, 30))
    assert rank_intervals(x, seed=7).critical == rank_intervals(x, seed=7).critical
    assert rank_intervals(x[:, :4]).critical > rank_intervals(x).critical > 1.96


@pytest.mark.parametrize(
    ("figures", "most", "named"),
    [
        ([1.0, 2.0], None, "one row of tasks per row"),
        ([[0.0, np.nan]], None, "finite"),
        ([[0.0, 2.0]], None, "span"),
        ([[1.0]], [[0.0]], "most is less"),
        ([[]], None, "no figures"),
    ],
)
def test_bad_figures_are_refused_by_name(figures: object, most: object, named: str) -> None:
    with pytest.raises(StatsError, match=named):
        rank_intervals(figures, most)  # type: ignore[arg-type]


def test_a_thousand_rows_of_two_hundred_tasks_take_seconds() -> None:
    x = np.random.default_rng(6).binomial(8, 0.5, (1000, 200)) / 8
    start = time.process_time()
    rank_intervals(x)
    assert time.process_time() - start < 10


# ---- coverage --------------------------------------------------------------------------------------------------------


def shares_with_all_ranks_held(
    strength: list[float], tasks: int, per_cluster: int, attempts: int, suites: int
) -> tuple[float, float]:
    """Shares of suites in which all true ranks lie within their limits, and mean share of pairs told apart.

    A row of strength s solves a task of easiness u with probability s·u, so its true mean is s/2.
    """
    rng = np.random.default_rng([len(strength), tasks, attempts])
    s = np.array(strength)
    best, worst = 1 + (s[None] > s[:, None]).sum(axis=1), s.size - (s[None] < s[:, None]).sum(axis=1)
    held, told = [], []
    for suite in range(suites):
        easiness = np.repeat(rng.random(tasks // per_cluster), per_cluster)
        x = rng.binomial(attempts, s[:, None] * easiness) / attempts
        found = rank_intervals(
            x, clusters=np.repeat(range(tasks // per_cluster), per_cluster).tolist(), replicates=300, seed=suite
        )
        held.append(bool((found.low <= best).all() and (found.high >= worst).all()))
        told.append(found.better.sum() / (s.size * (s.size - 1) / 2))
    return float(np.mean(held)), float(np.mean(told))


NULL, LADDER, RARE = [0.6] * 12, [0.2, 0.4, 0.6, 0.8, 1.0], [0.02] * 10


@pytest.mark.parametrize("strength", [NULL, LADDER, RARE], ids=["null", "ladder", "rare"])
def test_all_true_ranks_lie_within_their_limits(strength: list[float]) -> None:
    held, _ = shares_with_all_ranks_held(strength, tasks=40, per_cluster=1, attempts=4, suites=60)
    assert held >= 0.88


def test_many_rows_are_compared_a_few_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (np.random.default_rng(5).random((40, 30)) < np.linspace(0.1, 0.9, 40)[:, None]).astype(float)
    whole = rank_intervals(rows)
    monkeypatch.setattr("testbed.stats.ranks._MOST_AT_A_TIME", 130)
    parts = rank_intervals(rows)
    assert whole.better.any()
    assert (parts.better == whole.better).all()
    assert parts.critical == whole.critical


def test_a_ladder_is_mostly_told_apart() -> None:
    assert shares_with_all_ranks_held(LADDER, tasks=200, per_cluster=1, attempts=8, suites=10)[1] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strength", [NULL, LADDER, RARE, [0.5] * 40], ids=["null", "ladder", "rare", "forty"])
@pytest.mark.parametrize(("tasks", "per_cluster", "attempts"), [(10, 1, 1), (40, 1, 4), (60, 5, 2), (200, 1, 8)])
def test_all_true_ranks_lie_within_their_limits_in_95_of_100(
    strength: list[float], tasks: int, per_cluster: int, attempts: int
) -> None:
    held, told = shares_with_all_ranks_held(strength, tasks, per_cluster, attempts, 1000)
    print(
        f"\n{len(strength)} rows, {tasks} tasks, {per_cluster} a cluster, {attempts} attempts: {held:.3f}, {told:.3f}"
    )
    assert held >= 0.94
