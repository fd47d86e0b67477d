"""Building corpora on disk: checked, in order, indexed, and put in place in one step.

New data are written beside the old, into a folder of their own; then ``corpus.json`` is replaced. A reader sees the old
corpus or the new one, and what a killed build left is removed by the next. Only folders that a build made are ever
removed, see `testbed.corpus_folder`. Where documents were only added, building again indexes only these; the results
are those of a fresh build, since the statistics of BM25 are sums over the parts of an index.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from testbed import lexical
from testbed.corpus import Document, StoredCorpus, check_document
from testbed.corpus_folder import LOCK, MARK, clear, described, forget, make_data_folder, strangers
from testbed.corpus_store import (
    DOCUMENTS,
    FORMAT,
    LEXICAL,
    MANIFEST,
    RANKS,
    STARTS,
    Rows,
    file_fingerprint,
    open_corpus,
    read_corpus,
)
from testbed.errors import DataError, in_the_way

Tell = Callable[[str, int, int | None], None]  # what is being done, how many documents so far, of how many


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        corpus: the corpus that is now there.
        indexed: documents that were indexed; those of an earlier build need not be.
    """

    corpus: StoredCorpus
    indexed: int


def build(entries: Iterable[tuple[str, Document]], out: str | Path, tell: Tell = lambda *_: None) -> Built:
    """Makes or renews the corpus in a folder.

    Args:
        entries: documents, each with its place for messages.
        out: the folder; must be new, empty, or hold a corpus.
        tell: is told how far the build is.

    Raises:
        DataError: a document is empty or broken, an id occurs twice, there is no document, the folder holds something
            else, or somebody else is building there; what was there stays.
    """
    folder = Path(out)
    with _building(folder):
        former, earlier = described(folder), _earlier(folder)
        clear(folder, keep=former.get("data", ""))  # also what cannot be extended stays until there is better
        data = make_data_folder(folder)
        with contextlib.ExitStack() as undo:  # if interrupted too: half a corpus is no use to anybody
            undo.callback(shutil.rmtree, data, ignore_errors=True)
            digest = _write_documents(entries, data, tell)
            if earlier and earlier.hash == digest:
                return Built(earlier, 0)
            indexed = _write_index(data, earlier, tell)
            _publish(folder, data, digest)
            undo.pop_all()
        clear(folder, keep=data.name)
        forget(folder, former)
        return Built(open_corpus(folder), indexed)


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Holds the folder for one builder; a new folder is removed if nothing came of it."""
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if others := strangers(folder):
            raise DataError(f"{folder} holds other files, such as {min(others)}: name a new folder for the corpus.")
        with (folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"{folder}: another build is under way there; wait for its end.") from None
            try:
                yield
            finally:
                if fresh and not (folder / MANIFEST).exists():
                    clear(folder, keep="")
                    (folder / LOCK).unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # somebody has put something there
                        folder.rmdir()
    except OSError as error:
        why = in_the_way(folder) or f"{error.filename or folder}: {error.strerror or error}"
        raise DataError(f"cannot build a corpus in {folder}: {why}.") from None


def _earlier(folder: Path) -> StoredCorpus | None:
    """The corpus that is being renewed, if it is sound and its index can be extended."""
    try:
        return read_corpus(folder) if described(folder).get("engine") == lexical.engine() else None
    except DataError:
        return None


def _write_documents(entries: Iterable[tuple[str, Document]], data: Path, tell: Tell) -> str:
    """Writes the documents in order of id and where each starts; returns their hash."""
    numbers: dict[str, int] = {}
    starts = array("Q", [0])
    with tempfile.TemporaryFile(dir=data) as spool:
        for where, document in entries:
            check_document(where, document)
            if document.id in numbers:
                raise DataError(
                    f"{where}: id {document.id!r} is taken by document {numbers[document.id] + 1}; ids must be unique."
                )
            numbers[document.id] = len(numbers)
            starts.append(starts[-1] + spool.write(document.row))
            if len(numbers) % 1000 == 0:
                tell("reading", len(numbers), None)
        if not numbers:
            raise DataError("there are no documents in the source.")
        tell("reading", len(numbers), len(numbers))
        return _sort(spool, starts, [numbers[identity] for identity in sorted(numbers)], data)


def _sort(spool: IO[bytes], starts: array[int], order: list[int], data: Path) -> str:
    content = hashlib.blake2b(digest_size=16)
    ends = np.zeros(len(order) + 1, np.int64)
    spool.flush()
    with (data / DOCUMENTS).open("wb") as file:
        for place, number in enumerate(order):
            row = os.pread(spool.fileno(), starts[number + 1] - starts[number], starts[number])
            content.update(row)
            ends[place + 1] = ends[place] + file.write(row)
    np.save(data / STARTS, ends)
    return content.hexdigest()


def _write_index(data: Path, earlier: StoredCorpus | None, tell: Tell) -> int:
    """Indexes the documents: only the new ones if all earlier ones are still there; returns how many."""
    rows = Rows(data / DOCUMENTS, np.load(data / STARTS))
    ranks = _extended(rows, earlier) if earlier else None
    if ranks is None or earlier is None:
        new, first = np.arange(len(rows)), 0
        (data / LEXICAL).mkdir()
    else:
        first = len(earlier)
        new = ranks[first:]
        np.save(data / RANKS, ranks)
        _link(earlier.lexical, data / LEXICAL)
    lexical.write(data / LEXICAL, (rows[int(at)] for at in _told(new, tell)), first)
    tell("indexing", len(new), len(new))
    return len(new)


def _told(numbers: Any, tell: Tell) -> Iterator[int]:
    for done, number in enumerate(numbers):
        if done % 1000 == 0:
            tell("indexing", done, len(numbers))
        yield number


def _extended(rows: Rows, earlier: StoredCorpus) -> Any:
    """Places by number in the index once new documents are added to it; None if an earlier one went or changed."""
    old = earlier.documents
    assert isinstance(old, Rows)
    place_of_old = np.empty(len(old), np.int64)
    new = []
    at = 0
    for place in range(len(rows)):
        if at < len(old) and rows.raw(place) == old.raw(at):
            place_of_old[at] = place
            at += 1
        else:
            new.append(place)
    if at < len(old):
        return None
    numbered = place_of_old if earlier.ranks is None else place_of_old[np.asarray(earlier.ranks)]
    return np.concatenate([numbered, np.array(new, np.int64)])


def _link(source: Path, target: Path) -> None:
    """A second index over the same files: parts are never changed once written, only the lists of them are."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, target)
        elif file.suffix != ".lock":
            try:
                os.link(file, target / file.name)
            except OSError:  # not every file system has links
                shutil.copy(file, target)


def _publish(folder: Path, data: Path, digest: str) -> None:
    """Lists the data's files, sees them on disk, and makes them the current ones in one step."""
    for lock in data.rglob("*.lock"):
        lock.unlink()
    files = {
        str(p.relative_to(data)): file_fingerprint(p) for p in sorted(data.rglob("*")) if p.is_file() and p.name != MARK
    }
    for path in [*(data / name for name in files), data / LEXICAL, data]:
        _sync(path)
    manifest = {
        "format": FORMAT,
        "hash": digest,
        "documents": int(np.load(data / STARTS, mmap_mode="r").size) - 1,
        "analyser": lexical.ANALYSER,
        "engine": lexical.engine(),
        "data": data.name,
        "files": files,
    }
    part = data / MANIFEST
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _sync(part)
    os.replace(part, folder / MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
