"""Fixed document collections for tools that search: read, checked, and identified by content."""

from __future__ import annotations

import gzip
import hashlib
import json
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from testbed.errors import LONGEST_NAME, DataError, UsageError, did_you_mean
from testbed.types import canonical, well_formed

# The names that collections on the web use for the same thing, first match wins.
_ID_FIELDS = ("id", "_id")
_TEXT_FIELDS = ("text", "contents")

NO_RESULTS = "No results."
SNIPPET = 256  # tokens of a document that a result shows; short documents are shown whole
TOKEN_CHARS = 4  # characters counted as a token, since a tool does not know its model's tokenizer
LONGEST_SHOWN = 250_000  # characters of a document that a snippet is taken from: of more it would take seconds
MOST_PASSAGES, MOST_TOKENS = 10_000, 1_000_000  # in a result: far beyond what any model is shown


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: its name in results; one line, not blank, without control characters and outer blanks.
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
        return self.shown(self.text)

    def shown(self, text: str) -> str:
        """The line with another text, such as a part of its own."""
        heading = f"{self.title}: " if self.title else ""
        return f"[{self.id}] {' '.join((heading + text).split())}"

    @property
    def row(self) -> bytes:
        """The line that a stored corpus holds, and that a corpus' hash is made of."""
        return canonical([self.id, self.title, self.text]).encode() + b"\n"


@dataclass(frozen=True)
class Corpus:
    """Documents in order of id, so that their order in a file changes neither results nor the hash.

    Attributes:
        documents: the documents; ids are unique.
        hash: 32 hexadecimal characters over every id, title and text.
    """

    documents: Sequence[Document]
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

        Of a folder that `testbed corpus build` made, the corpus that is stored there, once it is seen to be sound.

        Raises:
            DataError: the file is missing, or a line is not such an object; names the line. Or the folder's corpus is
                damaged.
        """
        if Path(path).is_dir():
            from testbed.corpus_store import read_corpus

            return read_corpus(path)
        return _collect(jsonl_documents(path))

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True)
class StoredCorpus(Corpus):
    """A corpus in a folder, with its lexical index; documents are read when they are asked for.

    Attributes:
        folder: where it is.
        lexical: folder of the index.
        ranks: a document's place in order of id by its number in the index; None where these are the same.
        index: the `testbed.lexical.LexicalIndex`, open.
    """

    folder: Path = Path()
    lexical: Path = Path()
    ranks: Sequence[int] | None = field(default=None, compare=False)
    index: Any = field(default=None, compare=False, repr=False)


def passages(
    documents: Iterable[Document], tokens: int = SNIPPET, part: Callable[[str, int], str] | None = None
) -> str:
    """Documents as a tool's result: one a line, best first; `NO_RESULTS` if there is none.

    Args:
        documents: best first.
        tokens: of a longer text only a part is shown, at most so many tokens of `TOKEN_CHARS` characters.
        part: chooses the part of a text, given the most characters it may have; by default the start.
    """
    return "\n".join(_snippet(document, tokens * TOKEN_CHARS, part or _start) for document in documents) or NO_RESULTS


def _snippet(document: Document, characters: int, part: Callable[[str, int], str]) -> str:
    if len(document.title) > characters:
        document = replace(document, title=f"{well_formed(document.title[:characters])} …")
    seen = max(LONGEST_SHOWN, 2 * characters)
    text = " ".join(document.text[:seen].split())
    whole = len(document.text) <= seen
    if whole and len(text) <= characters:
        return document.line
    chosen = well_formed(part(text, characters)[:characters])
    before = "" if text.startswith(chosen) else "… "
    after = "" if whole and text.endswith(chosen) else " …"
    return document.shown(f"{before}{chosen.strip()}{after}")


def _start(text: str, characters: int) -> str:
    cut = text[:characters]
    return cut.rpartition(" ")[0] or cut


def check_snippet(tokens: int, tool: str) -> None:
    """Refuses a tool's option tokens below 1 or beyond `MOST_TOKENS`.

    Raises:
        UsageError: it is.
    """
    if not 1 <= tokens <= MOST_TOKENS:
        raise UsageError(f"tool {tool}: tokens must be at least 1 and at most {MOST_TOKENS}, not {tokens}.")


def check_passage_count(k: int, tool: str) -> None:
    """Refuses a tool's option k below 1 or beyond `MOST_PASSAGES`.

    Raises:
        UsageError: it is.
    """
    if not 1 <= k <= MOST_PASSAGES:
        raise UsageError(f"tool {tool}: k must be at least 1 passage and at most {MOST_PASSAGES}, not {k}.")


def check_placebo(documents: int, k: int, tool: str) -> None:
    """Refuses a placebo over so few documents that it would show other numbers of passages, or the best of them.

    Raises:
        UsageError: there are fewer than twice the passages of a result.
    """
    if documents < 2 * k:
        raise UsageError(
            f"tool {tool}: the corpus is too small for control = 'inert': a placebo of k = {k} passages, none of them "
            f"near the query, needs at least {2 * k} documents, not {documents}. Lower k or add documents."
        )


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
    except (ValueError, RecursionError) as error:  # also a whole number of thousands of digits
        raise DataError(f"{where}: not JSON ({error}); each line must be one JSON object.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: {type(value).__name__} instead of an object; each line must be one JSON object.")
    return value


def jsonl_documents(path: str | Path) -> Iterator[tuple[str, Document]]:
    """The documents of a JSONL file with their places, not yet checked.

    Raises:
        DataError: a line is no document; names the line.
    """
    for line, row in read_jsonl(path):
        yield f"{path}:{line}", _document(f"{path}:{line}", row)


def _document(where: str, row: Mapping[str, Any]) -> Document:
    title = "" if row.get("title") is None else row["title"]
    if isinstance(title, bool) or not isinstance(title, str | int | float):
        raise DataError(f"{where}: 'title' must be text.")
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
        check_document(where, document)
        if document.id in seen:
            raise DataError(f"{where}: id {document.id!r} is taken by {seen[document.id]}; ids must be unique.")
        seen[document.id] = where
        documents.append(document)
    documents.sort(key=lambda d: d.id)
    content = hashlib.blake2b(digest_size=16)
    for document in documents:
        content.update(document.row)
    return Corpus(tuple(documents), content.hexdigest())


def check_document(where: str, document: Document) -> None:
    """Refuses a document without text, with an id that cannot be told or typed, or with broken characters.

    Raises:
        DataError: it is such; names the place.
    """
    shown = document.id[:LONGEST_NAME]
    if not document.id.strip() or len(document.id.splitlines()) != 1:
        raise DataError(f"{where}: the id {shown!r} must be one line and not blank.")
    if document.id != document.id.strip() or any(unicodedata.category(character) == "Cc" for character in document.id):
        raise DataError(f"{where}: the id {shown!r} has outer blanks or control characters; take them out.")
    if not document.text.strip():
        raise DataError(f"{where}: document {document.id!r} is empty; leave it out.")
    try:
        f"{document.id}{document.title}{document.text}".encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: document {document.id!r} holds half a surrogate pair; repair its text.") from None
