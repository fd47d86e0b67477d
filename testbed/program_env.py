"""Environments whose answers are programs: judged by hidden tests, in sandboxes, see `testbed.sandbox.grade`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.env import Common
from testbed.errors import UsageError
from testbed.records import HubOption
from testbed.types import Grade, Task

if TYPE_CHECKING:
    from testbed.sandbox.grade import Grader

GRADER = "code/2"
INSTRUCTION = "Answer with Python code alone."

_FUTURE = re.compile(r"^from __future__ import ", re.MULTILINE)
_FENCE = re.compile(r"\s*```[\w+-]*[ \t]*\n(?P<code>.*?)```\s*", re.DOTALL)


class ProgramEnvironment(BenchmarkEnvironment):
    """Base of environments whose answers are Python programs.

    A task's reference holds what `task_of` takes. An answer is a program; a Markdown fence around all of it is taken
    off. It passes if every hidden test holds.

    Args:
        path: the benchmark's file, see `BenchmarkEnvironment`.
        limit: how many problems, from the first; None for all.
        timeout: seconds that program and tests may take together.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        at_once: programs that are judged at one time, at least 1; each takes two sandboxes.
        hub: the benchmark on the hub, see `BenchmarkEnvironment`.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: there is nothing to read, or an option makes no sense.
    """

    grades_slowly: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path | None = None,
        limit: int | None = None,
        timeout: float = 10.0,
        sandbox: str = "auto",
        at_once: int = 2,
        hub: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        if at_once < 1:
            raise UsageError(f"{self.id}: at_once must be at least 1 program, not {at_once}.")
        if not 0 < timeout < float("inf"):
            raise UsageError(f"{self.id}: timeout must be above 0 seconds and finite, not {timeout}.")
        self.timeout, self.sandbox, self.at_once = timeout, sandbox, at_once
        self._grader: Grader | None = None
        self._making = threading.Lock()
        super().__init__(path, limit, hub, **common)

    def task_of(
        self,
        prompt: str,
        solution: str,
        *,
        code: str,
        functions: Iterable[str],
        setup: str = "",
        entry_point: str = "",
        begins: str = "",
        meta: dict[str, Any] | None = None,
    ) -> Task:
        """A task of this environment.

        Args:
            prompt: what the model is asked.
            solution: a program that passes.
            code: the hidden tests, see `testbed.sandbox.grade.Tests`.
            functions: names that a program must define; the tests use them.
            setup: source that runs before the tests.
            entry_point: what the tests' `check` is called with, if they define one.
            begins: a program's beginning that the prompt gives: every answer runs after it, and one that defines none
                of the functions goes on from it.
            meta: labels.
        """
        reference = {
            "solution": solution,
            "code": code,
            "setup": setup,
            "entry_point": entry_point,
            "functions": list(functions),
            "begins": begins,
        }
        return self.task(f"{prompt}\n{INSTRUCTION}", reference, grader=GRADER, meta=meta)

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether every hidden test holds; what went wrong is the detail, which no model sees.

        Raises:
            SandboxUnavailable: no sandbox works here.
            SandboxDied: a sandbox was lost; says nothing about the answer.
        """
        from testbed.sandbox.grade import Tests

        program = program_in(answer)
        if not program.strip():
            return Grade(False, detail="no program")
        reference = task.reference
        if reference["begins"]:
            program = _after(reference["begins"], program, reference["functions"])
        tests = Tests(
            reference["code"],
            setup=reference["setup"],
            entry_point=reference["entry_point"],
            required=() if reference["entry_point"] else tuple(reference["functions"]),
        )
        found = self._judge().grade(program, tests, self.timeout)
        return Grade(found.passed, detail=found.reason)

    def reference_answer(self, task: Task) -> str:
        """The benchmark's own solution."""
        return str(task.reference["solution"])

    def near_misses(self, task: Task) -> Iterable[str]:
        """Functions that return nothing; and the end of a program that would look like success."""
        stubs = "\n".join(f"def {name}(*args, **options):\n    return None" for name in task.reference["functions"])
        return (stubs, f"{stubs}\nimport os\nprint('passed')\nos._exit(0)")

    def close(self) -> None:
        """Frees what the tools hold, and ends the grader's sandboxes."""
        super().close()
        with self._making:
            grader, self._grader = self._grader, None
        if grader is not None:
            grader.close()

    def _judge(self) -> Grader:
        from testbed.sandbox.grade import Grader
        from testbed.sandbox_tool import backend

        with self._making:
            if self._grader is None:
                self._grader = Grader(backend(self.sandbox, ()), self.at_once)
            return self._grader


def program_in(answer: str) -> str:
    """The program that an answer is: without the Markdown fence, if one is around all of it.

    Leading blank lines go; indentation stays, since an answer may go on from a given beginning.
    """
    text = answer.replace("\r\n", "\n")
    found = _FENCE.fullmatch(text)
    return (found["code"] if found else text).strip("\n")


def _after(begins: str, program: str, functions: Iterable[str]) -> str:
    """A program after the beginning that the prompt gives, whose imports and helpers it may use."""
    if not any(_defines(program, name) for name in functions):
        return begins + program
    if _FUTURE.search(program):  # which must come first, and so stands alone
        return program
    return f"{begins.rstrip()}\n\n\n{program}"


def _defines(program: str, name: str) -> bool:
    return (
        re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", program, re.MULTILINE) is not None
    )
