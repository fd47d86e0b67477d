"""Published and exact answers, and equality with brute force: every ordering, split, subset or completion by itself."""

from __future__ import annotations

import math
import time
from decimal import MAX_EMAX, MIN_EMIN, Decimal, getcontext, localcontext
from fractions import Fraction
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import beta as beta_function
from scipy.special import roots_jacobi
from scipy.stats import binom

from testbed.stats import (
    ArmOutcomes,
    compare_arms,
    confidence_sequence,
    decompose,
    decompose_cross_fitted,
    decompose_cross_fitted_at_spend,
    e_bh,
    empirical_support,
    near_identical,
    p_star,
    reach_at_k,
    reach_at_spend,
    support_metrics,
)
from testbed.stats.energy import (
    bernoulli_kl,
    best_of_n_kl,
    budgeted_free_energy_estimate,
    budgeted_free_energy_stopped,
    free_energy,
    log_partition,
    tilt,
    tilt_kl,
)
from testbed.stats.reach import posterior_reach
from testbed.stats.sequences import log_e_above, log_e_below, log_martingale

A, B = 0.3, 2.0  # the skewed population of tasks that the documentation's figures are about


def population() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights that integrate polynomials of p over Beta(A, B) exactly up to degree 199."""
    x, weight = roots_jacobi(100, B - 1, A - 1)
    return (1 + x) / 2, weight / weight.sum()


def mean_reach(k: int) -> float:
    return float(1 - beta_function(A, B + k) / beta_function(A, B))


# ---- answers known in closed form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 1), (30, 8), (64, 64), (100, 17)])
def test_mean_reach_of_a_beta_population_is_its_closed_form(n: int, k: int) -> None:
    p, weight = population()
    values = reach_at_k(n, np.arange(n + 1), k)
    found = weight @ (binom.pmf(np.arange(n + 1)[None, :], n, p[:, None]) @ values)
    assert found == pytest.approx(mean_reach(k), abs=1e-9)


def test_identical_policies_have_srr_908_and_ndr_092_at_64_attempts() -> None:
    p, weight = population()
    k = n = 64
    chance = binom.pmf(np.arange(n + 1)[None, :], n, p[:, None])
    reach = reach_at_k(n, np.arange(n + 1), k)
    before, after = (m.ravel() for m in np.meshgrid(reach, reach, indexing="ij"))
    share = empirical_support(before, after)
    joint = np.einsum("t,ti,tj->ij", weight, chance, chance).ravel()
    found = support_metrics(joint @ share.preserved, joint @ share.expanded, joint @ share.shrunk)
    both = 1 - 2 * (1 - mean_reach(k)) + (1 - mean_reach(2 * k))  # E[R²]
    assert found.srr == pytest.approx(both / mean_reach(k), abs=1e-9)
    assert found.srr == pytest.approx(0.908, abs=5e-4)
    assert found.ndr == pytest.approx(0.092, abs=5e-4)
    assert found.nscr == pytest.approx(0, abs=1e-12)


def test_the_plug_in_creates_029_out_of_nothing_at_16_attempts_and_cross_fitting_nothing() -> None:
    p, weight = population()
    n = 16
    c0, c1 = (m.ravel() for m in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    chance = binom.pmf(np.arange(n + 1)[None, :], n, p[:, None])
    joint = np.einsum("t,ti,tj->ij", weight, chance, chance).ravel()
    reach = (reach_at_k(n, c, 1) for c in (c0, c0, c1))
    assert joint @ decompose(*reach).creation == pytest.approx(0.0293, abs=5e-5)
    fitted = decompose_cross_fitted(n, c0, n, c1, operating=1, elicitation=1)
    assert joint @ fitted.creation == pytest.approx(0, abs=1e-12)
    assert joint @ fitted.loss == pytest.approx(0, abs=1e-12)


def test_choosing_by_the_posterior_loses_next_to_nothing_where_choosing_by_unbiased_estimates_loses_047() -> None:
    """No effect, n = 64, b = 1, B = 32: unbiased reach at 32 of 32 choosing attempts is 1 or 0."""
    p, weight = population()
    n, big = 64, 32
    created = (1 - p) ** (n - big) * (1 - (1 - p) ** (n - 1)) * (p - (1 - (1 - p) ** big))
    assert weight @ created == pytest.approx(-0.0468, abs=5e-5)
    c0, c1 = (m.ravel() for m in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    chance = binom.pmf(np.arange(n + 1)[None, :], n, p[:, None])
    joint = np.einsum("t,ti,tj->ij", weight, chance, chance).ravel()
    fitted = decompose_cross_fitted(n, c0, n, c1, operating=1, elicitation=big)
    assert -1e-5 < joint @ fitted.creation < 0


@given(st.floats(0.01, 0.99), st.floats(1.0, 1e5))
def test_k_attempts_at_the_threshold_reach_rho_exactly(rho: float, k: float) -> None:
    assert -math.expm1(k * math.log1p(-float(p_star(rho, k)))) == pytest.approx(rho, rel=1e-9)


# ---- reach -----------------------------------------------------------------------------------------------------------

costed = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0, 2.5])), min_size=1, max_size=6)


def first_success_within(order: tuple[int, ...], won: list[bool], cost: list[Fraction], spend: Fraction) -> bool | None:
    """Whether the first success of an ordering ends within the spend; None where the attempts ran out before it did."""
    spent = Fraction(0)
    for i in order:
        spent += cost[i]
        if spent > spend:
            return False
        if won[i]:
            return True
    return None if spend - spent >= min(cost) else False


@settings(deadline=None, max_examples=80)
@given(costed, st.integers(1, 80))
def test_reach_at_spend_over_all_orderings_of_unequal_and_free_attempts(
    rows: list[tuple[bool, float]], tenths: int
) -> None:
    won, cost = [w for w, _ in rows], [Fraction(str(c)) for _, c in rows]
    spend = Fraction(tenths, 10)
    ends = [first_success_within(order, won, cost, spend) for order in permutations(range(len(rows)))]
    found = reach_at_spend(won, [float(c) for c in cost], float(spend))
    assert float(found.lower[0]) == pytest.approx(np.mean([bool(e) for e in ends]), abs=1e-12)
    assert float(found.upper[0]) == pytest.approx(np.mean([e is not False for e in ends]), abs=1e-12)


@pytest.mark.parametrize(("p", "spend"), [(0.1, 3), (0.4, 3), (0.4, 7), (1.0, 2)])
def test_reach_at_spend_is_unbiased_for_random_costs(p: float, spend: int) -> None:
    """Exact expectation: every outcome and every cost of n attempts, where a failure costs 1 or 2 and a success 2."""
    n = 4 if spend == 3 else 5
    truth = reach_of_process(p, spend)
    mean = 0.0
    kinds = [(False, 1.0, (1 - p) * 0.6), (False, 2.0, (1 - p) * 0.4), (True, 2.0, p)]
    lower = upper = 0.0
    for rows in product(kinds, repeat=n):
        chance = math.prod(row[2] for row in rows)
        if chance == 0:
            continue
        found = reach_at_spend([r[0] for r in rows], [r[1] for r in rows], float(spend))
        lower, upper = lower + chance * float(found.lower[0]), upper + chance * float(found.upper[0])
        mean += chance
    assert mean == pytest.approx(1)
    if spend <= n:  # n attempts cost n or more, so they outlast the spend
        assert (lower, upper) == pytest.approx((truth, truth), abs=1e-12)
    else:
        assert lower <= truth + 1e-12 <= upper + 2e-12


def reach_of_process(p: float, spend: int) -> float:
    """Chance that the first success of endless attempts ends within the spend, by recursion on what is left."""
    if spend <= 0:
        return 0.0
    won = p if spend >= 2 else 0.0
    return won + (1 - p) * (0.6 * reach_of_process(p, spend - 1) + 0.4 * reach_of_process(p, spend - 2))


# ---- budgeted free energy --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_budgeted_free_energy_is_the_mean_over_all_orderings(won: list[bool], data: st.DataObject) -> None:
    n, c = len(won), sum(won)
    budget = data.draw(st.integers(1, n))
    sums, stopped = [], []
    for order in permutations(won):
        first = order.index(True) + 1 if c else n + 1
        sums.append(sum(1 / k for k in range(1, budget + 1) if k < first))
        stopped.append(float(budgeted_free_energy_stopped(first, budget)))
    found = float(budgeted_free_energy_estimate(n, c, budget))
    assert found == pytest.approx(np.mean(sums), abs=1e-12)
    assert found == pytest.approx(np.mean(stopped), abs=1e-12)  # and so does the form for stopping at a success
    whole = sum(Fraction(1, k) for k in range(c + 1, n + 1))  # H_n − H_c
    assert float(budgeted_free_energy_estimate(n, c)) == pytest.approx(float(whole), abs=1e-12)


# ---- re-weighting ----------------------------------------------------------------------------------------------------

policies = st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=2, max_size=7).filter(
    lambda rows: len({won for _, won in rows}) == 2
)


@given(policies, st.floats(-6, 6))
def test_the_tilt_of_any_policy_is_that_of_its_success_probability(rows: list[tuple[float, bool]], beta: float) -> None:
    policy = np.array([w for w, _ in rows]) / sum(w for w, _ in rows)
    won = np.array([s for _, s in rows])
    p = float(policy[won].sum())
    weight = policy * np.exp(beta * won)
    tilted = weight / weight.sum()
    assert float(log_partition(p, beta)) == pytest.approx(np.log(weight.sum()), abs=1e-10)
    assert float(tilt(p, beta)) == pytest.approx(tilted[won].sum(), abs=1e-10)
    assert float(tilt_kl(p, beta)) == pytest.approx((tilted * np.log(tilted / policy)).sum(), abs=1e-9)
    if beta != 0:
        variational = -(tilted @ won) + (tilted * np.log(tilted / policy)).sum() / beta
        assert float(free_energy(p, beta)) == pytest.approx(variational, abs=1e-6 / min(1.0, abs(beta)))


@given(policies, st.data())
def test_no_re_weighting_reaches_a_success_rate_with_less_than_the_least_divergence(
    rows: list[tuple[float, bool]], data: st.DataObject
) -> None:
    policy = np.array([w for w, _ in rows]) / sum(w for w, _ in rows)
    other = np.array([data.draw(st.floats(0.01, 1)) for _ in rows])
    other /= other.sum()
    won = np.array([s for _, s in rows])
    spent = float((other * np.log(other / policy)).sum())
    assert spent >= float(bernoulli_kl(other[won].sum(), policy[won].sum())) - 1e-12


@given(policies, st.integers(1, 4))
def test_the_divergence_of_best_of_n_is_that_of_all_its_draws(rows: list[tuple[float, bool]], draws: int) -> None:
    policy = np.array([w for w, _ in rows]) / sum(w for w, _ in rows)
    won = [s for _, s in rows]
    best = np.zeros(len(rows))
    for picks in product(range(len(rows)), repeat=draws):
        best[next((i for i in picks if won[i]), picks[0])] += math.prod(policy[i] for i in picks)
    exact = float((best * np.log(best / policy)).sum())
    assert float(best_of_n_kl(min(policy[won].sum(), 1.0), draws)) == pytest.approx(exact, abs=1e-9)


# ---- gain ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=6)
@given(st.data())
def test_cross_fitting_on_a_cost_axis_is_the_mean_over_all_halvings_both_ways(data: st.DataObject) -> None:
    """Four attempts an arm: a half is two, whose two orderings are each other's rotations."""
    bare, tool = ([(data.draw(st.booleans()), data.draw(st.integers(1, 3))) for _ in range(4)] for _ in range(2))
    b, big = 2.0, float(data.draw(st.integers(2, 5)))
    arms = [
        ArmOutcomes.from_rows(name, ["t"] * 4, [w for w, _ in rows], costs={"tokens": [float(c) for _, c in rows]})
        for name, rows in (("bare", bare), ("tool", tool))
    ]
    found = decompose_cross_fitted_at_spend(
        *arms, axis="tokens", operating=b, elicitation=big, splits=6000, orderings=1, seed=1
    )
    assert found.creation[0] == pytest.approx(over_all_halvings(bare, tool, b, big)[0], abs=0.06)
    assert found.loss[0] == pytest.approx(over_all_halvings(bare, tool, b, big)[1], abs=0.06)


