"""What a comparison of two runs says where attempts, costs, clusters or a bare arm are lacking."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.two_runs import LIVE, MEASURE, SPEC, add, sides, tasks, tool
from testbed.report.analyse import analyse_run
from testbed.report.compare_record import RunComparison
from testbed.report.compare_runs import compare_sides
from testbed.report.compare_text import print_comparison
from testbed.report.spec_differences import spec_differences
from testbed.store import Store
from testbed.transfer import import_outcomes
from testbed.transfer.columns import Columns

YES, NO, LOST = [True] * 4, [False] * 4, [None] * 4
HALF = [True, False, True, False]
OTHER = {**LIVE, "budget": {"turns": 16}}


def compared(left: tuple[Path, str], right: tuple[Path, str], **options: Any) -> RunComparison:
    return compare_sides(*sides(left, right), same_store=left[0] == right[0], **options)


def shown(found: RunComparison) -> str:
    file = io.StringIO()
    print_comparison(found, Console(width=80, file=file, highlight=False))
    return " ".join(file.getvalue().split())


def test_tasks_whose_attempts_are_all_missing_on_one_side_are_told_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(8), {"x": [HALF] * 8}, specs={"x": LIVE})
    add(path, "b", tasks(8), {"y": [YES] * 4 + [LOST] * 4}, specs={"y": OTHER})
    found = compared((path, "a"), (path, "b"))
    assert (found.tasks, found.common, found.reference) == (4, 8, "")
    assert found.pass_1.value == 0.5
    assert found.right.missing == 16
    bounds, apart = found.right.pass_1_if_missing, found.pass_1_if_missing
    assert bounds is not None
    assert (bounds.low, bounds.high) == (0.5, 1.0)
    assert apart is not None
    assert (apart.low, apart.high) == (0.0, 0.5)
    told = " ".join(found.warnings)
    assert "4 of the 8 common tasks are left out" in told
    assert "B 16 of 32" in told
    assert "0.000 to 0.500" in shown(found)


def test_clusters_of_either_run_keep_tasks_together_whichever_is_named_first(tmp_path: Path) -> None:
    alone, grouped = tmp_path / "1.sqlite", tmp_path / "2.sqlite"
    listed = tasks(12)
    clusters = tuple(replace(task, cluster=f"c{n // 6}") for n, task in enumerate(listed))
    add(alone, "a", listed, {"x": [HALF] * 12}, specs={"x": LIVE})
    add(grouped, "b", clusters, {"y": [YES] * 6 + [NO] * 6}, specs={"y": OTHER})
    found, turned = compared((alone, "a"), (grouped, "b")), compared((grouped, "b"), (alone, "a"))
    for one in (found, turned):
        assert one.pass_1.low is not None
        assert one.pass_1.high is not None
        assert one.pass_1.high - one.pass_1.low > 1.5  # of two clusters; of twelve tasks it is half as wide
        assert any("put tasks into clusters differently" in warning for warning in one.warnings)


def test_a_comparison_warns_of_few_clusters_and_few_attempts_in_the_words_of_a_report(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    unequal = tuple(replace(task, cluster=f"c{max(0, n - 5)}") for n, task in enumerate(tasks(12)))
    add(path, "r", unequal, {"x": [NO] * 12, "y": [YES] * 12}, specs={"x": SPEC, "y": LIVE})
    with Store.open(path, create=False) as store:
        report = analyse_run(store, "r").warnings
    found = compared((path, "r:x"), (path, "r:y")).warnings
    for beginning in ("The 12 tasks come in 7 clusters", "No task can count as expanded yet"):
        (ours,) = [told for told in report if told.startswith(beginning)]
        assert ours.replace("of x there", "of A there") in found


@pytest.mark.parametrize(("n", "few"), [(5, True), (10, False)])
def test_intervals_of_ratios_of_few_tasks_are_qualified(tmp_path: Path, n: int, few: bool) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "r", tasks(n), {"x": [NO] * n, "y": [YES] * n}, specs={"x": SPEC, "y": LIVE}, tokens={"y": 20})
    assert (
        "the true ratio lies outside its interval more often" in shown(compared((path, "r:x"), (path, "r:y")))
    ) == few


def test_clusters_under_other_names_are_the_same_ones(tmp_path: Path) -> None:
    def stored(file: str, label: str, outcomes: list[list[bool]], spec: Mapping[str, Any]) -> tuple[Path, str]:
        listed = tuple(replace(task, cluster=f"{label}{n // 3}") for n, task in enumerate(tasks(12)))
        add(tmp_path / file, "r", listed, {"x": outcomes}, specs={"x": spec})
        return tmp_path / file, "r"

    left = stored("left", "c", [HALF] * 12, LIVE)
    found = [compared(left, stored(label, label, [YES] * 6 + [NO] * 6, OTHER)) for label in "cd"]
    assert found[0].pass_1 == found[1].pass_1
    assert not any("differently" in warning for warning in found[1].warnings)


def test_of_an_arm_that_stops_early_it_is_told_which_attempts_are_read(tmp_path: Path) -> None:
    path, rule = tmp_path / "s.sqlite", {"min": 4, "max": 40}
    add(path, "a", tasks(6), {"x": [HALF] * 6}, specs={"x": LIVE})
    add(path, "b", tasks(6), {"y": [[*HALF, *YES]] * 6}, specs={"y": OTHER}, stops={"y": rule})
    found = compared((path, "a"), (path, "b"))
    assert (found.left.fixed, found.right.fixed) == (0, 4)
    assert found.pass_1.value == 0
    assert any("the first 4 attempts of each task in B" in warning for warning in found.warnings)
    lines = next(difference.lines for difference in found.differs if difference.topic == "attempts")
    assert lines == ("4 per task → 4 to 40 per task, until a verdict at level 0.05 on reach 0.5 within 2",)


def test_two_tool_arms_under_two_controls_differ_in_two_things(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    inert = {**LIVE, "control": "inert", "tools": [tool("python", cpus=1.0), tool("search")]}
    arms = {"bare": SPEC, "live": LIVE, "inert": inert, "placebo": {**LIVE, "control": "inert"}}
    add(path, "r", tasks(4), dict.fromkeys(arms, [HALF] * 4), specs=arms)

    def several(left: str, right: str) -> list[str]:
        found = compared((path, f"r:{left}"), (path, f"r:{right}"))
        return [warning for warning in found.warnings if "More than one thing" in warning]

    assert several("bare", "live") == several("bare", "inert") == several("live", "placebo") == []
    assert "(tools and control)" in several("live", "inert")[0]


def test_a_reference_that_is_not_bare_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    arms = {"bare": SPEC, "live": LIVE, "more": OTHER}
    add(path, "r", tasks(4), dict.fromkeys(arms, [HALF] * 4), specs=arms)
    told = "A, which is not bare: wherever a table or a sentence says bare, it means A"
    assert told in " ".join(compared((path, "r:live"), (path, "r:more"), against="A").warnings)
    assert told not in " ".join(compared((path, "r:bare"), (path, "r:more")).warnings)


@pytest.mark.parametrize("named", ["", "live"])
def test_within_a_run_the_split_is_over_the_arm_that_its_report_calls_bare(tmp_path: Path, named: str) -> None:
    path, measure = tmp_path / "s.sqlite", {**MEASURE, "bare": named} if named else MEASURE
    unknown = {key: value for key, value in SPEC.items() if key != "control"}
    arms = {"bare": unknown, "live": LIVE, "more": OTHER}
    add(path, "r", tasks(4), dict.fromkeys(arms, [HALF] * 4), specs=arms, measure=measure)
    assert compared((path, "r:more"), (path, f"r:{named or 'bare'}")).reference == "B"
    assert compared((path, "r:more"), (path, "r")).right.arm == (named or "bare")


def test_of_imported_arms_nothing_is_called_the_same_and_unknown_costs_are_no_zeros(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    for name, cost in (("one", ["generated_tokens=tokens"]), ("other", []), ("third", [])):
        log = tmp_path / f"{name}.csv"
        rows = [f"q{task},{name},{n % 2},{20}" for task in range(6) for n in range(4)]
        log.write_text("\n".join(["task,arm,ok,tokens", *rows]), encoding="utf-8")
        columns = Columns.parse(task="task", arm="arm", success="ok", cost=cost)
        with Store.open(path) as store:
            import_outcomes(store, log, "imp", columns)
    found = compared((path, "imp:one"), (path, "imp:other"))
    assert found.same == ()
    assert (found.left.cost, found.right.cost) == ({"generated_tokens": 20}, {})
    assert "generated tokens 20 not known" in shown(found)
    found = compared((path, "imp:other"), (path, "imp:third"))
    assert [difference.lines for difference in found.differs] == [
        ("imported arms, of which only the names are known: other → third",)
    ]
    assert "differs: imported arms, of which" in shown(found)
    assert "the same: not known" in shown(found)


def test_a_cost_of_nothing_stands_as_nothing_beside_one_that_was_paid(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(4), {"x": [HALF] * 4}, specs={"x": LIVE}, tokens={"x": 0})
    add(path, "b", tasks(4), {"y": [HALF] * 4}, specs={"y": OTHER})
    found = compared((path, "a"), (path, "b"))
    assert (found.left.cost["generated_tokens"], found.right.cost["generated_tokens"]) == (0, 10)
    assert "usd" not in found.left.cost
    assert "not known" not in shown(found)


def test_tools_that_differ_always_have_a_line_that_tells_them_apart() -> None:
    twice = spec_differences({"tools": [tool("f", k=1), tool("f")]}, {"tools": [tool("f", k=2), tool("f")]})
    assert twice[0].lines
    assert "1" in " ".join(twice[0].lines)
    for left, right in ((["1"], [1]), (5, [tool("f")])):
        assert spec_differences({"tools": left}, {"tools": right})[0].lines
    long = "x" * 100
    (line,) = spec_differences({"corpus": f"{long}1"}, {"corpus": f"{long}2"})[0].lines
    assert line.split(" → ")[0].removeprefix("corpus ") != line.split(" → ")[1]


@pytest.mark.parametrize("reference", ["", "A"])
def test_of_attempts_that_look_like_copies_no_figure_but_pass_1_is_given(tmp_path: Path, reference: str) -> None:
    path = tmp_path / "s.sqlite"
    greedy = {**LIVE, "sampling": {"temperature": 0.0, "max_tokens": 64}}
    rows = [YES] * 6 + [NO] * 6
    measure = {**MEASURE, "operating": 2}
    for spec, told in ((LIVE, True), (greedy, False)):  # independent draws that end alike are no copies
        run = f"r{int(told)}"
        specs = {"x": spec, "y": {**spec, "budget": {"turns": 16}}}
        add(path, run, tasks(12), {"x": rows, "y": rows[::-1]}, specs=specs, measure=measure)
        found = compared((path, f"{run}:x"), (path, f"{run}:y"), against=reference)
        text = shown(found)
        assert ("only pass@1 says anything" in text) is not told
        assert bool(found.within_reach) is told
        assert ("Tasks within reach" in text) is told
        assert ("reach@2" in text) is told
        assert "Cost of an attempt" in text
        assert "pass@1" in text
        for split in ("Gain over A", "in other units", "B against A: gain"):
            assert (split in text) is (told and bool(reference)), split
