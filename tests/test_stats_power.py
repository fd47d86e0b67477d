"""Plans for a gain: published answers, exact enumeration, limits, and power reached in simulated suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from testbed.stats import StatsError, cluster_bootstrap, reach_at_k
from testbed.stats.power import Interval, attempts_needed, detectable_gain, power_of, tasks_needed
from testbed.stats.spread import Spread, attempt_noise, uniform_noise

FloatArray = npt.NDArray[np.float64]
MILLER = Spread(1 / 9, (1 / 6,), (1 / 6,))

effects = st.floats(0.01, 0.5)
variances = st.floats(0.001, 0.4)
sizes = st.floats(1, 8)


# -- published


def test_millers_example_needs_969_tasks() -> None:
    assert tasks_needed(0.03, 1 / 9) == 969
    assert tasks_needed(0.03, MILLER.variance(np.inf, np.inf)) == 969


def test_the_normal_formula_is_that_of_a_z_test() -> None:
    variance = 1 / 9 + 1 / 6 / 4 + 1 / 6 / 10
    assert MILLER.variance(4, 10) == pytest.approx(variance)
    closed = (norm.ppf(0.995) + norm.ppf(0.9)) ** 2 * variance / 0.05**2
    assert tasks_needed(0.05, variance, power=0.9, alpha=0.01) == int(np.ceil(closed))
    assert tasks_needed(-0.05, variance, power=0.9, alpha=0.01) == int(np.ceil(closed))


# -- noise of attempts


@pytest.mark.parametrize(("b", "attempts"), [(1, 1), (1, 7), (2, 3), (3, 3), (4, 9), (5, 40)])
def test_the_noise_of_reach_equals_its_variance_by_enumeration(b: int, attempts: int) -> None:
    for p in (0.03, 0.3, 0.9):
        q = 1 - p
        noise = tuple(q ** (2 * b - j) - q ** (2 * b) for j in range(1, b + 1))
        successes = np.arange(attempts + 1)
        chance, reach = binom.pmf(successes, attempts, p), reach_at_k(attempts, successes, b)
        exact = chance @ reach**2 - (chance @ reach) ** 2
        assert attempt_noise(noise, attempts) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_uniform_noise_is_the_mean_over_uniform_probabilities() -> None:
    q = (np.arange(100_000) + 0.5) / 100_000
    assert uniform_noise(1) == pytest.approx((1 / 6,))
    assert uniform_noise(3) == pytest.approx([float(np.mean(q ** (6 - j) - q**6)) for j in (1, 2, 3)], abs=1e-6)


# -- limits


def test_noise_vanishes_with_many_attempts_and_never_helps() -> None:
    spread = replace(MILLER, bare=uniform_noise(3), tool=uniform_noise(3))
    values = [spread.variance(k, k) for k in (3, 4, 8, 64, 10_000, np.inf)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == spread.between
    assert values[-2] == pytest.approx(spread.between, abs=1e-3)


def test_clusters_that_gain_alike_count_as_one_task_each() -> None:
    alike = replace(MILLER, bare=(0.0,), tool=(0.0,), cluster_size=5.0, icc=1.0)
    assert alike.variance(1, 1) == pytest.approx(5 / 9)
    clusters = tasks_needed(0.05, 1 / 9, interval=Interval.REPORT)
    tasks = tasks_needed(0.05, alike.variance(1, 1), cluster_size=5, interval=Interval.REPORT)
    assert 5 * (clusters - 1) < tasks <= 5 * clusters


def test_clusters_without_correlation_cost_nothing_but_the_unseen_cluster() -> None:
    loose = replace(MILLER, cluster_size=5.0, icc=0.0)
    assert loose.variance(4, 4) == MILLER.variance(4, 4)
    plain = tasks_needed(0.05, loose.variance(4, 4), interval=Interval.REPORT)
    assert tasks_needed(0.05, loose.variance(4, 4), cluster_size=5, interval=Interval.REPORT) > plain


def test_the_reports_interval_costs_a_share_that_vanishes_with_small_gains() -> None:
    ratio = [tasks_needed(d, 1 / 9, interval=Interval.REPORT) / tasks_needed(d, 1 / 9) for d in (0.2, 0.05, 0.01)]
    assert ratio[0] > ratio[1] > ratio[2] > 1
    assert ratio[2] < 1.03


def test_gains_that_do_not_vary_are_found_once_the_unseen_task_weighs_little() -> None:
    # All of T tasks gain δ: the lower limit solves (1 + δ)^-T = α/2.
    for effect in (0.05, 0.5):
        needed = tasks_needed(effect, 0.0, interval=Interval.REPORT)
        assert (1 + effect) ** -needed <= 0.025 < (1 + effect) ** -(needed - 1)


# -- inverses


@settings(max_examples=40, deadline=None)
@given(effects, variances, sizes, st.sampled_from(Interval), st.floats(0.5, 0.99))
def test_the_number_of_tasks_is_the_least_that_has_the_power(
    effect: float, variance: float, size: float, interval: Interval, power: float
) -> None:
    kind = {"cluster_size": size, "interval": interval}
    needed = tasks_needed(effect, variance, power=power, **kind)
    assert power_of(effect, needed, variance, **kind) >= power - 1e-9
    if needed > 1:
        assert power_of(effect, needed - 1, variance, **kind) < power + 1e-9
    if needed > 2 * size + 1:
        found = [detectable_gain(tasks, variance, power=power, **kind) for tasks in (needed, needed - 1)]
        assert found[0] is not None
        assert found[0] <= effect * (1 + 1e-6)
        assert found[1] is None or found[1] >= effect * (1 - 1e-6)


@settings(max_examples=40, deadline=None)
@given(effects, variances, sizes)
def test_the_reports_interval_never_needs_fewer_tasks(effect: float, variance: float, size: float) -> None:
    normal = tasks_needed(effect, variance, cluster_size=size)
    assert tasks_needed(effect, variance, cluster_size=size, interval=Interval.REPORT) >= normal


def test_attempts_are_the_least_that_suffice_and_none_where_none_do() -> None:
    needed = attempts_needed(0.05, 600, MILLER)
    assert needed is not None
    assert power_of(0.05, 600, MILLER.variance(needed, needed)) >= 0.8
    assert power_of(0.05, 600, MILLER.variance(needed - 1, needed - 1)) < 0.8
    assert attempts_needed(0.05, 340, MILLER) is None  # 349 tasks are needed without any noise
    more = attempts_needed(0.05, 600, MILLER, bare_attempts=1000)
    assert more is not None
    assert more < needed


def test_two_clusters_are_needed_for_an_interval() -> None:
    assert power_of(0.9, 9, 0.0, cluster_size=5, interval=Interval.REPORT) == 0
    assert detectable_gain(9, 0.01, cluster_size=5, interval=Interval.REPORT) is None
    assert detectable_gain(3, 0.4) is None  # not even a gain of 1


# -- the promise: power reached by the interval that reports print


@dataclass(frozen=True)
class Population:
    """Tasks with a bare success probability of Beta(a, b), of which a share gains a part of what is missing.

    The others gain nothing, or with ``worse`` lose that part of what they have.
    """

    a: float
    b: float
    share: float
    part: float
    bare_attempts: int
    attempts: int
    cluster: int = 1
    worse: float = 0.0

    def truth(self, rng: np.random.Generator, tasks: int) -> tuple[FloatArray, FloatArray]:
        bare = rng.beta(self.a, self.b, tasks)
        gains = np.repeat(rng.random(tasks // self.cluster) < self.share, self.cluster)
        return bare, np.where(gains, bare + (1 - bare) * self.part, bare * (1 - self.worse))

    def draw(self, rng: np.random.Generator, tasks: int) -> FloatArray:
        bare, tool = self.truth(rng, tasks)
        return rng.binomial(self.attempts, tool) / self.attempts - rng.binomial(
            self.bare_attempts, bare
        ) / self.bare_attempts  # fmt: skip

    def effect_and_spread(self) -> tuple[float, Spread]:
        bare, tool = self.truth(np.random.default_rng(99), 600_000)
        gain = tool - bare
        icc = 0.0
        if self.cluster > 1:
            table = gain.reshape(-1, self.cluster) - gain.mean()
            pairs = self.cluster * (self.cluster - 1)
            icc = float(((table.sum(axis=1) ** 2 - (table**2).sum(axis=1)) / pairs).mean() / gain.var())
        noise = [(float((p * (1 - p)).mean()),) for p in (bare, tool)]
        means = self.draw(np.random.default_rng(98), 600_000).reshape(-1, self.cluster).mean(axis=1)
        third = float(((means - means.mean()) ** 3).mean())
        return float(gain.mean()), Spread(float(gain.var()), noise[0], noise[1], float(self.cluster), icc, third)


def found(population: Population, tasks: int, suites: int, replicates: int) -> float:
    """Share of simulated suites in which the report's interval for the gain lies above 0."""
    rng = np.random.default_rng(tasks)
    labels = list(np.repeat(np.arange(tasks // population.cluster), population.cluster))
    hits = 0
    for seed in range(suites):
        interval = cluster_bootstrap(
            population.draw(rng, tasks), least=-1, clusters=labels, replicates=replicates, seed=seed
        ).intervals()
        assert interval.low is not None
        hits += bool(interval.low[0] > 0)
    return hits / suites


def planned(population: Population, *, skewed: bool = True) -> int:
    """Tasks planned for it, in whole clusters."""
    effect, spread = population.effect_and_spread()
    made = population.bare_attempts, population.attempts
    needed = tasks_needed(
        effect,
        spread.variance(*made),
        cluster_size=spread.cluster_size,
        skewness=spread.skewness(*made) if skewed else 0.0,
        interval=Interval.REPORT,
    )
    return -(-needed // population.cluster) * population.cluster


POPULATIONS = {
    "few tasks, large gains": Population(0.3, 2, 0.6, 1.0, 8, 8),
    "a third gains": Population(0.3, 2, 0.3, 0.8, 16, 4),
    "one in twenty gains": Population(0.3, 2, 0.05, 0.8, 16, 16),
    "small gains, noisy": Population(1, 1, 0.3, 0.3, 4, 4),
    "easy tasks": Population(5, 1, 0.5, 0.5, 8, 8),
    "clusters of five": Population(0.5, 1.5, 0.3, 0.6, 8, 8, 5),
    # Differences skewed to the left: most tasks gain a little and few lose much.
    "one in ten loses all": Population(70, 30, 0.9, 2 / 3, 16, 16, worse=1.0),
    "one cluster in ten loses all": Population(70, 30, 0.9, 2 / 3, 16, 16, 5, worse=1.0),
}


@pytest.mark.parametrize("name", ["few tasks, large gains", "a third gains", "one in ten loses all"])
def test_planned_tasks_reach_the_power_with_the_reports_interval(name: str) -> None:
    population, suites = POPULATIONS[name], 300
    error = 3 * np.sqrt(0.8 * 0.2 / suites)
    assert 0.8 - error < found(population, planned(population), suites, 400) < 0.9 + error


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
def test_planned_tasks_reach_the_power_in_many_suites(name: str) -> None:
    population, suites = POPULATIONS[name], 2000
    error = 3 * np.sqrt(0.8 * 0.2 / suites)
    assert 0.8 - error < found(population, planned(population), suites, 1000) < 0.9 + error


def test_a_plan_that_heeds_no_skew_to_the_left_falls_short() -> None:
    population = POPULATIONS["one in ten loses all"]
    blind = planned(population, skewed=False)
    assert blind < planned(population)
    assert found(population, blind, 400, 400) < 0.79


def test_skew_to_the_right_is_not_counted_on() -> None:
    assert tasks_needed(0.1, 0.1, skewness=3.0, interval=Interval.REPORT) == tasks_needed(
        0.1, 0.1, interval=Interval.REPORT
    )
    assert tasks_needed(0.1, 0.1, skewness=-3.0) == tasks_needed(0.1, 0.1)


def test_tasks_planned_for_the_normal_interval_are_too_few_for_the_reports() -> None:
    population = POPULATIONS["a third gains"]
    effect, spread = population.effect_and_spread()
    assert found(population, tasks_needed(effect, spread.variance(16, 4)), 200, 400) < 0.7


@pytest.mark.parametrize(("tasks", "size"), [(20, 1), (100, 1), (100, 4), (1000, 1)])
def test_the_critical_mean_is_where_the_reports_interval_ends_at_zero(tasks: int, size: int) -> None:
    rng = np.random.default_rng(5)
    gain = np.repeat(rng.normal(0, 0.2, tasks // size), size)
    gain -= gain.mean()
    variance = size * float(gain.var()) * (tasks // size) / (tasks // size - 1)
    limit = detectable_gain(tasks, variance, power=0.5, cluster_size=size, interval=Interval.REPORT)
    assert limit is not None
    labels = list(np.repeat(np.arange(tasks // size), size))
    interval = cluster_bootstrap(gain + limit, least=-1, greatest=2, clusters=labels, replicates=40_000).intervals()
    assert interval.low is not None
    assert interval.low[0] == pytest.approx(0, abs=0.05 * limit)


# -- bad input


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tasks_needed(0.0, 0.1), "is not 0"),
        (lambda: tasks_needed(1.0, 0.1), "between -1 and 1"),
        (lambda: tasks_needed(0.1, -0.1), "variance must be a finite number ≥ 0, not -0.1"),
        (lambda: tasks_needed(0.1, float("nan")), "variance must be a finite number"),
        (lambda: tasks_needed(0.9, 0.5), "cannot have a variance of 0.5: at most 0.19"),
        (lambda: tasks_needed(0.1, 0.1, power=1.2), "power must lie strictly between 0 and 1, not 1.2"),
        (lambda: tasks_needed(0.1, 0.1, power=0.01), "what no effect at all reaches"),
        (lambda: tasks_needed(0.1, 0.1, alpha=0.0), "alpha"),
        (lambda: tasks_needed(0.1, 0.1, cluster_size=0.5), "at least one task"),
        (lambda: tasks_needed(1e-9, 0.1), "more than 1,000,000,000 tasks"),
        (lambda: power_of(0.1, 0, 0.1), "tasks must be a finite number > 0"),
        (lambda: detectable_gain(-1, 0.1), "tasks must be"),
        (lambda: Spread(-0.1, (0.1,), (0.1,)), "between tasks must lie from 0 to 1"),
        (lambda: Spread(0.1, (0.3,), (0.1,)), "within tasks must lie from 0 to 0.25"),
        (lambda: Spread(0.1, (0.1,), (0.1, 0.2)), "same number of attempts"),
        (lambda: Spread(0.1, (0.1,), (0.1,), 0.0), "at least one task"),
        (lambda: Spread(0.1, (0.1,), (0.1,), 2.0, 1.5), "correlation within clusters"),
        (lambda: Spread(0.1, (0.1,), (0.1,), third=9.0), "third moment"),
        (lambda: attempt_noise((0.1, 0.2), 1), "at least 2 whole attempts per task, not 1"),
        (lambda: attempt_noise((0.1,), 2.5), "whole attempts"),
        (lambda: attempts_needed(0.1, 100, MILLER, power=2.0), "power"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(StatsError, match=says.replace("(", r"\(")):
        make()
