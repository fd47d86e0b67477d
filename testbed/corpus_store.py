"""Corpora on disk: opened in milliseconds, identified by content, checked before they are used.

A corpus is a folder with ``corpus.json``, which names the folder of the current data: the documents in order of id (one
JSON array a line, the bytes that the corpus' hash is made of), where each begins, and the lexical index. See
`testbed.corpus_build` for how it is made.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard, TypeVar, overload

import numpy as np

from testbed import lexical
from testbed.corpus import Document, StoredCorpus
from testbed.errors import DataError

FORMAT = 1
MANIFEST, DOCUMENTS, STARTS, RANKS, LEXICAL = "corpus.json", "documents.jsonl", "starts.npy", "ranks.npy", "lexical"
T = TypeVar("T")
AGAIN = "Build it again: testbed corpus build SOURCE OUT"
_FIELDS = {"format": int, "hash": str, "data": str, "files": dict, "documents": int, "engine": str}  # of a manifest
_TICK = 2.0  # seconds in which a file may change twice and seem to have changed once
_sound: set[tuple[Any, ...]] = set()  # files as they were when their checksum was right: every arm asks


class Rows(Sequence[Document]):
    """The documents of a stored corpus, read from its file one at a time."""

    def __init__(self, file: Path, starts: Any) -> None:
        with file.open("rb") as opened:
            self._bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def raw(self, at: int) -> bytes:
        """The line of a document."""
        return self._bytes[int(self._starts[at]) : int(self._starts[at + 1])]

    @overload
    def __getitem__(self, at: int) -> Document: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, at: int | slice) -> Document | tuple[Document, ...]:
        if isinstance(at, slice):
            return tuple(self[n] for n in range(*at.indices(len(self))))
        if not -len(self) <= at < len(self):
            raise IndexError(f"document {at} of {len(self)}")
        return parse_row(self.raw(at % len(self)))


def parse_row(line: bytes) -> Document:
    """The document that a line of ``documents.jsonl`` holds.

    Raises:
        DataError: it holds none: the file was damaged.
    """
    try:
        identity, title, text = json.loads(line)
        document = Document(identity + "", text + "", title + "")
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{DOCUMENTS} is damaged: it has the line {line[:60]!r}. {AGAIN}") from None
    return document


def read_corpus(path: str | Path, expected: str = "") -> StoredCorpus:
    """The corpus in a folder once its files are what was written: about a millisecond a megabyte, once per process.

    Args:
        path: the folder.
        expected: the hash that the corpus must have; any if empty.

    Raises:
        DataError: there is none, it is half-written or damaged, or it has another hash.
    """
    return _current(Path(path), lambda manifest: _opened(Path(path), manifest, expected, checked=True))


def open_corpus(path: str | Path, expected: str = "") -> StoredCorpus:
    """The corpus in a folder, in milliseconds: its sizes are looked at, not its content; `read_corpus` does both.

    Args:
        path: the folder.
        expected: the hash that the corpus must have; any if empty.

    Raises:
        DataError: there is none, it is half-written or seen to be damaged, or it has another hash.
    """
    return _current(Path(path), lambda manifest: _opened(Path(path), manifest, expected, checked=False))


def _current(folder: Path, use: Callable[[dict[str, Any]], T]) -> T:
    """What `use` makes of the current data; a build that ended meanwhile has removed those that were current."""
    manifest = read_manifest(folder)
    while True:
        try:
            return use(manifest)
        except DataError:
            before, manifest = manifest, read_manifest(folder)
            if manifest["data"] == before["data"]:
                raise


def _opened(folder: Path, manifest: dict[str, Any], expected: str, checked: bool) -> StoredCorpus:
    if expected and manifest["hash"] != expected:
        raise DataError(
            f"corpus {folder} has the hash {manifest['hash']}, not {expected}: it is not the one that was asked for."
        )
    data = folder / manifest["data"]
    for name, (size, _) in manifest["files"].items():
        if _size(data / name) != size:
            raise DataError(f"corpus {folder} is damaged: {data / name} is missing or not {size} bytes long. {AGAIN}")
    problems = _damage(data, manifest) if checked else []
    if problems:
        raise DataError(f"corpus {folder} is damaged: {'; '.join(problems)}. {AGAIN}")
    try:
        starts = np.load(data / STARTS, mmap_mode="r", allow_pickle=False)
        ranks = np.load(data / RANKS, mmap_mode="r", allow_pickle=False) if RANKS in manifest["files"] else None
        rows = Rows(data / DOCUMENTS, starts)
        if (starts.dtype.kind, starts.ndim) != ("i", 1) or len(rows) != manifest["documents"]:
            raise ValueError(f"{MANIFEST} says {manifest['documents']} documents, {STARTS} something else")
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise DataError(f"corpus {folder} is damaged: {error}. {AGAIN}") from None
    index = lexical.LexicalIndex.open(data / LEXICAL, ranks)
    return StoredCorpus(rows, manifest["hash"], folder, data / LEXICAL, ranks, index)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``corpus.json`` says.

    Raises:
        DataError: it is missing, damaged, or of a version that this one cannot read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no corpus, or one whose build did not end: no {MANIFEST}. {AGAIN}") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, not a corpus that was built from one. {AGAIN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {folder / MANIFEST}: {error}. {AGAIN}") from None
    if not is_manifest(manifest):
        raise DataError(f"{folder / MANIFEST} does not describe a corpus. {AGAIN}")
    if (manifest["format"], manifest.get("analyser")) != (FORMAT, lexical.ANALYSER):
        raise DataError(f"corpus {folder} was built by another version of the testbed. {AGAIN}")
    return manifest


def is_manifest(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value of JSON describes a corpus whose files all lie in one folder beside it."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in _FIELDS.items()):
        return False
    files = all(isinstance(v, list) and [type(part) for part in v] == [int, str] for v in value["files"].values())
    return files and "/" not in value["data"] and all(map(_stays_within, (value["data"], *value["files"])))


def _stays_within(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _size(file: Path) -> int:
    """Bytes of a file; −1 where there is none."""
    try:
        return file.stat().st_size if file.is_file() else -1
    except OSError:
        return -1


def _damage(data: Path, manifest: dict[str, Any]) -> list[str]:
    """The files of a corpus that are not what was written, in words."""
    listed = {name: [size, checksum] for name, (size, checksum) in manifest["files"].items()}
    problems = [f"{data / name} is not what was written" for name in listed if not _is_sound(data / name, listed[name])]
    if not problems and listed.get(DOCUMENTS, [0, ""])[1] != manifest["hash"]:
        problems.append(f"{data / DOCUMENTS} has not the hash {manifest['hash']}")
    return problems


def _is_sound(file: Path, expected: list[Any]) -> bool:
    """Whether a file has a size and checksum; read only once while nothing touches it.

    What changed within the last tick of the clock is read again the next time: its times would not tell a change.
    """
    try:
        now, clock = file.stat(), time.time()
        state = (str(file.absolute()), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, *expected)
        if state in _sound:
            return True
        if file_fingerprint(file) != expected:
            return False
    except OSError:
        return False
    if clock - now.st_ctime > _TICK:
        _sound.add(state)
    return True


def verify(path: str | Path, expected: str = "") -> list[str]:
    """Reads all of a corpus and names what is not as it was written; empty if all is well.

    Raises:
        DataError: there is no corpus, it is half-written, or it has another hash than expected.
    """
    folder = Path(path)
    return _current(folder, lambda manifest: _verified(folder, manifest, expected))


def _verified(folder: Path, manifest: dict[str, Any], expected: str) -> list[str]:
    _sound.clear()  # whoever asks wants the disk to be read
    data = folder / manifest["data"]
    problems = _damage(data, manifest)
    if not problems:
        corpus = _opened(folder, manifest, expected, checked=False)
        if not len(corpus) == corpus.index.size == manifest["documents"]:
            counts = f"{corpus.index.size} in the index, {manifest['documents']} in {MANIFEST}"
            problems.append(f"{len(corpus)} documents, {counts}")
    return problems


def file_fingerprint(file: Path) -> list[Any]:
    """Size and checksum of a file, as ``corpus.json`` lists them."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        return [size, hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()]
