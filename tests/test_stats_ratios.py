"""Ratios whose denominators differ from task to task, and with them what the tasks say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import beta
from scipy.stats import betabinom

from testbed.stats import ArmOutcomes, compare_arms, reach_at_k
from testbed.stats.nats import interaction_nats
from testbed.stats.sequence_kl import affordable
from testbed.stats.support import empirical_support

SUITES = 100


def attempts(tasks: int, wins: np.ndarray, n: int) -> tuple[list[str], np.ndarray]:
    """Rows of n attempts at every task, of which the first so many succeed."""
    return [str(t) for t in range(tasks) for _ in range(n)], (np.arange(n) < wins[:, None]).ravel()


@pytest.mark.parametrize("tasks", [5, 10])
def test_support_retention_holds_where_one_task_in_five_is_most_of_the_bare_arm_s_support(tasks: int) -> None:
    rng, n, k, held, seen = np.random.default_rng(tasks), 256, 16, 0, 0
    share, bare, tool = np.array([0.8, 0.2]), np.array([0.005, 0.6]), np.array([0.5, 0.0])
    before, after = 1 - (1 - bare) ** k, 1 - (1 - tool) ** k
    truth = (share * before * after).sum() / (share * before).sum()
    for _ in range(SUITES):
        easy = (rng.random(tasks) < 0.2).astype(int)
        arms = [
            ArmOutcomes.from_counts(name, [str(t) for t in range(tasks)], n, rng.binomial(n, chance[easy]))
            for name, chance in (("bare", bare), ("tool", tool))
        ]
        found = compare_arms(*arms, elicitation=k, replicates=100).figures.support.srr
        if found.value is not None:
            seen += 1
            held += found.low <= truth <= found.high
    assert seen > SUITES * 0.9
    assert held / seen >= 0.97


@pytest.mark.parametrize("tasks", [5, 10])
def test_the_affordable_share_holds_where_one_task_in_five_has_most_successes(tasks: int) -> None:
    rng, n, held = np.random.default_rng(tasks), 16, 0
    truth = (0.2 * 0.95 * 0.9 + 0.8 * 0.1 * 0.05) / (0.2 * 0.95 + 0.8 * 0.1)
    for _ in range(SUITES):
        easy = rng.random(tasks) < 0.2
        names, won = attempts(tasks, rng.binomial(n, np.where(easy, 0.95, 0.1)), n)
        base = np.where(rng.random(won.size) < np.repeat(np.where(easy, 0.9, 0.05), n), 0.0, 50.0)
        share = affordable(names, won, base, 4, replicates=100).share
        held += share.value is None or share.low <= truth <= share.high
    assert held / SUITES >= 0.97


@pytest.mark.parametrize("tasks", [5, 10])
def test_the_lower_limit_of_what_tools_said_holds_where_one_task_in_five_has_most_successes(tasks: int) -> None:
    rng, n, held = np.random.default_rng(tasks), 16, 0
    truth = (0.2 * 0.95 * 0.5 + 0.8 * 0.1 * 5) / (0.2 * 0.95 + 0.8 * 0.1)
    for _ in range(SUITES):
        easy = rng.random(tasks) < 0.2
        names, won = attempts(tasks, rng.binomial(n, np.where(easy, 0.95, 0.1)), n)
        low = interaction_nats(names, won, np.repeat(np.where(easy, 0.5, 5.0), n), replicates=100).mean.low
        held += low is None or low <= truth
    assert held / SUITES >= 0.97


@pytest.mark.parametrize(
    ("n", "k", "told"), [(16, 8, 0.859), (16, 16, 1.0), (32, 16, 0.897), (64, 16, 0.860), (1024, 16, 0.831)]
)
def test_support_retention_of_one_policy_on_one_stream_is_too_high_by_what_the_docs_say(
    n: int, k: int, told: float
) -> None:
    """By enumeration: tasks p ~ Beta(.3, 2), both arms with the same successes; independent arms show .829 and .761."""
    c = np.arange(n + 1)
    chance = betabinom.pmf(c, n, 0.3, 2)
    share = empirical_support(reach_at_k(n, c, k), reach_at_k(n, c, k))
    kept, lost = (float((chance * part).sum()) for part in (share.preserved, share.shrunk))
    assert kept / (kept + lost) == pytest.approx(told, abs=6e-4)
    once, twice = (1 - beta(0.3, 2 + j * k) / beta(0.3, 2) for j in (1, 2))
    assert (2 * once - twice) / once == pytest.approx(0.829 if k == 16 else 0.761, abs=6e-4)
