"""Upper limits for figures without a greatest value: what they come to by hand, how often they hold at few tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from testbed.stats.bootstrap import cluster_bootstrap
from testbed.stats.nats import interaction_nats
from testbed.stats.sequence_kl import sequence_kl
from testbed.stats.sequence_limits import student_limits


def test_they_are_students_and_those_of_the_logarithm_by_the_delta_method() -> None:
    values = np.array([0.5, 1.0, 1.2, 4.0, 0.8])
    low, high = student_limits(values, None, list("abcde"), 0.05)
    error, t = stats.sem(values), stats.t.ppf(0.975, 4)
    assert low == pytest.approx(values.mean() - t * error)
    assert high == pytest.approx(values.mean() * math.exp(t * error / values.mean()))


def test_what_is_mostly_noise_has_no_long_tail() -> None:
    """A mean next to 0 beside its error would stretch the logarithm's limit beyond anything."""
    values = np.array([0.31, -0.30, 0.12, -0.11, 0.01])
    _, high = student_limits(values, None, list("abcde"), 0.05)
    assert high == pytest.approx(values.mean() + stats.t.ppf(0.975, 4) * stats.sem(values))
    below = student_limits(-values - 1, None, list("abcde"), 0.05)
    assert below[1] == pytest.approx(-1 - values.mean() + stats.t.ppf(0.975, 4) * stats.sem(values))
    assert math.isfinite(student_limits(np.array([0.0, 5.0]), None, ["a", "b"], 1e-6)[1])


def test_a_ratio_has_the_error_of_its_residuals_and_clusters_without_a_weight_say_nothing() -> None:
    values, weights = np.array([3.0, 8.0, 1.0, 0.0]), np.array([2.0, 4.0, 1.0, 0.0])
    low, _ = student_limits(values, weights, list("abcd"), 0.05)
    residuals = values[:3] - 12 / 7 * weights[:3]
    error = math.sqrt(1.5 * (residuals**2).sum()) / 7
    assert low == pytest.approx(12 / 7 - stats.t.ppf(0.975, 2) * error)
    assert student_limits(values, weights, ["a", "a", "a", "b"], 0.05) is None
    assert student_limits(values, None, list("aaaa"), 0.05) is None


def test_tasks_of_one_cluster_are_one_piece_of_evidence() -> None:
    values = np.tile([1.0, 3.0, 2.0], 4)
    labels = list("abc") * 4
    assert student_limits(values, None, labels, 0.05) == pytest.approx(student_limits(values[:3], None, "abc", 0.05))


SHAPES = {
    "alike": lambda rng, n: np.full(n, 1.0),
    "gamma": lambda rng, n: rng.gamma(2.0, 0.5, n),
    "skewed": lambda rng, n: rng.gamma(0.5, 2.0, n),
    "lognormal": lambda rng, n: rng.lognormal(-0.5, 1.0, n),
    "close": lambda rng, n: np.full(n, 0.02),
}
TRUE = {**dict.fromkeys(SHAPES, 1.0), "close": 0.02}


@pytest.mark.parametrize(("tasks", "least"), [(3, 0.92), (5, 0.91), (10, 0.88)])
@pytest.mark.parametrize("shape", SHAPES)
def test_at_few_tasks_the_kl_lies_within_its_limits_where_the_worst_seen_is_no_limit(shape, tasks, least) -> None:
    rng, runs, attempts = np.random.default_rng(31), 400, 16
    names = [str(t) for t in range(tasks) for _ in range(attempts)]
    held = before = 0
    for seed in range(runs):
        drift = np.repeat(SHAPES[shape](rng, tasks), attempts)
        ratio = drift + np.sqrt(2 * drift) * rng.normal(size=drift.size)
        own = np.full(drift.size, 500.0)
        found = sequence_kl(names, own, own + ratio, replicates=200, seed=seed)
        held += found.mean.low <= TRUE[shape] <= found.mean.high
        ends = {"least": min(0.0, found.per_task.min()), "greatest": max(0.0, found.per_task.max())}
        worst = cluster_bootstrap(found.per_task, replicates=200, seed=seed, **ends).drawn.intervals()[0]
        before += worst.low <= TRUE[shape] <= worst.high
    assert held / runs >= least
    assert held >= before
    if tasks == 3 and shape != "alike":
        assert before / runs < 0.85


@pytest.mark.parametrize(("shape", "least"), [("gamma", 0.94), ("skewed", 0.88), ("lognormal", 0.87)])
def test_the_mean_of_what_tools_said_lies_below_its_upper_limit_at_few_tasks(shape, least) -> None:
    rng, runs, tasks = np.random.default_rng(32), 400, 5
    names, held = [str(t) for t in range(tasks) for _ in range(4)], 0
    for seed in range(runs):
        told = np.repeat(SHAPES[shape](rng, tasks), 4) * rng.gamma(4.0, 0.25, 4 * tasks)
        won = rng.random(told.size) < 0.7
        if won.any():
            found = interaction_nats(names, won, told, replicates=200, seed=seed).mean
            held += found.low <= 1.0 and (found.high is None or found.high >= 1.0)
    assert held / runs >= least


def test_limits_of_a_kl_are_no_less_than_0_and_a_single_winning_cluster_bounds_nothing() -> None:
    noisy = sequence_kl(["a", "b", "c"], [5.0, 5.0, 5.0], [5.4, 4.7, 4.8])
    assert noisy.mean.value < 0 == noisy.mean.low < noisy.mean.high
    one = interaction_nats(["a", "b", "c"], [1, 0, 0], [7.0, 1.0, 1.0]).mean
    assert one.value == 7.0
    assert 0 < one.low < 7.0
    assert one.high is None
