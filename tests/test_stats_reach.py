from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import beta as beta_function
from scipy.stats import binom

from testbed.stats import ArmOutcomes, StatsError, reach_at_k, reach_at_spend, reach_curve
from testbed.stats.reach import first_success_cdf, posterior_reach
from testbed.stats.spend import cyclic_reach

small_counts = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


def exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


@given(small_counts)
def test_reach_at_k_is_the_share_of_subsets_with_a_success(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = [any(i < c for i in chosen) for chosen in combinations(range(n), k)]
    assert float(reach_at_k(n, c, k)) == pytest.approx(np.mean(subsets), abs=1e-14)


@pytest.mark.parametrize("n", [150, 1_000, 20_000, 1_000_000])
def test_reach_at_k_keeps_ten_digits_up_to_a_million_attempts(n: int) -> None:
    cases = [
        (c, k)
        for c in (0, 1, 2, 63, 64, 65, 100, n // 100, n // 2, n - 70, n - 1, n)
        for k in (1, 2, 64, 65, 66, 129, n // 1000 + 1, n // 2, n - 66, n)
        if 0 <= c <= n and 1 <= k <= n and min(c, k) < 20_000
    ]
    got = reach_at_k(n, [c for c, _ in cases], [k for _, k in cases])
    for (c, k), value in zip(cases, got, strict=True):
        few, many = min(c, k), max(c, k)
        # 1 − Π (n−many−i)/(n−i), in 60 digits of fixed point
        miss = Fraction(1) if few + many <= n else Fraction(0)
        if miss and few <= 130:
            for i in range(few):
                miss *= Fraction(n - many - i, n - i)
            assert value == pytest.approx(float(1 - miss), rel=1e-10), (c, k)
        elif not miss:
            assert value == 1.0


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (20, 20), (40, 13)])
def test_reach_at_k_is_unbiased_for_every_p(n: int, k: int) -> None:
    values = reach_at_k(n, np.arange(n + 1), k)
    for p in (0.0, 1e-4, 0.03, 0.5, 0.97, 1.0):
        assert binom.pmf(np.arange(n + 1), n, p) @ values == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_mean_reach_over_a_beta_population_is_the_published_closed_form() -> None:
    a, b, n = 0.3, 2.0, 30
    p = np.random.default_rng(5).beta(a, b, 400_000)
    successes = np.random.default_rng(6).binomial(n, p)
    for k in (1, 8, 30):
        expected = 1 - beta_function(a, b + k) / beta_function(a, b)
        assert reach_at_k(n, successes, k).mean() == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        (5, 2, 6, "k ≤ n only"),
        (5, 6, 1, "6 successes among 5 attempts"),
        (5, 2, 0, "at least 1"),
        (5, -1, 1, "≥ 0"),
        (5, np.nan, 1, "whole number"),
        (5.5, 1, 1, "whole number"),
        ([], [], 1, "no attempts"),
    ],
)
def test_impossible_counts_are_refused_with_what_is_wrong(n: object, c: object, k: object, words: str) -> None:
    with pytest.raises(StatsError, match=words):
        reach_at_k(n, c, k)  # type: ignore[arg-type]


def test_the_error_names_the_arm_and_the_task_that_is_short() -> None:
    arm = ArmOutcomes.from_counts("bare", ["a", "b", "c"], [8, 5, 8], [1, 1, 1])
    with pytest.raises(StatsError, match=r"arm 'bare', task 'b'.*k = 6.*5 attempts"):
        reach_curve(arm, [1, 6])


@given(small_counts)
def test_first_success_cdf_is_reach_at_each_k(case: tuple[int, int, int]) -> None:
    n, c, _ = case
    if c:
        assert first_success_cdf(n, c) == pytest.approx(reach_at_k(n, c, np.arange(1, n - c + 2)), abs=1e-14)


def test_posterior_reach_is_the_mean_over_the_posterior() -> None:
    p = np.random.default_rng(0).beta(0.5 + 3, 0.5 + 17, 200_000)
    assert float(posterior_reach(20, 3, 5)) == pytest.approx(np.mean(1 - (1 - p) ** 5), abs=0.003)


# ---- spend ----------------------------------------------------------------------------------------------------------


def over_all_orderings(success: list[bool], cost: list[int], spend: float) -> tuple[float, float]:
    lower = upper = total = 0
    for order in permutations(range(len(success))):
        spent = 0
        verdict = None
        for i in order:
            spent += cost[i]
            if spent > spend:
                verdict = 0
                break
            if success[i]:
                verdict = 1
                break
        total += 1
        if verdict is None and spend - spent < min(cost):
            verdict = 0  # no further attempt, as dear as the cheapest, fits
        lower += verdict or 0
        upper += 1 if verdict is None else verdict
    return lower / total, upper / total


attempts = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(attempts, st.integers(1, 40))
def test_reach_at_spend_is_the_mean_over_all_orderings(rows: list[tuple[bool, int]], spend: int) -> None:
    success, cost = [s for s, _ in rows], [c for _, c in rows]
    got = reach_at_spend(success, cost, spend)
    lower, upper = over_all_orderings(success, cost, spend)
    assert got.exact
    assert float(got.lower[0]) == pytest.approx(lower, abs=1e-12)
    assert float(got.upper[0]) == pytest.approx(upper, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.data())
