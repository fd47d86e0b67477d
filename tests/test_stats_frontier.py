from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, geom

from testbed.stats import (
    ArmOutcomes,
    StatsError,
    best_of_n_frontier,
    reach_at_k,
    suite_free_energy,
    tilt_frontier,
)
from testbed.stats.energy import best_of_n_kl, best_of_n_success, free_energy, log_partition, tilt, tilt_kl
from testbed.stats.frontier import Bounded, _jackknife, _series, _worst_bias

BETAS = np.array([0.0, 0.3, 1.0, 2.0, 4.0, 7.0])
TRUE = {"log_partition": log_partition, "success": lambda p, beta: tilt(p, beta), "kl": tilt_kl}


def arm_of(c: object, n: object = 16, name: str = "bare") -> ArmOutcomes:
    counts = np.atleast_1d(np.asarray(c))
    return ArmOutcomes.from_counts(name, [f"t{i}" for i in range(counts.size)], n, counts)


def suite(tasks: int, n: int, rng: np.random.Generator, zeros: float = 0.3) -> tuple[ArmOutcomes, np.ndarray]:
    p = rng.beta(0.3, 2, tasks) * (rng.random(tasks) >= zeros)
    return arm_of(rng.binomial(n, p), n), p


@pytest.mark.parametrize("beta", [0.4, 2.0, 5.0])
def test_a_tilt_succeeds_as_often_as_a_geometric_number_of_attempts(beta: float) -> None:
    k = np.arange(1, 40_000)
    for p in (0.001, 0.1, 0.7):
        mixed = geom.pmf(k, np.exp(-beta)) @ (1 - (1 - p) ** k)
        assert mixed == pytest.approx(float(tilt(p, beta)), abs=1e-9)


@pytest.mark.parametrize("what", TRUE)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_on_average_the_truth_lies_between_least_and_most_for_every_p(what: str, n: int) -> None:
    c = np.arange(n + 1)
    least, most = _series(np.full(n + 1, n), c, BETAS)[what]
    for p in (0.0, 1e-4, 0.02, 0.3, 0.9, 1.0):
        truth = TRUE[what](p, BETAS)
        assert (binom.pmf(c, n, p) @ least <= truth + 1e-9).all()
        assert (binom.pmf(c, n, p) @ most >= truth - 1e-9).all()


@pytest.mark.parametrize("what", TRUE)
def test_where_the_attempts_suffice_the_estimate_is_unbiased(what: str) -> None:
    n, beta = 60, np.array([0.2, 0.8, 1.5])
    c = np.arange(n + 1)
    least, most = _series(np.full(n + 1, n), c, beta)[what]
    assert (most - least).max() < 1e-5
    for p in (0.0, 0.01, 0.4, 1.0):
        assert binom.pmf(c, n, p) @ least == pytest.approx(TRUE[what](p, beta), abs=1e-5)


def test_only_tasks_without_a_success_leave_anything_open() -> None:
    for least, most in _series(np.full(17, 16), np.arange(17), BETAS).values():
        assert (most[1:] == least[1:]).all()
        assert (most[0] - least[0])[3:].min() > 0.01


@pytest.mark.parametrize("beta", [-6.0, -1.0, -0.2])
def test_negative_beta_has_the_same_guarantee(beta: float) -> None:
    n = 12
    tasks = [arm_of([c], n) for c in range(n + 1)]
    found = [suite_free_energy(arm, beta).log_partition for arm in tasks]
    for p in (0.0, 0.05, 0.5, 0.97, 1.0):
        chance, truth = binom.pmf(np.arange(n + 1), n, p), float(log_partition(p, beta))
        assert sum(w * f.least[0] for w, f in zip(chance, found, strict=True)) <= truth + 1e-9
        assert sum(w * f.most[0] for w, f in zip(chance, found, strict=True)) >= truth - 1e-9


def test_the_plug_in_is_biased_downward_by_what_the_docs_say() -> None:
    n, c, p = 16, np.arange(17), np.linspace(0, 1, 1001)
    for beta, bias in ((2.0, -0.0434), (6.0, -1.2766)):
        error = binom.pmf(c, n, p[:, None]) @ log_partition(c / n, beta) - log_partition(p, beta)
        assert error.max() <= 1e-12
        assert error.min() == pytest.approx(bias, abs=1e-3)


def test_best_of_8_at_7_percent_has_the_known_answers_on_average() -> None:
    n, c = 64, np.arange(65)
    chance = binom.pmf(c, n, 0.07)
    assert chance @ reach_at_k(n, c, 8) == pytest.approx(0.4404, abs=5e-5)
    bias = _worst_bias(n, np.array([8]))[0]
    assert bias < 6e-4
    assert chance @ _jackknife(np.full(65, n), c, 8) == pytest.approx(0.52577, abs=bias)


def test_the_stated_bias_is_the_worst_over_p() -> None:
    n, c = 20, np.arange(21)
    for draws in (2, 8, 20):
        stated = _worst_bias(n, np.array([draws]))[0]
        for p in (0.003, 0.02, 0.1, 0.4):
            mean = binom.pmf(c, n, p) @ _jackknife(np.full(21, n), c, draws)
            assert abs(mean - best_of_n_kl(p, draws)) <= stated * 1.01 + 1e-12


def covered(found: Bounded, truth: np.ndarray) -> bool:
    assert found.low is not None
    assert found.high is not None
    return bool(((found.low <= truth + 1e-9) & (truth - 1e-9 <= found.high)).all(axis=0))


