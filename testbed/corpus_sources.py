"""Where documents come from: JSONL, CSV, TREC, a folder of text, Markdown and PDF files, or an environment."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from testbed.corpus import Document, jsonl_documents
from testbed.errors import DataError, UnknownName, did_you_mean

Entries = Iterator[tuple[str, Document]]  # documents, each with its place for messages

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".trec": "trec",
    ".sgml": "trec",
    ".sgm": "trec",
}
TEXTS = (".txt", ".text", ".md", ".markdown", ".pdf")
_ID_COLUMNS, _TEXT_COLUMNS = ("id", "_id", "doc_id", "docid", "docno"), ("text", "contents", "body", "abstract")
_HEADINGS = frozenset({"title", "headline", "head", "hl", "ti"})  # what TREC's collections call a title
_CHUNK = 1 << 20
_DAMAGE = (  # what readers of damaged PDF files raise, besides their own errors
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def read_documents(source: str | Path, form: str = "") -> Entries:
    """The documents of a file or folder, not yet checked.

    Args:
        source: a file, also gzipped (.gz), or a folder, which is read with its sub-folders.
        form: "jsonl", "csv", "tsv" or "trec"; by default the file's ending says it.

    Raises:
        DataError: the source is missing or malformed; names file and line.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a JSONL, CSV or TREC file, or a folder of text files.")
    readers: dict[str, Callable[[Path], Entries]] = {
        "jsonl": jsonl_documents,
        "csv": lambda p: _table(p, ","),
        "tsv": lambda p: _table(p, "\t"),
        "trec": _trec,
    }
    form = form or ENDINGS.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")
    if not form:
        raise DataError(f"{path}: its ending does not say its form; add --format with one of {', '.join(readers)}.")
    if form not in readers:
        raise UnknownName("format", form, readers)
    return readers[form](path)


def environment_documents(name: str, options: Mapping[str, Any]) -> Entries:
    """The documents of an environment, not yet checked, one at a time where it makes them so.

    Raises:
        UnknownName: there is no such environment, or it has no such option; names the nearest.
        UsageError: it refuses an option.
    """
    from testbed.registry import make_env

    environment = make_env(name, **options)
    return (
        (f"{name}, document {number}", document if isinstance(document, Document) else Document(*document))
        for number, document in enumerate(environment.documents(), 1)
    )


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The file as text, with errors that name it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as raw:
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); convert the file to UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None


def _table(path: Path, separator: str) -> Entries:
    """A table with a heading line, of which one column is the id, one the text, and perhaps one the title."""
    csv.field_size_limit(1 << 30)
    with _text(path) as file:
        rows = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            names = rows.fieldnames or ()
            identity, text = (_column(path, names, known) for known in (_ID_COLUMNS, _TEXT_COLUMNS))
            title = _column(path, names, ("title",)) if "title" in names else ""
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: {len(names)} fields were expected in this row, as in the first.")
                yield where, Document(row[identity], row[text], row[title] if title else "")
        except csv.Error as error:
            raise DataError(f"{path}:{rows.reader.line_num}: not CSV ({error}).") from None


def _column(path: Path, names: Any, known: tuple[str, ...]) -> str:
    for name in known:
        if list(names).count(name) > 1:
            raise DataError(f"{path}:1: {names.count(name)} columns are named {name!r}; rename all but one.")
        if name in names:
            return name
    raise DataError(
        f"{path}:1: no column {known[0]!r} (or {', '.join(map(repr, known[1:]))}).{did_you_mean(known[0], names)}"
    )