def over_all_halvings(
    bare: list[tuple[bool, int]], tool: list[tuple[bool, int]], b: float, big: float
) -> tuple[float, float]:
    """Creation (at its least) and loss, the regime chosen by one half and measured by the other."""
    sums, number = np.zeros(2), 0
    for first0 in combinations(range(4), 2):
        for first1 in combinations(range(4), 2):
            rest0, rest1 = ([i for i in range(4) if i not in first] for first in (first0, first1))
            chooses, measures = ([rows[i] for i in half] for rows, half in ((bare, first0), (bare, rest0)))
            chooses_t, measures_t = ([rows[i] for i in half] for rows, half in ((tool, first1), (tool, rest1)))
            x = half_reach(chooses, b)[0]
            cost = np.mean([c for _, c in chooses])
            y = max(x, float(posterior_reach(2, sum(w for w, _ in chooses), big / cost)))
            t = half_reach(chooses_t, b)[0]
            if t > y + 1e-12:
                sums[0] += half_reach(measures_t, b)[0] - half_reach(measures, big)[1]
            elif t < x - 1e-12:
                sums[1] += half_reach(measures, b)[1] - half_reach(measures_t, b)[0]
            number += 1
    return float(sums[0] / number), float(sums[1] / number)


def half_reach(rows: list[tuple[bool, int]], spend: float) -> tuple[float, float]:
    won, cost = [w for w, _ in rows], [Fraction(c) for _, c in rows]
    ends = [first_success_within(order, won, cost, Fraction(spend)) for order in permutations(range(len(rows)))]
    return float(np.mean([bool(e) for e in ends])), float(np.mean([e is not False for e in ends]))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=4), st.data())
