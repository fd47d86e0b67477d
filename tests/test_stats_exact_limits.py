"""Limits that are computed instead of drawn: against closed forms, and against many draws."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import clopper_pearson, cluster_bootstrap

Table = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def ends(values: Table, alpha: float = 0.05, **options: object) -> tuple[float, float]:
    found = cluster_bootstrap(values, **options).intervals(alpha)[0]  # type: ignore[arg-type]
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("tasks", [2, 3, 5, 12, 60, 100, 101, 1000])
def test_limits_of_zeros_and_ones_are_clopper_pearson_s(tasks: int, alpha: float) -> None:
    for ones in {0, 1, tasks // 2, tasks - 1, tasks}:
        expected = [float(end) for end in clopper_pearson(tasks, ones, alpha)]
        within = 3e-4 if tasks < 40 else 0.02 * (expected[1] - expected[0])
        assert ends((np.arange(tasks) < ones).astype(float), alpha) == pytest.approx(expected, abs=within)


def below(coefficients: Table) -> float:
    """P(Σ a_j E_j ≤ 0) for coefficients that all differ: the partial fractions of a hypoexponential law."""
    return 1 - sum(np.prod([a / (a - other) for other in coefficients if other != a]) for a in coefficients if a > 0)


@pytest.mark.parametrize("seed", range(12))
def test_as_many_weighted_means_lie_beyond_either_limit_as_the_level_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    values, share = rng.beta(0.5, 0.5, size), rng.integers(1, 9, size) + rng.random(size)
    unseen = (share**2).sum() / share.sum()
    low, high = ends(values * share, 0.05, weights=share)
    least, most = ([*(share * (values - at)), unseen * (end - at)] for at, end in ((low, 0.0), (high, 1.0)))
    assert below(np.array(least)) == pytest.approx(0.025, rel=2e-3)
    assert 1 - below(np.array(most)) == pytest.approx(0.025, rel=2e-3)


def test_many_replicates_agree_and_few_do_not_to_the_digits_that_are_printed() -> None:
    values = np.random.default_rng(3).beta(0.3, 0.5, (12, 3))
    exact, many = cluster_bootstrap(values).intervals(), cluster_bootstrap(values, replicates=200_000).drawn.intervals()
    assert exact.low == pytest.approx(many.low, abs=2e-3)
    assert exact.high == pytest.approx(many.high, abs=2e-3)
    drawn = [cluster_bootstrap(values, seed=seed).drawn.intervals() for seed in range(8)]
    assert np.ptp([[*found.low, *found.high] for found in drawn], axis=0).max() > 0.01  # type: ignore[misc]


def test_the_seed_and_the_number_of_replicates_move_no_limit() -> None:
    values = np.random.default_rng(4).random((9, 2))
    first, other = cluster_bootstrap(values, seed=1), cluster_bootstrap(values, seed=2, replicates=100)
    assert first.intervals().low.tolist() == other.intervals().low.tolist()  # type: ignore[union-attr]
    assert first.intervals().high.tolist() == other.intervals().high.tolist()  # type: ignore[union-attr]
    assert first.low.tolist() != other.low.tolist()  # type: ignore[union-attr]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.01, 1.0, 50.0])), min_size=2, max_size=25),
    st.floats(1e-4, 0.999),
)
def test_limits_are_in_range_and_on_either_side_of_the_estimate(rows: list[tuple[float, float]], alpha: float) -> None:
    values, share = (np.array(column) for column in zip(*rows, strict=True))
    found = cluster_bootstrap(values * share, share).intervals(alpha)[0]
    if share.sum() == 0:
        assert found.value is None
        assert found.low is None
        return
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert -1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


@pytest.mark.parametrize("alpha", [0.05, 1e-6, 1e-12])
@pytest.mark.parametrize(("least", "width"), [(-1.0, 1e-6), (0.0, 1e-11), (1000.0, 1e-6), (0.0, 1e200), (5.0, 1e6)])
def test_limits_just_above_the_least_value_are_as_exact_as_others_and_no_unit_is_too_large(
    least: float, width: float, alpha: float
) -> None:
    """One task of two at the least value, the other above it by `width`: the sum of squares is Beta(1, 2)'s."""
    low, _ = ends(np.array([least, least + width]), alpha, least=least, greatest=least + width)
    above = least + width - least  # as it is after rounding
    assert low - least == pytest.approx(above * (1 - np.sqrt(1 - alpha / 2)), rel=0.02, abs=4e-16 * abs(least))


def test_limits_of_many_figures_of_many_tasks_are_those_of_each() -> None:
    table = np.random.default_rng(7).beta(0.3, 0.5, (30_000, 40))
    alone = [ends(table[:, column]) for column in (0, 39)]
    together = cluster_bootstrap(table)
    tracemalloc.start()
    found = together.intervals()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    beside = [(found[column].low, found[column].high) for column in (0, 39)]
    assert np.array(alone) == pytest.approx(np.array(beside), abs=1e-14)
    assert most < 14 * table.nbytes


def test_a_mirrored_table_has_mirrored_limits() -> None:
    values = np.random.default_rng(5).random(14) - 0.3
    low, high = ends(values, least=-1, greatest=1)
    assert ends(-values, least=-1, greatest=1) == pytest.approx((-high, -low), abs=1e-12)


def test_a_figure_s_limits_do_not_depend_on_the_figures_beside_it() -> None:
    rng = np.random.default_rng(6)
    table = np.column_stack([rng.random(9), rng.random(9) < 0.2, np.full(9, 0.4), rng.beta(0.1, 3, 9)])
    together = cluster_bootstrap(table).intervals()
    beside = [(together[i].low, together[i].high) for i in range(4)]
    assert np.array([ends(column) for column in table.T]) == pytest.approx(np.array(beside), abs=1e-14)
