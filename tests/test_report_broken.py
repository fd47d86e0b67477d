"""What is said where an error of the agent's own ended attempts: no claim that rests on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.two_runs import LIVE, SPEC, add, sides, tasks
from test_report_cautions import ended
from test_report_claims import drawn, text
from testbed.calibration.suites import made_up
from testbed.report.analyse import analyse
from testbed.report.charts import charts
from testbed.report.compare_runs import compare_sides
from testbed.report.comparison_tables import missing, verdicts
from testbed.report.findings import findings, headline
from testbed.report.page import render_page
from testbed.report.record import Analysis, Effect
from testbed.stats import Verdict
from testbed.stats.stopping import StoppingRule
from testbed.store import Outcomes

SAID = "An error of the agent's own ended 840 of 840 attempts of bare"


def read(data: Outcomes) -> Analysis:
    return analyse(data, name="my run", operating=1, elicitation=16, replicates=100)


def effects(found: Analysis) -> set[Effect]:
    (comparison,) = found.comparisons
    own = {effect for group in found.groups for one in group.effects for effect in one.effects}
    return own | {finding.effect for finding in findings(found, comparison)}


def expanded(found: Analysis) -> int:
    full = found.comparisons[0].full
    assert full is not None
    return full.figures.verdicts.counts[Verdict.EXPANDED]


def test_nothing_is_claimed_from_a_bare_arm_that_did_not_run() -> None:
    """Without the errors the same outcomes are creation, with a verdict on every task."""
    data = drawn([0.0] * 6, [1.0] * 6, 140)
    assert (effects(read(data)), expanded(read(data))) == ({Effect.CREATED}, 6)
    found = read(ended(data, 0, "agent:error"))
    assert (effects(found), expanded(found)) == ({Effect.UNDETERMINED}, 0)
    assert headline(found, found.comparisons[0]).startswith(SAID)
    assert found.map is not None
    assert set(found.map.arms[1].verdicts) == {"undetermined"}
    for said in (text(found), render_page(found)):
        assert "creates" not in said
        assert "expanded, not reached" not in said
        assert said.replace("&#39;", "'").count(SAID) >= 5  # words, gain, verdicts, groups, charts


def test_few_errors_among_many_attempts_undo_no_claim() -> None:
    data = drawn([0.0] * 6, [1.0] * 6, 300)
    found = read(ended(data, 0, "agent:error", 0.001))
    assert (effects(found), expanded(found)) == ({Effect.CREATED}, 6)
    assert "2 of 1,800 attempts of bare" in headline(found, found.comparisons[0])


def test_errors_at_some_tasks_leave_the_others_as_they_are() -> None:
    data = drawn([0.0] * 6, [1.0] * 6, 140)
    broken = replace(data, ended=np.where((data.arm == 0) & (data.task < 2), "agent:error", data.ended))
    assert expanded(read(broken)) == 4


def test_an_arm_with_tools_whose_agent_broke_down_is_not_said_to_lose() -> None:
    data = drawn([1.0] * 6, [0.0] * 6, 140)
    assert effects(read(data)) == {Effect.LOST}
    assert effects(read(ended(data, 1, "agent:error"))) == {Effect.UNDETERMINED}


def test_arms_that_stop_early_are_judged_so_too() -> None:
    data = drawn([0.0] * 6, [1.0] * 6, 140)
    rules = {name: StoppingRule(32, 140, 16, 0.5, 0.05) for name in ("bare", "tool")}
    whole, broken = (analyse(one, replicates=100, rules=rules) for one in (data, ended(data, 0, "agent:error")))
    assert (expanded(whole), expanded(broken)) == (6, 0)
    assert effects(broken) == {Effect.UNDETERMINED}


def test_a_comparison_of_two_runs_claims_no_more(tmp_path: Path) -> None:
    path, own = tmp_path / "s.sqlite", tasks(6)
    add(path, "my run", own, {"bare": [[False] * 140] * 6, "my tool": [[True] * 8] * 6},
        specs={"bare": SPEC, "my tool": LIVE}, failed={"bare": "agent:error"})  # fmt: skip
    left, right = sides((path, "my run:bare"), (path, "my run:my tool"))
    found = compare_sides(left, right)
    assert found.within_reach["only B"] == 0
    assert any("testbed show 'my run' --arm bare --failed" in told for told in found.warnings)


@pytest.mark.parametrize("name", ["sums", "my run's"])
def test_the_command_of_a_warning_works_as_it_is_printed(name: str) -> None:
    data = ended(drawn([0.0] * 4, [1.0] * 4, 4), 0, "agent:error")
    told = " ".join(analyse(data, name=name, replicates=100).warnings)
    quoted = {"sums": "sums", "my run's": """'my run'"'"'s'"""}[name]
    assert f"testbed show {quoted} --arm bare --failed" in told


def test_more_samples_are_not_advised_of_an_arm_that_broke_down() -> None:
    data = drawn([0.0] * 4, [1.0] * 4, 4)
    assert "samples = 140" in " ".join(analyse(data, replicates=100).warnings)
    told = text(analyse(ended(data, 0, "agent:error"), replicates=100))
    assert "samples =" not in told
    assert "More bare attempts" not in told
    assert "out of sight" in told


def test_the_ends_that_are_shown_are_said_to_be_two_and_have_no_verdicts_of_an_arm_that_broke() -> None:
    """The verdicts hold however the attempts had ended: 6 tasks are undetermined, at neither end a single one."""
    found = read(ended(drawn([0.0] * 6, [1.0] * 6, 140), 0, "agent:error"))
    full = found.comparisons[0].full
    assert full is not None
    assert full.missing is not None
    assert full.figures.verdicts.counts[Verdict.UNDETERMINED] == 6
    assert full.missing.counts["undetermined"].high == 0
    shown = missing(found)
    assert shown.title.endswith("had all failed, or all succeeded")
    assert "The gain lies between them however each attempt had ended; other figures may lie beyond" in shown.notes[0]
    assert {"undetermined", "expanded"}.isdisjoint(shown.columns)


def test_an_arm_that_did_not_break_keeps_its_range_of_verdicts_beside_one_that_did() -> None:
    chances = {name: {"all": np.full(6, chance)} for name, chance in (("bare", 0.5), ("tool", 1.0), ("other", 0.5))}
    data = ended(made_up(chances, 32, np.random.default_rng(0)), 2, "agent:error")
    lost = (data.arm == 1) & (data.sample == 0)
    shown = missing(read(replace(data, success=np.where(lost, -1, data.success).astype(np.int8))))
    cells = {row.head: dict(zip(shown.columns, row.cells, strict=True)) for row in shown.rows}
    assert cells["other"]["preserved"] == ("n/a",)
    assert cells["tool"]["preserved"] != ("n/a",)


@pytest.mark.parametrize(("arm", "told"), [(0, "n/a"), (1, "2,300")])
def test_of_the_null_row_nothing_is_projected_from_the_errors_of_the_bare_arm(arm: int, told: str) -> None:
    found = read(ended(drawn([0.0] * 8, [0.5] * 8, 140), arm, "agent:error"))
    shown = verdicts(found)
    assert [row.cells[-1] for row in shown.rows if row.kind == "null"] == [(told,)]
    assert ("Of the null row it is not told what is still needed" in " ".join(shown.notes)) == (arm == 0)


def bars(spec: Any) -> Iterator[dict[str, Any]]:
    """The data of the bars, wherever a chart keeps them."""
    if isinstance(spec, dict) and {"part", "value"} <= spec.keys():
        yield spec
    for own in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from bars(own)


def test_the_bars_of_a_comparison_that_rests_on_errors_are_marked() -> None:
    data = drawn([0.2] * 6, [1.0] * 6, 140)
    marked = {}
    for name, one in (("whole", data), ("broken", ended(data, 0, "agent:error"))):
        gain = next(chart for chart in charts(read(one)) if chart.key == "gain")
        marked[name] = {(bar["arm"], "open" in bar) for bar in bars(gain.spec)}
        assert ("fillOpacity" in str(gain.spec)) == (name == "broken")
        assert ("Bars of tool, which rest on these, are faint" in gain.caption) == (name == "broken")
    assert marked == {
        "whole": {("tool", False), ("null row", False)},
        "broken": {("tool", True), ("null row", False)},
    }
