"""SciFact: is a scientific claim supported or contradicted, by which abstracts, and by which of their sentences?"""

from __future__ import annotations

import ast
import csv
import io
import re
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

from testbed.env import Common, Environment
from testbed.envs.scifact_rules import (
    COUNTED,
    LABELS,
    NOINFO,
    Evidence,
    abstract_is_right,
    f1,
    read_evidence,
    sentence_f1,
)
from testbed.errors import DataError, UnknownName, UsageError
from testbed.records import FileRecords, HubOption, HubRecords, Record, hub_records, records_of
from testbed.types import Grade, Task

CLAIMS = {
    "validation": ("claims_dev.jsonl", "claims_validation.csv"),
    "train": ("claims_train.jsonl", "claims_train.csv"),
}
ABSTRACTS = ("corpus.jsonl", "corpus_train.csv")
HOME = {"name": "allenai/scifact", "config": "claims"}
WHERE = "It is data.tar.gz of github.com/allenai/scifact, unpacked, or a zip of the same tables as CSV"
ASKED = {
    "label": "Does the scientific literature support this claim? Answer with SUPPORT, CONTRADICT or NOINFO alone.",
    "abstracts": "Which abstracts of the collection support or contradict this claim? Answer with one line for each: "
    "its id, and SUPPORT or CONTRADICT, such as: 4983 SUPPORT. If none does either, answer NOINFO.",
    "sentences": "Which abstracts of the collection support or contradict this claim? Answer with one line for each: "
    "its id, SUPPORT or CONTRADICT, and the numbers of the sentences that are evidence, such as: 4983 SUPPORT 2 5. One "
    "complete piece of evidence must be among the first three. If no abstract does either, answer NOINFO.",
}


@dataclass
class Claim:
    """A claim with its evidence by abstract."""

    id: str
    text: str
    cited: Sequence[int]
    evidence: dict[str, list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)


