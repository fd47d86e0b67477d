"""Anybody's questions from a JSONL file: a prompt and an answer a line, and the name of a rule to compare them by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Unpack

from testbed.benchmark_env import BenchmarkEnvironment
from testbed.corpus import Corpus
from testbed.env import Common
from testbed.errors import DataError, UnknownName
from testbed.question_env import LONGEST, exact_match, normalise, read_number, token_f1
from testbed.records import HubOption
from testbed.types import Grade, Task

_PROMPT = ("prompt", "question")
_ANSWERS = ("answer", "answers")


def _exact(answer: str, reference: str) -> bool:
    return bool(answer.strip()) and answer.strip() == reference.strip()


def _number(answer: str, reference: str) -> bool:
    value = read_number(answer)
    return value is not None and value == read_number(reference)


#: Rules by name: "exact" takes the same text; "text" SQuAD's normalisation (case, punctuation, articles); "number" the
#: same number however it is written.
GRADERS: Mapping[str, Callable[[str, str], bool]] = {"exact": _exact, "text": exact_match, "number": _number}


class Questions(BenchmarkEnvironment):
    """Questions from a JSONL file of your own, one object a line, or from a dataset of the hub.

    A line holds "prompt" (or "question") and "answer" (one text or number, or a list of texts of which each is right);
    perhaps "grader" (else the option decides), "cluster" (what belongs together, such as questions on one document),
    "family" (how reports group it) and "id".

    Args:
        path: the file, perhaps gzipped (.gz).
        grader: how answers are compared, one of `GRADERS`.
        corpus: JSONL file of documents for search tools, see `testbed.corpus.Corpus.read`; none if empty.
        limit: how many questions, from the file's first; None for all.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads, see `testbed.records`: its name, or a
            table of name, config, split, revision and columns.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is given, the grader is unknown, or the limit is below 1.
    """

    id: ClassVar[str] = "Questions-v0"
    where: ClassVar[str] = 'A line looks like {"prompt": "Who wrote it?", "answer": "Nobody"}'
    unit: ClassVar[str] = "question"
    card: ClassVar[str] = (
        "Source: a file of the user's. Expected: whatever the file asks for. Contamination: as the file's; new "
        "questions that were never published have none."
    )

    def __init__(
        self,
        path: str | Path = "",
        grader: str = "text",
        corpus: str | Path = "",
        limit: int | None = None,
        hub: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        if grader not in GRADERS:
            raise UnknownName(f"grader of {self.id}", grader, GRADERS)
        self.grader, self.corpus = grader, Path(corpus)
        super().__init__(path, limit, hub, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions in the file's order."""
        for place, _, row in self.first_records():
            yield self._read(place, row)

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of the corpus' documents; none without a corpus."""
        if self.corpus != Path():
            for document in Corpus.read(self.corpus).documents:
                yield document.id, document.content

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether the task's rule takes the answer for one of the references; for "text", the token F1 is the score."""
        rule = task.grader.partition("/")[0]
        if len(answer) > max(LONGEST, 2 * max(map(len, task.reference))):
            return Grade(False, detail="longer than any answer")
        right = any(GRADERS[rule](answer, reference) for reference in task.reference)
        score = max(token_f1(answer, reference) for reference in task.reference) if rule == "text" else None
        return Grade(right, score=1.0 if right and score is not None else score)

    def reference_answer(self, task: Task) -> str:
        """The first of the references."""
        return str(task.reference[0])

    def near_misses(self, task: Task) -> Iterable[str]:
        """The answer lengthened, beside another, or as a sentence."""
        right = str(task.reference[0])
        candidates = (f"{right}x", f"{right} or not", f"it is {right}", f"{right} 1")
        return [text for text in candidates if not any(normalise(text) == normalise(r) for r in task.reference)]

    def _read(self, where: str, row: Mapping[str, Any]) -> Task:
        prompt = next((row[name] for name in _PROMPT if name in row), None)
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where}: there is no text 'prompt' (or 'question'). {self.where}.")
        given = next((row[name] for name in _ANSWERS if name in row), None)
        answers = [str(a) for a in (given if isinstance(given, list) else [given]) if _is_plain(a) and str(a).strip()]
        if not answers or (isinstance(given, list) and len(answers) < len(given)):
            raise DataError(f"{where}: there is no 'answer' (text, number or list of texts). {self.where}.")
        rule = row.get("grader", self.grader)
        if rule not in GRADERS:
            raise DataError(f"{where}: {UnknownName('grader', str(rule), GRADERS)}")
        if rule == "number" and any(read_number(answer) is None for answer in answers):
            raise DataError(f"{where}: the answer {answers[0]!r} is not one number; use another grader.")
        labels = {name: row[name] for name in ("id", "family") if isinstance(row.get(name), str | int)}
        return self.task(
            prompt,
            answers,
            grader=f"{rule}/1",
            cluster=str(row.get("cluster", "")),
            meta={**labels, **self.records.labels},
        )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
