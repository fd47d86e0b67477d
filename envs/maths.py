"""Mathematics problems with an expression as answer (MATH, AIME and their like), from a JSONL file."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.env import Common
from testbed.errors import DataError, SandboxDied, UsageError
from testbed.records import HubOption
from testbed.threads import LoopThread
from testbed.types import Grade, Task

if TYPE_CHECKING:
    from testbed.sandbox import Sandbox, Session

INSTRUCTION = "Answer with the result alone, in LaTeX where it is no plain number."
LONGEST = 1_000  # characters of an answer that is still compared
PACKAGE = "math-verify"
MEMORY_MIB = 512  # sympy alone takes 100
BOX = "\\boxed{"
# MATH's solutions also have boxes without braces, as in "\boxed 5$", and \fbox.
_BOXES = tuple(re.compile(rf"\\{name}(?![A-Za-z])\s*(?=\S)(?!\$)") for name in ("boxed", "fbox"))

# Runs in a sandbox: an answer such as 9^{9^{9^9}} would keep a computer algebra system busy for ever.
_COMPARE = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
def read(text):
    boxed = text if "$" in text or "boxed" in text else "\\\\boxed{" + text + "}"
    kinds = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(boxed, kinds, fallback_mode="no_fallback", parsing_timeout=None)
reference, answer = (read(text) for text in json.load(sys.stdin))
print("unread" if not answer else "right" if verify(reference, answer, timeout_seconds=None) else "wrong")
"""


class Maths(BenchmarkEnvironment):
    r"""Mathematics problems from a JSONL file or the hub: MATH's and AIME's form, or your own.

    A line holds "problem" (or "prompt") and "answer", or MATH's "solution" with its last \\boxed{} as the answer;
    perhaps "subject" (or "type"), "level" and "id". Answers are compared by the library math-verify, in a sandbox:
    fractions, roots, sets, intervals, matrices and equivalent expressions are recognised.

    Args:
        path: the file, perhaps gzipped (.gz).
        limit: how many problems, from the file's first; None for all.
        timeout: seconds that one comparison may take; an answer that takes longer is wrong.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        at_once: answers that are compared at one time, at least 1.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads, see `testbed.records`: its name, or a
            table of name, config, split, revision and columns.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is given, or an option makes no sense.
    """

    id: ClassVar[str] = "Maths-v0"
    where: ClassVar[str] = 'A line looks like {"problem": "1 + 1?", "answer": "2"}'
    grades_slowly: ClassVar[bool] = True
    card: ClassVar[str] = (
        "Source: a file, such as MATH (Hendrycks et al. 2021, arXiv 2103.03874, MIT licence) or AIME's. Graded "
        "by math-verify, whose rule takes 10\\% for 10 and for 0.1, and text for a product of its letters. Expected: "
        "python elicits or creates where there is much to compute, resampling elicits, search and retrieve add "
        "nothing. Contamination: as the file's; high for MATH."
    )

    def __init__(
        self,
        path: str | Path = "",
        limit: int | None = None,
        timeout: float = 5.0,
        sandbox: str = "auto",
        at_once: int = 2,
        hub: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        if at_once < 1 or not 0 < timeout < float("inf"):
            raise UsageError(f"{self.id}: at_once must be at least 1, and timeout above 0 seconds and finite.")
        self.timeout, self.sandbox, self.at_once = timeout, sandbox, at_once
        self._judge: _Judge | None = None
        self._making = threading.Lock()
        super().__init__(path, limit, hub, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The problems in the file's order."""
        for place, line, row in self.first_records():
            problem = row.get("problem", row.get("prompt"))
            answer = _answer(row)
            if not isinstance(problem, str) or not problem.strip() or not answer.strip():
                raise DataError(f"{place}: a text 'problem', and an 'answer' or a 'solution' with {BOX}…}} is wanted.")
            family = str(row.get("subject") or row.get("type") or "")
            labels = {name: row[name] for name in ("id", "level") if isinstance(row.get(name), str | int)}
            meta = {"family": family, "line": line, **labels, **self.records.labels}
            yield self.task(f"{problem.strip()}\n{INSTRUCTION}", answer, grader="math-verify/1", meta=meta)

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether answer and reference are the same thing in mathematics.

        Raises:
            SandboxUnavailable: no sandbox works here.
            SandboxDied: the sandbox was lost; says nothing about the answer.
        """
        if not answer.strip():
            return Grade(False, detail="no answer")
        if len(answer) > LONGEST:
            return Grade(False, detail="longer than any answer")
        verdict = self._comparing().compare(str(task.reference), answer.strip(), self.timeout)
        return Grade(verdict == "right", detail=verdict)

    def near_misses(self, task: Task) -> Iterable[str]:
        """One more, and two answers at once."""
        right = str(task.reference)
        return (f"{right} + 1", f"{right} \\text{{ or }} {right} + 1", f"{right}, {right} + 1")

    def close(self) -> None:
        """Frees what the tools hold, and ends the sandboxes."""
        super().close()
        with self._making:
            judge, self._judge = self._judge, None
        if judge is not None:
            judge.close()

    def _comparing(self) -> _Judge:
        from testbed.sandbox_tool import backend

        with self._making:
            if self._judge is None:
                self._judge = _Judge(backend(self.sandbox, (PACKAGE,)), self.at_once)
            return self._judge


class _Judge:
    """Compares answers in sandboxes that have math-verify loaded; no program but ours runs there."""

    def __init__(self, sandbox: Sandbox, at_once: int) -> None:
        self._sandbox, self._loop = sandbox, LoopThread()
        self._turns = asyncio.Semaphore(at_once)
        self._idle: list[Session] = []

    def compare(self, reference: str, answer: str, seconds: float) -> str:
        """What became of a comparison: "right", "wrong", "unread", or why there was none."""
        return self._loop.run(self._compare(json.dumps([reference, answer]), seconds))

    def close(self) -> None:
        """Ends the sandboxes and the thread."""
        try:
            self._loop.run(self._end())
        finally:
            self._loop.close()

    async def _compare(self, texts: str, seconds: float) -> str:
        from testbed.sandbox import Limits

        async with self._turns:
            limits = Limits(wall_seconds=60.0, memory_mib=MEMORY_MIB)
            session = self._idle.pop() if self._idle else await self._sandbox.open(limits)
            result = await session.run(_COMPARE, texts, seconds)
            self._idle.append(session)
        if result.status == "sandbox_died":
            raise SandboxDied(f"the sandbox that compares answers died: {result.reason}")
        return result.stdout.strip() if result.status == "ok" else f"cannot be compared: {result.status}"

    async def _end(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def _answer(row: Mapping[str, Any]) -> str:
    """The answer of a line; "" if there is none."""
    given = row.get("answer")
    if isinstance(given, str | int | float) and not isinstance(given, bool):
        return str(given)
    solution = row.get("solution")
    return last_box(solution) if isinstance(solution, str) else ""


def last_box(text: str) -> str:
    r"""What the last \boxed of a text holds, else the last \fbox; "" if there is none.

    Between balanced braces; where there are none, up to the end of the formula or line.
    """
    starts = next(filter(None, ([found.end() for found in box.finditer(text)] for box in _BOXES)), [])
    if not starts:
        return ""
    start, depth = starts[-1], 0
    if text[start] != "{":
        return re.split(r"[$\n]", text[start:], maxsplit=1)[0].strip()
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return text[start + 1 : at].strip()
    return ""
