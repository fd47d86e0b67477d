"""Natural Questions, open: what people asked a search engine, with short answers, from the benchmark's own file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Unpack

from testbed.corpus import read_jsonl
from testbed.env import Common
from testbed.errors import DataError, UsageError
from testbed.question_env import QuestionEnvironment
from testbed.types import Task

WHERE = "It is nq_open/NQ-open.dev.jsonl of github.com/google-research-datasets/natural-questions"


class NQOpen(QuestionEnvironment):
    """Questions that people asked a search engine (Natural Questions, open domain), from a file.

    Args:
        path: the benchmark's JSONL file, perhaps gzipped; by default ``$TESTBED_DATA/nq_open/NQ-open.dev.jsonl``.
        limit: how many questions, from the file's first; None for all.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or the limit is below 1.
    """

    id: ClassVar[str] = "NQOpen-v0"
    card: ClassVar[str] = (
        "Source: Kwiatkowski et al. 2019, Natural Questions, and Lee et al. 2019, arXiv 1906.00300 (open form); 3,610 "
        "development questions, CC BY-SA 3.0. Graded by exact match to one of the answers after SQuAD's normalisation. "
        "Some answers were true when asked and are no longer. Expected: resampling elicits what is half known; search "
        "and retrieve over a Wikipedia corpus create, python adds nothing. Contamination: high; public since 2019."
    )

    def __init__(self, path: str | Path | None = None, limit: int | None = None, **common: Unpack[Common]) -> None:
        if path is None and not os.environ.get("TESTBED_DATA"):
            raise UsageError(f"{self.id} reads the benchmark's file: give its path, or set TESTBED_DATA. {WHERE}.")
        data = os.environ.get("TESTBED_DATA", "")
        self.path = Path(path) if path is not None else Path(data) / "nq_open" / "NQ-open.dev.jsonl"
        super().__init__(limit, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions in the file's order."""
        for count, (line, row) in enumerate(read_jsonl(self.path)):
            if count == self.limit:
                return
            question, answers = row.get("question"), row.get("answer")
            listed = isinstance(answers, list) and answers and all(isinstance(a, str) and a.strip() for a in answers)
            if not isinstance(question, str) or not listed:
                raise DataError(
                    f"{self.path}:{line}: an object with a text 'question' and a list 'answer' is wanted. {WHERE}."
                )
            assert isinstance(answers, list)
            yield self.question(f"{question[:1].upper()}{question[1:]}?", answers, {"line": line})
