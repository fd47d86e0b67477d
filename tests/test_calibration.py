"""The calibration suite itself: its cases pass, its table says so, and its command fails when one does not."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.calibrated import keep_runs
from testbed import registry
from testbed.calibration import CASES, QUICK, codes, table
from testbed.calibration.case import Check, Rate, Size, Written
from testbed.calibration.expect import coverage, false_discoveries, few_wrong, near
from testbed.calibration.mechanisms import MECHANISMS
from testbed.cli import app
from testbed.errors import UnknownName

SMALL = Size(tasks=24, attempts=64, suites=40)
HEAVY = {"bare-bare": 16, "exact-tilt": 16, "best-of-n": 16, "stopped-when-good": 30}  # suites: dear ones get few
OWN = [case for case in CASES if case not in MECHANISMS]


def failures(checks: list[Check]) -> list[str]:
    return [f"{check.what}: {check.said}" for check in checks if not check.passed]


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_a_case_passes_at_a_small_size(case: Written, calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_runs(calibrated / case.name, monkeypatch)  # which are also read wrongly, in test_calibration_mutants.py
    checks = case.run(Size(tasks=24, attempts=64, suites=HEAVY.get(case.name, 40)), seed=3)
    assert checks
    assert not failures(checks)


def test_the_same_seed_gives_the_same_checks_and_another_seed_others() -> None:
    case = next(case for case in CASES if case.name == "zero-inflated")
    small = Size(tasks=12, attempts=16, suites=10)
    assert case.run(small, 5) == case.run(small, 5)
    said = [[check.said for check in case.run(small, seed)] for seed in (5, 6)]
    assert said[0] != said[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_case_passes_in_its_quick_form() -> None:
    results = list(table.calibrate(CASES, QUICK, seed=1))
    assert not [line for result in results for line in failures(list(result.checks))]


def test_names_differ_and_fit_the_table() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 20
    assert all(case.truth for case in CASES)


def test_the_locks_are_a_sound_environment() -> None:
    registry.load_plugin(codes.__file__)
    made = registry.make_env("CalibrationCodes-v0", strata={"a": 3, "b": 2}, wordings=5)
    assert made.validate().problems == ()
    assert len(made.tasks) == 25
    assert len({task.cluster for task in made.tasks}) == 5


# -- expectations fail where they should


def test_coverage_passes_what_chance_explains_and_fails_what_it_does_not() -> None:
    assert coverage("x", [True] * 190 + [False] * 10).passed
    assert coverage("x", [True] * 180 + [False] * 20).passed  # 90% of 200: chance explains it once in 300 times
    assert not coverage("x", [True] * 170 + [False] * 30).passed
    assert not coverage("x", [True] * 1840 + [False] * 160).passed


def test_false_discoveries_fail_above_their_level() -> None:
    assert false_discoveries("x", [0.0] * 100).passed
    assert false_discoveries("x", [0.0] * 95 + [1.0] * 5).passed
    assert not false_discoveries("x", [0.0] * 80 + [1.0] * 20).passed


def test_wrong_claims_and_far_means_fail() -> None:
    assert few_wrong("x", 2, 40).passed
    assert not few_wrong("x", 12, 40).passed
    assert near("x", 0.51, 0.5, 0.005).passed
    assert not near("x", 0.53, 0.5, 0.005).passed


# -- the table and the command


@dataclass(frozen=True)
class Told:
    name: str
    truth: str
    checks: tuple[Check, ...]

    def run(self, size: Size, seed: int) -> list[Check]:
        return list(self.checks)


GOOD = Told("good", "nothing differs", (Check("a", "b", True), Rate("c", "95.0%", True, "coverage", 0.95, 100)))
BAD = Told("bad", "something differs", (Check("fine", "as it should", True), Check("sees it", "saw nothing", False)))


def shown(*cases: Told, width: int = 80) -> str:
    results = list(table.calibrate(cases, SMALL, 0))
    console = Console(width=width, file=io.StringIO(), highlight=False)
    table.print_results(results, SMALL, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_rates_and_every_failed_expectation() -> None:
    text = shown(GOOD, BAD)
    assert "95.0%" in text
    assert "FAIL" in text
    assert "NOT MET" in text
    assert "sees it: saw nothing" in text
    assert "1 of 2 cases pass" in text


def test_the_table_fits_eighty_columns() -> None:
    long = Told(
        "a-case-of-20-letters", "what is true " * 6, (Check("what was expected " * 6, "what was said " * 6, True),)
    )
    assert max(len(line) for line in shown(long, BAD).splitlines()) <= 80


def test_a_case_without_an_expectation_does_not_pass() -> None:
    assert not next(table.calibrate([Told("empty", "?", ())], SMALL, 0)).passed


def test_the_command_exits_with_one_where_a_case_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CASES", (GOOD, BAD))
    assert CliRunner().invoke(app, ["calibrate", "--case", "good"]).exit_code == 0
    assert CliRunner().invoke(app, ["calibrate"]).exit_code == 1


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CASES", (GOOD, BAD))
    done = CliRunner().invoke(app, ["calibrate", "--json", "--seed", "4"])
    record = json.loads(done.stdout)
    assert done.exit_code == 1
    assert record["seed"] == 4
    assert record["passed"] is False
    assert [case["passed"] for case in record["cases"]] == [True, False]
    assert record["cases"][0]["checks"][1]["kind"] == "coverage"


def test_an_unknown_case_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="best-of-n"):
        table.chosen(["best-of-m"])


def test_the_command_runs_one_real_case_and_lists_its_expectations() -> None:
    done = CliRunner().invoke(app, ["calibrate", "--case", "under-reported-cost"])
    assert done.exit_code == 0, done.output
    assert "both are booked the same tokens" in " ".join(done.stdout.split())
