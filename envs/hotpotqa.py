"""HotpotQA: questions whose answers take two documents, with the documents, from the benchmark's own files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.corpus import Corpus
from testbed.errors import DataError
from testbed.question_env import QuestionEnvironment
from testbed.records import FileRecords, Record
from testbed.types import Task


class HotpotQA(QuestionEnvironment, BenchmarkEnvironment):
    """Questions that need two documents (HotpotQA), from files or the hub, with documents for search tools.

    Args:
        path: the benchmark's JSON file, whose questions bring their documents; or a JSONL file of questions ("id",
            "question", "answer", perhaps "type" and "level") beside a ``corpus.jsonl``. By default
            ``$TESTBED_DATA/hotpot100/questions.jsonl``.
        limit: how many questions, from the file's first; None for all. The documents are always those of all.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`. Its questions bring their
            documents.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or the limit is below 1.
    """

    id: ClassVar[str] = "HotpotQA-v0"
    unit: ClassVar[str] = "question"
    usual: ClassVar[str] = "hotpot100/questions.jsonl"
    home: ClassVar[Mapping[str, str]] = {
        "name": "hotpotqa/hotpot_qa",
        "config": "distractor",
        "split": "validation",
    }
    where: ClassVar[str] = (
        "It is hotpot_dev_distractor_v1.json of hotpotqa.github.io, or questions with a corpus in JSONL"
    )
    card: ClassVar[str] = (
        "Source: Yang et al. 2018, HotpotQA, arXiv 1809.09600; 7,405 development questions, CC BY-SA 4.0. Graded by "
        "exact match after SQuAD's normalisation. Expected: search and retrieve over the documents create, two calls "
        "more than one; resampling elicits yes-or-no and comparison questions, of which half are right by chance; "
        "python adds nothing. Contamination: high; public since 2018, and the documents are Wikipedia's."
    )

    def make_tasks(self) -> Iterable[Task]:
        """The questions in the file's order."""
        for place, _, row in self._rows[: self.limit]:
            question, answer = row.get("question"), row.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
                raise DataError(f"{place}: an object with texts 'question' and 'answer' is wanted. {self.where}.")
            labels = {name: row[name] for name in ("type", "level") if isinstance(row.get(name), str)}
            family = labels.get("type", "")
            id_ = str(row.get("id") or row.get("_id") or "")
            yield self.question(question, [answer], {"id": id_, "family": family, **labels, **self.records.labels})

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every document, its title first.

        Raises:
            DataError: there are none.
        """
        if not isinstance(self.records, FileRecords) or self.records.path.suffix == ".json":
            yield from self._contexts()
            return
        corpus = self.records.path.with_name("corpus.jsonl")
        if not corpus.is_file():
            raise DataError(f"{self.id} has no documents: {corpus} is missing. {self.where}.")
        for document in Corpus.read(corpus).documents:
            yield document.id, document.content

    def _contexts(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for place, _, row in self._rows:
            context = row.get("context")
            if isinstance(context, Mapping):  # the hub's form
                context = list(zip(context.get("title", ()), context.get("sentences", ()), strict=True))
            if not isinstance(context, list):
                raise DataError(f"{place}: there is no list 'context'. {self.where}.")
            for title, sentences in context:
                text = "".join(sentences)
                if title not in seen and text.strip():
                    seen.add(title)
                    yield title, f"{title} {text}"

    @cached_property
    def _rows(self) -> list[Record]:
        if not isinstance(self.records, FileRecords) or self.records.path.suffix != ".json":
            return list(self.records)
        return [Record(f"{self.records.path}, question {n}", n, row) for n, row in enumerate(self._official(), 1)]

    def _official(self) -> list[dict[str, Any]]:
        """The benchmark's own file: one list."""
        assert isinstance(self.records, FileRecords)
        path = self.records.path
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}. {self.where}.") from None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}). {self.where}.") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path}: a list of objects is wanted. {self.where}.")
        return rows
