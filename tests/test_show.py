from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from helpers.command import Done
from helpers.tiny_models import TOOL
from helpers.transcripts import CALL, SPEC, TASK, attempt_of, returns, says, view_of
from helpers.two_runs import LIVE, add, tasks
from testbed.report.told_first import told_first
from testbed.report.transcript import BEGINNING, print_side_by_side, print_transcript
from testbed.report.transcript_view import TranscriptView
from testbed.store.schema import pack
from testbed.types import Task

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202ereversed [bold]not markup[/bold]"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("show") / "testbed.sqlite"
    half = [True, False, True, False]
    add(path, "r", tasks(3), {"bare": [half] * 3, "python": [[True] * 4] * 3}, specs={"python": LIVE})
    return path


@pytest.fixture
def store(stored: Path, tmp_path: Path) -> Path:
    """Where the command looks by default."""
    return Path(shutil.copy(stored, tmp_path))


def ids(testbed: Callable[..., Done], arm: str) -> list[str]:
    return [line.split()[0] for line in testbed("show", "r", "--arm", arm).out.splitlines()[1:]]


def printed(*views: TranscriptView, width: int = 100, terminal: bool = True, full: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, highlight=False, legacy_windows=False)
    if len(views) == 2:
        print_side_by_side(*views, console, full=full)
    else:
        print_transcript(*views, console, full=full)
    return file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_an_attempt_is_shown_with_calls_budget_end_and_grade() -> None:
    said = (says(CALL), returns("4", tokens=1, remaining={"turns": 7, "tool_calls": 3}), says("<answer>4</answer>"))
    shown = printed(view_of(*said), terminal=False)
    for line in (
        "budget: 300 generated tokens, 4 tool calls, 8 turns",
        "── 2 · assistant",
        "  calls python",
        "  code: print(2+2)",
        "── 3 · tool python, 1 token",
        "  answers: 4",
        "why it ended   It answered, and the answer was graded.",
        "outcome        success, says the grader exact/1",
        "reference      4",
    ):
        assert line in shown.splitlines(), line
    assert shown.count("left: ") == 4


def test_what_the_model_was_told_before_the_task_stands_before_it() -> None:
    spec = {**SPEC, "model": {"kind": "chat", "native": True, "system": "Be\nbrief."}, "schemas": json.dumps([TOOL])}
    view = replace(view_of(says("<answer>4</answer>")), given=told_first(spec))
    lines = printed(view, terminal=False).splitlines()
    at = lines.index("system         Be")
    assert lines[at : at + 4] == [
        "system         Be",
        "               brief.",
        "tools          lookup, told in the provider's own form:",
        f"               {json.dumps(TOOL['function'])}",
    ]
    assert at < lines.index("── 1 · user")


def test_a_long_system_text_is_cut_on_a_terminal_and_whole_when_asked() -> None:
    view = replace(view_of(), given=(("system", "x" * 100_000),))
    assert f"{100_000 - BEGINNING:,} more characters; --full shows them" in plain(printed(view))
    assert plain(printed(view, full=True)).count("x") >= 100_000


def test_two_attempts_whose_models_were_told_the_same_say_it_once() -> None:
    left, right = view_of(name="one"), view_of(name="other")
    alike = printed(*(replace(view, given=(("system", "Be brief."),)) for view in (left, right)), terminal=False)
    assert alike.count("system         Be brief.") == 1
    apart = printed(replace(left, given=(("tools", "none"),)), replace(right, given=(("tools", "python"),)), width=50)
    assert "tools          one: none" in plain(apart)
    assert "other: python" in plain(apart)


def test_two_attempts_stand_beside_each_other_on_a_terminal_with_what_differs_marked() -> None:
    left = view_of(says(CALL), returns("4 apples"), says("<answer>4 apples</answer>"), name="one")
    right = view_of(says(CALL), returns("5 apples"), says("<answer>5 apples</answer>"), name="other", sample=1)
    shown = printed(left, right)
    row = next(line for line in plain(shown).splitlines() if "4 apples" in line)
    assert "5 apples" in row
    assert "\x1b[1;4m4\x1b[0m" in shown  # bold and underlined: not by colour alone
    assert plain(shown).count("the same in both") == 2


@pytest.mark.parametrize("width", [60, 61, 79, 80, 123, 250])
def test_beside_each_other_no_line_is_wider_than_the_terminal(width: int) -> None:
    left = view_of(says(f"{'word ' * 80}{CALL}"), returns("x" * 500), says("<answer>4</answer>"), name="one")
    right = view_of(says("<answer>" + "9" * 200 + "</answer>"), name="other", sample=1, answer="9" * 200)
    lines = plain(printed(left, right, width=width)).splitlines()
    rows = lines[lines.index(next(line for line in lines if line.startswith("── 1"))) :]
    assert max(map(len, rows)) <= width
    assert sum("one" in line and "other" in line for line in rows) >= 2  # headings in one line, and of the facts


