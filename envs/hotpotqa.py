"""HotpotQA: questions whose answers take two documents, with the documents, from the benchmark's own files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Unpack

from testbed.corpus import Corpus, read_jsonl
from testbed.env import Common
from testbed.errors import DataError, UsageError
from testbed.question_env import QuestionEnvironment
from testbed.types import Task

WHERE = "It is hotpot_dev_distractor_v1.json of hotpotqa.github.io, or questions with a corpus in JSONL"


class HotpotQA(QuestionEnvironment):
    """Questions that need two documents (HotpotQA), from files; the documents are there for search tools to index.

    Args:
        path: the benchmark's JSON file, whose questions bring their documents; or a JSONL file of questions ("id",
            "question", "answer", perhaps "type" and "level") beside a ``corpus.jsonl``. By default
            ``$TESTBED_DATA/hotpot100/questions.jsonl``.
        limit: how many questions, from the file's first; None for all. The documents are always those of all.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or the limit is below 1.
    """

    id: ClassVar[str] = "HotpotQA-v0"
    card: ClassVar[str] = (
        "Source: Yang et al. 2018, HotpotQA, arXiv 1809.09600; 7,405 development questions, CC BY-SA 4.0. Graded by "
        "exact match after SQuAD's normalisation. Expected: search and retrieve over the documents create, two calls "
        "more than one; resampling elicits yes-or-no and comparison questions, of which half are right by chance; "
        "python adds nothing. Contamination: high; public since 2018, and the documents are Wikipedia's."
    )

    def __init__(self, path: str | Path | None = None, limit: int | None = None, **common: Unpack[Common]) -> None:
        if path is None and not os.environ.get("TESTBED_DATA"):
            raise UsageError(f"{self.id} reads the benchmark's file: give its path, or set TESTBED_DATA. {WHERE}.")
        data = os.environ.get("TESTBED_DATA", "")
        self.path = Path(path) if path is not None else Path(data) / "hotpot100" / "questions.jsonl"
        super().__init__(limit, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions in the file's order."""
        for count, (where, row) in enumerate(self._rows):
            if count == self.limit:
                return
            question, answer = row.get("question"), row.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
                raise DataError(f"{where}: an object with texts 'question' and 'answer' is wanted. {WHERE}.")
            labels = {name: row[name] for name in ("type", "level") if isinstance(row.get(name), str)}
            family = labels.get("type", "")
            id_ = str(row.get("id") or row.get("_id") or "")
            yield self.question(question, [answer], {"id": id_, "family": family, **labels})

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every document, its title first.

        Raises:
            DataError: there are none.
        """
        corpus = self.path.with_name("corpus.jsonl")
        if self.path.suffix == ".json":
            yield from self._contexts()
            return
        if not corpus.is_file():
            raise DataError(f"{self.id} has no documents: {corpus} is missing. {WHERE}.")
        for document in Corpus.read(corpus).documents:
            yield document.id, document.content

    def _contexts(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for where, row in self._rows:
            context = row.get("context")
            if not isinstance(context, list):
                raise DataError(f"{where}: there is no list 'context'. {WHERE}.")
            for title, sentences in context:
                text = "".join(sentences)
                if title not in seen and text.strip():
                    seen.add(title)
                    yield title, f"{title} {text}"

    @cached_property
    def _rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        if self.path.suffix != ".json":
            return [(f"{self.path}:{line}", row) for line, row in read_jsonl(self.path)]
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}. {WHERE}.") from None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{self.path}: not JSON ({error}). {WHERE}.") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{self.path}: a list of objects is wanted. {WHERE}.")
        return [(f"{self.path}, question {n}", row) for n, row in enumerate(rows, 1)]
