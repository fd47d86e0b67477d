"""Uploads: bundles on their way into the database, in pieces, each durable once it is acknowledged.

An upload's id is made of its board, its account and its content, so that sending the same again, at any point and any
number of times, continues what is there. Its last step makes an entry of the same id, which waits to be checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from testbed.board import boards, quota
from testbed.board.audit import note, now
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, NotAllowed, NotFound, NotValid, TooLarge, TooMany
from testbed.board.schema import ACCEPTED, entries, upload_chunks, uploads
from testbed.board.settings import Settings
from testbed.store.schema import pack, unpack
from testbed.types import digest

OPEN, COMPLETE, WAITING = quota.OPEN, "complete", quota.WAITING
LONGEST_TITLE = 200
KEPT_OPEN = timedelta(days=7)  # an upload that was begun and not gone on with is forgotten after that
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """An upload as it stands.

    Attributes:
        id: also that of its entry.
        board: slug.
        account: whose it is.
        state: "open", "complete", or what was decided of its entry.
        missing: numbers of the chunks that are still to be sent.
    """

    id: str
    board: str
    account: str
    state: str
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Announced:
    """What is going to be sent.

    Attributes:
        content: SHA-256 of the whole bundle, in hexadecimal.
        size: its bytes.
        chunks: SHA-256 of each piece.
    """

    content: str
    size: int
    chunks: tuple[str, ...]


def upload_id(board: str, account: str, content: str) -> str:
    """Id of an upload and of its entry."""
    return digest(["upload", board, account, content])


def begin(db: BoardDatabase, settings: Settings, account: str, board: str, announced: Announced) -> Upload:
    """Begins an upload, or finds it as it stands.

    One that is announced anew with other pieces, as another client may cut it, begins anew.

    Args:
        db: the board's database.
        settings: its limits.
        account: who sends.
        board: slug.
        announced: what is going to be sent.

    Raises:
        NotFound: there is no such board.
        NotAllowed: the board's attempts are made against the server, or the account has enough entries.
        NotValid: something is no hash, or the pieces cannot hold so many bytes.
        TooLarge: it is larger than the board takes.
        TooMany: the account has too many uploads under way, or entries that wait.
    """
    if boards.get(db, board).private:
        raise NotAllowed(f"board {board!r} has private tasks: attempts at them are made against this server.")
    check_announced(settings, announced)
    id_ = upload_id(board, account, announced.content)
    pieces = {"bytes": announced.size, "chunks": pack(list(announced.chunks))}
    with db.reading() as connection:
        there = _as_announced(connection, id_, pieces)
    if not there:
        with db.writing() as connection:
            if not _as_announced(connection, id_, pieces):
                _drop(connection, id_)
                _make_room(connection, account, settings.open_uploads)
                quota.room_to_begin(connection, settings, account)
                own = {"id": id_, "board": board, "account": account, "content": announced.content}
                connection.execute(uploads.insert().values(**own, **pieces, state=OPEN, created=now()))
                told = {"board": board, "content": announced.content, "bytes": announced.size}
                note(connection, account, "upload.begin", id_, **told)
    return get(db, account, id_)


def _as_announced(connection: sa.Connection, id_: str, pieces: dict[str, Any]) -> bool:
    """Whether an upload is there, in these pieces or complete."""
    row = connection.execute(sa.select(uploads).where(uploads.c.id == id_)).first()
    return row is not None and (row.state != OPEN or {"bytes": row.bytes, "chunks": row.chunks} == pieces)


def _drop(connection: sa.Connection, id_: str) -> None:
    connection.execute(upload_chunks.delete().where(upload_chunks.c.upload == id_))
    connection.execute(uploads.delete().where(uploads.c.id == id_))


def get(db: BoardDatabase, account: str, id_: str) -> Upload:
    """An account's upload.

    Raises:
        NotFound: it has none of that id.
    """
    found = _find(db, id_)
    if found is None or found.account != account:
        raise NotFound(f"there is no upload {id_!r:.80}; begin it first.")
    return found


def put(db: BoardDatabase, account: str, id_: str, n: int, data: bytes) -> Upload:
    """Takes a piece of an upload; a piece that is there already stays as it is.

    Raises:
        NotFound: there is no such upload, or it has no such piece.
        NotValid: the piece is not the one that was announced.
        TooLarge: with it there would be more bytes than were announced.
    """
    get(db, account, id_)
    with db.reading() as connection:
        announced = unpack(connection.scalar(sa.select(uploads.c.chunks).where(uploads.c.id == id_)) or "[]")
    if not 0 <= n < len(announced):
        raise NotFound(f"upload {id_} has {len(announced)} chunks, numbered from 0; there is no chunk {n}.")
    if hashlib.sha256(data).hexdigest() != announced[n]:
        raise NotValid(f"chunk {n} does not have the SHA-256 that was announced; send it again.")
    with db.writing() as connection:
        row = connection.execute(sa.select(uploads.c.state, uploads.c.bytes).where(uploads.c.id == id_)).first()
        there = sa.select(upload_chunks.c.n).where(upload_chunks.c.upload == id_, upload_chunks.c.n == n)
        if row is not None and row.state == OPEN and connection.scalar(there) is None:
            _refuse_more(connection, id_, len(data), row.bytes)
            connection.execute(upload_chunks.insert().values(upload=id_, n=n, data=data))
    return get(db, account, id_)


def complete(db: BoardDatabase, settings: Settings, account: str, id_: str, title: str = "") -> str:
    """Makes an entry of an upload whose pieces are all there; does nothing where there is one. Returns the entry's id.

    Raises:
        NotAllowed: the account has enough entries; the upload stays as it is, and can be completed later.
        TooMany: too many of them wait; likewise.
        NotFound: there is no such upload.
        NotValid: the title is no line of text.
        Conflict: pieces are missing, or they make another file than was announced.
    """
    check_title(title)
    upload = get(db, account, id_)
    if upload.state != OPEN:
        return id_
    if upload.missing:
        raise Conflict(
            f"upload {id_} lacks {len(upload.missing)} chunks, such as {upload.missing[0]}; send them first."
        )
    content, size = hashlib.sha256(), 0
    for part in parts(db, id_):
        content.update(part)
        size += len(part)
    with db.writing() as connection:
        row = connection.execute(sa.select(uploads).where(uploads.c.id == id_)).one()
        if row.state != OPEN:
            return id_
        if (content.hexdigest(), size) != (row.content, row.bytes):
            _drop(connection, id_)
            note(connection, account, "upload.dropped", id_, board=row.board)
        else:
            quota.room_for_entry(connection, settings, account)
            _enter(connection, row, title.strip())
            return id_
    raise Conflict("the chunks do not make the file that was announced by its SHA-256 and size; begin again.")


def parts(db: BoardDatabase, id_: str) -> Iterator[bytes]:
    """The pieces of an upload in order, one at a time in memory, each in a transaction of its own."""
    with db.reading() as connection:
        numbers = _numbers(connection, id_)
    for n in numbers:
        with db.reading() as connection:
            data = _piece(connection, id_, n)
        yield data


def parts_in(connection: sa.Connection, id_: str) -> Iterator[bytes]:
    """As `parts`, as they were at the moment that the connection sees."""
    return (_piece(connection, id_, n) for n in _numbers(connection, id_))


def _numbers(connection: sa.Connection, id_: str) -> Sequence[int]:
    query = sa.select(upload_chunks.c.n).where(upload_chunks.c.upload == id_).order_by(upload_chunks.c.n)
    return connection.scalars(query).all()


def _piece(connection: sa.Connection, id_: str, n: int) -> bytes:
    query = sa.select(upload_chunks.c.data).where(upload_chunks.c.upload == id_, upload_chunks.c.n == n)
    return bytes(connection.scalar(query) or b"")


def decided(connection: sa.Connection, id_: str, state: str) -> None:
    """Records what became of an upload's entry; the bytes of one without results are not kept."""
    connection.execute(uploads.update().where(uploads.c.id == id_).values(state=state))
    if state not in ACCEPTED:
        connection.execute(upload_chunks.delete().where(upload_chunks.c.upload == id_))


