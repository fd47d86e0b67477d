from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from testbed.report.analyse import analyse
from testbed.report.findings import findings
from testbed.report.record import Analysis, Effect
from testbed.report.text import print_report
from testbed.report.words import amount, further, number
from testbed.store import ArmRecord, Outcomes
from testbed.types import COST_COMPONENTS, Task

ARMS = ("bare", "inert", "python", "search", "retrieve", "all")
# Success of one attempt per arm, in the order of ARMS.
FAMILIES = {
    ("Multiplication-v0", "2 digits"): (0.06, 0.06, 1, 0.06, 0.06, 1),
    ("Multiplication-v0", "4 digits"): (0, 0, 1, 0, 0, 1),
    ("Addition-v0", "2 digits"): (0.5, 0.5, 1, 0, 0.5, 1),
    ("Facts-v0", "document"): (0, 0, 0, 1, 1, 1),
}


def generated(
    *,
    names: tuple[str, ...] = ARMS,
    per_family: int = 12,
    bare: int = 224,
    other: int = 16,
    missing: int = 0,
    sampled: bool = True,
) -> Outcomes:
    rng = np.random.default_rng(7)
    tasks, chances = [], []
    for (environment, family), chance in FAMILIES.items():
        for i in range(per_family):
            tasks.append(Task(environment, f"{family} {i}", i, meta={"family": family}))
            chances.append(chance)
    parts = []
    for position in range(len(names)):
        n = bare if position == 0 else other
        task = np.repeat(np.arange(len(tasks)), n)
        success = (rng.random(task.size) < np.array(chances)[task, position]).astype(np.int8)
        success[:missing] = -1
        cost = np.zeros((task.size, len(COST_COMPONENTS)))
        cost[:, 0] = rng.integers(10, 90, task.size)
        cost[:, COST_COMPONENTS.index("model_calls")] = 1 + (position > 0)
        parts.append((task, np.full(task.size, position), np.tile(np.arange(n), len(tasks)), success, cost))
    task, arm, sample, success, cost = (np.concatenate(column) for column in zip(*parts, strict=True))
    controls = ("absent", "inert", "live", "live", "live", "live")
    records = tuple(
        ArmRecord(str(i), name, {"control": controls[i], "sampling": {"temperature": float(sampled)}})
        for i, name in enumerate(names)
    )
    ended = np.where(success < 0, "missing:sandbox_died", "answered")
    faults = np.zeros(task.size, np.int32)
    whole = (task.astype(np.int32), arm.astype(np.int32), sample.astype(np.int32))
    return Outcomes(tuple(tasks), records, *whole, success, cost, ended, faults, np.zeros(task.size, np.bool_))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(generated(), name="demo")


def shown(analysis: Analysis, *, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)  # type: ignore[arg-type]
    print_report(analysis, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def printed(analysis: Analysis) -> str:
    return shown(analysis)


def words(text: str) -> str:
    """The text with line breaks taken out."""
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 60, 120])
def test_no_line_is_wider_than_the_terminal(analysis: Analysis, width: int) -> None:
    assert max(len(line) for line in shown(analysis, width=width).splitlines()) <= width


def test_no_figure_or_heading_breaks_in_80_columns(printed: str) -> None:
    for whole in ("undetermined", "preserved", "retrieve", "model calls", "elicitation [95%]"):
        assert whole in printed
    assert not re.search(r"\[[^]\[]*\n[^]\[]*\]", re.sub(r"(?m)^ .*$", "", printed))  # outside of the prose


def test_without_a_terminal_there_is_no_control_character(printed: str) -> None:
    assert "\x1b" not in printed
    assert all(c == "\n" or c.isprintable() for c in printed)


def test_colour_adds_styles_and_changes_no_word(analysis: Analysis, printed: str) -> None:
    coloured = shown(analysis, force_terminal=True, color_system="standard")
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed


