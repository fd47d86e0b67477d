"""A board in one file, to be moved or kept: what is frozen, and the bundles of its entries as they were sent.

Results do not travel: the server that reads an archive checks every entry itself. Of entries that were withdrawn or
replaced it tells that they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from testbed.board import boards, uploads
from testbed.board.accounts import check_account
from testbed.board.archive_gone import bury, check_gone, gone_told
from testbed.board.board_file import SECRET_VARIABLE, BoardTables
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Refused
from testbed.board.schema import ACCEPTED, entries
from testbed.board.schema import uploads as upload_table
from testbed.board.settings import Settings
from testbed.errors import DataError, UsageError, nearest_path, unwritable
from testbed.store.schema import unpack

FORMAT = 1
_HEAD = "board.json"
_MOST_HEAD = 64 * 1024**2  # bytes


@dataclass(frozen=True)
class Moved:
    """What an archive holds.

    Attributes:
        board: the board.
        entries: entries whose bundles are in it.
        left_out: entries that are not: those made against a server, of which there is no bundle, and those
            that were rejected, replaced or withdrawn, though it counts the last two.
    """

    board: Board
    entries: int
    left_out: int


def write_archive(db: BoardDatabase, slug: str, path: Path) -> Moved:
    """Writes a board and its entries into a file, which appears only when it is whole.

    A private board's secret is not in it.

    Raises:
        NotFound: there is no such board.
        UsageError: the file cannot be written.
    """
    board = boards.get(db, slug)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # All as it was at one moment: an entry that is rejected meanwhile loses its bundle.
        with (
            db.reading() as connection,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file,
        ):  # bundles are compressed
            query = sa.select(entries, upload_table.c.content)
            query = query.outerjoin(upload_table, upload_table.c.id == entries.c.id).where(entries.c.board == slug)
            rows = connection.execute(query.order_by(entries.c.created, entries.c.id)).all()
            kept = [row for row in rows if row.content is not None and row.state in (uploads.WAITING, *ACCEPTED)]
            file.writestr(_HEAD, json.dumps(_told(board, kept) | {"gone": gone_told(rows)}))
            for row in kept:
                with file.open(_member(row.id), "w", force_zip64=True) as member:
                    for data in uploads.parts_in(connection, row.id):
                        member.write(data)
        os.replace(part, path)
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # of a folder that is none or read-only, which was told
            part.unlink(missing_ok=True)
    return Moved(board, len(kept), len(rows) - len(kept))


def _told(board: Board, kept: Sequence[Any]) -> dict[str, Any]:
    """What an archive's head says."""
    told = [{"id": r.id, "account": r.account, "title": unpack(r.title), "content": r.content} for r in kept]
    return {"archive": FORMAT, "spec": dict(board.spec), "hash": board.hash, "entries": told}


def read_archive(db: BoardDatabase, path: Path, settings: Settings | None = None) -> Moved:
    """Brings an archive's board and entries into a database, where the entries wait to be checked.

    What is there already stays as it is, so that reading an archive twice changes nothing.

    Args:
        db: the database.
        path: the archive.
        settings: limits of an upload; the usual ones where left out. How many entries an account may have is no
            matter: whoever reads an archive runs the board.

    Raises:
        DataError: it is no archive, or is damaged.
        UsageError: its board is there with another content, or this version of the testbed makes other tasks of it.
    """
    with _checked(path, settings or Settings()) as found:
        board = boards.create(db, found.board)
        for told, announced in found.sent:
            _enter(db, found.limits, board, told, announced, found.file)
        for told in found.gone:
            bury(db, board.slug, told)
    return Moved(board, len(found.sent), 0)


def check_archive(path: Path) -> None:
    """Refuses what `read_archive` would refuse in any database: who has none need not make one to be told.

    Raises:
        DataError: as there.
        UsageError: as there.
    """
    with _checked(path, Settings()):
        pass


class _Checked(NamedTuple):
    """An archive of which all was read."""

    file: zipfile.ZipFile
    limits: Settings
    board: Board
    sent: list[tuple[dict[str, str], uploads.Announced]]
    gone: list[Any]


