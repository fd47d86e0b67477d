"""HumanEval: functions to complete from their signature and docstring, read from the benchmark's own file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Unpack

from testbed.corpus import read_jsonl
from testbed.env import Common
from testbed.errors import DataError, UsageError
from testbed.program_env import ProgramEnvironment
from testbed.types import Task

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
WHERE = "It is data/HumanEval.jsonl.gz of github.com/openai/human-eval (MIT licence)"


class HumanEval(ProgramEnvironment):
    """Python functions to write from signature and docstring (HumanEval), from a file.

    An answer is the whole function, or, as in the benchmark, what follows the prompt. It passes if the benchmark's own
    tests hold, which it never meets: see docs/security.md.

    Args:
        path: the benchmark's JSONL file, perhaps gzipped; by default ``$TESTBED_DATA/humaneval/HumanEval.jsonl.gz``.
        limit: how many problems, from the file's first; None for all.
        timeout: seconds that program and tests may take together.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        at_once: programs that are judged at one time, at least 1; each takes two sandboxes.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or an option makes no sense.
    """

    id: ClassVar[str] = "HumanEval-v0"
    card: ClassVar[str] = (
        "Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, arXiv 2107.03374; 164 problems, "
        "MIT licence. Graded by the benchmark's own tests; arguments are copied, so that changing one in place is not "
        "seen. Expected: python elicits (a draft can be tried out), several answers elicit, search and retrieve should "
        "add nothing. Contamination: high; public since 2021 and quoted in many training sets."
    )

    def __init__(
        self,
        path: str | Path | None = None,
        limit: int | None = None,
        timeout: float = 10.0,
        sandbox: str = "auto",
        at_once: int = 2,
        **common: Unpack[Common],
    ) -> None:
        if path is None and not os.environ.get("TESTBED_DATA"):
            raise UsageError(f"{self.id} reads the benchmark's file: give its path, or set TESTBED_DATA. {WHERE}.")
        data = os.environ.get("TESTBED_DATA", "")
        self.path = Path(path) if path is not None else Path(data) / "humaneval" / "HumanEval.jsonl.gz"
        super().__init__(limit, timeout, sandbox, at_once, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The problems in the file's order."""
        for count, (line, row) in enumerate(read_jsonl(self.path)):
            if count == self.limit:
                return
            missing = [name for name in FIELDS if not isinstance(row.get(name), str)]
            if missing:
                raise DataError(f"{self.path}:{line}: there is no text {missing[0]!r}. {WHERE}.")
            prompt, name = row["prompt"], row["entry_point"]
            yield self.task_of(
                f"Complete this Python function.\n\n{prompt.rstrip()}\n",
                prompt + row["canonical_solution"],
                code=row["test"],
                functions=[name],
                setup=prompt,
                entry_point=name,
                begins=prompt,
                meta={"id": row["task_id"], "line": line},
            )
