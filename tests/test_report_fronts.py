"""The fronts of cost and reach and of nats and success, as records, tables and charts."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from helpers.outcomes import ARITHMETIC, demo, outcomes, tasks_of
from testbed.experiment import Measure
from testbed.report.analyse import analyse
from testbed.report.charts import charts
from testbed.report.fronts import cost_fronts
from testbed.report.fronts_missing import fronts_if_missing
from testbed.report.fronts_tables import frontier, fronts
from testbed.report.record import Analysis
from testbed.report.scored import scored_arms
from testbed.report.tables import arms as arms_table
from testbed.report.tables import every_table
from testbed.report.words import at_least, share
from testbed.stats import best_of_n_frontier, least_reweighting
from testbed.stats.energy import best_of_n_kl_bound
from testbed.stats.pareto import pareto_front
from testbed.types import COST_COMPONENTS

COST = {
    "bare": {"generated_tokens": 10, "usd": 0.01},
    "inert": {"generated_tokens": 30, "usd": 0.03},
    "python": {"generated_tokens": 20, "usd": 0.02},
    "search": {"generated_tokens": 20, "usd": 0.5},
}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    """Python reaches 2/3 of the tasks at twice the price of bare's 1/12; inert reaches as much as bare at thrice."""
    zero, low, half, high, none = ([counts] * 20 for counts in ((256, 0), (256, 64), (16, 4), (16, 16), (16, 0)))
    counts = {
        "bare": [*zero, *low, *zero],
        "inert": [*none, *half, *none],
        "python": [*high, *high, *none],
        "search": [*none, *none, *high],
    }
    return analyse(outcomes(tasks_of(ARITHMETIC), counts, cost=COST), replicates=400)


def spec(analysis: Analysis, key: str) -> dict[str, Any]:
    return next(chart.spec for chart in charts(analysis) if chart.key == key)