@pytest.mark.parametrize(("width", "terminal"), [(59, True), (200, False)])
def test_narrow_or_piped_one_stands_below_the_other_and_marks_are_characters(width: int, terminal: bool) -> None:
    left, right = view_of(says("<answer>4</answer>"), name="one"), view_of(says("<answer>5</answer>"), name="other")
    shown = plain(printed(left, right, width=width, terminal=terminal))
    assert "assistant · one" in shown
    assert "assistant · other" in shown
    assert not any("one" in line and "other" in line for line in shown.splitlines() if line.startswith("──"))
    if not terminal:
        assert "answers: ⟦4⟧" in shown
        assert "answers: ⟦5⟧" in shown
        assert "\x1b" not in printed(left, right, width=width, terminal=False)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_model_wrote_drives_no_terminal_and_is_no_markup(terminal: bool) -> None:
    view = view_of(says(ESCAPES), returns(ESCAPES, tool=ESCAPES, fault=ESCAPES), name=ESCAPES, answer=ESCAPES)
    for shown in (printed(view, terminal=terminal), printed(view, view_of(says("x"), name="y"), terminal=terminal)):
        assert not re.search(r"\x1b(?!\[[0-9;]*m)|\x07|\u202e", shown)
        assert "owned" in plain(shown)
        assert "bold" in plain(shown)


def test_long_texts_are_cut_on_a_terminal_and_whole_elsewhere_or_when_asked() -> None:
    view = view_of(returns("x" * 1_000_000))
    cut = printed(view)
    assert len(cut) < 20_000
    assert f"{1_000_000 - BEGINNING:,} more characters; --full shows them" in plain(cut)
    answered = [view_of(says("hm"), name=name, answer="y" * 1_000_000) for name in ("one", "other")]
    assert len(printed(*answered)) < 20_000
    assert printed(view, full=True).count("x") >= 1_000_000
    assert printed(view, terminal=False).count("x") >= 1_000_000


def test_a_list_of_attempts_stays_short_whatever_they_answered(tmp_path: Path, testbed: Callable[..., Done]) -> None:
    wide = tuple(Task("Sums-v0", f"{n}" + "\u0301" * 1_000_000, 1) for n in range(2))
    add(tmp_path / "testbed.sqlite", "r", wide, {"bare": [[True]] * 2})
    done = testbed("show", "r")
    assert done.code == 0, done.err
    assert len(done.out) < 5_000


def test_answers_of_which_nothing_would_be_seen_are_listed_as_none_or_empty(
    store: Path, testbed: Callable[..., Done]
) -> None:
    with sqlite3.connect(store) as connection:
        (bare,) = connection.execute("SELECT arm FROM run_arms WHERE name = 'bare'").fetchone()
        change = "UPDATE attempts SET answer = ?, ended = ? WHERE sample = ? AND arm = ?"
        for sample, answer, ended in ((0, None, "answered"), (1, None, "limit:turns"), (3, " \n", "answered")):
            connection.execute(change, (pack(answer), ended, sample, bare))
    connection.close()
    done = testbed("show", "r", "--arm", "bare")
    assert done.code == 0, done.err
    said = [re.split(r"\s{2,}", line.strip())[2:5] for line in done.out.splitlines()[1:]]
    shown = {sample: (outcome, answer) for sample, outcome, answer in said}
    assert (shown["0"], shown["1"]) == (("success", "(not recorded)"), ("failure", "(none)"))
    assert not shown["2"][1].startswith("(")
    assert shown["3"] == ("failure", "(empty)")


def test_attempts_whose_task_is_gone_are_listed_as_such(store: Path, testbed: Callable[..., Done]) -> None:
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM tasks WHERE hash = ?", (tasks(1)[0].hash,))
    connection.close()
    done = testbed("show", "r", "--task", tasks(1)[0].hash[:8])
    assert done.code == 0, done.err
    assert "(not in the store)" in done.out


