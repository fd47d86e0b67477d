"""Costs in an analysis, and reach by what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.outcomes import outcomes, tasks_of
from testbed.report import tables
from testbed.report.analyse import analyse
from testbed.stats import cluster_bootstrap, reach_at_k
from testbed.types import COST_COMPONENTS


def test_costs_are_means_per_attempt_and_totals_per_success() -> None:
    tasks = tasks_of((("A-v0", "x", 2),))
    cost = {"bare": {"generated_tokens": 10}, "python": {"generated_tokens": 30, "tool_calls": 2}}
    data = outcomes(tasks, {"bare": [(4, 0)] * 2, "python": [(4, 1)] * 2}, cost=cost, faults={"bare": 3})
    found = analyse(data)
    bare, python = found.arm("bare"), found.arm("python")
    assert python.cost == {"generated_tokens": 30, "tool_calls": 2}
    assert python.cost_per_success == {"generated_tokens": 120, "tool_calls": 8}
    assert bare.cost["tool_calls"] == 0
    assert bare.cost_per_success["generated_tokens"] is None  # no success to divide by
    assert (bare.faults, bare.faulty, python.faults) == (3, 3, 0)


def test_seconds_are_said_to_hold_waits_for_other_attempts_where_there_are_seconds() -> None:
    """A tool that takes no time costs .2 seconds where 256 attempts wait for one another."""
    for cost, told in (({"seconds": 0.2}, True), ({"turns": 2.0}, False)):
        data = outcomes(tasks_of((("A-v0", "x", 2),)), {"bare": [(4, 1)] * 2}, cost={"bare": cost})
        (note,) = tables.cost(analyse(data)).notes
        assert ("Seconds are by the clock, with what attempts made at one time waited for one another" in note) == told


def test_reach_curves_run_on_attempts_tokens_and_calls_and_end_where_a_task_ran_out() -> None:
    tasks = tasks_of((("A-v0", "x", 12),))
    cost = {"generated_tokens": 10.0, "model_calls": 2.0}
    data = outcomes(
        tasks, {"bare": [(40, 0)] * 6 + [(20, 10)] * 6, "python": [(8, 8)] * 12}, cost={"bare": cost, "python": cost}
    )
    found = {(curve.arm, curve.axis): curve for curve in analyse(data).curves}
    assert {axis for _, axis in found} == {"attempts", "generated_tokens", "model_calls"}
    assert found["bare", "attempts"].spend[-1] == 20
    for axis, one in cost.items():
        curve = found["bare", axis]
        assert curve.spend[-1] == pytest.approx(20 * one)
        # equal costs: reach on a cost axis is reach@k
        assert curve.reach[-1] == pytest.approx(0.5 * float(reach_at_k(20, 10, 20)))
        assert curve.reach[0] == pytest.approx(0.25)
        assert curve.low is not None
        assert curve.high is not None
        assert all(low <= r <= high for low, r, high in zip(curve.low, curve.reach, curve.high, strict=True))


def test_the_curves_of_an_axis_share_a_grid_and_one_band_around_all_of_them() -> None:
    tasks = tasks_of((("A-v0", "x", 30),))
    solved = np.random.default_rng(0).binomial(20, np.random.default_rng(1).beta(0.5, 2, 30)).tolist()
    data = outcomes(tasks, {"bare": [(20, c) for c in solved], "python": [(8, c // 3) for c in solved]})
    bare, python = analyse(data).curves
    assert set(python.spend) == {spend for spend in bare.spend if spend <= 8}
    pointwise = cluster_bootstrap(
        reach_at_k(20, np.array(solved)[:, None], np.array(bare.spend).astype(int)), clusters=[t.hash for t in tasks]
    ).intervals()
    assert bare.low is not None
    assert bare.high is not None
    assert pointwise.high is not None
    assert (np.array(bare.high) > pointwise.high + 0.005).mean() > 0.8
    assert list(bare.low) == sorted(bare.low)
    assert list(bare.high) == sorted(bare.high)


def test_an_axis_that_costs_nothing_has_no_curve() -> None:
    tasks = tasks_of((("A-v0", "x", 3),))
    data = outcomes(tasks, {"bare": [(4, 1)] * 3, "python": [(4, 2)] * 3}, cost={"python": {"model_calls": 1.0}})
    assert {(c.arm, c.axis) for c in analyse(data).curves} == {
        ("bare", "attempts"),
        ("python", "attempts"),
        ("python", "model_calls"),
    }


def test_costs_that_are_recorded_of_some_attempts_only_make_no_figure_and_are_named() -> None:
    counts = {"bare": [(4, 2)] * 12, "python": [(4, 3)] * 12}
    found = outcomes(tasks_of([("A-v0", "", 12)]), counts, cost={"bare": {"usd": 3.0}, "python": {"usd": 3.0}})
    usd = COST_COMPONENTS.index("usd")
    found.cost[(found.arm == 0) & (found.sample == 1), usd] = np.nan
    report = analyse(found, replicates=100)
    assert "usd" not in report.arm("bare").cost
    assert report.arm("python").cost["usd"] == 3.0
    assert any("'bare': usd are recorded of 36 of its 48 attempts" in warning for warning in report.warnings)


def test_costs_that_missing_attempts_lack_are_no_loss() -> None:
    counts = {"bare": [(4, 2)] * 12, "python": [(4, 3)] * 12}
    found = outcomes(tasks_of([("A-v0", "", 12)]), counts, cost={"bare": {"usd": 3.0}}, missing={"bare": 2})
    found.cost[found.success < 0] = np.nan
    report = analyse(found, replicates=100)
    assert report.arm("bare").cost["usd"] == 3.0
    assert not any("recorded of" in warning for warning in report.warnings)
