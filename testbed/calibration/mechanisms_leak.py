"""Search over documents, and over pages that leak the questions: what outcomes cannot tell apart, and what can."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from testbed.calibration import archive
from testbed.calibration.case import Check, Size
from testbed.calibration.expect import near, that
from testbed.calibration.instrument import Examination, examine_closely
from testbed.calibration.mechanisms_shared import (
    all_read,
    error,
    experiment,
    figures,
    first_text,
    ladder_of,
    playing,
    results_of,
)
from testbed.models.base import Request
from testbed.overlap import SHARE, Question, answers, results
from testbed.protocol import write_answer, write_call
from testbed.stats import Verdict
from testbed.types import Attempt, Task

TOOL = "search"  # the built-in one
READS = 0.9  # chance of reading a year as it stands
GUESS = 1 / len(archive.YEARS)


def reader(request: Request, rng: np.random.Generator) -> str:
    """Looks the question up, then the keeper if a document names one, and copies the year; else it guesses one."""
    question, shown = first_text(request.messages), "\n".join(results_of(request.messages)).splitlines()
    place = question.rpartition(" of ")[2].removesuffix(" die?")
    keeper, year = _read(place, shown)
    searches = len(results_of(request.messages))
    if request.tools and not year and (not searches or (keeper and searches == 1)):
        return write_call(TOOL, {"query": f"{keeper} died" if keeper else question})
    if not year:
        return write_answer(str(rng.choice(np.asarray(archive.YEARS))))
    return write_answer(year if rng.random() < READS else str(int(year) + 1))


def _read(place: str, shown: Iterable[str]) -> tuple[str, str]:
    """The keeper's name and the year of death as the lines say them; "" where none does."""
    keeper = year = ""
    for line in shown:
        if f"lighthouse of {place}".casefold() in line.casefold():
            keeper = keeper or _first(r"Its keeper was (\w+ \w+)\.", line)
            year = year or _first(r"Answer: (\d{4})", line) or _first(r"died in (\d{4})", line)
        elif keeper and keeper in line:
            year = year or _first(r"died in (\d{4})", line)
    return keeper, year


def _first(pattern: str, line: str) -> str:
    found = re.search(pattern, line)
    return found[1] if found else ""


@dataclass(frozen=True)
class LeakedCorpus:
    """The built-in search over two corpora that serve the same questions equally well.

    Attributes:
        leaked: the corpus that is said to be leaked.
        genuine: the one that is said to be genuine.
    """

    leaked: str = "leaked"
    genuine: str = "genuine"
    name: ClassVar[str] = "leaked-corpus"
    truth: ClassVar[str] = f"either corpus: bare 1/{len(archive.YEARS)}, search .9; only one holds the questions"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        leaked, genuine = (self._examine(corpus, size, seed) for corpus in (self.leaked, self.genuine))
        return [
            *_overlaps("leaked", leaked, flagged=True),
            *_overlaps("genuine", genuine, flagged=False),
            *_outcomes("leaked", leaked),
            *_outcomes("genuine", genuine),
            _calls("leaked", leaked, 1.0),
            _calls("genuine", genuine, 1.5),
        ]

    def _examine(self, corpus: str, size: Size, seed: int) -> Examination:
        env = {"tasks": 2 * max(1, size.tasks // 12), "seed": seed}
        return examine_closely(
            experiment(
                f"{self.name}-{corpus}",
                seed,
                {"id": "CalibrationArchive-v0", **env},
                ladder_of(TOOL),
                samples=size.attempts,
                elicitation=2,
                tool={TOOL: {"corpus": {"env": "CalibrationArchive-v0", "corpus": corpus, **env}}},
            ),
            models=playing(reader),
            plugins=[archive],
            transcripts=True,
        )


def _outcomes(label: str, examined: Examination) -> list[Check]:
    """What the report says; the same of both corpora, since the leak is in none of its figures."""
    analysis, found = examined.analysis, figures(examined.analysis, "live")
    noise = error(READS, analysis.arm("live").attempts) + 2 * error(GUESS, analysis.arm("bare").attempts)
    rungs = {rung.meaning: rung.difference.value for rung in analysis.ladder}
    assert found.creation.value is not None
    return [
        near(f"{label}: creation", found.creation.value, READS - (1 - (1 - GUESS) ** 2), noise),
        all_read(label, found, Verdict.EXPANDED),
        near(f"{label}: step of information", rungs.get("information") or 0.0, READS - GUESS, noise),
        near(f"{label}: step of interaction", rungs.get("interaction") or 0.0, 0.0, 2 * noise),
    ]


def _calls(label: str, examined: Examination, truth: float) -> Check:
    """An answer is copied from the first page; half of the genuine facts take two searches."""
    calls = examined.analysis.arm("live").cost["tool_calls"]
    return near(f"{label}: searches per attempt", calls, truth, 0)


def _overlaps(label: str, examined: Examination, *, flagged: bool) -> list[Check]:
    """Share of attempts, by arm, that were shown a passage which looks like their question and holds its answer."""
    tasks = {task.hash: task for task in examined.outcomes.tasks}
    arms = {arm.hash: arm.name for arm in examined.outcomes.arms}
    seen: dict[str, list[float]] = {}
    for attempt in examined.attempts:
        seen.setdefault(arms[attempt.arm], []).append(overlap_of(tasks[attempt.task], attempt))
    truth = {"live": float(flagged), "yoked": float(flagged), "inert": 0.0, "bare": 0.0}
    return [_flagged(f"{label}, {arm}", seen.get(arm, []), share) for arm, share in truth.items()]


def _flagged(what: str, overlaps: list[float], truth: float) -> Check:
    share = sum(overlap >= SHARE for overlap in overlaps) / len(overlaps) if overlaps else float("nan")
    said = f"{share:.0%} of {len(overlaps)}; overlap {min(overlaps, default=0):.2f}…{max(overlaps, default=0):.2f}"
    return that(f"{what}: {truth:.0%} were shown their question and its answer", said, share == truth)


def overlap_of(task: Task, attempt: Attempt) -> float:
    """The overlap of what an attempt was shown with its own question."""
    return Question(task.prompt, answers(task.reference)).overlap("\n".join(results(attempt.transcript)))