def _enter(connection: sa.Connection, row: Any, title: str) -> None:
    values = {"id": row.id, "board": row.board, "account": row.account, "title": pack(title), "kind": "submitted"}
    told = {"reasons": "[]", "manifest": "{}", "created": now()}
    connection.execute(entries.insert().values(**values, **told, state=WAITING))
    connection.execute(uploads.update().where(uploads.c.id == row.id).values(state=COMPLETE))
    note(connection, row.account, "entry.submit", row.id, board=row.board, content=row.content)


def _find(db: BoardDatabase, id_: str) -> Upload | None:
    with db.reading() as connection:
        row = connection.execute(sa.select(uploads).where(uploads.c.id == id_)).first()
        if row is None:
            return None
        there = set(connection.scalars(sa.select(upload_chunks.c.n).where(upload_chunks.c.upload == id_)))
    missing = [n for n in range(len(unpack(row.chunks))) if n not in there] if row.state == OPEN else []
    return Upload(row.id, row.board, row.account, row.state, tuple(missing))


def _refuse_more(connection: sa.Connection, id_: str, more: int, announced: int) -> None:
    """Refuses a piece beyond the size that was announced: pieces are as long as they like, and a disk is not."""
    held = sa.select(sa.func.sum(sa.func.length(upload_chunks.c.data))).where(upload_chunks.c.upload == id_)
    if (connection.scalar(held) or 0) + more > announced:
        raise TooLarge(f"upload {id_} was announced with {announced:,} bytes, and its chunks have more; begin again.")


def check_title(title: str) -> None:
    """Refuses with `NotValid` what is no line of text; an entry may have no title."""
    if not title.isprintable() or len(title) > LONGEST_TITLE:
        raise NotValid(f"a title is one line of at most {LONGEST_TITLE} characters.")


def check_announced(settings: Settings, announced: Announced) -> None:
    """Refuses with `NotValid` or `TooLarge` what no upload can be."""
    size, chunks = announced.size, announced.chunks
    if not all(_SHA256.fullmatch(text) for text in (announced.content, *chunks)):
        raise NotValid("content and chunks are SHA-256 in 64 small hexadecimal digits.")
    if size > settings.upload:
        raise TooLarge(f"the bundle has {size:,} bytes; this board takes {settings.upload:,}.")
    if not len(chunks) <= size <= settings.chunk * len(chunks):
        raise NotValid(f"{len(chunks)} chunks of at most {settings.chunk:,} bytes each cannot hold {size:,} bytes.")


def _make_room(connection: sa.Connection, account: str, most: int) -> None:
    """Forgets uploads that nobody goes on with, and refuses one more than an account may have under way."""
    before = (datetime.now(UTC) - KEPT_OPEN).isoformat(timespec="milliseconds")
    stale = sa.select(uploads.c.id).where(uploads.c.state == OPEN, uploads.c.created < before)
    connection.execute(upload_chunks.delete().where(upload_chunks.c.upload.in_(stale)))
    connection.execute(uploads.delete().where(uploads.c.state == OPEN, uploads.c.created < before))
    under_way = sa.select(sa.func.count()).select_from(uploads)
    count = connection.scalar(under_way.where(uploads.c.account == account, uploads.c.state == OPEN)) or 0
    if count >= most:
        raise TooMany(
            f"you have {count} uploads under way, the most that this board takes; finish one.", retry_after=10
        )