class _TrecParser(HTMLParser):
    """Collects <DOC>…</DOC> elements: DOCNO is the id, a heading the title, all other text the text.

    This is no HTML: no element's content is anything but text and marks, and a declaration that is none is text.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.done: list[tuple[int, Document]] = []
        self.line = 0  # of the open element; 0 outside
        self._parts: dict[str, list[str]] = {}
        self._part = "text"

    def handle_starttag(self, tag: str, attrs: object) -> None:
        here = self.getpos()[0]
        if tag == "doc":
            if self.line:
                raise DataError(f"{here}: <DOC> within the <DOC> of line {self.line}: one is not closed.")
            self.line, self._parts, self._part = here, {"id": [], "title": [], "text": []}, "text"
        else:
            if tag == "docno" and self.line and self._parts["id"]:
                raise DataError(f"{here}: a second <DOCNO> in the <DOC> of line {self.line}: it must have one.")
            self._part = "id" if tag == "docno" else "title" if tag in _HEADINGS else "text"

    def handle_endtag(self, tag: str) -> None:
        if tag == "doc" and self.line:
            fields = {name: " ".join("".join(part).split()) for name, part in self._parts.items() if name != "text"}
            text = "".join(self._parts["text"]).strip()
            self.done.append(
                (self.line, Document(fields["id"], text or fields["title"], fields["title"] if text else ""))
            )
            self.line = 0
        elif self.line and self._part != "text":
            self._part = "text"

    def handle_data(self, data: str) -> None:
        if self.line:
            self._parts[self._part].append(data)

    def handle_pi(self, data: str) -> None:
        self.handle_data(f"<?{data}>")

    def set_cdata_mode(self, *_: object, **__: object) -> None:
        """Does nothing: in HTML, <script> and <style> would swallow the marks up to their own end."""

    def parse_bogus_comment(self, i: int, report: int = 1) -> int:
        """Where text that only begins like a mark, such as ``</3``, goes on."""
        self.handle_data(self.rawdata[i : i + 2])
        return i + 2

    def parse_html_declaration(self, i: int) -> int:
        """Where the declaration at a place ends; −1 if that is not seen yet."""
        text = self.rawdata
        if text.startswith("<![CDATA[", i):
            end = text.find("]]>", i)
            if end >= 0:
                self.handle_data(text[i + len("<![CDATA[") : end])
            return end + len("]]>") if end >= 0 else -1
        if text[i : i + 9].lower() == "<!doctype":
            return text.find(">", i) + 1 or -1
        rest = text[i : i + 9].lower()
        if any(mark.startswith(rest) for mark in ("<!--", "<![cdata[", "<!doctype")):  # cut at the end of a chunk
            return -1
        self.handle_data("<!")
        return i + len("<!")


def _trec(path: Path) -> Entries:
    parser = _TrecParser()
    with _text(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                parser.feed(chunk)
                yield from ((f"{path}:{line}", document) for line, document in parser.done)
                parser.done.clear()
            parser.close()
        except DataError as error:
            raise DataError(f"{path}:{error}") from None
    yield from ((f"{path}:{line}", document) for line, document in parser.done)
    if parser.line:
        raise DataError(f"{path}:{parser.line}: this <DOC> is not closed: the file was cut.")


def _folder(folder: Path) -> Entries:
    """Every text, Markdown and PDF file in a folder; ids are the paths within it. Hidden files are passed over.

    Raises:
        DataError: something in it cannot be read, or is a link: what it leads to is not the folder's content.
    """
    readers: Mapping[str, Callable[[Path], tuple[str, str]]] = {".pdf": _pdf, ".md": _markdown, ".markdown": _markdown}
    for place, folders, names in os.walk(folder, onerror=_refuse_unread):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            _refuse_link(Path(place, name))
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in TEXTS and not name.startswith("."):
                _refuse_link(path)
                if not stat.S_ISREG(path.stat().st_mode):
                    raise DataError(f"{path}: not a regular file; take it out of the folder.")
                title, text = readers.get(path.suffix.lower(), _plain)(path)
                yield str(path), Document(path.relative_to(folder).as_posix(), text, title)


def _refuse_unread(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}. Make it readable, or take it out of the folder.")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise DataError(f"{path}: a link; put what it leads to in its place (`cp -rL` copies so), or take it out.")


def _plain(path: Path) -> tuple[str, str]:
    with _text(path) as file:
        return "", file.read()


def _markdown(path: Path) -> tuple[str, str]:
    """Title (the first heading) and the text without its marks."""
    from markdown_it import MarkdownIt

    blocks, title = [], ""
    tokens = MarkdownIt().enable("table").parse(_plain(path)[1])
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline":
            words = "".join(" " if t.type in ("softbreak", "hardbreak") else t.content for t in token.children or ())
            if before is not None and before.type == "heading_open" and not title:
                title = words
            else:
                blocks.append(words)
        elif token.type in ("fence", "code_block"):
            blocks.append(token.content.rstrip())
    return (title, "\n\n".join(blocks)) if blocks else ("", title)


def _pdf(path: Path) -> tuple[str, str]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise DataError(f"{path}: PDF files need pypdf: pip install 'capability-testbed[pdf]'") from None
    try:
        reader = PdfReader(path)
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        title = str((reader.metadata and reader.metadata.title) or "")
    except DependencyError as error:
        raise DataError(f"{path}: it is encrypted, and {error}: install that, or decrypt the file.") from None
    except (PyPdfError, *_DAMAGE) as error:
        raise DataError(f"{path}: not a readable PDF file ({error}); repair it or take it out.") from None
    if not text.strip():
        raise DataError(f"{path}: its pages hold no text, perhaps only scans; recognise it first, or take it out.")
    return title, text