@contextmanager
def _checked(path: Path, settings: Settings) -> Iterator[_Checked]:
    """All of an archive, read before anything of it is kept."""
    limits = replace(settings, open_uploads=sys.maxsize, entries=sys.maxsize, waiting=sys.maxsize)
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name the archive itself.")
        if not path.exists():
            raise DataError(f"there is no file {path}.{nearest_path(path, '.zip')}")
        with zipfile.ZipFile(path) as file:
            head = _head(file, path)
            gone = check_gone(head.get("gone", []), path)
            sent = [(told, _announced(told, file, limits, path)) for told in head["entries"]]
            yield _Checked(file, limits, _board(head, path), sent, gone)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise DataError(f"{path} is no archive of a board, or is damaged: {error}.") from error


def _head(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    wrong = DataError(f"{path} is no archive of a board; `testbed board export SLUG FILE.zip` writes one.")
    if _HEAD not in file.namelist() or file.getinfo(_HEAD).file_size > _MOST_HEAD:
        raise wrong
    try:
        head: dict[str, Any] = json.loads(file.read(_HEAD))
    except (ValueError, RecursionError):
        raise wrong from None
    told = head.get("entries") if isinstance(head, dict) else None
    if not isinstance(told, list) or not isinstance(head.get("spec"), dict):
        raise wrong
    if head.get("archive") != FORMAT:
        raise DataError(f"{path} is an archive of form {head.get('archive')!r:.20}; this version reads form {FORMAT}.")
    for one in told:
        keys = ("id", "account", "title", "content")
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in keys):
            raise wrong
        check_account(one["account"])
    return head


def _board(head: dict[str, Any], path: Path) -> Board:
    spec = head["spec"]
    BoardTables(spec, str(path), "").check()
    secret = os.environ.get(SECRET_VARIABLE, "") if spec.get("private") else ""
    if spec.get("private") and not secret:
        raise UsageError(
            f"{path}: the board is private: set {SECRET_VARIABLE} to its secret, which is not in the file."
        )
    board = boards.of_spec(spec, secret, path=str(path))
    if board.hash != head.get("hash"):
        raise UsageError(
            f"{path}: its board was made of other tasks than this version of the testbed makes (or of another secret)."
        )
    return board


def _announced(told: dict[str, str], file: zipfile.ZipFile, limits: Settings, path: Path) -> uploads.Announced:
    """An entry's bundle as an upload announces it."""
    content, size, hashes = hashlib.sha256(), 0, []
    try:
        for data in _pieces(told["id"], file, limits.chunk):
            content.update(data)
            size += len(data)
            hashes.append(hashlib.sha256(data).hexdigest())
    except KeyError:
        raise DataError(f"{path}: the bundle of entry {told['id']:.32} is not in it.") from None
    if content.hexdigest() != told["content"]:
        raise DataError(
            f"{path}: the bundle of entry {told['id']:.32} is not the one that was sent: damaged or changed."
        )
    announced = uploads.Announced(content.hexdigest(), size, tuple(hashes))
    try:
        uploads.check_title(told["title"])
        uploads.check_announced(limits, announced)
    except Refused as error:
        raise DataError(f"{path}: entry {told['id']:.32} cannot be taken: {error}") from error
    return announced


def _enter(
    db: BoardDatabase,
    settings: Settings,
    board: Board,
    told: dict[str, str],
    announced: uploads.Announced,
    file: zipfile.ZipFile,
) -> None:
    upload = uploads.begin(db, settings, told["account"], board.slug, announced)
    for n, data in enumerate(_pieces(told["id"], file, settings.chunk)):
        if n in upload.missing:
            uploads.put(db, told["account"], upload.id, n, data)
    uploads.complete(db, settings, told["account"], upload.id, told["title"])


def _pieces(id_: str, file: zipfile.ZipFile, chunk: int) -> Iterator[bytes]:
    with file.open(_member(id_)) as member:
        while data := member.read(chunk):
            yield data


def _member(id_: str) -> str:
    return f"entries/{id_}.bundle"
