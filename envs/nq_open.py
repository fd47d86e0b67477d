"""Natural Questions, open: what people asked a search engine, with short answers, from the benchmark's own file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.errors import DataError
from testbed.question_env import QuestionEnvironment
from testbed.types import Task


class NQOpen(QuestionEnvironment, BenchmarkEnvironment):
    """Questions that people asked a search engine (Natural Questions, open domain), from a file or the hub.

    Args:
        path: the benchmark's JSONL file, perhaps gzipped; by default ``$TESTBED_DATA/nq_open/NQ-open.dev.jsonl``.
        limit: how many questions, from the file's first; None for all.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or the limit is below 1.
    """

    id: ClassVar[str] = "NQOpen-v0"
    unit: ClassVar[str] = "question"
    usual: ClassVar[str] = "nq_open/NQ-open.dev.jsonl"
    home: ClassVar[Mapping[str, str]] = {"name": "google-research-datasets/nq_open", "split": "validation"}
    where: ClassVar[str] = "It is nq_open/NQ-open.dev.jsonl of github.com/google-research-datasets/natural-questions"
    card: ClassVar[str] = (
        "Source: Kwiatkowski et al. 2019, Natural Questions, and Lee et al. 2019, arXiv 1906.00300 (open form); 3,610 "
        "development questions, CC BY-SA 3.0. Graded by exact match to one of the answers after SQuAD's normalisation. "
        "Some answers were true when asked and are no longer. Expected: resampling elicits what is half known; search "
        "and retrieve over a Wikipedia corpus create, python adds nothing. Contamination: high; public since 2019."
    )

    def make_tasks(self) -> Iterable[Task]:
        """The questions in the file's order."""
        for place, line, row in self.first_records():
            question, answers = row.get("question"), row.get("answer")
            listed = isinstance(answers, list) and answers and all(isinstance(a, str) and a.strip() for a in answers)
            if not isinstance(question, str) or not listed:
                raise DataError(
                    f"{place}: an object with a text 'question' and a list 'answer' is wanted. {self.where}."
                )
            assert isinstance(answers, list)
            yield self.question(
                f"{question[:1].upper()}{question[1:]}?", answers, {"line": line, **self.records.labels}
            )
