"""Published and exact answers, and equality with brute force: every ordering, split, subset or completion by itself."""

from __future__ import annotations

import math
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
    decompose,
    decompose_cross_fitted,
    decompose_cross_fitted_at_spend,
    empirical_support,
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
