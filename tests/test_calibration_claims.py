"""What the report says in words and small print: each test breaks one of them, and sees the calibration notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import testbed.report.arms
import testbed.report.groups
import testbed.stats.compare
import testbed.stats.figures
import testbed.stats.parts
from testbed.calibration.case import Size
from testbed.calibration.claims import NOTHING_TO_ELICIT, SOMETHING, Setting, small_print, words
from testbed.calibration.expect import coverage, false_discoveries, few_wrong, too_narrow
from testbed.report.record import Effect
from testbed.stats import Estimate

SIZE = Size(tasks=24, attempts=64, suites=40)


def broken(settings: tuple[Setting, ...] = ()) -> list[str]:
    """What the cases find wrong: of claims in these settings, or of the small print."""
    checks = words(SIZE, 3, settings) if settings else small_print(SIZE, 3)
    return [f"{check.what}: {check.said}" for check in checks if not check.passed]


def rewritten(monkeypatch: pytest.MonkeyPatch, rule: Callable[[tuple[Effect, ...], Any], tuple[Effect, ...]]) -> None:
    """Breaks what the report says of a group, given what it would have said and the estimates."""
    real = testbed.report.groups._effects
    monkeypatch.setattr(
        testbed.report.groups, "_effects", lambda found, *rest: (rule(real(found, *rest)[0], found), False)
    )


def test_a_report_that_always_says_elicited_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(said: tuple[Effect, ...], found: Any) -> tuple[Effect, ...]:
        return (Effect.ELICITED,) if (found["elicitation_part"].value or 0) > 0.01 else said

    rewritten(monkeypatch, always)
    found = broken((NOTHING_TO_ELICIT[0], NOTHING_TO_ELICIT[3]))
    assert any("creation only" in line and "elicited" in line for line in found)
    assert any("alike, n = 4" in line and "elicited" in line for line in found)


def test_limits_of_the_cross_fitted_elicitation_itself_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect that was: elicitation takes what cross-fitted creation misses, and so is biased upward."""
    real = testbed.stats.parts.part_estimates

    def naive(found: Any) -> dict[str, Estimate]:
        return {**real(found), "elicitation_part": found["elicitation"]}

    monkeypatch.setattr(testbed.report.groups, "part_estimates", naive)
    assert any("said to be elicited" in line for line in broken(NOTHING_TO_ELICIT[3:5]))


def test_a_report_that_always_sees_no_effect_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(monkeypatch, lambda said, found: (Effect.NOTHING,) if said == (Effect.UNDETERMINED,) else said)
    assert any("no effect seen" in line for line in broken(SOMETHING[2:]))


def test_calling_creation_what_is_expanded_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(monkeypatch, lambda said, found: tuple(Effect.CREATED if e is Effect.EXPANDED else e for e in said))
    assert any("said to be created" in line for line in broken(SOMETHING[2:]))


def test_small_print_that_is_wrong_is_caught_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    support, worth = testbed.stats.figures.support_row, testbed.stats.figures._equivalent
    bands = testbed.report.arms.reach_bands

    def turned(*given: Any) -> Any:
        row = support(*given)
        return replace(row, **{n: _turned(getattr(row, n)) for n in ("srr", "ndr", "sds")}, nscr=row.srr)

    def thin(*given: Any, **more: Any) -> Any:
        return [replace(band, low=band.value, high=band.value) for band in bands(*given, **more)]

    monkeypatch.setattr(testbed.stats.figures, "support_row", turned)
    monkeypatch.setattr(testbed.stats.figures, "_equivalent", lambda *given: replace(worth(*given), k=9, low=1, high=1))
    monkeypatch.setattr(testbed.report.arms, "reach_bands", thin)
    monkeypatch.setattr(testbed.stats.compare, "_creation_by_spend", lambda *given: None)
    found = " ".join(broken())
    for line in ("SRR: ", "NDR: ", "SDS: ", "NSCR: ", "worth 2 bare attempts: covered", "median", "bands", "by spend"):
        assert line in found, line


def _turned(found: Estimate) -> Estimate:
    return replace(found, value=None if found.value is None else -found.value)


def test_an_expectation_on_nothing_fails() -> None:
    for check in (few_wrong("x", 0, 0), coverage("x", []), too_narrow("x", []), false_discoveries("x", [])):
        assert not check.passed