def test_the_command_shows_two_attempts_by_their_ids(store: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("show", ids(testbed, "bare")[0], ids(testbed, "python")[0])
    assert done.code == 0, done.err
    assert "of arm bare beside attempt" in done.out
    assert "At the same task, both sample 0. 1 of 2 steps say the same" in done.out
    assert "answers: ⟦bare⟧ 0" in done.out
    assert "answers: ⟦python⟧ 0" in done.out


def test_the_command_tells_what_the_model_was_told_first(store: Path, testbed: Callable[..., Done]) -> None:
    for arm, tools in (("bare", "none"), ("python", "python: described in the system text")):
        (one, *_) = ids(testbed, arm)
        assert re.search(rf"^tools +{tools}$", testbed("show", one).out, re.MULTILINE)
    assert testbed("show", one, "--html", "one.html").out == "wrote one.html\n"
    assert "<dt>tools</dt>" in Path("one.html").read_text()
    pair = testbed("show", "r", "--task", "0 + 0?", "--arm", "python", "--against", "bare").out
    assert re.search(r"^tools +bare: none$", pair, re.MULTILINE)


@pytest.mark.parametrize(("more", "sample"), [([], 0), (["--sample", "3"], 3)])
def test_the_command_picks_both_arms_attempts_of_a_task(
    store: Path, testbed: Callable[..., Done], more: list[str], sample: int
) -> None:
    done = testbed("show", "r", "--task", "1 + 1?", "--arm", "python", "--against", "bare", *more)
    assert done.code == 0, done.err
    assert f"answers: ⟦bare⟧ {sample}" in done.out
    assert f"answers: ⟦python⟧ {sample}" in done.out
    assert done.out.index("bare⟧") < done.out.index("python⟧")


def test_a_transcript_is_written_as_a_page(store: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("show", ids(testbed, "bare")[0], "--html", "one.html")
    assert (done.code, done.out) == (0, "wrote one.html\n")
    page = Path("one.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    assert "<script" not in page
    done = testbed("show", "r", "--task", "1 + 1?", "--arm", "python", "--against", "bare", "--html", "two.html")
    assert done.code == 0, done.err
    assert "<mark>python</mark>" in Path("two.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["r", "--arm", "python", "--against", "bare"], "--against needs --task"),
        (["r", "--task", "+", "--arm", "python", "--against", "bare"], "3 tasks have '+' in their prompt"),
        (["r", "--task", "+", "--against", "bare"], "--against NAME needs --arm NAME"),
        (["r", "--task", "none", "--arm", "python", "--against", "bare"], "no task of run 'r' has 'none'"),
        (["r", "--task", "1 + 1?", "--arm", "pyton", "--against", "bare"], "Did you mean 'python'?"),
        (["r", "--task", "1 + 1?", "--arm", "python", "--against", "bare", "--sample", "9"], "share 0 to 3"),
        (["r", "--html", "x.html"], "--html writes a transcript"),
        (["r", "3f2a91"], "give only the id: testbed show 3f2a91"),
        (["zzzz"], "zzzz"),
        (["zzzz", "3f2a91"], "zzzz"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(
    store: Path, testbed: Callable[..., Done], words: list[str], told: str
) -> None:
    done = testbed("show", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_the_arm_of_an_attempt_is_named_as_the_newest_run_names_it(store: Path, testbed: Callable[..., Done]) -> None:
    first = ids(testbed, "python")[0]
    assert "of arm python: success" in testbed("show", first).out
    for created, name in (("2026-03-01", "newest"), ("2026-02-01", "older")):
        add(store, name, tasks(3), {name: [[]] * 3}, specs={name: LIVE}, created=created)
    done = testbed("show", first)
    assert "of arm newest: success" in done.out
    assert "budget: 8 turns" in done.out


FORGED = ("── 3 · tool python, 1 token", "outcome        success, says the grader exact/1", "reference      5")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_nothing_that_a_model_wrote_begins_a_line(terminal: bool, both: bool) -> None:
    text = "\n".join(["Hm.", *FORGED])
    call = json.dumps({"name": f"a\n{FORGED[0]}", "arguments": {f"b\n{FORGED[1]}": f"c\n{FORGED[2]}"}})
    wrapped = " " * 98 + "".join(line.ljust(100) for line in FORGED)  # where a terminal breaks its lines
    said = (says(text), returns(text), says(f"<tool_call>{call}</tool_call>"), says(wrapped))
    views = [view_of(*said, answer=text, success=False, sample=n) for n in range(1 + both)]
    lines = plain(printed(*views, terminal=terminal)).splitlines()
    for forged in FORGED:
        assert not [line for line in lines if line.startswith(forged)], forged
        assert [line for line in lines if forged in line], forged  # indented, and not lost


def test_an_unknown_run_names_those_there_are_the_nearest_first(testbed: Callable[..., Done], tmp_path: Path) -> None:
    for name in ("sums", "zzz", "demo-2", "words", "a", "b", "c"):
        add(tmp_path / "testbed.sqlite", name, tasks(1), {"bare": [[True]]})
    done = testbed("show", "demo")
    assert done.code == 2
    assert "'demo' is no attempt and no run" in done.err
    assert "The runs here: 'demo-2', " in done.err
    assert "and 2 more (testbed list runs)." in done.err


def test_a_result_that_the_model_imagined_is_said_to_be_its_own() -> None:
    said = (says(CALL), returns("(no output)", tokens=0), says(CALL), returns("error", fault="bad_arguments", tokens=0))
    attempt, spec = attempt_of(*said), {**SPEC, "control": "imagined"}
    shown = printed(TranscriptView.of(attempt, TASK, "imagined", spec), terminal=False)
    assert "── 3 · tool python, imagined: the model wrote this result itself" in shown.splitlines()
    assert "── 5 · tool python, bad arguments, 0 tokens" in shown.splitlines()
    assert "wrote this result itself" not in printed(TranscriptView.of(attempt, TASK, "live", SPEC), terminal=False)
