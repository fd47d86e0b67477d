from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize
from scipy.stats import betabinom

from testbed.stats import ArmOutcomes, StatsError, extrapolate_reach, reach_at_k
from testbed.stats.extrapolate import _Limits
from testbed.stats.zero_inflated import Groups, _derivatives, best_fit, fit

Draw = Callable[[np.random.Generator, int], np.ndarray]

# The first is the model; the second its edge; the others are not of its form.
TRUTHS: dict[str, Draw] = {
    "zero-inflated beta": lambda rng, t: rng.beta(0.5, 2, t) * (rng.random(t) >= 0.3),
    "beta": lambda rng, t: rng.beta(0.3, 2, t),
    "three points, one of them 0": lambda rng, t: rng.choice([0, 0.02, 0.5], t, p=[0.3, 0.4, 0.3]),
    "three points, one of them .001": lambda rng, t: rng.choice([0.001, 0.05, 0.5], t, p=[0.3, 0.4, 0.3]),
    "two points": lambda rng, t: rng.choice([0, 0.1], t, p=[0.5, 0.5]),
    "two points far apart": lambda rng, t: rng.choice([0, 0.6], t, p=[0.6, 0.4]),
    "logit-normal with zeros": lambda rng, t: (rng.random(t) >= 0.2) / (1 + np.exp(-rng.normal(-3, 2, t))),
    "even on the log scale": lambda rng, t: np.exp(rng.uniform(np.log(1e-5), 0, t)),
}


def suite(draw: Draw, tasks: int, n: int | np.ndarray, rng: np.random.Generator) -> ArmOutcomes:
    return ArmOutcomes.from_counts("bare", [f"t{i}" for i in range(tasks)], n, rng.binomial(n, draw(rng, tasks)))


def true_reach(draw: Draw, k: int) -> float:
    return float((1 - (1 - draw(np.random.default_rng(99), 500_000)) ** k).mean())


def limits_of(arm: ArmOutcomes, k: int, seed: int, code: np.ndarray | None = None) -> tuple[float, float]:
    code = np.arange(len(arm.tasks)) if code is None else code
    low, high = _Limits(arm, code, 0.05, seed, replicates=500).at(np.array([k]))
    return float(low[0]), float(high[0])


# --- the fit ------------------------------------------------------------------------------------------------------


def log_likelihood(point: np.ndarray, n: np.ndarray, c: np.ndarray) -> float:
    zero, a, b = point[0], *np.exp(point[1:])
    return float(np.log(zero * (c == 0) + (1 - zero) * betabinom.pmf(c, n, a, b)).sum())


def test_derivatives_are_those_of_the_likelihood_written_with_scipy() -> None:
    n, c = np.array([4, 9, 9, 30, 30]), np.array([0, 0, 3, 1, 30])
    groups, point = Groups.of(n, c), np.array([0.2, np.log(0.5), np.log(2.0)])
    ones = groups.weights(np.ones((1, 5)))
    _, slope, curve = _derivatives(groups, ones, point[None])
    assert slope[0] == pytest.approx(approx_fprime(point, lambda x: log_likelihood(x, n, c), 1e-6), rel=1e-3)
    rows = [approx_fprime(point, lambda x, i=i: _derivatives(groups, ones, x[None])[1][0, i], 1e-6) for i in range(3)]
    assert curve[0] == pytest.approx(np.array(rows), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["zero-inflated beta", "beta", "three points, one of them 0", "two points far apart"])
def test_the_fit_is_the_greatest_likelihood_that_a_general_optimiser_finds(name: str) -> None:
    rng = np.random.default_rng(1)
    n = rng.integers(8, 40, 150)
    c = rng.binomial(n, TRUTHS[name](rng, 150))
    found, best = best_fit(Groups.of(n, c))
    mine = log_likelihood(np.array([found.zero[best], np.log(found.a[best]), np.log(found.b[best])]), n, c)
    for start in ((0.01, 0.0, 0.0), (0.3, -1.0, 1.0), (0.5, 1.0, 2.0)):
        other = minimize(
            lambda x: -log_likelihood(x, n, c), start, method="L-BFGS-B", bounds=[(0, 0.999), (-9, 13), (-9, 13)]
        )
        assert mine >= -other.fun - 1e-4


def test_all_starts_end_at_the_same_likelihood() -> None:
    rng = np.random.default_rng(2)
    arm = suite(TRUTHS["zero-inflated beta"], 300, 16, rng)
    found, best = best_fit(Groups.of(arm.n, arm.c))
    assert found.log_likelihood == pytest.approx(found.log_likelihood[best], abs=1e-3)