def coverage(tasks: int, n: int, suites: int, seed: int) -> dict[str, float]:
    rng, beta, draws = np.random.default_rng(seed), 3.0, 4
    p = suite(400_000, 1, rng)[1]
    truths = {
        "log-partition": log_partition(p, beta),
        "free energy": free_energy(p, beta),
        "success of the tilt": tilt(p, beta),
        "divergence of the tilt": tilt_kl(p, beta),
        "success of best-of-4": best_of_n_success(p, draws),
        "divergence of best-of-4": best_of_n_kl(p, draws),
    }
    means = {name: np.array([values.mean()]) for name, values in truths.items()}
    hits: dict[str, list[bool]] = {name: [] for name in means}
    for i in range(suites):
        arm, _ = suite(tasks, n, rng)
        tilted = tilt_frontier(arm, beta, replicates=500, seed=i)
        best = best_of_n_frontier(arm, draws, replicates=500, seed=i)
        energy = suite_free_energy(arm, beta, replicates=500, seed=i)
        found = (energy.log_partition, energy.free_energy, tilted.success, tilted.kl, best.success, best.kl)
        for (name, truth), one in zip(means.items(), found, strict=True):
            hits[name].append(covered(one, truth))
    return {name: float(np.mean(each)) for name, each in hits.items()}


def test_limits_cover_the_mean_over_the_population() -> None:
    for name, share in coverage(40, 16, 60, seed=1).items():
        assert share >= 0.9, name


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "n"), [(10, 16), (50, 16), (100, 64)])
def test_limits_at_95_percent_cover_at_least_94(tasks: int, n: int) -> None:
    found = coverage(tasks, n, 1000, seed=tasks)
    print(tasks, n, found)
    assert min(found.values()) >= 0.94


def test_the_frontier_of_tilts_lies_above_best_of_n() -> None:
    arm, _ = suite(150, 3000, np.random.default_rng(2), zeros=0.0)
    tilted, best = tilt_frontier(arm, np.linspace(0, 6, 200)), best_of_n_frontier(arm, [2, 4, 16, 64])
    at_same_cost = np.interp(best.kl.least, tilted.kl.least, tilted.success.least)
    assert (at_same_cost >= best.success.least - 1e-6).all()
    assert (at_same_cost > best.success.least + 1e-3).any()


def test_along_the_frontier_success_and_divergence_rise() -> None:
    arm, _ = suite(80, 32, np.random.default_rng(3))
    found = tilt_frontier(arm, np.linspace(0, 8, 30))
    for part in (found.success, found.kl):
        for ends in (part.least, part.most):
            assert (np.diff(ends) >= -1e-9).all()
        assert (part.least <= part.most + 1e-12).all()
        assert (part.low <= part.least).all()  # type: ignore[operator]
        assert (part.most <= part.high).all()  # type: ignore[operator]
    assert found.success.least[0] == pytest.approx(float((arm.c / arm.n).mean()))
    assert found.kl.most[0] == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=12), st.floats(-30, 30))
def test_everything_is_finite_and_within_its_bounds(c: list[int], beta: float) -> None:
    found = suite_free_energy(arm_of(c, 6), beta, replicates=100)
    partition, energy = found.log_partition, found.free_energy
    for values in (partition.least, partition.most, partition.low, partition.high):
        assert values is not None
        assert min(0, beta) - 1e-9 <= values[0] <= max(0, beta) + 1e-9
    for values in (energy.least, energy.most, energy.low, energy.high):
        assert values is not None
        assert -1 - 1e-9 <= values[0] <= 1e-9
    if beta >= 0:
        frontier = tilt_frontier(arm_of(c, 6), beta, replicates=100)
        assert np.isfinite([frontier.kl.least, frontier.kl.most, frontier.kl.low, frontier.kl.high]).all()


def test_a_suite_without_success_is_open_not_zero() -> None:
    found = tilt_frontier(arm_of([0] * 30), 5.0)
    assert found.success.least[0] == 0
    assert found.success.most[0] == pytest.approx((1 - np.exp(-5.0)) ** 16)  # what p ≥ 1/16 would bring is not seen
    assert found.kl.most[0] > 1
    energy = suite_free_energy(arm_of([0] * 30), 5.0)
    assert energy.log_partition.most[0] == pytest.approx(5 - sum((1 - np.exp(-5.0)) ** k / k for k in range(1, 17)))


def test_unequal_attempts_are_each_taken_at_their_own_n() -> None:
    both = suite_free_energy(arm_of([1, 30], np.array([8, 60])), 2.0).log_partition.least[0]
    apart = [suite_free_energy(arm_of([c], n), 2.0).log_partition.least[0] for c, n in ((1, 8), (30, 60))]
    assert both == pytest.approx(np.mean(apart))


def test_one_cluster_has_no_limits() -> None:
    arm = arm_of([3, 4, 5])
    found = tilt_frontier(arm, 1.0, clusters=dict.fromkeys(arm.tasks, "same"))
    assert found.kl.low is None
    assert found.success.high is None


def test_bad_input_is_refused_by_name() -> None:
    arm = arm_of([3, 4])
    with pytest.raises(StatsError, match="beta ≥ 0, not -1"):
        tilt_frontier(arm, [1, -1])
    with pytest.raises(StatsError, match="beta must be finite"):
        suite_free_energy(arm, np.nan)
    with pytest.raises(StatsError, match=r"arm 'bare', task 't0': .*k = 17"):
        best_of_n_frontier(arm, 17)
    with pytest.raises(StatsError, match="arm 'bare', task 't1': no scored attempts"):
        suite_free_energy(arm_of([1, 0], np.array([4, 0])), 1.0)
    with pytest.raises(StatsError, match="task 't1' has no cluster label"):
        tilt_frontier(arm, 1.0, clusters={"t0": 1})
    with pytest.raises(StatsError, match="two attempts or more"):
        best_of_n_frontier(arm_of([1, 0], 1), 1)
