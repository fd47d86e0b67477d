"""Corpora on disk: opened in milliseconds, identified by content, verified on demand.

A corpus is a folder with ``corpus.json``, which names the folder of the current data: the documents in order of id (one
JSON array a line, the bytes that the corpus' hash is made of), where each begins, and the lexical index. See
`testbed.corpus_build` for how it is made.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from testbed import lexical
from testbed.corpus import Document, StoredCorpus
from testbed.errors import DataError

FORMAT = 1
MANIFEST, DOCUMENTS, STARTS, RANKS, LEXICAL = "corpus.json", "documents.jsonl", "starts.npy", "ranks.npy", "lexical"
AGAIN = "Build it again: testbed corpus build SOURCE OUT"


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
    """The document that a line of ``documents.jsonl`` holds."""
    identity, title, text = json.loads(line)
    return Document(identity, text, title)


def open_corpus(path: str | Path, expected: str = "") -> StoredCorpus:
    """The corpus in a folder. Reads its sizes, not its content: `verify` does that.

    Args:
        path: the folder.
        expected: the hash that the corpus must have; any if empty.

    Raises:
        DataError: there is none, it is half-written or damaged, or it has another hash.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if expected and manifest["hash"] != expected:
        raise DataError(
            f"corpus {folder} has the hash {manifest['hash']}, not {expected}: it is not the one that was asked for."
        )
    data = folder / manifest["data"]
    for name, (size, _) in manifest["files"].items():
        file = data / name
        if not file.is_file() or file.stat().st_size != size:
            raise DataError(f"corpus {folder} is damaged: {file} is missing or not {size} bytes long. {AGAIN}")
    ranks = np.load(data / RANKS, mmap_mode="r") if RANKS in manifest["files"] else None
    rows = Rows(data / DOCUMENTS, np.load(data / STARTS, mmap_mode="r"))
    return StoredCorpus(rows, manifest["hash"], folder, data / LEXICAL, ranks)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``corpus.json`` says.

    Raises:
        DataError: it is missing, damaged, or of a version that this one cannot read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no corpus, or one whose build did not end: no {MANIFEST}. {AGAIN}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {folder / MANIFEST}: {error}. {AGAIN}") from None
    if not isinstance(manifest, dict) or not {"format", "hash", "data", "files", "documents"} <= manifest.keys():
        raise DataError(f"{folder / MANIFEST} does not describe a corpus. {AGAIN}")
    if (manifest["format"], manifest.get("analyser")) != (FORMAT, lexical.ANALYSER):
        raise DataError(f"corpus {folder} was built by another version of the testbed. {AGAIN}")
    return manifest


def verify(path: str | Path, expected: str = "") -> list[str]:
    """Reads all of a corpus and names what is not as it was written; empty if all is well.

    Raises:
        DataError: there is no corpus, it is half-written, or it has another hash than expected.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    data = folder / manifest["data"]
    problems = [
        f"{data / name} is not what was written"
        for name, (size, checksum) in manifest["files"].items()
        if not (data / name).is_file() or file_fingerprint(data / name) != [size, checksum]
    ]
    if problems:
        return problems
    corpus = open_corpus(folder, expected)
    if file_fingerprint(data / DOCUMENTS)[1] != corpus.hash:
        problems.append(f"{data / DOCUMENTS} has not the hash {corpus.hash}")
    indexed = lexical.LexicalIndex.of(corpus).size
    if not len(corpus) == indexed == manifest["documents"]:
        problems.append(f"{len(corpus)} documents, {indexed} in the index, {manifest['documents']} in {MANIFEST}")
    return problems


def file_fingerprint(file: Path) -> list[Any]:
    """Size and checksum of a file, as ``corpus.json`` lists them."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        return [size, hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()]