def test_a_weight_of_two_is_a_task_seen_twice() -> None:
    n, c = np.full(40, 12), np.random.default_rng(3).binomial(12, np.random.default_rng(4).beta(0.5, 2, 40))
    weights = np.random.default_rng(5).integers(1, 4, 40)
    groups, start = Groups.of(n, c), np.array([[0.1, 0.0, 0.0]])
    once = fit(groups, groups.weights(weights[None].astype(float)), start)
    repeated = Groups.of(np.repeat(n, weights), np.repeat(c, weights))
    twice = fit(repeated, repeated.weights(np.ones((1, int(weights.sum())))), start)
    assert once.zero[0] == pytest.approx(twice.zero[0], abs=1e-4)
    assert once.log_likelihood[0] == pytest.approx(twice.log_likelihood[0])


def test_the_fit_finds_the_truth_of_a_large_suite() -> None:
    arm = suite(TRUTHS["zero-inflated beta"], 4000, 64, np.random.default_rng(6))
    found = extrapolate_reach(arm, [128, 256])
    assert found.zero.value == pytest.approx(0.3, abs=0.05)
    assert (found.a, found.b) == (pytest.approx(0.5, abs=0.1), pytest.approx(2, abs=0.4))
    truth = [true_reach(TRUTHS["zero-inflated beta"], k) for k in (128, 256)]
    assert found.value == pytest.approx(truth, abs=0.03)
    assert found.edge == ""


# --- what may be said ---------------------------------------------------------------------------------------------


def test_a_plain_beta_binomial_invents_capability_and_the_zero_inflated_one_does_not() -> None:
    rng, plain, mine = np.random.default_rng(7), [], []
    for _ in range(8):
        found = extrapolate_reach(suite(TRUTHS["two points far apart"], 200, 16, rng), 128, replicates=100)
        mine.append(found.value[0])
        plain.append(found.without_zeros[0])
        assert "one p" in found.edge or found.a > 1
    truth = true_reach(TRUTHS["two points far apart"], 128)
    assert np.mean(plain) - truth > 0.12
    assert abs(np.mean(mine) - truth) < 0.04


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize(("tasks", "n"), [(50, 16), (200, 16)])
def test_limits_hold_whatever_the_distribution_of_p(name: str, tasks: int, n: int) -> None:
    rng, truth = np.random.default_rng(8), [true_reach(TRUTHS[name], n * m) for m in (2, 8)]
    for times, right in zip((2, 8), truth, strict=True):
        found = [limits_of(suite(TRUTHS[name], tasks, n, rng), n * times, i) for i in range(60)]
        assert np.mean([low <= right + 1e-9 and right <= high + 1e-9 for low, high in found]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("times", [2, 8])
def test_limits_at_95_percent_cover_at_least_94(name: str, times: int) -> None:
    rng, truth, found = np.random.default_rng(16), true_reach(TRUTHS[name], 16 * times), []
    for i in range(2000):
        found.append(limits_of(suite(TRUTHS[name], 100, 16, rng), 16 * times, i))
    covered = np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in found])
    print(f"{name}, 100 tasks, n=16, k={16 * times}: {covered:.4f}, width {np.mean([h - w for w, h in found]):.3f}")
    assert covered >= 0.94


def test_limits_hold_for_clusters_and_unequal_attempts() -> None:
    rng, code = np.random.default_rng(9), np.repeat(np.arange(60), 3)
    covered, truth = [], true_reach(TRUTHS["beta"], 64)
    for i in range(100):
        p = np.repeat(TRUTHS["beta"](rng, 60), 3)
        n = rng.integers(16, 40, 180)
        arm = ArmOutcomes.from_counts("bare", [f"t{j}" for j in range(180)], n, rng.binomial(n, p))
        low, high = limits_of(arm, 64, i, code)
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_what_is_answered_covers_at_95_percent_also_where_the_model_is_wrong(name: str) -> None:
    rng, truth = np.random.default_rng(10), {k: true_reach(TRUTHS[name], k) for k in (32, 64, 128)}
    rows: dict[int, list[tuple[float, ...]]] = {k: [] for k in truth}
    suites = 100
    for i in range(suites):
        arm = suite(TRUTHS[name], 400, 16, rng)
        for k, right in truth.items():
            try:
                found = extrapolate_reach(arm, k, replicates=100, seed=i)
            except StatsError:
                continue
            inside = found.low[0] - 1e-9 <= right <= found.high[0] + 1e-9
            by_model = found.model_low[0] - 1e-9 <= right <= found.model_high[0] + 1e-9
            rows[k].append((inside, by_model, found.value[0] - right, found.without_zeros[0] - right))
    for k, kept in rows.items():
        if kept:
            means = np.mean(kept, axis=0)
            print(f"{name}, k={k}: answered {len(kept)}/{suites}, {means.round(3)}")
            assert means[0] >= 0.94 or len(kept) < 30
        else:
            print(f"{name}, k={k}: never answered")