class SciFact(Environment):
    """Scientific claims to verify against a collection of abstracts (SciFact), from files or the hub.

    Args:
        path: folder of the benchmark's own JSONL files, or of the same tables as CSV, perhaps zipped. By default
            ``$TESTBED_DATA/scifact/scifact.zip``.
        split: "validation" or "train"; the labels of "test" are not public.
        answer: what is asked for: "label" alone, "abstracts" with their labels, or also their "sentences".
        limit: how many claims, from the file's first; None for all.
        hub: instead of a path, a dataset of the claims that Hugging Face's `datasets` loads, see `testbed.records`;
            without a name that of `HOME`.
        corpus: with `hub`: the abstracts' dataset; by default the config "corpus" of the claims'.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or an option makes no sense.
    """

    id: ClassVar[str] = "SciFact-v0"
    card: ClassVar[str] = (
        "Source: Wadden et al. 2020, Fact or Fiction: Verifying Scientific Claims, arXiv 2004.14974; 300 validation "
        "and 809 training claims, 5,183 abstracts; claims CC BY 4.0, abstracts ODC-By 1.0. Graded claim by claim by "
        "the rule of its evaluation: an abstract is right if its label is, and if one complete set of evidence is "
        "among the first three sentences named (abstracts: label only); an answer is right if every abstract with "
        "evidence is, and no other is named. The score is F1 over sentences (abstracts). Expected: search, retrieve "
        "and open over its abstracts create, since ids and sentences cannot be known; NOINFO is right for a third of "
        "the claims whoever says it, and labels alone are guessed by resampling; python adds nothing. Contamination: "
        "high; claims and abstracts are public since 2020, ids and sentence numbers are rarely memorised."
    )

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "validation",
        answer: str = "sentences",
        limit: int | None = None,
        hub: HubOption | None = None,
        corpus: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        if split not in CLAIMS:
            raise UnknownName(f"split of {self.id}", split, CLAIMS, hint="The test claims' labels are not public.")
        if answer not in ASKED:
            raise UnknownName(f"answer of {self.id}", answer, ASKED)
        if limit is not None and limit < 1:
            raise UsageError(f"{self.id}: limit must be at least 1 claim, not {limit}; leave it out for all.")
        if corpus is not None and hub is None:
            raise UsageError(f"{self.id}: corpus goes with hub; with a path, the abstracts are read from there.")
        home = {**HOME, "split": split}
        self.source = records_of(self.id, path, hub, usual="scifact/scifact.zip", home=home, where=WHERE)
        self.split, self.answer, self.limit, self.corpus = split, answer, limit, corpus
        super().__init__(**common)

    # -- tasks and documents -------------------------------------------------------------------------------------------

    def make_tasks(self) -> Iterable[Task]:
        """The claims in the file's order.

        The two that the training claims hold twice come once; one whose only evidence has more than three sentences,
        and so cannot be right by the rule, is left out where sentences are asked for.
        """
        seen: set[str] = set()
        for claim in self._claims():
            task = self._task(claim)
            reachable = self.answer != "sentences" or all(
                min(map(len, found["sets"])) <= COUNTED for found in task.reference.values()
            )
            if reachable and task.hash not in seen:
                if len(seen) == self.limit:
                    return
                seen.add(task.hash)
                yield task

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every abstract: its title, then its sentences with their numbers, from (0) on."""
        for place, _, row in self._rows(ABSTRACTS):
            title, sentences = row.get("title"), _sentences(row.get("abstract"))
            if not isinstance(title, str) or not sentences or "doc_id" not in row:
                raise DataError(f"{place}: 'doc_id', 'title' and a list 'abstract' are wanted. {WHERE}.")
            numbered = (f"({n}) {sentence.strip()}" for n, sentence in enumerate(sentences))
            yield str(row["doc_id"]), " ".join((title, *numbered))

    def _task(self, claim: Claim) -> Task:
        evidence = {
            doc: {"label": sets[0][0], "sets": [list(numbers) for _, numbers in sets]}
            for doc, sets in claim.evidence.items()
        }
        label = next((sets[0][0] for sets in claim.evidence.values()), NOINFO)
        return self.task(
            f"Claim: {claim.text.strip()}\n{ASKED[self.answer]}",
            label if self.answer == "label" else evidence,
            grader=f"scifact-{self.answer}/1",
            cluster=str(min(claim.cited, default="")),  # claims that were written from the same article
            meta={"id": claim.id, "family": label, **self.source.labels},
        )

    def _claims(self) -> Iterator[Claim]:
        """The claims; a table has a row for each set of evidence, those of a claim together."""
        open_: Claim | None = None
        for place, _, row in self._rows(CLAIMS[self.split]):
            id_, text = row.get("id"), row.get("claim")
            if id_ is None or not isinstance(text, str) or not text.strip():
                raise DataError(f"{place}: an 'id' and a text 'claim' are wanted. {WHERE}.")
            if open_ is None or open_.id != str(id_):
                if open_ is not None:
                    yield open_
                open_ = Claim(str(id_), text, _numbers(row.get("cited_doc_ids")))
            for doc, label, numbers in _evidence(row):
                sets = open_.evidence.setdefault(doc, [])
                if label not in LABELS or not numbers or any(other != label for other, _ in sets):
                    raise DataError(f"{place}: evidence of {doc} needs sentences and one label of {LABELS}. {WHERE}.")
                sets.append((label, numbers))
        if open_ is not None:
            yield open_

    def _rows(self, names: tuple[str, str]) -> Iterator[Record]:
        if isinstance(self.source, HubRecords):
            yield from self.source if names is not ABSTRACTS else self._hub_abstracts(self.source)
            return
        jsonl, table = names
        path = self.source.path
        if (path / jsonl).is_file():
            yield from FileRecords(path / jsonl)
        elif (path / table).is_file():
            yield from _table(str(path / table), (path / table).read_bytes())
        elif path.is_file():
            yield from _table(f"{path}/{table}", _member(path, table))
        else:
            raise DataError(f"{path} is neither a zip nor a folder with {jsonl} or {table}. {WHERE}.")

    def _hub_abstracts(self, claims: HubRecords) -> HubRecords:
        beside = {"name": claims.name, "config": "corpus", "split": "train", "revision": claims.revision}
        return hub_records(self.id, self.corpus if self.corpus is not None else beside, beside)

    # -- grading -------------------------------------------------------------------------------------------------------

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if the label is, or if every abstract is by the benchmark's rule and no other is named."""
        if self.answer == "label":
            return Grade(answer.strip().upper() == task.reference)
        found, gold = read_evidence(answer), {doc: _gold(sets) for doc, sets in task.reference.items()}
        if found is None:
            return Grade(False, 0.0, "cannot be read")
        if self.answer == "abstracts":
            right = sum(doc in gold and said.label == gold[doc].label for doc, said in found.items())
            score = f1(right, len(found), len(gold))
        else:
            right = sum(doc in gold and abstract_is_right(said, gold[doc]) for doc, said in found.items())
            score = sentence_f1(found, gold) if gold else float(not found)
        detail = f"{right} of {len(found)} abstracts right, {len(gold)} wanted"
        return Grade(right == len(found) == len(gold), score, detail)

    def reference_answer(self, task: Task) -> str:
        """Every abstract with its label and sentences, those of its smallest set first."""
        if self.answer == "label":
            return str(task.reference)
        lines = []
        for doc, found in task.reference.items():
            numbers = [n for sentences in sorted(found["sets"], key=len) for n in sentences]
            shown = numbers if self.answer == "sentences" else []
            lines.append(" ".join(map(str, (doc, found["label"], *shown))))
        return "\n".join(lines) or NOINFO

    def near_misses(self, task: Task) -> Iterable[str]:
        """Other labels, an abstract too many or too few, and sentences that are no evidence."""
        right = self.reference_answer(task)
        yield from (f"It is {right}", f"{right}\n1 SUPPORT 0", f"{right}\n{right}", f"{right}\n?", " or ".join(LABELS))
        yield from (label for label in (*LABELS, NOINFO) if label != right)
        if right in (*LABELS, NOINFO):
            return
        yield re.sub("|".join(LABELS), lambda label: LABELS[label[0] == LABELS[0]], right)
        if "\n" in right:
            yield right.partition("\n")[0]
        if self.answer == "sentences":
            yield re.sub(r" \d+(?=[ \n]|$)", "", right)
            yield re.sub(r"(SUPPORT|CONTRADICT) ", r"\1 997 998 999 ", right)


