"""A tool that only computes: it creates under a cap on tokens, and what it creates is gone once the cap is raised."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from testbed.calibration import recurrences
from testbed.calibration.case import Check, Size
from testbed.calibration.expect import near, that
from testbed.calibration.instrument import examine
from testbed.calibration.mechanisms_shared import (
    all_read,
    error,
    experiment,
    figures,
    first_text,
    playing,
    results_of,
    said_of,
    tool_named,
)
from testbed.models.base import Request
from testbed.protocol import write_answer, write_call
from testbed.report.analyse import Analysis
from testbed.stats import Verdict

TOOL = "calibration_iterate"
TIMES = 60  # steps; in longhand some 8 characters each, 2 tokens
CAREFUL = 0.8  # chance of no slip in longhand
COPIES = 0.95  # chance of copying the tool's result without one
ELICITATION = 4


def longhand(request: Request, rng: np.random.Generator) -> str:
    """Calls the tool and copies its result; without one, writes every step down."""
    start, multiplier, increment, modulus, times = map(int, re.findall(r"\d+", first_text(request.messages)))
    if request.tools:
        told = results_of(request.messages)
        if not told:
            numbers = dict(start=start, multiplier=multiplier, increment=increment, modulus=modulus, times=times)
            return write_call(tool_named(request.tools), numbers)
        return write_answer(told[-1] if rng.random() < COPIES else told[-1] + "0")
    slip = -1 if rng.random() < CAREFUL else int(rng.integers(times))
    x, steps = start, [str(start)]
    for step in range(times):
        x = (multiplier * x + increment + (step == slip)) % modulus
        steps.append(str(x))
    return " then ".join(steps) + write_answer(str(x))


@dataclass(frozen=True)
class ComputeOnly:
    """A tool that works out what the model can work out itself, in more tokens.

    Attributes:
        low: cap on generated tokens that only the short way fits into.
        high: cap that the long way fits into.
    """

    low: int = 60
    high: int = 400
    name: ClassVar[str] = "compute-only"
    truth: ClassVar[str] = "under the cap: bare 0, tool .95, all of it creation; cap raised: bare .8, all elicitation"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        return [*_capped(self._examine(self.low, size, seed)), *_raised(self._examine(self.high, size, seed), self.low)]

    def _examine(self, cap: int, size: Size, seed: int) -> Analysis:
        return examine(
            experiment(
                f"{self.name}-{cap}",
                seed,
                {"id": "CalibrationRecurrences-v0", "tasks": size.tasks // 2, "times": TIMES, "seed": seed},
                [{"name": "bare"}, {"name": "tool", "tools": [TOOL]}],
                samples=size.attempts,
                elicitation=ELICITATION,
                budget={"generated_tokens": cap},
            ),
            models=playing(longhand),
            plugins=[recurrences],
        )


def _capped(analysis: Analysis) -> list[Check]:
    bare, found = analysis.arm("bare"), figures(analysis, "tool")
    noise = error(COPIES, analysis.arm("tool").attempts)
    cut = bare.ended.get("limit:generated_tokens", 0)
    return [
        all_read("under the cap", found, Verdict.EXPANDED),
        that("under the cap: every bare attempt is cut by it", f"{cut} of {bare.attempts}", cut == bare.attempts),
        near("under the cap: creation", _value(found.creation.value), COPIES, noise),
        near("under the cap: elicitation", _value(found.elicitation_part.value), 0, 0),
    ]


def _raised(analysis: Analysis, low: int) -> list[Check]:
    bare, found = analysis.arm("bare"), figures(analysis, "tool")
    noise = error(COPIES, analysis.arm("tool").attempts) + error(CAREFUL, bare.attempts)
    cheapest = _tokens(analysis, "bare", 0.0)
    created, expanded = found.creation, found.verdicts.counts[Verdict.EXPANDED]
    return [
        that("cap raised: the cheapest bare attempt passes the low cap", f"{cheapest:.0f} > {low}", cheapest > low),
        _dearer(analysis, low, cheapest),
        near("cap raised: bare success", _value(bare.pass_1.value), CAREFUL, error(CAREFUL, bare.attempts)),
        that(
            "cap raised: creation vanishes, below .01",
            f"{_value(created.value):.4f}, lower end {_value(created.low):.4f}; {expanded} expanded",
            abs(_value(created.value)) < 0.01 and _value(created.low) <= 0 and not expanded,
        ),
        # What the gain is, once it is no creation; its downward bias at this number of attempts is below .005.
        near("cap raised: elicitation", _value(found.elicitation_part.value), COPIES - CAREFUL, noise + 0.001),
        that(
            "cap raised: every task preserved",
            said_of(found.verdicts.counts),
            found.verdicts.counts[Verdict.PRESERVED] == len(found.tasks),
        ),
    ]


def _dearer(analysis: Analysis, low: int, cheapest: float) -> Check:
    """What the tool saves is tokens: reach .9 takes it one attempt under the low cap, and two of the long way."""
    short, long = (_tokens(analysis, arm, 0.9) for arm in ("tool", "bare"))
    said = f"{short:.0f} and {long:.0f} tokens"
    passed = short <= low and 2 * cheapest <= long <= 3 * cheapest
    return that(f"cap raised: reach .9 for at most {low} tokens with the tool, two long ways bare", said, passed)


def _tokens(analysis: Analysis, arm: str, reach: float) -> float:
    """Least generated tokens at which an arm's reach curve is at `reach` or above; infinite where it never is."""
    curve = next(c for c in analysis.curves if (c.arm, c.axis) == (arm, "generated_tokens"))
    points = zip(curve.spend, curve.reach, strict=True)
    return min((spend for spend, reached in points if reached >= reach), default=float("inf"))


def _value(number: float | None) -> float:
    return float("nan") if number is None else number
