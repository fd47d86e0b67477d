"""The corpus that an option names: an environment's documents, a file, or a folder that `testbed corpus build` made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import DataError, UnknownName, did_you_mean
from testbed.gymnasium_hook import NAMESPACE
from testbed.options import check_options

if TYPE_CHECKING:
    from testbed.corpus import Corpus


def make_corpus(source: Any) -> Corpus:
    """A corpus from an environment's name, a table {env = NAME, …its options}, a path, a table, or a `Corpus`.

    A path is that of a JSONL file or of a folder that `testbed corpus build` made; the table {path = …, hash = …} wants
    the latter with that hash.

    Raises:
        DataError: there is neither such an environment nor such a file, or it has no documents, or another hash.
    """
    from testbed.corpus import Corpus
    from testbed.registry import env_class, env_names, make_env  # which makes tools with the corpora made here

    if isinstance(source, Corpus):
        return source
    check_corpus(source)
    table = _table(source)
    if _is_stored(table):
        return _stored_corpus(table)
    name = str(table.pop("env"))
    if name.removeprefix(NAMESPACE) in env_names():
        check_options(env_class(name), table, f"option of {name}")
        corpus = Corpus.of(make_env(name, **table).documents())
    else:
        corpus = Corpus.read(Path(source))
    if not len(corpus):
        raise DataError(f"corpus {source!r} has no documents.")
    return corpus


def check_corpus(source: Any) -> None:
    """Refuses what names no corpus, without reading any.

    Raises:
        DataError: there is neither such an environment nor such a file; names the nearest.
    """
    from testbed.registry import env_names

    if source == "":
        raise DataError(f"corpus '' names nothing: give a folder, a JSONL file, or an environment.{_nearest('')}")
    table = _table(source)
    if _is_stored(table):
        path = str(table["path"])
        if not path or not os.path.exists(path):
            raise DataError(f"corpus {path!r} does not exist: give the folder of a corpus.{_nearest(path)}")
        return
    name = str(table.get("env", ""))
    if name.removeprefix(NAMESPACE) not in env_names() and not (isinstance(source, str) and os.path.exists(source)):
        raise DataError(f"corpus {source!r} is neither a file nor an environment with documents.{_nearest(name)}")


def _table(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else {"env": source}


def _is_stored(table: Mapping[str, Any]) -> bool:
    return "path" in table and "env" not in table  # an environment may have an option of that name


def _nearest(name: str) -> str:
    """The nearest of environments with documents and of corpora beside the path that was meant, in a sentence."""
    from testbed.corpus_store import MANIFEST
    from testbed.registry import env_names

    place = Path(name).parent
    beside = [p for p in place.glob("*") if os.path.isfile(p / MANIFEST) or ".jsonl" in p.suffixes]
    return did_you_mean(name, [*map(str, beside), *filter(_has_documents, env_names())])


def _has_documents(env: str) -> bool:
    """Whether an environment may have any; one that cannot be loaded is another matter."""
    from testbed.family import TaskFamily
    from testbed.registry import env_class

    try:
        return env_class(env).documents is not TaskFamily.documents
    except DataError:
        return False


def _stored_corpus(table: Mapping[str, Any]) -> Corpus:
    from testbed.corpus_store import read_corpus

    for key in table:
        if key not in ("path", "hash"):
            raise UnknownName("option of a corpus", key, ("path", "hash"))
    return read_corpus(str(table["path"]), str(table.get("hash", "")))
