"""A tool that misleads: what it does must read as lost, and its repaired twin must not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from testbed.calibration import adding
from testbed.calibration.case import Check, Size
from testbed.calibration.expect import near, that, written
from testbed.calibration.instrument import examine
from testbed.calibration.mechanisms_shared import (
    all_read,
    error,
    experiment,
    figures,
    first_text,
    playing,
    results_of,
    tool_named,
)
from testbed.models.base import Request
from testbed.protocol import write_answer, write_call
from testbed.report.analyse import Analysis
from testbed.stats import Verdict

TOOL = "calibration_adder"
KNOWS = 0.8  # chance of adding right without help
MISLEADS = 0.98  # chance that the harmful machine errs, as the case says


def truster(request: Request, rng: np.random.Generator) -> str:
    """Adds by itself, and slips now and then; a machine, if there is one, it believes."""
    left, right = map(int, re.findall(r"\d+", first_text(request.messages)))
    told = results_of(request.messages)
    if told:
        return write_answer(told[-1])
    if request.tools:
        return write_call(tool_named(request.tools), {"left": left, "right": right})
    return write_answer(str(left + right + (0 if rng.random() < KNOWS else 10)))


@dataclass(frozen=True)
class HarmfulTool:
    """An adding machine that mostly errs, and one that errs as often as the model does without it.

    Attributes:
        wrong: chance that the harmful one errs; the case must fail with any but `MISLEADS`.
    """

    wrong: float = MISLEADS
    name: ClassVar[str] = "harmful-tool"
    truth: ClassVar[str] = "bare .8, misled .02: lost; repaired .8: nothing lost"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        return [
            *_misled(self._examine("broken", self.wrong, size, seed), 1 - MISLEADS),
            *_repaired(self._examine("repaired", 1 - KNOWS, size, seed)),
        ]

    def _examine(self, label: str, wrong: float, size: Size, seed: int) -> Analysis:
        return examine(
            experiment(
                f"{self.name}-{label}",
                seed,
                {"id": "Addition-v0", "digits": 2, "tasks": size.tasks // 2, "seed": seed},
                [{"name": "bare"}, {"name": "machine", "tools": [TOOL]}],
                samples=size.attempts,
                elicitation=2,
                tool={TOOL: {"wrong": wrong}},
            ),
            models=playing(truster),
            plugins=[adding],
        )


def _misled(analysis: Analysis, p: float) -> list[Check]:
    found = figures(analysis, "machine")
    noise = error(KNOWS, analysis.arm("bare").attempts) + error(p, analysis.arm("machine").attempts)
    gain, loss, nscr = found.gain, found.loss, found.support.nscr
    assert gain.value is not None
    assert loss.value is not None
    effects = next(group for group in analysis.groups if not group.within).effects[0].effects
    return [
        all_read("misled", found, Verdict.LOST),
        near("misled: gain", gain.value, p - KNOWS, noise),
        near("misled: loss", loss.value, KNOWS - p, noise),
        _small("misled: creation", found.creation.value),
        _small("misled: elicitation", found.elicitation_part.value),
        that("misled: the report calls it lost and nothing else", ", ".join(effects), [*effects] == ["lost"]),
        that("misled: NSCR below 0", written(nscr), nscr.high is not None and nscr.high < 0),
    ]


def _repaired(analysis: Analysis) -> list[Check]:
    found = figures(analysis, "machine")
    noise = 2 * error(KNOWS, analysis.arm("bare").attempts)
    lost, gain, loss = found.verdicts.counts[Verdict.LOST], found.gain, found.loss
    assert gain.value is not None
    assert loss.value is not None
    return [
        near("repaired: gain", gain.value, 0.0, noise),
        that(
            "repaired: loss not above its error", f"{written(loss)}; {lost} lost", loss.value < 4 * noise and not lost
        ),
        all_read("repaired", found, Verdict.PRESERVED),
    ]


def _small(what: str, value: float | None) -> Check:
    return that(
        f"{what} below .005", "none" if value is None else f"{value:.4f}", value is not None and abs(value) < 0.005
    )
