"""Transcripts that stand in the report's page: which, how many bytes of them, and that every link has its target."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.stored import ARMS, TASKS, make_attempt, make_run, put
from testbed.report import transcripts_inside as module
from testbed.report.analyse import analyse_run
from testbed.report.page import render_page
from testbed.report.record import Analysis
from testbed.report.transcripts_inside import TranscriptsInside, transcripts_inside
from testbed.store import Store
from testbed.types import Attempt, Message

PLANTED = "<script>window.planted = 1</script></details></section>"


def said(attempt: Attempt) -> tuple[Message, ...]:
    return (
        {"role": "user", "content": "the question"},
        {"role": "assistant", "content": f"{PLANTED} sample {attempt.sample} says {attempt.answer}"},
    )


def stored(path: Path, texts: dict[int, tuple[Message, ...]] | None = None) -> Store:
    """A run of two arms, samples 0 and 2 of each at each of four tasks successes; `texts` by number of the task."""
    store = Store.open(path / "testbed.sqlite")
    store.add_run(make_run(), TASKS)
    made = (make_attempt(task, arm, sample) for task in TASKS for arm in ARMS for sample in range(3))
    asyncio.run(put(store, *(replace(a, transcript=(texts or {}).get(_place(a.task), said(a))) for a in made)))
    return store


def _place(task: str) -> int:
    return [one.hash for one in TASKS].index(task)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(tmp_path_factory.mktemp("inside")) as opened:
        yield opened


@pytest.fixture(scope="module")
def analysis(store: Store) -> Analysis:
    return analyse_run(store, "r")


def shown(store: Store, analysis: Analysis, room: int = module.ROOM) -> TranscriptsInside:
    found = transcripts_inside(store, analysis, room)
    assert found is not None
    return found


def test_where_there_is_room_every_cell_has_a_success_before_a_failure(store: Store, analysis: Analysis) -> None:
    found = shown(store, analysis)
    assert found.whole
    assert (found.attempts, [arm.name for arm in found.arms]) == (16, ["bare", "python"])
    for arm in found.arms:
        assert [cell.task for cell in arm.cells] == [0, 1, 2, 3]
        for cell in arm.cells:
            samples = [re.findall(r"sample (\d) says", text) for text in cell.transcripts]
            assert samples == [["0"], ["1"]]
            assert cell.title.startswith("2 of 3 solved")
    assert found.arm("python") == "#transcripts-2"
    assert found.arm("unknown") == ""


def test_reference_answers_are_not_in_the_page(tmp_path: Path) -> None:
    with stored(tmp_path, dict.fromkeys(range(4), ({"role": "user", "content": "?"},))) as store:
        found = shown(store, analyse_run(store, "r"))
    for arm in found.arms:
        for cell in arm.cells:
            assert all("<dt>reference</dt><dd>not shown</dd>" in text for text in cell.transcripts)


def test_little_room_goes_to_telling_tasks_and_to_one_attempt_of_each_arm(store: Store, analysis: Analysis) -> None:
    assert analysis.map is not None
    bare, python = analysis.map.arms
    told = replace(python, verdicts=("preserved", "undetermined", "expanded", "preserved"))
    analysis = replace(analysis, map=replace(analysis.map, arms=(bare, told)))
    one = len(shown(store, analysis).arms[0].cells[0].transcripts[0].encode())
    found = shown(store, analysis, room=int(2.5 * one))
    assert [[cell.task for cell in arm.cells] for arm in found.arms] == [[2], [2]]
    assert not found.whole
    text = render_page(analysis, found)
    assert "2 of the 24 attempts" in text
    assert "as far as there is room" in text
    assert '"inside": {"2": [0, 1]}' in text


def test_tasks_come_from_every_group_in_turn(store: Store, analysis: Analysis) -> None:
    assert analysis.map is not None
    rows = tuple(replace(row, group=group) for row, group in zip(analysis.map.tasks, ("a", "a", "b", "c"), strict=True))
    analysis = replace(analysis, map=replace(analysis.map, tasks=rows))
    one = len(shown(store, analysis).arms[0].cells[0].transcripts[0].encode())
    found = shown(store, analysis, room=int(6.5 * one))
    assert [cell.task for cell in found.arms[0].cells] == [0, 2, 3]


def test_of_a_long_transcript_the_beginnings_stand_there_and_say_so(tmp_path: Path) -> None:
    long: tuple[Message, ...] = (
        {"role": "user", "content": "é" * 5_000_000},
        *({"role": "assistant", "content": f"step {n}"} for n in range(2, 101)),
    )
    with stored(tmp_path, {1: long}) as store:
        found = shown(store, analyse_run(store, "r"))
    text = found.arms[0].cells[1].transcripts[0]
    assert len(text.encode()) < module.LONGEST
    assert f"… {5_000_000 - module.BEGINNING:,} more characters" in text
    assert "60 more steps: testbed show " in text
    assert "step 40" in text
    assert "step 41" not in text
    assert found.whole


def test_a_run_without_transcripts_has_none_and_few_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(module, "UNRECORDED", 3)
    with stored(tmp_path, dict.fromkeys(range(4), ())) as store:
        find = store.find
        monkeypatch.setattr(store, "find", lambda id_: asked.append(id_) or find(id_))
        assert transcripts_inside(store, analyse_run(store, "r")) is None
    assert len(asked) == 3


def points_to_transcripts(page: str) -> set[str]:
    """Where points of charts lead, but for the map of tasks and the null row's figures."""
    found = set(re.findall(r'"href": "([^"]+)"', page))
    return {address for address in found if not address.startswith(("#map?", "#table-"))}


def test_every_link_in_the_page_has_its_target_and_what_was_written_stays_text(
    store: Store, analysis: Analysis
) -> None:
    found = shown(store, analysis)
    text = render_page(analysis, found)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    body = text[text.index("</head>") : text.index("<script")]
    targets = {html.unescape(target) for target in re.findall(r'href="([^"]+)"', body)}
    assert targets <= {f"#{own}" for own in ids}
    assert {"#transcripts-1", "#transcripts-2"} <= targets
    assert points_to_transcripts(text) == {"#transcripts-1", "#transcripts-2"}
    assert {f"cell-{task}-{arm}" for task in range(1, 5) for arm in (1, 2)} <= set(ids)
    assert "<script>window.planted" not in text
    levels = [int(level) for level in re.findall(r"<h(\d)", body)]
    assert max(levels) == 5
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_points_of_an_arm_without_transcripts_lead_to_the_head_of_all(store: Store, analysis: Analysis) -> None:
    found = shown(store, analysis)
    text = render_page(analysis, replace(found, arms=found.arms[:1]))
    assert points_to_transcripts(text) == {"#transcripts-1", "#transcripts"}
    assert "#transcripts-2" not in text


def test_a_page_with_a_folder_says_what_to_do_where_that_is_missing(analysis: Analysis) -> None:
    from testbed.report.transcript_links import TranscriptLinks

    text = render_page(analysis, TranscriptLinks.beside("r & co_transcripts", ("bare", "python")))
    assert "transcripts in the folder r &amp; co_transcripts beside this page. If the page came without it" in text
    assert 'id="transcripts"' not in text
    alone = render_page(analysis)
    assert alone.count('class="points"') == 4  # of what leads to the map
    assert points_to_transcripts(alone) == set()
    assert "beside this page" not in alone
