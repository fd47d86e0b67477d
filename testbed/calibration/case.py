"""What a calibration case is: a policy whose truth is known, and what the instrument must say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Check:
    """One expectation that can fail.

    Attributes:
        what: what was expected, for people.
        said: what the instrument said.
        passed: whether the two agree.
    """

    what: str
    said: str
    passed: bool


@dataclass(frozen=True)
class Rate(Check):
    """An expectation on how often something happened in simulated suites; the table has columns for these.

    Attributes:
        kind: "coverage" of intervals, or "fdr", the mean share of false discoveries.
        value: the rate, in [0, 1].
        of: suites it was seen in.
    """

    kind: Literal["coverage", "fdr"]
    value: float
    of: int


@dataclass(frozen=True)
class Size:
    """How much a case may spend.

    Attributes:
        tasks: tasks of a suite that goes through the whole instrument.
        attempts: attempts per task and arm of such a suite.
        suites: simulated suites behind a rate (coverage, false discoveries), of made-up outcomes, analysed only.
    """

    tasks: int
    attempts: int
    suites: int


QUICK = Size(tasks=36, attempts=64, suites=100)
FULL = Size(tasks=96, attempts=128, suites=2000)


class Case(Protocol):
    """A policy whose truth is known.

    Attributes:
        name: short, unique, as ``testbed calibrate --case NAME`` takes it.
        truth: what is true of it, for people.
    """

    @property
    def name(self) -> str:
        """Short and unique, as ``testbed calibrate --case NAME`` takes it."""
        ...

    @property
    def truth(self) -> str:
        """What is true of it, for people."""
        ...

    def run(self, size: Size, seed: int) -> list[Check]:
        """Puts the policy through the instrument and compares what it says with the truth.

        Args:
            size: how much it may spend.
            seed: seeds every attempt and every simulation; the same seed gives the same checks.
        """
        ...


@dataclass(frozen=True)
class Written:
    """A case written as one function.

    Attributes:
        name: short and unique.
        truth: what is true of it, for people.
        body: makes the checks from a size and a seed.
    """

    name: str
    truth: str
    body: Callable[[Size, int], list[Check]]

    def run(self, size: Size, seed: int) -> list[Check]:
        """Puts the policy through the instrument and compares what it says with the truth."""
        return self.body(size, seed)
