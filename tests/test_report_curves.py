"""Reach curves of arms with missing attempts: between which limits they would lie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from test_report_claims import broken, drawn
from testbed.report.analyse import analyse
from testbed.report.charts import charts
from testbed.report.curves_missing import curve_if_missing
from testbed.stats import ArmOutcomes, reach_curve

NAMES = ("a", "a", "a", "a", "b", "b", "b")
WON = (True, False, False, None, True, False, None)


@pytest.mark.parametrize(("axis", "spends"), [("attempts", [1.0, 2.0]), ("tokens", [10.0, 14.0, 25.0])])
def test_the_limits_hold_however_the_missing_attempts_had_ended_and_are_reached(axis: str, spends: list[float]) -> None:
    costs = np.array([10.0, 20.0, 14.0, np.nan, 12.0, 10.0, np.nan])
    arm = ArmOutcomes.from_rows("x", NAMES, WON, costs={"tokens": costs})
    limits = curve_if_missing(arm, axis, spends, seed=0)
    assert limits is not None
    curves = []
    for ends in itertools.product([True, False], repeat=2):
        for paid in itertools.product([10.0, 15.0, 20.0], [10.0, 11.0, 12.0]):
            won, cost = np.array(WON, dtype=object), costs.copy()
            lost = np.isnan(costs)
            won[lost], cost[lost] = ends, paid
            whole = ArmOutcomes.from_rows("x", NAMES, won.tolist(), costs={"tokens": cost})
            curves.append(reach_curve(whole, spends, axis=axis).lower.mean(axis=0))
    assert [bounds.low for bounds in limits] == pytest.approx(np.min(curves, axis=0).tolist())
    assert [bounds.high for bounds in limits] == pytest.approx(np.max(curves, axis=0).tolist())


def test_the_limits_are_drawn_and_told_and_only_where_attempts_are_missing() -> None:
    data = drawn([0.3] * 8, [0.6] * 8, 6)
    lost = broken(data, 1, data.sample > 3)
    for found, dotted in ((analyse(data, replicates=100), 0), (analyse(lost, replicates=100), 2)):
        drawing = next(chart for chart in charts(found) if chart.key == "reach_attempts")
        assert sum(layer["mark"].get("strokeDash") == [1, 3] for layer in drawing.spec["layer"]) == dotted
        assert ("Missing attempts (tool 16) are left out, and could have moved a curve" in drawing.caption) == bool(
            dotted
        )
        assert drawing.figures is not None
        assert ("missing either way" in str(drawing.figures.rows)) == bool(dotted)
        for curve in found.curves:
            assert (curve.if_missing is not None) == (dotted > 0 and curve.arm == "tool")
            for reach, bounds in zip(curve.reach, curve.if_missing or (), strict=False):
                assert bounds.low <= reach <= bounds.high


def test_tasks_of_which_nothing_is_left_count_in_the_limits() -> None:
    data = drawn([1.0] * 4, [1.0] * 4, 4)
    found = analyse(broken(data, 1, data.task == 0), replicates=100)
    (curve,) = [curve for curve in found.curves if curve.arm == "tool"]
    assert curve.if_missing is not None
    assert [(bounds.low, bounds.high) for bounds in curve.if_missing] == [(0.75, 1.0)] * 4