def test_equal_costs_give_reach_at_k_exactly(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    price = data.draw(st.sampled_from([0.1, 1.0, 37.0]))
    k = np.unique(data.draw(st.lists(st.integers(1, n), min_size=1, max_size=5)))
    got = reach_at_spend(np.arange(n) < c, np.full(n, price), k * price)
    assert got.lower == pytest.approx(reach_at_k(n, c, k), abs=1e-12)
    assert np.array_equal(got.lower, got.upper)


def test_sampled_orderings_agree_with_the_exact_mean_within_their_stated_error() -> None:
    rng = np.random.default_rng(1)
    # Integer costs of many values: too many multisets to enumerate, few enough for a table of subset sums.
    n, c = 60, 6
    cost = rng.integers(20, 90, n)
    success = np.arange(n) < c
    spends = np.array([60, 150, 400, 900])
    truth = by_table(cost[~success], cost[success], spends)
    got = reach_at_spend(success, cost, spends, orderings=4096, seed=3)
    assert not got.exact
    assert (got.standard_error < 0.01).all()
    assert (np.abs(got.lower - truth) < 5 * got.standard_error + 1e-9).all()
    repeated = [reach_at_spend(success, cost, spends, seed=s) for s in range(60)]
    assert np.abs(np.mean([r.lower for r in repeated], axis=0) - truth).max() < 0.005  # no bias
    spread = np.std([r.lower for r in repeated], axis=0)
    stated = np.mean([r.standard_error for r in repeated], axis=0)
    assert (spread < 1.6 * stated + 1e-9).all()


def test_a_success_dearer_than_all_failures_together_is_not_reached_below_its_own_price() -> None:
    rng = np.random.default_rng(5)
    lost, dear = rng.random(200), 1e6
    got = reach_at_spend([True] + [False] * 200, [dear, *lost], [lost.sum(), dear - 1, dear, dear + 1e3], seed=1)
    assert not got.exact
    assert got.lower[:2].tolist() == [0, 0]
    assert 0 < got.lower[2] < 0.05  # nothing is left for a failure before it
    assert got.lower[3] == pytest.approx(1)


def by_table(lost: np.ndarray, gained: np.ndarray, spends: np.ndarray) -> np.ndarray:
    """Exact mean over orderings for integer costs: distribution of the total of a random i-subset of failures."""
    most, f, n = int(spends.max()), lost.size, lost.size + gained.size
    share = np.zeros((f + 1, most + 1))
    share[0, 0] = 1
    for j, price in enumerate(lost, start=1):
        for size in range(j, 0, -1):
            moved = np.zeros(most + 1)
            if price <= most:
                moved[price:] = share[size - 1, : most + 1 - price]
            share[size] = share[size] * (j - size) / j + moved * size / j
    within = first_success_cdf(n, gained.size)
    exactly = np.diff(within, prepend=0)
    totals = (exactly[:, None] * share).sum(axis=0)
    return np.array([np.mean([totals[: max(0, b - g + 1)].sum() for g in gained]) for b in spends])


def test_orderings_are_the_same_for_the_same_seed_and_do_not_touch_global_randomness() -> None:
    rng = np.random.default_rng(2)
    success, cost = rng.random(80) < 0.1, rng.gamma(2, 50, 80)
    state = np.random.get_state()[1].copy()
    first = reach_at_spend(success, cost, [200, 2000], seed=9)
    second = reach_at_spend(success, cost, [200, 2000], seed=9)
    assert np.array_equal(first.lower, second.lower)
    assert np.array_equal(np.random.get_state()[1], state)


def test_reach_never_falls_as_the_spend_rises() -> None:
    rng = np.random.default_rng(4)
    success, cost = rng.random(90) < 0.06, rng.gamma(1, 100, 90)
    curve = reach_at_spend(success, cost, np.geomspace(1, 20_000, 80))
    assert (np.diff(curve.lower) >= -1e-12).all()
    assert curve.lower[-1] == pytest.approx(1.0)


def test_without_a_success_reach_is_open_once_another_attempt_would_fit() -> None:
    got = reach_at_spend([False, False, False], [10, 20, 30], [59, 60, 69, 70, 1000])
    assert got.lower.tolist() == [0, 0, 0, 0, 0]
    assert got.upper.tolist() == [0, 0, 0, 1, 1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=2, max_size=5), st.integers(1, 30))
def test_rotations_of_all_orderings_average_to_reach_at_spend(rows: list[tuple[bool, int]], spend: int) -> None:
    orders = np.array(list(permutations(range(len(rows)))))
    won, cost = np.array([s for s, _ in rows]), np.array([c for _, c in rows], dtype=float)
    got = cyclic_reach(won[orders], cost[orders], np.array([spend], dtype=float)).mean()
    assert got == pytest.approx(float(reach_at_spend(won, cost, spend).lower[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("success", "cost", "spend", "words"),
    [
        ([True, False], [1, -2], 3, "cost 'tokens' must be a finite number ≥ 0, not -2"),
        ([True, False], [1, np.nan], 3, "finite"),
        ([True, False], [1, 2, 3], 3, "2 outcomes but 3 costs"),
        ([True], [1], 0, "> 0"),
        ([True], [1], np.inf, "finite number > 0"),
        ([], [], 1, "no attempts"),
    ],
)
def test_bad_costs_and_spends_are_refused(success: list[bool], cost: list[float], spend: float, words: str) -> None:
    with pytest.raises(StatsError, match=words):
        reach_at_spend(success, cost, spend, axis="tokens")


def test_a_curve_on_a_cost_axis_has_every_task_s_own_reach() -> None:
    arm = ArmOutcomes.from_rows(
        "python", ["a", "b", "a", "b"], [True, False, False, False], costs={"tokens": [5, 7, 9, 11]}
    )
    curve = reach_curve(arm, [5, 14, 30], axis="tokens")
    assert curve.lower.tolist() == [[0.5, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert curve.upper.tolist() == [[0.5, 1.0, 1.0], [0.0, 0.0, 1.0]]
    with pytest.raises(StatsError, match="no cost axis 'seconds'; recorded: tokens"):
        reach_curve(arm, [5], axis="seconds")
