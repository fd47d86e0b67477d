"""Where calibration policies live: locks whose codes cannot be guessed, and a tool that knows them.

The file is loaded as a plug-in, through the door that third parties use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Unpack

from pydantic import BaseModel

from testbed.env import Common, Environment
from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.tool import Tool
from testbed.types import Grade, Task, digest

WORDINGS = (
    "What is the code of lock {lock}?",
    "Lock {lock} opens with one code. Which?",
    "Name the code that opens lock {lock}.",
    "There is a lock called {lock}. Give its code.",
    "You stand before lock {lock}. What do you enter?",
)
LENGTH = 8  # hexadecimal digits: a guess is right once in four thousand million times


def code_of(lock: str, seed: int) -> str:
    """The code of a lock."""
    return digest([lock, seed])[:LENGTH]


class Codes(Environment):
    """Locks and their codes.

    Args:
        strata: label of a group of locks → number of locks.
        wordings: 1 to 5 tasks per lock that say the same in other words.
        clustered: whether tasks about one lock are declared to belong together.
        seed: seed of the codes.
        common: options of every environment.

    Raises:
        UsageError: there are not so many wordings.
    """

    id = "CalibrationCodes-v0"
    card = "Made up. Nothing but the lookup tool can know a code; policies of known success are told it by the harness."

    def __init__(
        self,
        strata: dict[str, int] | None = None,
        wordings: int = 1,
        clustered: bool = True,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        if not 1 <= wordings <= len(WORDINGS):
            raise UsageError(f"{self.id}: wordings must be 1 to {len(WORDINGS)}, not {wordings}.")
        self.strata = strata if strata is not None else {"all": 40}
        self.wordings, self.clustered, self.task_seed = wordings, clustered, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """Every lock of every stratum, in each wording."""
        for label, size in self.strata.items():
            for number in range(size):
                lock = f"{label}/{number}"
                for wording in WORDINGS[: self.wordings]:
                    yield self.task(
                        wording.format(lock=lock),
                        code_of(lock, self.task_seed),
                        cluster=lock if self.wordings > 1 and self.clustered else "",
                        meta={"family": label, "number": number},
                    )

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the code."""
        return Grade(answer.strip() == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """Codes that begin, end or look like the right one."""
        code = str(task.reference)
        return (code[:-1], code[1:], code + "0", wrong_code(code), code[:4] + wrong_code(code)[4:], f"{code} or 0")


class LenientCodes(Codes):
    """The same locks before a verifier with false positives: it compares the first digit and no more."""

    id = "CalibrationLenient-v0"

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if the first digit is."""
        return Grade(answer.strip()[:1] == str(task.reference)[:1])


class Arguments(BaseModel):
    """What `calibration_lookup` takes."""

    lock: str


class Lookup(Tool):
    """Tells the code of a lock."""

    name: str = "calibration_lookup"
    description: str = "Tells the code of a lock, given its name."
    args_schema: Any = Arguments
    seed: int = 0

    async def _arun(self, lock: str) -> str:
        if not re.fullmatch(r"[^/]+/\d+", lock):
            raise ToolFault(FaultKind.EXECUTION_ERROR, f"there is no lock {lock!r}")
        return code_of(lock, self.seed)


def wrong_code(code: str) -> str:
    """A code that differs from the right one in every digit."""
    return "".join(f"{(int(digit, 16) + 1) % 16:x}" for digit in code)


def lock_in(prompt: str) -> str:
    """The name of the lock that a task asks about."""
    found = re.search(r"[^\s/]+/\d+", prompt)
    assert found is not None
    return found.group()