def test_the_sample_equivalent_is_the_first_k_that_reaches_what_the_tools_do(
    c0: list[int], data: st.DataObject
) -> None:
    n, tasks = 6, [str(i) for i in range(len(c0))]
    c1 = [data.draw(st.integers(0, n)) for _ in tasks]
    bare, tool = (ArmOutcomes.from_counts(a, tasks, n, c) for a, c in (("bare", c0), ("tool", c1)))
    found = compare_arms(bare, tool, elicitation=3, replicates=100).figures.equivalent
    target = np.mean([Fraction(c, n) for c in c1])
    reach = [np.mean([1 - Fraction(math.comb(n - c, k), math.comb(n, k)) for c in c0]) for k in range(1, n + 1)]
    assert found.k == next((k for k, value in enumerate(reach, 1) if value >= target), None)
    assert found.censored_at == n


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_bounds_over_missing_attempts_hold_every_way_in_which_they_could_have_ended(data: st.DataObject) -> None:
    n, tasks = 6, ["a", "b"]
    c0, c1 = ([data.draw(st.integers(0, n)) for _ in tasks] for _ in range(2))
    lost0, lost1 = ([data.draw(st.integers(0, 2)) for _ in tasks] for _ in range(2))
    bare = ArmOutcomes.from_counts("bare", tasks, n, c0, missing=lost0)
    tool = ArmOutcomes.from_counts("tool", tasks, n, c1, missing=lost1)
    found = compare_arms(bare, tool, elicitation=3, replicates=100).missing
    if not sum(lost0 + lost1):
        assert found is None
        return
    assert found is not None
    ways = [
        complete(np.array(c0) + w[:2], np.array(lost0) + n, np.array(c1) + w[2:], np.array(lost1) + n)
        for w in product(*(range(m + 1) for m in (*lost0, *lost1)))
    ]
    for name in ("bare_pass1", "tool_pass1", "bare_operating", "bare_elicitation", "gain"):
        values = [way[name] for way in ways]
        assert found.figures[name].low == pytest.approx(min(values), abs=1e-12), name
        assert found.figures[name].high == pytest.approx(max(values), abs=1e-12), name


def complete(c0: np.ndarray, n0: np.ndarray, c1: np.ndarray, n1: np.ndarray) -> dict[str, float]:
    return {
        "bare_pass1": float(np.mean(c0 / n0)),
        "tool_pass1": float(np.mean(c1 / n1)),
        "bare_operating": float(np.mean(c0 / n0)),
        "bare_elicitation": float(np.mean(reach_at_k(n0, c0, 3))),
        "gain": float(np.mean(c1 / n1 - c0 / n0)),
    }


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
    start = time.perf_counter()
    low, high = confidence_sequence(n, c)
    assert time.perf_counter() - start < 1  # 3 ms on a quiet machine
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