def test_limits_contain_the_value_and_the_reach_already_seen() -> None:
    arm = suite(TRUTHS["zero-inflated beta"], 500, 32, np.random.default_rng(11))
    found = extrapolate_reach(arm, [40, 64, 96])
    seen = float(reach_at_k(arm.n, arm.c, 32).mean())
    assert (found.low < seen).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert (np.diff(found.value) > 0).all()
    assert (np.diff(found.high) > 0).all()
    assert ((found.model_low <= found.value) & (found.value <= found.model_high)).all()
    assert (found.model_high - found.model_low > 0.02).all()


def test_clusters_widen_limits_and_model_interval() -> None:
    single = suite(TRUTHS["two points far apart"], 40, 16, np.random.default_rng(12))
    tasks = [f"t{i}-{j}" for i in range(40) for j in range(10)]
    arm = ArmOutcomes.from_counts("bare", tasks, 16, np.repeat(single.c, 10))
    ignored = extrapolate_reach(arm, 32, widest=1)
    kept = extrapolate_reach(arm, 32, widest=1, clusters={task: task.split("-")[0] for task in tasks})
    assert (kept.clusters, kept.tasks) == (40, 400)
    assert kept.high - kept.low > 2 * (ignored.high - ignored.low)
    assert kept.model_high - kept.model_low > 2 * (ignored.model_high - ignored.model_low)


def test_a_thousand_tasks_take_less_than_two_seconds() -> None:
    arm = suite(TRUTHS["zero-inflated beta"], 1000, 64, np.random.default_rng(13))
    start = time.process_time()
    extrapolate_reach(arm, 128, replicates=200)
    assert time.process_time() - start < 2


def test_the_same_seed_gives_the_same_answer() -> None:
    arm = suite(TRUTHS["zero-inflated beta"], 300, 32, np.random.default_rng(14))
    one, same = extrapolate_reach(arm, 40, seed=1), extrapolate_reach(arm, 40, seed=1)
    assert one.high == same.high
    assert one.model_low == same.model_low
    assert one.high != extrapolate_reach(arm, 40, seed=2).high


def test_a_suite_of_rarely_solved_tasks_is_refused_and_told_what_is_possible() -> None:
    arm = suite(TRUTHS["even on the log scale"], 1000, 16, np.random.default_rng(15))
    with pytest.raises(StatsError, match=r"arm 'bare': reach@128 .*whatever the distribution of p.*ask for k ≤ \d+"):
        extrapolate_reach(arm, 128)
    assert extrapolate_reach(arm, 24).value[0] < 0.5


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=10, max_size=40), st.integers(1, 60))
def test_any_counts_get_a_sound_answer_or_a_reason(pairs: list[tuple[int, int]], k: int) -> None:
    n, c = np.array([max(pair) for pair in pairs]), np.array([min(pair) for pair in pairs])
    n = np.maximum(n, 1)
    arm = ArmOutcomes.from_counts("bare", [f"t{i}" for i in range(len(n))], n, np.minimum(c, n))
    try:
        found = extrapolate_reach(arm, k, widest=1, replicates=100)
    except StatsError:
        return
    for values in (found.value, found.low, found.high, found.model_low, found.model_high, found.without_zeros):
        assert ((values >= 0) & (values <= 1 + 1e-9)).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


def counted(c: list[int], n: int = 16) -> ArmOutcomes:
    return ArmOutcomes.from_counts("bare", [f"t{i}" for i in range(len(c))], n, c)


@pytest.mark.parametrize(
    ("arm", "options", "words"),
    [
        (counted([0] * 50), {"k": 32}, "arm 'bare': reach@32 .*no attempt succeeded"),
        (counted([4] * 8), {"k": 32}, "from 8 clusters"),
        (counted([0] * 30 + [16] * 30 + [3] * 4), {"k": 32}, "only 4 tasks were solved sometimes"),
        (counted([4] * 50), {"k": 161}, "more than 10 times.*k ≤ 160"),
        (counted([4] * 50), {"k": 16}, "reach@16 needs no extrapolation"),
        (counted([4] * 50), {"k": 20, "replicates": 10}, "at least 100"),
        (counted([4] * 50), {"k": 20, "clusters": {"t0": 1}}, "task 't1' has no cluster label"),
        (counted([4] * 50), {"k": 20.5}, "whole number"),
        (counted([1] * 20, 1), {"k": 2}, "only 0 tasks were solved sometimes"),
    ],
)
def test_what_the_data_cannot_support_is_refused(arm: ArmOutcomes, options: dict[str, object], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        extrapolate_reach(arm, **options)  # type: ignore[arg-type]
