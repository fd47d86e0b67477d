"""Twenty questions, where only answers to one's own questions help, and a hint, which helps whoever asked for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from testbed.calibration import guessing
from testbed.calibration.case import Check, Size
from testbed.calibration.expect import near, that
from testbed.calibration.guessing import NO, YES
from testbed.calibration.instrument import examine
from testbed.calibration.mechanisms_shared import (
    all_read,
    error,
    experiment,
    figures,
    first_text,
    ladder_of,
    playing,
    results_of,
    said_of,
    tool_named,
)
from testbed.models.base import Request
from testbed.protocol import parse, write_answer, write_call
from testbed.report.analyse import Analysis
from testbed.stats import Verdict

ASK, HINT = "calibration_ask", "calibration_hint"
NUMBERS = 32
GUESS = 1 / NUMBERS
HEARS = 0.9  # chance of taking a hint as it was given
STEPS = ("scaffold", "information", "interaction")  # of the ladder, from bare to live


def player(request: Request, rng: np.random.Generator) -> str:
    """Halves what is left by questions, or takes a hint, or guesses: as the offered tool allows."""
    found = re.search(r"Game ((\d+)-\d+):", first_text(request.messages))
    assert found is not None
    game, numbers = found[1], int(found[2])
    tool, told = tool_named(request.tools), results_of(request.messages)
    if tool == ASK:
        left = _left(request, numbers)
        if len(left) > 1 and (not told or told[-1] in (YES, NO)):
            half = rng.choice(left, len(left) // 2, replace=False)
            return write_call(ASK, {"game": game, "numbers": sorted(map(int, half))})
        return write_answer(str(rng.choice(left)))
    if tool == HINT and not told:
        return write_call(HINT, {"game": game})
    given = re.search(r"The number is (\d+)\.", told[-1]) if told else None
    if given is None:
        return write_answer(str(rng.integers(1, numbers + 1)))
    return write_answer(given[1] if rng.random() < HEARS else str(int(given[1]) % numbers + 1))


def _left(request: Request, numbers: int) -> list[int]:
    """What the number may be, after the answers to this attempt's questions."""
    left = set(range(1, numbers + 1))
    questions = [parse(message["content"]).calls for message in request.messages if message["role"] == "assistant"]
    for calls, reply in zip(questions, results_of(request.messages), strict=False):
        asked: Mapping[str, Any] = calls[0].arguments
        if reply in (YES, NO):
            left = left & set(asked["numbers"]) if reply == YES else left - set(asked["numbers"])
    return sorted(left)


@dataclass(frozen=True)
class TwentyQuestions:
    """Every question halves what is left, chosen at random: answers to another attempt's questions say nothing."""

    name: ClassVar[str] = "twenty-questions"
    truth: ClassVar[str] = f"live 1; bare, inert and yoked 1/{NUMBERS}: all of the gain is interaction"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        return _climbed(_examine(self.name, ASK, size, seed), {"inert": GUESS, "yoked": GUESS, "live": 1.0})


@dataclass(frozen=True)
class FixedHint:
    """The same sentence to every attempt at a task: what another attempt was told does as well."""

    name: ClassVar[str] = "fixed-hint"
    truth: ClassVar[str] = f"yoked and live {HEARS}; bare and inert 1/{NUMBERS}: all of the gain is information"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        return _climbed(_examine(self.name, HINT, size, seed), {"inert": GUESS, "yoked": HEARS, "live": HEARS})


def _examine(name: str, tool: str, size: Size, seed: int) -> Analysis:
    return examine(
        experiment(
            name,
            seed,
            {"id": "CalibrationGuessing-v0", "numbers": NUMBERS, "tasks": max(2, size.tasks // 6), "seed": seed},
            ladder_of(tool),
            samples=size.attempts,
            elicitation=2,
            tool={tool: {"seed": seed}},
        ),
        models=playing(player),
        plugins=[guessing],
    )


def _climbed(analysis: Analysis, truth: Mapping[str, float]) -> list[Check]:
    """What a ladder of arms, whose chances are known, must read as."""
    return [
        *_readings(analysis, "yoked", expanded=truth["yoked"] > GUESS),
        *_readings(analysis, "live", expanded=True),
        *_successes(analysis, truth),
        *_steps(analysis, truth),
    ]


def _successes(analysis: Analysis, truth: Mapping[str, float]) -> list[Check]:
    found = []
    for arm, p in {"bare": GUESS, **truth}.items():
        summary = analysis.arm(arm)
        assert summary.pass_1.value is not None
        found.append(near(f"success {arm}", summary.pass_1.value, p, error(p, summary.attempts)))
    return found


def _steps(analysis: Analysis, truth: Mapping[str, float]) -> list[Check]:
    """The steps of the ladder, each by its name."""
    rungs = {rung.meaning: rung for rung in analysis.ladder}
    chances = {"bare": GUESS, **truth}
    found = [that("steps of the ladder", ", ".join(rungs), tuple(rungs) == STEPS)]
    for meaning, rung in rungs.items():
        below, above = chances[rung.lower], chances[rung.upper]
        # Arms share their randomness, so errors may add up.
        noise = sum(error(chances[arm], analysis.arm(arm).attempts) for arm in (rung.lower, rung.upper))
        assert rung.difference.value is not None
        found.append(near(f"{meaning}, {rung.lower} → {rung.upper}", rung.difference.value, above - below, noise))
    return found


def _readings(analysis: Analysis, arm: str, *, expanded: bool) -> list[Check]:
    found = figures(analysis, arm)
    if expanded:
        return [all_read(f"{arm} against bare", found, Verdict.EXPANDED)]
    said = found.verdicts.counts[Verdict.EXPANDED]
    none = that(f"{arm} against bare: no task expanded", said_of(found.verdicts.counts), said == 0)
    return [none, all_read(f"{arm} against bare", found, Verdict.OUT_OF_REACH)]
