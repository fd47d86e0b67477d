"""HumanEval: functions to complete from their signature and docstring, read from the benchmark's own file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from testbed.errors import DataError
from testbed.program_env import ProgramEnvironment
from testbed.types import Task

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


class HumanEval(ProgramEnvironment):
    """Python functions to write from signature and docstring (HumanEval), from a file or the hub.

    An answer is the whole function, or what follows the prompt; as in the benchmark, it runs after the prompt, whose
    imports and helpers it has. It passes if the benchmark's own tests hold, which it never meets: see docs/security.md.

    Args:
        path: the benchmark's JSONL file, perhaps gzipped; by default ``$TESTBED_DATA/humaneval/HumanEval.jsonl.gz``.
        limit: how many problems, from the file's first; None for all.
        timeout: seconds that program and tests may take together.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        at_once: programs that are judged at one time, at least 1; each takes two sandboxes.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or an option makes no sense.
    """

    id: ClassVar[str] = "HumanEval-v0"
    usual: ClassVar[str] = "humaneval/HumanEval.jsonl.gz"
    home: ClassVar[Mapping[str, str]] = {"name": "openai/openai_humaneval", "split": "test"}
    where: ClassVar[str] = "It is data/HumanEval.jsonl.gz of github.com/openai/human-eval (MIT licence)"
    card: ClassVar[str] = (
        "Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, arXiv 2107.03374; 164 problems, "
        "MIT licence. Graded by the benchmark's own tests; arguments are copied, so that changing one in place is not "
        "seen. Expected: python elicits (a draft can be tried out), several answers elicit, search and retrieve should "
        "add nothing. Contamination: high; public since 2021 and quoted in many training sets."
    )

    def make_tasks(self) -> Iterable[Task]:
        """The problems in the file's order."""
        for place, line, row in self.first_records():
            missing = [name for name in FIELDS if not isinstance(row.get(name), str)]
            if missing:
                raise DataError(f"{place}: there is no text {missing[0]!r}. {self.where}.")
            prompt, name = row["prompt"], row["entry_point"]
            yield self.task_of(
                f"Complete this Python function.\n\n{prompt.rstrip()}\n",
                prompt + row["canonical_solution"],
                code=row["test"],
                functions=[name],
                setup=prompt,
                entry_point=name,
                begins=prompt,
                meta={"id": row["task_id"], "line": line, **self.records.labels},
            )
