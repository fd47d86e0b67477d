from __future__ import annotations

import numpy as np
import pytest

from testbed.stats import ArmOutcomes, StatsError, reach_bands, reach_curve
from testbed.stats.spend_many import MANY, reach_curve_of_many


def arm(tasks: int, attempts: int, seed: int = 0, *, chance: float = 0.2) -> ArmOutcomes:
    rng = np.random.default_rng(seed)
    n = rng.integers(max(1, attempts - 2), attempts + 1, tasks)
    names = np.repeat([f"task {i}" for i in range(tasks)], n).tolist()
    won = rng.random(len(names)) < np.repeat(rng.random(tasks) < 0.6, n) * chance
    return ArmOutcomes.from_rows("arm", names, won, costs={"usd": rng.lognormal(0, 0.7, len(names))})


def test_it_is_the_curve_that_every_task_by_itself_gives_up_to_its_error() -> None:
    own, grid = arm(60, 8), np.geomspace(0.5, 12, 9)
    exact = reach_curve(own, grid, axis="usd", orderings=4000)
    found = reach_curve_of_many(own, grid, axis="usd")
    off = np.abs(found.lower - exact.lower)
    error = np.sqrt(found.standard_error**2 + exact.standard_error**2)
    assert (off <= 6 * error + 0.05).all()
    assert np.abs(found.lower.mean(axis=0) - exact.lower.mean(axis=0)).max() < 0.01
    assert np.array_equal(found.upper == 1, (exact.upper == 1) | (found.lower == 1))


def test_it_is_unbiased_over_seeds() -> None:
    own, grid = arm(3, 5, chance=0.5), np.array([1.0, 3.0])
    exact = reach_curve(own, grid, axis="usd", orderings=20_000).lower
    mean = np.mean([reach_curve_of_many(own, grid, axis="usd", seed=seed).lower for seed in range(400)], axis=0)
    assert np.abs(mean - exact).max() < 0.01


def test_a_task_whose_orders_all_agree_is_exact() -> None:
    own = ArmOutcomes.from_rows("a", ["t"] * 4, [True] * 4, costs={"usd": [1.0, 1.0, 1.0, 1.0]})
    found = reach_curve_of_many(own, [0.5, 1.0, 2.0], axis="usd")
    assert found.lower.tolist() == [[0.0, 1.0, 1.0]]
    assert not found.standard_error.any()


def test_bands_of_many_tasks_take_it_and_those_of_few_stay_exact() -> None:
    grid = np.geomspace(0.5, 6, 5)
    for tasks in (MANY, 50):
        own = arm(tasks, 4)
        (band,) = reach_bands([own], [grid], axis="usd", replicates=200)
        by = reach_curve_of_many if tasks >= MANY else reach_curve
        assert np.allclose(band.value, by(own, grid, axis="usd").lower.mean(axis=0))
        assert band.low is not None
        assert (band.low <= band.value).all()


def test_what_has_no_attempts_or_no_such_cost_is_refused() -> None:
    own = arm(4, 3)
    with pytest.raises(StatsError, match="no cost axis 'seconds'"):
        reach_curve_of_many(own, [1.0], axis="seconds")
    with pytest.raises(StatsError, match="spend on 'usd'"):
        reach_curve_of_many(own, [0.0], axis="usd")


def test_a_spend_that_just_pays_for_one_attempt_more_is_open_as_it_is_task_by_task() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        cost = rng.integers(1, 40, 5) / 10
        own = ArmOutcomes.from_rows("a", ["t"] * 5, [False] * 5, costs={"usd": cost})
        spends = [round(float(cost.sum() + cost.min()), 1), round(float(cost.sum() + cost.min()) - 0.1, 1)]
        exact, found = (curve(own, spends, axis="usd") for curve in (reach_curve, reach_curve_of_many))
        assert exact.upper.tolist() == found.upper.tolist() == [[1.0, 0.0]], cost


def test_attempts_that_cost_nothing_are_had_at_any_spend_as_they_are_task_by_task() -> None:
    won = [False, False, True, False]
    for cost in ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [5.0, 0.0, 0.0, 0.0]):
        own = ArmOutcomes.from_rows("a", ["t"] * 4, won, costs={"usd": cost})
        exact = reach_curve(own, [1.0, 2.0, 5.0], axis="usd").lower
        many = [reach_curve_of_many(own, [1.0, 2.0, 5.0], axis="usd", seed=seed).lower for seed in range(100)]
        assert np.abs(np.mean(many, axis=0) - exact).max() < 0.03


def test_the_error_of_the_mean_over_many_tasks_is_what_is_said_where_it_is_greatest() -> None:
    won, cost = np.zeros((MANY, 64), bool), np.ones((MANY, 64))
    won[:, 0], cost[:, 1] = True, 1000.0  # a success is in reach only if it comes before the dear failure
    names = np.repeat([f"task {i}" for i in range(MANY)], 64).tolist()
    own = ArmOutcomes.from_rows("a", names, won.ravel(), costs={"usd": cost.ravel()})
    off = [reach_curve_of_many(own, [500.0], axis="usd", seed=seed).lower.mean() - 0.5 for seed in range(6)]
    assert np.sqrt(np.mean(np.square(off))) < 0.005 * np.sqrt(22.5 / 6)  # the 99.9% point of chi-square, 6 degrees
