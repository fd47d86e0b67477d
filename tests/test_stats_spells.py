"""Statuses on a cost axis: spells are trials of the reach itself, whatever successes and failures cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import ArmOutcomes, StatsError
from testbed.stats.spells import accessibility_at_spend, evidence_at_spend, spells
from testbed.stats.verdicts import Status


def arm(*tasks: tuple[list[int], list[float]]) -> ArmOutcomes:
    names = [f"t{i}" for i, (success, _) in enumerate(tasks) for _ in success]
    success = [value for one, _ in tasks for value in one]
    return ArmOutcomes.from_rows("bare", names, success, costs={"tokens": [cost for _, own in tasks for cost in own]})


@pytest.mark.parametrize(
    ("success", "costs", "n", "c", "unfinished"),
    [
        ([0, 0, 1], [4, 4, 2], 1, 1, False),  # 4 + 4 + 2 is the whole spend
        ([0, 0, 1], [4, 4, 3], 1, 0, False),  # the success comes too late, and is used up
        ([1, 1, 1], [1, 1, 1], 3, 3, False),  # a won spell ends with the success
        ([0, 0], [4, 4], 0, 0, True),
        ([0, 0, 1], [11, 4, 4], 2, 1, False),  # an attempt that costs more than the spend is a lost spell
        ([0, 0, 0, 1], [5, 5, 5, 5], 2, 1, False),  # lost with the third; the fourth begins anew and wins
    ],
)
def test_spells_end_with_a_success_in_time_or_with_the_attempt_that_goes_beyond(success, costs, n, c, unfinished):
    found = spells(arm((success, costs)), "tokens", 10)
    assert (found.n.tolist(), found.c.tolist(), found.unfinished.tolist()) == ([n], [c], [unfinished])


def exact_reach(p: float, success: float, failure: float, spend: float) -> float:
    """Reach within a spend of attempts with two costs."""
    reach, left, alive = 0.0, spend, 1.0
    while left >= 0:
        reach += alive * p * (left >= success)
        left, alive = left - failure, alive * (1 - p)
    return reach


CASES = [(0.45, 10, 100, 100), (0.45, 300, 10, 200), (0.2, 300, 10, 310), (0.3, 20, 100, 200), (0.1, 1, 1, 16)]


@pytest.mark.parametrize(("p", "success", "failure", "spend"), CASES)
def test_a_spell_is_won_as_often_as_the_reach_says(p, success, failure, spend):
    won = np.random.default_rng(3).random(60_000) < p
    found = spells(arm((won.astype(int).tolist(), np.where(won, success, failure).tolist())), "tokens", spend)
    truth = exact_reach(p, success, failure, spend)
    assert found.c[0] / found.n[0] == pytest.approx(
        truth, abs=4.5 * np.sqrt(max(truth * (1 - truth), 1e-9) / found.n[0])
    )


@pytest.mark.parametrize(("p", "success", "failure", "spend"), CASES)
def test_a_status_is_seldom_wrong_where_successes_and_failures_cost_differently(p, success, failure, spend):
    """In 2,000 tasks at level .05, of which the mean-cost formula gets up to 87 % wrong."""
    rng, tasks, n = np.random.default_rng(4), 2000, 128
    won = rng.random((tasks, n)) < p
    many = ArmOutcomes.from_rows(
        "bare", np.repeat([f"t{i}" for i in range(tasks)], n), won.ravel(),
        costs={"tokens": np.where(won, success, failure).ravel()},
    )  # fmt: skip
    found = accessibility_at_spend(many, "tokens", spend)
    wrong = Status.IN if exact_reach(p, success, failure, spend) < 0.5 else Status.OUT
    assert found.count(wrong) <= 0.05 * tasks


def test_a_task_that_is_clearly_within_or_out_of_reach_is_found_so():
    found = accessibility_at_spend(arm(([1] * 40, [5] * 40), ([0] * 400, [5] * 400)), "tokens", 10)
    assert found.status.tolist() == [Status.IN, Status.OUT]
    assert found.n.tolist() == [40, 400]
    assert found.needed.at_this_rate.tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 7),
    st.sampled_from([0.2, 0.5, 0.7]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(2, 6),
)
def test_evidence_has_a_mean_of_at_most_one_at_any_number_of_attempts(n, p, prices, spend):
    """Every sequence of outcomes listed: the unfinished spell is what would make it more."""
    reach = exact_reach(p, prices[0], prices[1], spend)
    if not 0 < reach < 1:
        return
    means = np.zeros(2)
    for outcome in itertools.product([0, 1], repeat=n):
        chance = np.prod([p if won else 1 - p for won in outcome])
        one = arm((list(outcome), [prices[0] if won else prices[1] for won in outcome]))
        for side, log_e in enumerate(evidence_at_spend(one, "tokens", spend, reach, reach)):
            means[side] += chance * np.exp(log_e[0])
    assert (means <= 1 + 1e-9).all()


def test_attempts_that_cost_nothing_are_refused_by_task():
    with pytest.raises(StatsError, match=r"task 't1'.*cost nothing"):
        spells(arm(([0, 1], [1, 1]), ([0, 1], [0, 0])), "tokens", 10)
