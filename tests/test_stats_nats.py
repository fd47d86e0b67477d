"""Interaction nats as statistics: means over successes, intervals over clusters, and what guessing reaches."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.stats import StatsError
from testbed.stats.nats import interaction_nats


def test_only_successful_attempts_count_each_once() -> None:
    found = interaction_nats(["a", "a", "a", "b", "b"], [1, 1, 0, 1, 0], [1.0, 2.0, 50.0, 6.0, 70.0])
    assert found.attempts == 3
    assert found.mean.value == pytest.approx(3.0)
    assert found.median == 2.0
    assert found.guessed.value == pytest.approx(((np.exp(-1) + np.exp(-2)) / 3 + np.exp(-6) / 2) / 2)


def test_the_interval_holds_the_mean_and_stays_within_what_was_seen() -> None:
    rng = np.random.default_rng(1)
    tasks = [f"t{n % 12}" for n in range(240)]
    nats = rng.gamma(4.0, 3.0, 240)
    found = interaction_nats(tasks, np.ones(240), nats)
    assert nats.min() < found.mean.low < found.mean.value == pytest.approx(nats.mean())
    assert found.mean.value < found.mean.high < nats.max()


def test_clusters_widen_it_and_one_cluster_has_none() -> None:
    tasks = [f"t{n}" for n in range(20) for _ in range(4)]
    nats = np.repeat(np.repeat([2.0, 9.0], 10), 4)
    apart = interaction_nats(tasks, np.ones(80), nats)
    halves = interaction_nats(tasks, np.ones(80), nats, clusters={f"t{n}": n // 10 for n in range(20)})
    assert halves.mean.high - halves.mean.low > apart.mean.high - apart.mean.low
    one = interaction_nats(tasks, np.ones(80), nats, clusters=dict.fromkeys(tasks, 0))
    assert (one.mean.low, one.mean.high) == (None, None)


def test_without_a_success_there_is_no_mean_and_guessing_is_bounded_all_the_same() -> None:
    found = interaction_nats(["a", "b", "c"], [0, 0, 0], [1.0, 2.0, 3.0])
    assert (found.attempts, found.mean.value, found.median, found.guessed.value) == (0, None, None, 0.0)
    assert found.guessed.high > 0.3


def test_guessing_what_is_certain_succeeds_as_often_as_live() -> None:
    found = interaction_nats(["a", "a", "b", "b"], [1, 0, 1, 1], [0.0, 0.0, 1e-9, -1e-9])
    assert found.guessed.value == pytest.approx(0.75)


def test_the_interval_of_guessing_covers_its_truth_at_few_clusters() -> None:
    """E[1{success} e^-I] over tasks that differ much: at a level of 95 % some 6 of 120 may miss it."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(120):
        rates = rng.beta(0.3, 2.0, 8)
        won = rng.random((8, 6)) < rates[:, None]
        nats = rng.exponential(1.0, (8, 6))
        tasks = [f"t{n}" for n in range(8) for _ in range(6)]
        found = interaction_nats(tasks, won.ravel(), nats.ravel(), replicates=200)
        truth = 0.3 / 2.3 * 0.5  # E[rate] E[e^-I], I ~ Exp(1)
        missed += not found.guessed.low <= truth <= found.guessed.high
    assert missed <= 12


@pytest.mark.parametrize(
    ("tasks", "success", "nats"),
    [([], [], []), (["a"], [1, 0], [1.0]), (["a"], [1], [np.nan]), (["a"], [1], [-2.0]), (["a"], [1], [np.inf])],
)
def test_what_are_no_nats_of_attempts_is_refused(tasks, success, nats) -> None:
    with pytest.raises(StatsError):
        interaction_nats(tasks, success, nats)