def test_python_creates_long_products_elicits_sums_and_the_sentence_says_in_how_many_attempts(printed: str) -> None:
    text = words(printed)
    python = text[text.index("python gain") : text.index("search gain")]
    assert "Multiplication, 4 digits: 12 of 12 tasks expanded, not reached in 224 bare attempts each" in python
    assert python.index("creates") < python.index("Multiplication, 4 digits") < python.index("elicits")
    assert re.search(r"elicits .*Addition: 12 tasks, elicitation 0\.\d\d \[0\.\d\d, 0\.\d\d\]", python)
    assert "creates, beyond 16 bare attempts over all 48 tasks" in python
    assert "too few tasks to tell, on Facts: 12 tasks, gain +0.00 [-0.27, +0.27]" in python


def test_what_was_lost_is_said(printed: str) -> None:
    text = words(printed)
    search = text[text.index("search gain") : text.index("retrieve gain")]
    assert re.search(r"loses over all 48 tasks: loss 0\.\d+ \[0\.0\d+, 0\.\d+\] Addition: 12 tasks, loss 0\.", search)


def test_the_closing_text_has_every_claim_about_an_environment_that_the_table_of_groups_has(
    analysis: Analysis, printed: str
) -> None:
    text = words(printed)
    python = text[text.index("python gain") : text.index("search gain")]
    creates, _, elicits = python.partition("elicits")
    assert "Multiplication as a whole: 1" in creates
    assert "Multiplication, 2 digits: 12 tasks, elicitation" in elicits
    for comparison in analysis.comparisons:
        told = [(f.effect, phrase) for f in findings(analysis, comparison) for phrase in f.phrases]
        for group in (g for g in analysis.groups if not g.within):
            found = next(e for e in group.effects if e.arm == comparison.arm)
            for effect in (Effect.UNDETERMINED,) if found.too_few else found.effects:
                assert any(kind is effect and phrase.startswith(group.label) for kind, phrase in told)


def test_nothing_seen_on_few_tasks_is_told_from_nothing_seen_on_many(analysis: Analysis) -> None:
    """An interval from -0.6 to 0.6 holds 0, and is no sign of anything."""
    many = analyse(generated(per_family=60, bare=32), name="demo")
    for read, verb, cell in ((analysis, "too few tasks to tell, on", "undet."), (many, "no sign", "no sign")):
        found = next(e for g in read.groups if g.label == "Facts" for e in g.effects if e.arm == "python")
        assert found.effects == (Effect.NOTHING,)
        assert found.too_few == (read is analysis)
        comparison = next(c for c in read.comparisons if c.arm == "python")
        said = next(f for f in findings(read, comparison) if any(p.startswith("Facts") for p in f.phrases))
        assert verb in said.verb
        lines = shown(read).splitlines()
        row = next(line for line in lines if line.startswith("Facts "))
        assert cell in lines[lines.index(row) + 1]


def test_nothing_is_said_over_all_tasks_where_missing_attempts_could_overturn_it(printed: str) -> None:
    assert "over all 48 tasks: creation" in words(printed)
    whole = analyse(generated(per_family=6, bare=64))
    lacking = analyse(generated(per_family=6, bare=64, missing=5))
    assert "over all 24 tasks: creation" in words(shown(whole))
    assert "over all 24 tasks" not in words(shown(lacking))


def test_the_units_of_nats_and_of_matching_attempts_are_said(printed: str) -> None:
    text = words(printed)
    assert "at equal attempts (16; null row 112)" in text
    assert "the fewest whose mean reach is that of the arm at 1 attempt" in text


def test_reach_is_headed_by_the_attempts_that_there_are() -> None:
    few = shown(analyse(generated(names=("bare", "inert"), per_family=3, bare=4, other=4)))
    assert "reach@4 [95%]" in few
    assert "within" not in few.partition("Gain over")[0].partition("Arms on")[2]
    mixed = shown(analyse(generated(names=("bare", "inert"), per_family=3, bare=32, other=4)))
    assert "reach@16 [95%]" in mixed
    assert re.search(r"^ +within 4$", mixed, re.MULTILINE)
    assert "A reach within fewer attempts, of an arm that has no more, is no match" in words(mixed)


