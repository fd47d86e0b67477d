"""Fixed document collections for tools that search: read, checked, and identified by content."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import DataError, UsageError, did_you_mean
from testbed.types import canonical

# The names that collections on the web use for the same thing, first match wins.
_ID_FIELDS = ("id", "_id")
_TEXT_FIELDS = ("text", "contents")

NO_RESULTS = "No results."


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: its name in results; one line, not blank.
        text: what it says; not blank.
        title: its heading; may be empty.
    """

    id: str
    text: str
    title: str = ""

    @property
    def content(self) -> str:
        """Title and text: what is indexed."""
        return f"{self.title} {self.text}" if self.title else self.text

    @property
    def line(self) -> str:
        """How tools show it: ``[id] text``, or ``[id] title: text``, in one line."""
        heading = f"{self.title}: " if self.title else ""
        return f"[{self.id}] {' '.join((heading + self.text).split())}"


@dataclass(frozen=True)
class Corpus:
    """Documents in order of id, so that their order in a file changes neither results nor the hash.

    Attributes:
        documents: the documents; ids are unique.
        hash: 32 hexadecimal characters over every id, title and text.
    """

    documents: tuple[Document, ...]
    hash: str

    @classmethod
    def of(cls, documents: Iterable[tuple[str, str] | Document]) -> Corpus:
        """A corpus of (id, text) pairs or documents.

        Raises:
            DataError: an id occurs twice, or a document is empty.
        """
        numbered = enumerate(documents, 1)
        return _collect((f"document {n}", d if isinstance(d, Document) else Document(*d)) for n, d in numbered)

    @classmethod
    def read(cls, path: str | Path) -> Corpus:
        """A corpus from a JSONL file: one object a line with "id" (or "_id"), "text" (or "contents"), perhaps "title".

        Raises:
            DataError: the file is missing, or a line is not such an object; names the line.
        """
        where = f"{path}:"
        return _collect((f"{where}{line}", _document(f"{where}{line}", row)) for line, row in read_jsonl(path))

    def __len__(self) -> int:
        return len(self.documents)


def passages(documents: Iterable[Document]) -> str:
    """Documents as a tool's result: one a line, best first; `NO_RESULTS` if there is none."""
    return "\n".join(document.line for document in documents) or NO_RESULTS


def check_passage_count(k: int, tool: str) -> None:
    """Refuses a tool's option k below 1.

    Raises:
        UsageError: it is.
    """
    if k < 1:
        raise UsageError(f"tool {tool}: k must be at least 1 passage, not {k}.")


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, perhaps gzipped (.gz), with their line numbers; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8, not JSON, or not an object; names the line.
    """
    try:
        with gzip.open(path) if str(path).endswith(".gz") else Path(path).open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, _parse_line(f"{path}:{number}", raw)
    except (OSError, EOFError, zlib.error) as error:  # the latter: a gzipped file that is cut or damaged
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}. Give the path of a JSONL file, one object a line.") from None


def _parse_line(where: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); convert the file to UTF-8.") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); each line must be one JSON object.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: {type(value).__name__} instead of an object; each line must be one JSON object.")
    return value


def _document(where: str, row: Mapping[str, Any]) -> Document:
    title = row.get("title") or ""
    return Document(str(_field(where, row, _ID_FIELDS)), str(_field(where, row, _TEXT_FIELDS)), str(title))


def _field(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> str | int:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return value
    wanted = f"{names[0]!r} (or {names[1]!r})"
    if any(name in row for name in names):
        raise DataError(f"{where}: {wanted} must be text.")
    raise DataError(f"{where}: there is no {wanted}.{did_you_mean(names[0], row)}")


def _collect(entries: Iterable[tuple[str, Document]]) -> Corpus:
    seen: dict[str, str] = {}
    documents = []
    for where, document in entries:
        _check(where, document)
        if document.id in seen:
            raise DataError(f"{where}: id {document.id!r} is taken by {seen[document.id]}; ids must be unique.")
        seen[document.id] = where
        documents.append(document)
    documents.sort(key=lambda d: d.id)
    content = hashlib.blake2b(digest_size=16)
    for document in documents:
        content.update(canonical([document.id, document.title, document.text]).encode() + b"\n")
    return Corpus(tuple(documents), content.hexdigest())


def _check(where: str, document: Document) -> None:
    if not document.id.strip() or len(document.id.splitlines()) != 1:
        raise DataError(f"{where}: the id {document.id!r} must be one line and not blank.")
    if not document.text.strip():
        raise DataError(f"{where}: document {document.id!r} is empty; leave it out.")
    try:
        f"{document.id}{document.title}{document.text}".encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: document {document.id!r} holds half a surrogate pair; repair its text.") from None
