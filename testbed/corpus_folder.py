"""Whose files are whose in the folder of a corpus: builds remove what builds made, and nothing else.

A corpus' data lie in a folder that holds a mark. A folder with anything else in it is no place for a corpus.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.corpus_store import DOCUMENTS, LEXICAL, MANIFEST, RANKS, STARTS, is_manifest
from testbed.errors import UsageError

LOCK, MARK = ".lock", ".testbed-corpus"
FOLDER = ".build-"
FORMER_FOLDER = "data-"  # what earlier versions called the data's folder, which held no mark


def make_data_folder(folder: Path) -> Path:
    """A new folder for data, with its mark."""
    data = Path(tempfile.mkdtemp(prefix=FOLDER, dir=folder))
    (data / MARK).write_text("Made by `testbed corpus build`; the next build removes this folder.\n")
    return data


def refuse_overlap(source: Path, out: Path) -> None:
    """Refuses a corpus around its own source, or within a source folder: renewing one would touch the other.

    Raises:
        UsageError: it is such.
    """
    here, there = source.resolve(), out.resolve()
    if there == here or there in here.parents or (here in there.parents and source.is_dir()):
        raise UsageError(f"{source} and {out} lie within one another: name a folder for the corpus that is apart.")


def strangers(folder: Path) -> list[str]:
    """Names in a folder that are no part of a corpus."""
    ours = {path.name for path in folder.iterdir() if _is_made_by_us(path)}
    manifest = described(folder)
    if manifest or any(_is_plain_file(folder / name / MARK) for name in ours):
        ours.add(MANIFEST)
    if _is_plain_file(folder / LOCK) and not (folder / LOCK).stat().st_size:
        ours.add(LOCK)
    former = folder / str(manifest.get("data", ""))
    if former.name.startswith(FORMER_FOLDER) and former.is_dir() and not former.is_symlink():
        ours.add(former.name)
    return [path.name for path in folder.iterdir() if path.name not in ours]


def _is_made_by_us(path: Path) -> bool:
    """Whether it is the folder of a build, marked or, where the build was killed at once, still empty."""
    if not path.name.startswith(FOLDER) or path.is_symlink() or not path.is_dir():
        return False
    return _is_plain_file(path / MARK) or not any(path.iterdir())


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def described(folder: Path) -> dict[str, Any]:
    """What ``corpus.json`` says, of whatever version; nothing where it describes no corpus."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if is_manifest(manifest) else {}


def clear(folder: Path, keep: str) -> None:
    """Removes what earlier builds made; what cannot be removed now is left to the next build."""
    for path in folder.iterdir():
        if path.name != keep and _is_made_by_us(path):
            shutil.rmtree(path, ignore_errors=True)


def forget(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Removes the data of an earlier version's build: they held no mark, so only the files that it listed."""
    data = folder / str(manifest.get("data", ""))
    if not data.name.startswith(FORMER_FOLDER) or data.is_symlink() or (data / LEXICAL).is_symlink():
        return
    listed = [n for n in manifest["files"] if n in (DOCUMENTS, STARTS, RANKS) or n.startswith(f"{LEXICAL}/")]
    with contextlib.suppress(OSError):
        for path in (*(data / name for name in listed), *data.glob(f"{LEXICAL}/.tantivy-*.lock")):
            path.unlink(missing_ok=True)
        (data / LEXICAL).rmdir()
        data.rmdir()