def test_the_null_row_stands_in_every_table_that_compares(printed: str) -> None:
    tables = re.split(r"\n\n", printed)
    for title in ("Gain over bare", "Verdicts on tasks", "Support against bare", "The gain over bare in"):
        (table,) = (t for t in tables if t.startswith(title))
        assert "\nnull row " in table


def test_no_report_calls_anything_unreachable_or_uses_plus_minus(printed: str) -> None:
    assert "unreachable" not in printed
    assert "±" not in printed


def test_every_table_with_intervals_names_their_level(printed: str) -> None:
    at_99 = analyse(generated(per_family=3, bare=32), alpha=0.01)
    for report, level in ((printed, "95%"), (shown(at_99), "99%")):
        for table in re.split(r"\n\n", report):
            if re.search(r"\[[-+0-9.>]+, [-+0-9.>  ]+\]", table) and "gain " not in table:
                assert level in table, table


def test_the_same_data_print_the_same_report(printed: str) -> None:
    assert shown(analyse(generated(), name="demo")) == printed


def test_the_groups_table_says_what_each_arm_did(printed: str) -> None:
    table = next(t for t in printed.split("\n\n") if t.startswith("Groups of tasks"))
    assert re.search(r"  4 digits +12 +0\.00 +0\.00 +1\.00 +0\.00 +0\.00 +1\.00\n +undet\. +created +undet\.", table)
    assert re.search(r"Facts +12 +0\.00 +0\.00 +0\.00 +1\.00", table)


def test_missing_attempts_are_shown_with_both_way_bounds() -> None:
    text = words(shown(analyse(generated(per_family=3, bare=32, missing=5))))
    assert "The infrastructure ended attempts of bare 5 of 384" in text
    assert re.search(r"0\.\d{3} to 0\.\d{3}", text)


def test_names_with_markup_and_control_characters_are_shown_and_do_nothing() -> None:
    hostile = ("bare", "[red]x[/red]", "\x1b[2Jclear", "a\nb", "c\u202ed", "e")
    text = shown(analyse(generated(names=hostile, per_family=3, bare=32)), width=200)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "?[2Jclear" in text


def test_a_report_of_one_arm_says_that_there_is_nothing_to_compare() -> None:
    text = words(shown(analyse(generated(names=("bare",), per_family=3, bare=8))))
    assert "There is only one arm, 'bare'" in text
    assert "Gain over" not in text
    assert "pass@1 [95%]" in text


def test_findings_of_an_arm_like_bare_claim_no_effect(analysis: Analysis) -> None:
    inert = next(c for c in analysis.comparisons if c.arm == "inert")
    verbs = {"no sign of an effect on", "undetermined", "nothing seen, and too few tasks to tell, on"}
    assert {f.verb for f in findings(analysis, inert)} <= verbs


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [(0.351, "0.35", "+0.35"), (-0.0001, "0.00", "+0.00"), (0.0021, "0.002", "+0.002"), (-0.2, "-0.20", "-0.20")],
)
def test_figures_have_two_decimals_and_no_zero_hides_a_small_one(value: float, plain: str, signed: str) -> None:
    assert number(value) == plain
    assert number(value, signed=True) == signed
    assert number(None) == "n/a"


def test_costs_and_projections_are_rounded_to_what_they_can_carry() -> None:
    assert [amount(x) for x in (0, 0.0498, 33.33, 1234.5, None)] == ["0", "0.0498", "33.3", "1,234", "n/a"]
    assert [further(x) for x in (0, 54, 297_056, None)] == ["0", "54", "about 300,000", "out of sight"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_piped_into_a_file_of_any_encoding_it_prints(tmp_path: Path, encoding: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_report_text as t\n"
        "names = ('bare', 'höhe', 'python', 'search', 'retrieve', '検索')\n"
        "t.print_report(t.analyse(t.generated(names=names, per_family=2, bare=8)))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode(encoding)
    assert "höhe" in text if encoding == "utf-8" else "h?he" in text
