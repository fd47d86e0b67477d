"""Evidence against its definition: e-BH, the sequence on a dense grid and in 40 digits, repeats by all pairs."""

from __future__ import annotations

import math
import time
from decimal import MAX_EMAX, MIN_EMIN, Decimal, getcontext, localcontext
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import (
    ArmOutcomes,
    confidence_sequence,
    e_bh,
    near_identical,
)
from testbed.stats.sequences import log_e_above, log_e_below, log_martingale

# ---- e-BH ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.floats(-5, 12), st.sampled_from([np.log(20), np.log(40), np.inf])), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_e_bh_rejects_all_that_its_definition_does(log_e: list[float], alpha: float) -> None:
    """Wang & Ramdas (2022): with K̂ the largest k such that k e-values are at least T/(αk), all at least T/(αK̂)."""
    values, tasks = np.array(log_e), len(log_e)
    passing = [k for k in range(1, tasks + 1) if np.count_nonzero(values >= np.log(tasks / (alpha * k))) >= k]
    expected = values >= np.log(tasks / (alpha * max(passing))) if passing else np.zeros(tasks, dtype=bool)
    assert e_bh(values, alpha).tolist() == expected.tolist()


# ---- the confidence sequence -----------------------------------------------------------------------------------------


def log_mixture(n: int, c: int) -> float:
    """ln B(½+c, ½+n−c) − ln B(½, ½), from the exact fraction."""
    rising = math.prod(range(1, 2 * c, 2)) * math.prod(range(1, 2 * (n - c), 2))
    return math.log(rising) - math.log(2**n * math.factorial(n))


def grid_end(n: int, c: int, alpha: float, *, upper: bool) -> float:
    """An end of {p: M(p) < 1/α} by grids of 1,001 points, each inside the cell of the one before, to 1e-12."""
    mixture, left, right = log_mixture(n, c), 0.0, 1.0
    while right - left > 1e-13:
        grid = np.linspace(left, right, 1001)
        with np.errstate(divide="ignore", invalid="ignore"):
            losses = [part for part in (c * np.log(grid) if c else 0.0, (n - c) * np.log1p(-grid) if c < n else 0.0)]
            kept = np.flatnonzero(mixture - losses[0] - losses[1] < np.log(1 / alpha))
        if kept.size == 0:  # narrower than a cell: look around the observed rate
            centre = c / n
            left, right = max(left, centre - (right - left) / 4), min(right, centre + (right - left) / 4)
            continue
        edge = kept[-1] if upper else kept[0]
        if (edge == grid.size - 1) if upper else (edge == 0):
            return float(grid[edge])
        left, right = (grid[edge], grid[edge + 1]) if upper else (grid[edge - 1], grid[edge])
    return (left + right) / 2


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.sampled_from([0.01, 0.05]))
def test_the_sequence_s_ends_are_those_of_a_dense_grid_to_1e_10(case: tuple[int, int], alpha: float) -> None:
    n, c = case
    low, high = confidence_sequence(n, c, alpha)
    assert float(low) == pytest.approx(grid_end(n, c, alpha, upper=False), abs=1e-10)
    assert float(high) == pytest.approx(grid_end(n, c, alpha, upper=True), abs=1e-10)


@pytest.mark.parametrize("c", [0, 1, 1_000, 100_000, 199_999])
def test_the_sequence_s_ends_are_right_to_1e_10_at_200_000_attempts_in_40_digits(c: int) -> None:
    n = 200_000
    ends = [(float(end), side) for end, side in zip(confidence_sequence(n, c), (-1, 1), strict=True)]
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 40, MAX_EMAX, MIN_EMIN
        rising = Decimal(1)
        for i in range(max(c, n - c)):
            rising *= (Decimal(i) + Decimal("0.5")) * (
                Decimal(1) if i >= min(c, n - c) else Decimal(i) + Decimal("0.5")
            )
            rising /= i + 1
        for i in range(max(c, n - c), n):
            rising /= i + 1
        for end, side in ends:
            if end == 0:
                assert c == 0
                continue
            inside, outside = (Decimal(end) - side * sign * Decimal("1e-10") for sign in (1, -1))
            excess = [
                rising.ln() - c * p.ln() - (n - c) * (1 - p).ln() - Decimal(20).ln() for p in (inside, outside) if p > 0
            ]
            assert excess[0] < 0
            assert len(excess) == 1 or excess[1] > 0
    assert getcontext().prec == 28


def test_a_thousand_sequences_at_once_are_each_its_own_and_take_a_moment() -> None:
    rng = np.random.default_rng(3)
    n = rng.integers(1, 1_000_001, 1000)
    c = rng.binomial(n, rng.beta(0.3, 2, 1000))
    start = time.process_time()
    low, high = confidence_sequence(n, c)
    assert time.process_time() - start < 1  # 3 ms
    for i in range(0, 1000, 97):
        assert (float(low[i]), float(high[i])) == tuple(float(end) for end in confidence_sequence(n[i], c[i]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.floats(0.02, 0.98))
def test_one_sided_e_values_are_the_least_over_their_null(case: tuple[int, int], threshold: float) -> None:
    n, c = case
    above, below = np.linspace(threshold, 1, 4001), np.linspace(0, threshold, 4001)
    assert float(log_e_below(n, c, threshold)) == pytest.approx(log_martingale(n, c, above).min(), abs=1e-3)
    assert float(log_e_above(n, c, threshold)) == pytest.approx(log_martingale(n, c, below).min(), abs=1e-3)
    assert float(log_e_below(n, c, threshold)) <= log_martingale(n, c, above).min() + 1e-9
    assert float(log_e_above(n, c, threshold)) <= log_martingale(n, c, below).min() + 1e-9


# ---- repeats ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 2)), min_size=1, max_size=5), min_size=2, max_size=5))
def test_repeats_are_counted_as_all_pairs_of_attempts_say(tasks: list[list[tuple[bool, int]]]) -> None:
    names = [str(i) for i, rows in enumerate(tasks) for _ in rows]
    flat = [row for rows in tasks for row in rows]
    found = near_identical(
        ArmOutcomes.from_rows("bare", names, [w for w, _ in flat], costs={"x": [float(c) for _, c in flat]})
    )
    kept = [rows for rows in tasks if len(rows) >= 2]
    pairs = [pair for rows in kept for pair in combinations(rows, 2)]
    if pairs:
        assert found.identical_costs == pytest.approx(np.mean([a[1] == b[1] for a, b in pairs]))
    assert found.mixed_tasks == sum(len({w for w, _ in rows}) == 2 for rows in kept)
    outcomes = [w for rows in kept for w, _ in rows]
    if len(kept) < 2 or len(set(outcomes)) < 2:
        assert found.icc is None
        return
    differ = [np.mean([a[0] != b[0] for a, b in combinations(rows, 2)]) for rows in kept]
    assert found.disagreement == pytest.approx(np.mean(differ))
    grand = np.mean(outcomes)
    sizes = np.array([len(rows) for rows in kept])
    means = np.array([np.mean([w for w, _ in rows]) for rows in kept])
    between = (sizes * (means - grand) ** 2).sum() / (len(kept) - 1)
    within = sum(((np.array([w for w, _ in rows]) - m) ** 2).sum() for rows, m in zip(kept, means, strict=True))
    within /= sizes.sum() - len(kept)
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(kept) - 1)
    assert found.icc == pytest.approx((between - within) / (between + (size - 1) * within), abs=1e-12)
