from __future__ import annotations

import numpy as np
import pytest

from testbed.stats import ArmOutcomes, StatsError
from testbed.stats.pareto import CostFront, cost_front, pareto_front


def arm(name: str, wins: list[int], cost: list[float], *, n: int = 1) -> ArmOutcomes:
    """An arm with `n` attempts at each task, of which the first `wins` succeed, each at the task's cost."""
    tasks = [f"task {i}" for i in range(len(wins)) for _ in range(n)]
    success = [k < won for won in wins for k in range(n)]
    return ArmOutcomes.from_rows(name, tasks, success, costs={"usd": np.repeat(cost, n)})


def memberships(front: CostFront) -> list[float | None]:
    return [one.membership for one in front.arms]


def test_the_front_is_what_no_other_arm_beats_in_cost_and_reach() -> None:
    cost, reach = [1, 2, 3, 2, 1], [0.2, 0.5, 0.5, 0.1, 0.2]
    assert pareto_front(cost, reach).tolist() == [True, True, False, False, True]  # equal arms are on it together


def test_rows_of_many_replicates_are_judged_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    cost, reach = rng.random((50, 6)), rng.integers(0, 3, (50, 6)) / 2
    for c, r, found in zip(cost, reach, pareto_front(cost, reach), strict=True):
        beaten = [
            any(c[j] <= c[i] and r[j] >= r[i] and (c[j] < c[i] or r[j] > r[i]) for j in range(6)) for i in range(6)
        ]
        assert (~found).tolist() == beaten


def test_rounding_puts_neither_of_two_equal_arms_behind_the_other() -> None:
    assert pareto_front([0.1 + 0.2, 0.3], [0.5, 0.5 + 1e-16]).tolist() == [True, True]


def test_membership_is_the_dirichlet_probability_where_that_is_known() -> None:
    # Equal costs, so the front is the greatest reach: w1 against (w2 + w3)/2 of Dirichlet(1,1,1), P(w1 > 1/3) = 4/9.
    one = arm("one", [2, 0, 0], [1, 1, 1], n=2)
    other = arm("other", [0, 1, 1], [1, 1, 1], n=2)
    found = cost_front([one, other], "usd", replicates=20_000)
    assert memberships(found) == [pytest.approx(4 / 9, abs=0.012), pytest.approx(5 / 9, abs=0.012)]


def test_an_arm_that_is_beaten_on_every_task_is_on_no_replicate_s_front() -> None:
    good, bad = arm("good", [1, 0, 1, 1], [1, 2, 1, 1]), arm("bad", [0, 0, 1, 0], [2, 3, 2, 2])
    found = cost_front([bad, good], "usd")
    assert [(one.arm, one.on_front, one.membership) for one in found.arms] == [("bad", False, 0.0), ("good", True, 1.0)]


def test_the_cheapest_and_the_farthest_reaching_arm_are_always_on_it() -> None:
    cheap, dear = arm("cheap", [0, 0, 0], [1, 1, 1]), arm("dear", [1, 1, 1], [9, 9, 9])
    assert memberships(cost_front([cheap, dear], "usd")) == [1.0, 1.0]


def test_tasks_of_one_cluster_are_drawn_together() -> None:
    one, other = arm("one", [1, 1, 0], [1, 1, 1]), arm("other", [0, 0, 1], [1, 1, 1])
    labels = {"task 0": "a", "task 1": "a", "task 2": "b"}
    found = cost_front([one, other], "usd", clusters=labels, replicates=20_000)
    # one reaches 2·w_a, the other w_b: P(2 w_a > w_b) of two exponentials = 2/3.
    assert memberships(found) == [pytest.approx(2 / 3, abs=0.012), pytest.approx(1 / 3, abs=0.012)]
    assert found.clusters == 2


def test_cost_and_reach_are_those_of_k_attempts_at_a_task() -> None:
    found = cost_front([arm("a", [1, 4], [2.0, 4.0], n=4), arm("b", [0, 0], [1.0, 1.0], n=4)], "usd", attempts=2)
    assert found.arms[0].cost.value == pytest.approx(6.0)  # two attempts at a mean of 3
    assert found.arms[0].reach.value == pytest.approx((0.5 + 1) / 2)
    assert found.attempts == 2


def test_a_single_cluster_has_a_front_and_no_membership() -> None:
    found = cost_front([arm("a", [1], [1.0]), arm("b", [0], [1.0])], "usd")
    assert [(one.on_front, one.membership, one.cost.low) for one in found.arms] == [
        (True, None, None),
        (False, None, None),
    ]


def test_the_same_seed_gives_the_same_membership() -> None:
    arms = [arm("a", [1, 0, 1, 0], [1, 2, 3, 4]), arm("b", [0, 1, 1, 1], [4, 3, 2, 5])]
    assert cost_front(arms, "usd", seed=3) == cost_front(arms, "usd", seed=3)
    assert memberships(cost_front(arms, "usd", seed=3)) != memberships(cost_front(arms, "usd", seed=4))


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    a, b = arm("a", [1, 0], [1, 1]), arm("b", [1, 0, 0], [1, 1, 1])
    with pytest.raises(StatsError, match="arm 'b' has other tasks"):
        cost_front([a, b], "usd")
    with pytest.raises(StatsError, match="two arms"):
        cost_front([a], "usd")
    with pytest.raises(StatsError, match="no cost axis 'seconds'"):
        cost_front([a, a], "seconds")
    with pytest.raises(StatsError, match="not finite"):
        pareto_front([1, float("inf")], [0, 0])
