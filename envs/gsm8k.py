"""GSM8K: grade-school word problems, read from the benchmark's own JSONL file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import ClassVar

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.errors import DataError
from testbed.question_env import read_number
from testbed.types import Grade, Task

MARK = "####"  # what stands before the result in the benchmark's answers
INSTRUCTION = "Answer with the number alone."


class GSM8K(BenchmarkEnvironment):
    """Grade-school word problems (GSM8K), from a file or the Hugging Face hub.

    An answer is right if it is one number and equals the reference exactly, or if that follows the benchmark's own mark
    ``####``, before which anything may stand. ``$1,234.50``, ``1234.5`` and ``1,234.500`` are the same number; commas
    must separate thousands. More than a number is wrong: which of several was meant is not for a grader to guess.

    Args:
        path: the benchmark's JSONL file; by default ``$TESTBED_DATA/gsm8k/test.jsonl``.
        limit: how many problems, from the file's first; None for all.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or the limit is below 1.
    """

    id: ClassVar[str] = "GSM8K-v0"
    usual: ClassVar[str] = "gsm8k/test.jsonl"
    home: ClassVar[Mapping[str, str]] = {"name": "openai/gsm8k", "config": "main", "split": "test"}
    where: ClassVar[str] = (
        "It is grade_school_math/data/test.jsonl of github.com/openai/grade-school-math (MIT licence)"
    )
    card: ClassVar[str] = (
        "Source: Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv 2110.14168; 1,319 test "
        "problems, MIT licence. Graded by the number after the benchmark's mark '####', or of an answer that is one "
        "number; equal numbers are right however they are written (the benchmark's own script drops commas and "
        "compares text). Expected: python elicits (the sums are easy to set up and easy to get wrong), search "
        "and retrieve should add nothing. "
        "Contamination: high; public since 2021 and quoted in many training sets."
    )

    def make_tasks(self) -> Iterable[Task]:
        """The problems in the file's order."""
        for place, line, row in self.first_records():
            question, answer = row.get("question"), row.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str):
                raise DataError(f"{place}: an object with the texts 'question' and 'answer' is wanted. {self.where}.")
            _, mark, result = answer.rpartition(MARK)
            if not mark or read_number(result.strip()) is None:
                raise DataError(f"{place}: the answer must end with '{MARK}' and a number. {self.where}.")
            meta = {"line": line, **self.records.labels}
            yield self.task(f"{question}\n{INSTRUCTION}", result.strip(), grader="gsm8k/1", meta=meta)

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether the answer, or what follows the mark in it, is one number and equals the reference."""
        value = read_number(answer.rpartition(MARK)[2] if answer.count(MARK) == 1 else answer)
        if value is None:
            return Grade(False, detail="not one number")
        return Grade(value == read_number(task.reference), detail=f"read as {value:f}")

    def near_misses(self, task: Task) -> Iterable[str]:
        """Neighbours, another sign or size, two numbers, and the right one badly grouped."""
        value = read_number(task.reference)
        assert value is not None
        for wrong in (value + 1, value - 1, value + Decimal("0.5"), value + Decimal("0.001"), value * 10 + 1):
            yield f"{wrong:f}"
        if value:
            yield f"{-value:f}"
            yield f"{value * 1000:f}"
        yield f"{value:f} or {value + 1:f}"
        yield f"{value:f}, {value:f}"
        yield f"{value:f},0"
        yield f"{value:f}%"
        yield f"{MARK} {value:f} {MARK} {value + 1:f}"
        yield f"{value:f} {MARK} {value + 1:f}"