def values(drawn: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The rows of a chart that have a field."""
    return [row for rows in drawn["datasets"].values() for row in rows if field in row]


def test_every_cost_that_was_recorded_has_a_front_with_all_arms(analysis: Analysis) -> None:
    assert [front.axis for front in analysis.fronts] == ["generated_tokens", "usd"]
    for front in analysis.fronts:
        assert [one.arm for one in front.arms] == ["bare", "inert", "python", "search"]
        assert (front.attempts, front.tasks) == (1, 60)


def test_the_front_is_bare_and_python_and_beaten_arms_are_never_on_it(analysis: Analysis) -> None:
    usd = {one.arm: one for one in analysis.fronts[1].arms}
    assert [name for name, one in usd.items() if one.on_front] == ["bare", "python"]
    assert usd["bare"].membership == 1.0
    assert usd["inert"].membership == 0.0
    assert usd["python"].cost.value == pytest.approx(0.02)
    assert usd["python"].membership == 1.0
    assert 0 <= (usd["search"].membership or 0) < 0.02


def test_an_arm_whose_cost_is_not_known_is_in_no_front_of_it() -> None:
    data = outcomes(tasks_of(ARITHMETIC), {"bare": [(8, 2)] * 60, "python": [(8, 6)] * 60}, cost={"bare": {"usd": 1.0}})
    data.cost[data.arm == 1, COST_COMPONENTS.index("usd")] = np.nan
    unpriced = analyse(data, elicitation=4, replicates=200)
    assert unpriced.fronts == ()
    assert not fronts(unpriced).rows


def test_an_arm_that_costs_nothing_beside_others_that_do_is_the_cheapest() -> None:
    counts = {"bare": [(8, 4)] * 60, "python": [(8, 2)] * 60, "search": [(8, 6)] * 60}
    data = outcomes(tasks_of(ARITHMETIC), counts, cost={"python": {"usd": 0.1}, "search": {"usd": 0.2}})
    (front,) = analyse(data, elicitation=4, replicates=200).fronts
    assert [(one.arm, one.on_front, one.membership) for one in front.arms] == [
        ("bare", True, 1.0),
        ("python", False, 0.0),  # costs more than bare, and reaches less
        ("search", True, 1.0),
    ]


def test_a_front_names_the_arms_and_tasks_that_it_is_without_and_the_missing_attempts() -> None:
    counts = {"bare": [(8, 2)] * 60, "python": [(8, 6)] * 60, "search": [(8, 6)] * 50 + [(0, 0)] * 10}
    cost = {arm: {"usd": 0.1, "generated_tokens": 5.0} for arm in counts}
    data = outcomes(tasks_of(ARITHMETIC), counts, cost=cost, missing={"python": 3})
    data.cost[data.arm == 2, COST_COMPONENTS.index("usd")] = np.nan
    found = analyse(data, elicitation=4, replicates=200)
    table = fronts(found)
    said = " ".join(table.notes)
    assert "USD: without search, of which the cost of some attempts is not known." in said
    assert "generated tokens: on the 50 tasks of 60 that all of its arms have attempts at." in said
    assert "Missing attempts (python 3) are left out" in said
    drawn = {chart.key: chart.caption for chart in charts(found)}
    assert "Without search" in drawn["front_usd"]
    assert "On the 50 tasks of 60" in drawn["front_generated_tokens"]
    for key in ("front_usd", "reach_attempts", "creation"):
        assert "Missing attempts (python 3)" in drawn[key]


@pytest.mark.parametrize("seed", range(4))
def test_limits_of_a_front_hold_however_the_missing_attempts_had_ended(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = outcomes(tasks_of((("A-v0", "", 3),)), {name: [(3, 1), (3, 2), (2, 1)] for name in ("bare", "x", "y")})
    usd = COST_COMPONENTS.index("usd")
    data.cost[:, usd] = rng.uniform(0.1, 1 + seed, len(data.task)).round(3)
    lost = np.array([rng.choice(np.flatnonzero((data.arm == arm) & (data.task != 2))) for arm in (0, 1, 2)])
    lost = np.append(lost, np.flatnonzero((data.arm == 0) & (data.task == 2)))  # a task without a scored attempt
    data.success[lost] = -1
    arms = scored_arms(data)
    (found,) = fronts_if_missing(cost_fronts(arms, Measure(replicates=100)), arms)
    assert (found.axis, found.attempts, found.tasks) == ("usd", 1, 3)

    def ends(row: int) -> list[tuple[int, float]]:
        seen = (data.arm == data.arm[row]) & (data.success >= 0)
        own = data.cost[seen & (data.task == data.task[row]), usd]
        own = own if own.size else data.cost[seen, usd]
        return [(won, cost) for won in (0, 1) for cost in (own.min(), own.max())]

    every = []
    for chosen in itertools.product(*(ends(row) for row in lost)):
        won, cost = data.success.astype(float), data.cost[:, usd].copy()
        won[lost], cost[lost] = zip(*chosen, strict=True)
        cells = [[(data.arm == arm) & (data.task == task) for task in range(3)] for arm in range(3)]
        reach, spent = (np.array([np.mean([x[c].mean() for c in own]) for own in cells]) for x in (won, cost))
        every.append((reach, spent, pareto_front(spent, reach)))
    for i, point in enumerate(found.arms):
        for values, limits in ((0, point.reach), (1, point.cost)):
            own = [case[values][i] for case in every]
            assert (limits.low, limits.high) == (pytest.approx(min(own)), pytest.approx(max(own)))
        placed = {bool(case[2][i]) for case in every}
        assert {point.on_front} == (placed if len(placed) == 1 else {None})


def test_the_limits_of_a_front_are_told_and_drawn_and_only_where_attempts_are_missing(analysis: Analysis) -> None:
    counts = {"bare": [(8, 2)] * 60, "python": [(8, 6)] * 60}
    cost = {"bare": {"usd": 0.1}, "python": {"usd": 0.2}}
    lost = outcomes(tasks_of(ARITHMETIC), counts, cost=cost, missing={"python": 8})
    found = analyse(lost, elicitation=4, replicates=200)
    table = next(table for table in every_table(found) if table.key == "fronts-missing")
    assert table.columns == ("reach", "USD", "on the front")
    cells = {row.head: [cell[0] for cell in row.cells] for row in table.rows}
    assert cells["python"] == [f"{(59 * 0.75 + 6 / 16) / 60:.3f} to {(59 * 0.75 + 14 / 16) / 60:.3f}", "0.2", "yes"]
    assert cells["bare"] == ["0.250 to 0.250", "0.1", "yes"]
    drawn = spec(found, "front_usd")
    assert {row["arm"] for row in values(drawn, "fewest")} == {"bare", "python"}
    assert "along the dotted lines" in drawn["description"]
    assert json.loads(json.dumps(found.as_dict()))["fronts_if_missing"][0]["arms"][1]["on_front"] is True
    assert not analysis.fronts_if_missing
    assert not values(spec(analysis, "front_usd"), "fewest")


def test_fronts_on_different_tasks_tell_each_its_own_reach() -> None:
    counts = {"bare": [(8, 0)] * 30 + [(8, 8)] * 30, "python": [(8, 8)] * 60, "search": [(8, 8)] * 30 + [(0, 0)] * 30}
    cost = {arm: {"usd": 0.1, "generated_tokens": 5.0} for arm in counts}
    data = outcomes(tasks_of(ARITHMETIC), counts, cost=cost)
    data.cost[data.arm == 2, COST_COMPONENTS.index("usd")] = np.nan
    table = fronts(analyse(data, elicitation=4, replicates=200))
    assert table.columns[0::3] == ("reach at generated tokens [95%]", "reach at USD [95%]")
    cells = {row.head: row.cells for row in table.rows}
    assert (cells["bare"][0][0], cells["bare"][3][0]) == ("0.00", "0.50")
    assert cells["search"][3:] == (("",), ("",), ("",))


def test_the_table_of_fronts_has_each_share_and_marks_who_is_on_it(analysis: Analysis) -> None:
    table = fronts(analysis)
    cells = {row.head: row.cells for row in table.rows}
    assert cells["bare"][2] == ("100% *",)
    assert cells["inert"][4] == ("0%",)
    assert cells["python"][3][0] == "0.02"
    assert "reach [95%]" in table.columns


@pytest.mark.parametrize(("part", "said"), [(0, "0%"), (0.001, "< 1%"), (0.5, "50%"), (0.998, "> 99%"), (1, "100%")])
def test_a_share_reads_as_none_or_all_only_where_it_is(part: float, said: str) -> None:
    assert share(part) == said


def test_the_frontier_s_figures_are_those_of_the_estimators(analysis: Analysis) -> None:
    from testbed.report.scored import scored_arms

    found = analysis.frontier
    assert found is not None
    own = {arm.name: arm for arm in scored_arms(demo())}
    curve = best_of_n_frontier(own["bare"].scored, [int(n) for n in found.best_of.at], replicates=100)
    assert np.allclose([one.value or 0 for one in found.best_of.success], curve.success.least)
    assert np.allclose([one.value or 0 for one in found.best_of.nats], curve.kl.least)
    needed = least_reweighting(own["bare"].scored, own["python"].scored, replicates=400)
    python = next(one for one in found.arms if one.arm == "python")
    assert python.nats.value == pytest.approx(needed.mean)
    assert python.nats.high is None
    assert python.nats.low is not None
    assert python.nats.low <= needed.mean
    assert found.paid == pytest.approx(float(best_of_n_kl_bound(16)))


def test_the_least_divergence_lies_left_of_best_of_n_at_every_success(analysis: Analysis) -> None:
    found = analysis.frontier
    assert found is not None
    success, nats = ([one.value or 0.0 for one in column] for column in (found.tilt.success, found.tilt.nats))
    for at, spent in zip(found.best_of.success, found.best_of.nats, strict=True):
        if (at.value or 0) <= success[-1]:
            assert float(np.interp(at.value or 0, success, nats)) <= (spent.value or 0) + 1e-3


def test_few_attempts_have_no_frontier_and_no_arm_no_chart_of_it() -> None:
    few = analyse(outcomes(tasks_of(ARITHMETIC), {"bare": [(2, 1)] * 60, "python": [(2, 2)] * 60}), replicates=200)
    assert few.frontier is None
    assert "frontier" not in {chart.key for chart in charts(few)}
    assert not frontier(few).rows


def test_the_table_of_nats_has_an_open_end_where_there_is_no_upper_limit(analysis: Analysis) -> None:
    cells = {row.head: row.cells for row in frontier(analysis).rows}
    assert cells["bare, best of 1"][1][0] == "0.00"
    assert "bare, best of 16" in cells
    assert cells["python"][1][1].endswith(", )")
    assert at_least(0.0149) == "0.01"


def test_the_chart_of_a_front_draws_every_arm_and_the_steps_between_those_on_it(analysis: Analysis) -> None:
    drawn = spec(analysis, "front_usd")
    arms_drawn = {row["arm"] for row in values(drawn, "cost")}
    assert arms_drawn == {"bare", "inert", "python", "search"}
    steps = drawn["datasets"][drawn["layer"][0]["data"]["name"]]
    assert [row["arm"] for row in steps] == ["bare", "python"]


def test_points_lead_to_transcripts_where_there_are_some(analysis: Analysis) -> None:
    with_links = {chart.key: chart.spec for chart in charts(analysis, lambda arm: f"t/{arm}.html")}
    for key in ("front_usd", "frontier", "creation", "reach_attempts"):
        rows = [row for row in values(with_links[key], "arm") if "href" in row]
        assert {row["href"] for row in rows} >= {"t/python.html"}, key
        assert not [row for row in values(spec(analysis, key), "href")]


def test_creation_against_the_spend_has_the_table_s_figures(analysis: Analysis) -> None:
    full = next(c.full for c in analysis.comparisons if c.arm == "python")
    assert full is not None
    assert full.creation_by_spend is not None
    rows = [row for row in values(spec(analysis, "creation"), "creation") if row["arm"] == "python"]
    assert [row["spend"] for row in rows] == list(full.creation_by_spend.spends)
    assert [row["low"] for row in rows] == [one.low for one in full.creation_by_spend.creation]


def test_the_arms_table_tells_the_cost_of_an_attempt_and_of_a_solved_task(analysis: Analysis) -> None:
    table = arms_table(analysis)
    at = table.columns.index("USD per attempt")
    cells = {row.head: row.cells for row in table.rows}
    assert cells["python"][at : at + 2] == (("0.02",), ("0.03",))  # two thirds of the tasks are solved
    assert table.columns[at + 1] == "per solved task"
    assert cells["bare"][at + 1] == ("0.12",)


def test_an_arm_that_solves_nothing_has_no_price_of_a_solved_task() -> None:
    none = analyse(
        outcomes(tasks_of(ARITHMETIC), {"bare": [(8, 0)] * 60, "python": [(8, 8)] * 60}, cost=COST),
        elicitation=4, replicates=200,
    )  # fmt: skip
    table = arms_table(none)
    at = table.columns.index("per solved task")
    assert [row.cells[at] for row in table.rows] == [("n/a",), ("0.02",)]


def test_json_has_fronts_frontier_and_map(analysis: Analysis) -> None:
    found = json.loads(json.dumps(analysis.as_dict(), allow_nan=False))
    assert found["fronts"][0]["arms"][0]["membership"] == 1.0
    assert found["frontier"]["arms"][0]["nats"]["high"] is None
    assert len(found["map"]["tasks"]) == 60


@pytest.mark.parametrize("name", ["constructor", "toString", "__proto__", 'a"</script>\\'])
def test_a_chart_is_drawn_whatever_an_arm_is_called(name: str) -> None:
    import vl_convert

    data = outcomes(tasks_of(ARITHMETIC), {"bare": [(8, 2)] * 60, name: [(8, 6)] * 60})
    drawn = next(
        chart for chart in charts(analyse(data, elicitation=4, replicates=100)) if chart.key == "reach_attempts"
    )
    assert name.split("<")[0] in vl_convert.vegalite_to_svg({**drawn.spec, "width": 300}).replace("&quot;", '"')
    assert name in drawn.description
