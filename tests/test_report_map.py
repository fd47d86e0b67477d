"""The map of tasks and arms: its data, its size, its picture, and the ladder beside it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qs

import pytest
from jinja2.utils import htmlsafe_json_dumps

from helpers.outcomes import ARITHMETIC, demo, outcomes, tasks_of
from testbed.report import page_map
from testbed.report.analyse import analyse
from testbed.report.chart import Chart
from testbed.report.chart_labels import PLACE, cut
from testbed.report.charts import charts
from testbed.report.charts_tasks import DRAWN, map_chart
from testbed.report.map_links import MOST, map_links
from testbed.report.page import render_page
from testbed.report.page_map import map_data
from testbed.report.record import Analysis
from testbed.report.transcript_links import TranscriptLinks
from testbed.report.transcript_pages import choose
from testbed.report.verdict_map import EXCERPT, MappedArm, MappedTask, VerdictMap, excerpt
from testbed.stats import Verdict
from testbed.types import Task


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(demo(), replicates=200, name="demo")


def enlarged(analysis: Analysis, tasks: int, prompt: str) -> Analysis:
    """The same with a map of so many tasks."""
    assert analysis.map is not None
    old = analysis.map
    arms = tuple(
        MappedArm(
            a.arm,
            *(np_tiled(x, tasks) for x in (a.successes, a.attempts, a.missing)),
            tuple(a.verdicts[i % 60] for i in range(tasks)),
            *(np_tiled(x, tasks) for x in (a.success, a.failure)),
        )
        for a in old.arms
    )
    rows = tuple(MappedTask(f"{i:032x}", "Sums-v0", f"group {i % 50}", prompt) for i in range(tasks))
    return replace(analysis, map=VerdictMap(rows, arms))


def rows_of(drawn: Chart) -> list[dict[str, Any]]:
    return [row for rows in drawn.spec["datasets"].values() for row in rows]


def np_tiled(values: Any, tasks: int) -> Any:
    import numpy as np

    return np.resize(values, tasks)


def test_the_map_has_every_task_with_its_counts_and_its_verdict(analysis: Analysis) -> None:
    found = map_data(analysis, None)
    assert found is not None
    assert len(found["rows"]) == 60
    assert found["arms"] == ["bare", "inert", "python", "search"]
    prompt, group, hash_, *cells = found["rows"][0]
    assert prompt == "Multiplication-v0 4 digits 0"
    assert found["groups"][group] == "Multiplication-v0, 4 digits"
    assert len(hash_) == 16
    assert cells[:3] == [0, 256, -1]  # bare has no verdict against itself
    assert cells[6:8] == [16, 16]
    assert found["verdicts"][cells[8]] == "expanded"


def test_the_map_s_verdicts_are_counted_as_the_table_counts_them(analysis: Analysis) -> None:
    assert analysis.map is not None
    for comparison in analysis.comparisons:
        own = next(arm for arm in analysis.map.arms if arm.arm == comparison.arm)
        assert comparison.full is not None
        counts = comparison.full.figures.verdicts.counts
        assert {v.value: own.verdicts.count(v.value) for v in Verdict} == counts


def test_a_group_of_the_report_leads_to_its_tasks_in_the_map_and_to_no_other(analysis: Analysis) -> None:
    found, links = map_data(analysis, None), map_links(analysis)
    assert found is not None
    assert links is not None
    for group in analysis.groups:
        place = parse_qs(links.to(group=group.name).removeprefix("#map?"))["group"][0]
        name, numbers = found["filters"][int(place)]
        assert name == group.name
        assert sum(row[1] in numbers for row in found["rows"]) == group.tasks
    assert links.to(arm="python", verdict="expanded") == "#map?arm=2&verdict=0"
    assert links.to(arm="null row", instead="#table-gain") == "#table-gain"


def test_arms_of_which_nothing_is_claimed_have_no_verdicts_in_the_map() -> None:
    records = {name: replace_spec(name) for name in ("bare", "python")}
    greedy = analyse(
        outcomes(
            tasks_of(ARITHMETIC), {"bare": [(16, 0)] * 30 + [(16, 16)] * 30, "python": [(16, 16)] * 60}, records=records
        ),
        replicates=200,
    )
    assert not greedy.comparisons[0].claims
    assert greedy.map is not None
    assert not any(any(arm.verdicts) for arm in greedy.map.arms)
    assert "map" not in {chart.key for chart in charts(greedy)}


def replace_spec(name: str) -> Any:
    from helpers.outcomes import record

    return record(name, sampling={"temperature": 0.0})


@pytest.mark.parametrize("tasks", [1_000, 12_500, 70_000])
def test_the_map_of_any_number_of_tasks_stays_below_8_mb(analysis: Analysis, tasks: int) -> None:
    found = map_data(enlarged(analysis, tasks, "x" * EXCERPT), None)
    assert found is not None
    assert len(json.dumps(found, separators=(",", ":"))) < 8e6
    assert found["left"] == max(0, tasks - MOST)
    assert len(found["rows"][0][0]) == EXCERPT if tasks == 1_000 else len(found["rows"][0][0]) <= EXCERPT


def test_the_picture_of_many_tasks_has_few_shapes_and_says_what_it_leaves_out(analysis: Analysis) -> None:
    (small,) = map_chart(analysis)
    (large,) = map_chart(enlarged(analysis, 60_000, "x"))
    assert "Every 40th of 60,000 tasks is drawn." in large.caption
    assert "is drawn" not in small.caption
    rects = rows_of(large)
    assert len(rects) < 4 * DRAWN
    assert max(row["to"] for row in rects) == 60_000


def test_the_picture_s_stretches_add_up_to_the_counts_of_verdicts(analysis: Analysis) -> None:
    (drawn,) = map_chart(analysis)
    for comparison in analysis.comparisons:
        assert comparison.full is not None
        for verdict, count in comparison.full.figures.verdicts.counts.items():
            own = [r for r in rows_of(drawn) if (r["arm"], r["verdict"]) == (comparison.arm, verdict)]
            assert sum(row["to"] - row["from"] for row in own) == count


def test_an_excerpt_is_one_line_in_which_every_character_shows() -> None:
    text = excerpt("a\n b\u202e\ud800" + "x" * 500)
    assert len(text) == EXCERPT
    assert text.startswith("a b‹U+202E")
    assert text.endswith("…")
    text.encode("utf-8")


def test_links_are_urls_whatever_the_file_is_called(analysis: Analysis) -> None:
    links = TranscriptLinks.beside("a b#c?_transcripts", ("bare", "python"))
    assert links.arm("python") == "a%20b%23c%3F_transcripts/arm-2.html"
    assert links.arm("unknown") == ""
    found = map_data(analysis, links)
    assert found is not None
    assert found["folder"] == "a%20b%23c%3F_transcripts"


def test_shown_are_the_first_success_and_the_first_failure_before_others() -> None:
    data = outcomes(tasks_of((("A-v0", "", 2),)), {"bare": [(6, 1), (6, 6)], "python": [(6, 0), (3, 2)]})
    chosen = choose(data, 3)
    for (task, arm), samples in chosen.items():
        own = {
            int(s): int(w)
            for t, a, s, w in zip(data.task, data.arm, data.sample, data.success, strict=True)
            if (t, a) == (task, arm)
        }
        assert len(samples) == len(set(samples)) == 3
        wins = [s for s, won in own.items() if won]
        fails = [s for s, won in own.items() if not won]
        assert samples[0] == (min(wins) if wins else min(fails))
        if wins and fails:
            assert samples[1] == min(fails)
    assert choose(data, 1)[0, 0] == [min(s for s, w in zip(data.sample, data.success, strict=True) if w)]


def test_the_ladder_s_chart_has_its_table_s_steps_and_intervals() -> None:
    zero, half, high = [(64, 0)] * 60, [(16, 8)] * 60, [(16, 16)] * 60
    climbed = analyse(
        outcomes(tasks_of(ARITHMETIC), {"bare": zero, "inert": zero, "yoked": half, "all": high}), replicates=200
    )
    drawn = next(chart for chart in charts(climbed) if chart.key == "ladder")
    rows = [row for row in rows_of(drawn) if "difference" in row]
    assert [row["arm"] for row in rows] == ["bare to inert", "inert to yoked", "yoked to all"]
    assert [row["difference"] for row in rows] == [0, 0.5, 0.5]
    assert [(row["low"], row["high"]) for row in rows] == [
        (r.difference.low, r.difference.high) for r in climbed.ladder
    ]
    assert "interaction" in drawn.description


@pytest.mark.parametrize("sign", ["漢", "<", '"', "𝔘"])
def test_prompts_of_any_writing_leave_the_page_below_10_mb(analysis: Analysis, sign: str) -> None:
    found = map_data(enlarged(analysis, 20_000, sign * EXCERPT), None)
    assert found is not None
    assert len(htmlsafe_json_dumps(found, ensure_ascii=False).encode("utf-8")) < 8e6
    assert set(found["rows"][0][0]) == {sign}
    few = map_data(enlarged(analysis, 1_000, sign * EXCERPT), None)
    assert few is not None
    assert few["rows"][0][0] == sign * EXCERPT


def test_the_page_spells_letters_in_its_data_as_they_are(analysis: Analysis) -> None:
    text = render_page(enlarged(analysis, 500, "漢" * EXCERPT))
    assert "漢" * EXCERPT in text
    assert "\\u6f22" not in text


def test_the_map_has_the_missing_attempts_of_a_cell(analysis: Analysis) -> None:
    assert map_data(analysis, None)["missing"] == {}  # type: ignore[index]
    counts = {"bare": [(8, 2)] * 60, "python": [(8, 6)] * 60}
    lost = analyse(outcomes(tasks_of(ARITHMETIC), counts, missing={"python": 3}), elicitation=4, replicates=100)
    assert map_data(lost, None)["missing"] == {"0": {"1": 3}}  # type: ignore[index]


def test_the_picture_of_many_tasks_ends_where_its_axis_does(analysis: Analysis) -> None:
    (drawn,) = map_chart(enlarged(analysis, 3_002, "x"))
    assert max(row["to"] for row in rows_of(drawn)) == 3_002


def test_links_lead_to_a_file_whose_name_is_no_text() -> None:
    name = os.fsdecode(b"na\xefve_transcripts")
    assert TranscriptLinks.beside(name, ("bare",)).arm("bare") == "na%EFve_transcripts/arm-1.html"


def test_a_label_of_tasks_that_no_text_can_hold_is_shown_all_the_same() -> None:
    tasks = [replace(task, meta={"family": "a\ud800\u202e"}) for task in tasks_of(ARITHMETIC)]
    found = analyse(outcomes(tasks, {"bare": [(8, 2)] * 60, "python": [(8, 6)] * 60}), elicitation=4, replicates=100)
    assert "a‹U+D800›‹U+202E›" in render_page(found)
    render_page(found).encode("utf-8")


@pytest.mark.parametrize("prompt", ["plain words", "<é> \"表\" & '\\'", "words, \ud800 and <more> words"])
def test_a_prompt_is_cut_to_the_longest_beginning_that_has_room(prompt: str) -> None:
    taken = [6 if c in "<>&'" else 2 if c in '"\\' else len(c.encode("utf-8", "surrogatepass")) for c in prompt]
    for room in range(sum(taken) + 2):
        assert len(page_map._cut(prompt, room)) == sum(total <= room for total in accumulate(taken))


@pytest.mark.parametrize("whole", ["calculator", "x" * 14, "表" * 7, "a表b表c表d", "表aa表aa表"])
def test_a_name_is_cut_only_where_it_has_no_room(whole: str) -> None:
    assert cut(whole, 7 * PLACE) == whole
    assert cut(whole + "表" * 7, 7 * PLACE).endswith("…")


def test_a_picture_of_very_many_groups_draws_the_largest_and_says_so() -> None:
    labels = [f"family {i // 2 if i < 40 else i}" for i in range(120)]
    tasks = [Task("A-v0", f"task {i}", i, meta={"family": label}) for i, label in enumerate(labels)]
    found = analyse(outcomes(tasks, {"bare": [(8, 2)] * 120, "python": [(8, 6)] * 120}), elicitation=4, replicates=100)
    drawn = next(chart for chart in charts(found) if chart.key == "groups")
    names = {row["group"] for row in rows_of(drawn)}
    assert len(found.groups) == 101
    assert len(names) == 60
    assert {"A", *(f"A, family {i}" for i in range(20))} <= names
    assert "the 60 of 101 groups with the most tasks" in drawn.caption