def _gold(reference: Mapping[str, Any]) -> Evidence:
    return Evidence(reference["label"], tuple(map(tuple, reference["sets"])))


# -- reading -----------------------------------------------------------------------------------------------------------


def _evidence(row: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Abstract, label and sentences of each set of evidence in a row: of the benchmark's own form, or of a table."""
    given = row.get("evidence")
    if isinstance(given, Mapping):
        for doc, sets in given.items():
            yield from ((str(doc), one["label"], _numbers(one["sentences"])) for one in sets or ())
    elif doc := str(row.get("evidence_doc_id") or ""):
        yield doc, str(row.get("evidence_label")), _numbers(row.get("evidence_sentences"))


def _numbers(given: Any) -> tuple[int, ...]:
    """Whole numbers, perhaps printed, as in "[2 5]"."""
    if isinstance(given, str):
        given = re.findall(r"\d+", given)
    return tuple(map(int, given or ()))


def _sentences(given: Any) -> list[str]:
    """A list of texts, perhaps printed without commas, as tables hold it."""
    if not isinstance(given, str):
        return list(given or ())
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(given).readline))
        return [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
    except (tokenize.TokenError, SyntaxError, ValueError):
        return []


def _table(place: str, content: bytes) -> Iterator[Record]:
    """The rows of a CSV file."""
    csv.field_size_limit(1 << 30)
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for number, row in enumerate(rows, 1):
            yield Record(f"{place}, row {number}", number, row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{place}: not CSV in UTF-8 ({error}). {WHERE}.") from None


def _member(path: Path, name: str) -> bytes:
    """A file of a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(m for m in archive.namelist() if m.rpartition("/")[2] == name))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        reason = f"there is no {name}" if isinstance(error, StopIteration) else error
        raise DataError(f"{path} cannot be read as SciFact's zip: {reason}. {WHERE}.") from None
