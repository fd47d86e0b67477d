"""How attempts become rows, and the writer that makes them durable in batches.

Throughput decides the form. Rows go to the database many to a statement, and transcripts through the compressor many to
a call: both release the interpreter's lock once for each, not once a row, so that the event loop runs on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import TracebackType
from typing import Any

import sqlalchemy as sa
import zstandard

from testbed.errors import StoreError
from testbed.store.schema import Database, attempts, pack, transcripts, unpack
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status

BATCH = 1000  # attempts to a commit, at most
INTERVAL = 0.2  # seconds that an attempt waits for its commit to begin, at most
BACKLOG = 5000  # attempts not yet durable at which `add` waits
_LEVEL = 1  # of compression: higher ones gain 2 % on transcripts of this length
_ROWS = 128  # rows to a statement; 19 columns each stay far below SQLite's 32,766 values

Row = tuple[Any, ...]


class Upsert:
    """One statement that inserts many rows of a table and settles rows that are there already.

    Args:
        table: where to.
        key: the column that identifies a row.
        update: condition, in SQL, under which the new row replaces the old one; empty for never.
        placeholder: the driver's sign for a value.
    """

    def __init__(self, table: sa.Table, key: str, update: str, placeholder: str) -> None:
        columns = list(table.columns.keys())
        self._head = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
        self._row = "(" + ", ".join([placeholder] * len(columns)) + ")"
        changes = ", ".join(f"{c} = excluded.{c}" for c in columns if c != key)
        action = f"DO UPDATE SET {changes} WHERE {update}" if update else "DO NOTHING"
        self._tail = f" ON CONFLICT ({key}) {action}"

    def __call__(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        """Writes rows, whose keys must differ; returns how many it wrote, and did not find settled."""
        written = 0
        for at in range(0, len(rows), _ROWS):
            some = rows[at : at + _ROWS]
            statement = self._head + ", ".join([self._row] * len(some)) + self._tail
            written += connection.exec_driver_sql(statement, tuple(chain.from_iterable(some))).rowcount
        return written


class AttemptTable:
    """Writes attempts: a complete one never changes, a missing one gives way to whatever comes later.

    Args:
        database: where to.
    """

    def __init__(self, database: Database) -> None:
        sign = "?" if database.is_sqlite else "%s"
        # Before the attempts, so that the condition sees the attempt that the stored transcript belongs to.
        replaceable = "(SELECT status FROM attempts WHERE id = excluded.attempt) = 'missing'"
        self._transcripts = Upsert(transcripts, "attempt", replaceable, sign)
        self._attempts = Upsert(attempts, "id", "attempts.status = 'missing'", sign)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def write(self, connection: sa.Connection, batch: Iterable[Attempt]) -> int:
        """Writes attempts within the caller's transaction; not for two threads at once.

        Returns:
            How many of them were complete there already, and stay as they are.
        """
        latest: dict[str, Attempt] = {}
        for attempt in batch:
            if attempt.id not in latest or latest[attempt.id].status is Status.MISSING:
                latest[attempt.id] = attempt
        with_text = [attempt for attempt in latest.values() if attempt.transcript]
        self._transcripts(connection, list(zip([a.id for a in with_text], self._compress(with_text), strict=True)))
        return len(latest) - self._attempts(connection, [attempt_row(attempt) for attempt in latest.values()])

    def _compress(self, batch: Sequence[Attempt]) -> list[bytes]:
        if not batch:
            return []
        texts: list[bytes | bytearray | memoryview[int]] = []
        texts += (_ENCODE(list(attempt.transcript)).encode("utf-8", "surrogatepass") for attempt in batch)
        segments = self._compressor.multi_compress_to_buffer(texts)
        return [segments[n].tobytes() for n in range(len(segments))]


_ENCODE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def attempt_row(a: Attempt) -> Row:
    """An attempt as a row of the table `attempts`."""
    c = a.cost
    return (
        a.id,
        a.task,
        a.arm,
        a.sample,
        a.seed,
        a.status.value,
        a.ended,
        None if a.success is None else int(a.success),
        a.score,
        None if a.answer is None else pack(a.answer),
        c.generated_tokens,
        c.prompt_tokens,
        c.observed_tokens,
        c.model_calls,
        c.tool_calls,
        c.turns,
        c.seconds,
        c.usd,
        pack(a.faults) if a.faults else "{}",
    )


def unpacked(id_: str, transcript: bytes, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """The JSON text of a compressed transcript.

    Raises:
        StoreError: it is damaged; names the attempt.
    """
    try:
        return decompressor.decompress(transcript)
    except zstandard.ZstdError as error:
        raise StoreError(f"the transcript of attempt {id_} is damaged ({error}). Restore a copy.") from error


def row_attempt(row: Sequence[Any], transcript: bytes | None, decompressor: zstandard.ZstdDecompressor) -> Attempt:
    """The attempt of `attempt_row`'s row and its compressed transcript; the transcript comes back as a tuple.

    Raises:
        StoreError: the transcript is damaged.
    """
    text = unpacked(row[0], transcript, decompressor).decode("utf-8", "surrogatepass") if transcript else "[]"
    end_of_cost = 10 + len(COST_COMPONENTS)
    return Attempt(
        id=row[0],
        task=row[1],
        arm=row[2],
        sample=row[3],
        seed=row[4],
        status=Status(row[5]),
        ended=row[6],
        success=None if row[7] is None else bool(row[7]),
        score=row[8],
        answer=None if row[9] is None else unpack(row[9]),
        cost=Cost(*row[10:end_of_cost]),
        faults=unpack(row[end_of_cost]),
        transcript=tuple(json.loads(text)),
    )


class AttemptWriter:
    """Makes attempts durable, in order, while the event loop goes on; an async context manager.

    At most one batch is being written at any time, by one thread; what is added meanwhile makes the next. All else of
    this class happens on the event loop. Leaving the context writes what was added, also after an error.

    Args:
        database: where to.
        batch: attempts that are written without waiting for more.
        interval: seconds after which fewer are written.
        backlog: attempts not yet durable at which `add` waits.

    Attributes:
        known: attempts so far that were complete in the store before: another process made the same meanwhile.
    """

    def __init__(
        self, database: Database, *, batch: int = BATCH, interval: float = INTERVAL, backlog: int = BACKLOG
    ) -> None:
        self._database, self._table = database, AttemptTable(database)
        self._batch, self._interval, self._backlog = batch, interval, backlog
        self.known = 0
        self._waiting: list[tuple[Attempt, bool]] = []
        self._writing: asyncio.Future[None] | None = None
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[list[Attempt]], None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="testbed-store")

    async def __aenter__(self) -> AttemptWriter:
        self._room.set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def on_durable(self, callback: Callable[[list[Attempt]], None]) -> None:
        """Calls back on the event loop, after each commit, with the attempts that it made durable."""
        self._callbacks.append(callback)

    async def add(self, attempt: Attempt, *, counts: bool = True) -> None:
        """Takes an attempt, also when cancelled while it waits, which it does only if the database is far behind.

        Args:
            attempt: to be written.
            counts: whether callbacks are told of it; not of a missing one whose next try is under way.

        Raises:
            StoreError: an earlier attempt could not be written.
        """
        self._check()
        self._waiting.append((attempt, counts))
        if len(self._waiting) >= self._batch:
            self._write_now()
        elif self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._write_now)
        if len(self._waiting) + self._in_flight >= self._backlog:
            self._room.clear()
            await self._room.wait()
            self._check()

    async def flush(self) -> None:
        """Waits until everything that was added is durable.

        Raises:
            StoreError: it could not be written.
        """
        while self._error is None and (self._waiting or self._writing):
            self._write_now()
            if self._writing is not None:
                await asyncio.wait([self._writing])
                await asyncio.sleep(0)  # lets `_written` run
        self._check()

    async def close(self) -> None:
        """Writes what was added and ends the thread, also when cancelled meanwhile, as by a third Ctrl-C.

        Raises:
            StoreError: it could not be written.
        """
        flushing, cancelled = asyncio.ensure_future(self.flush()), False
        while not flushing.done():
            try:
                await asyncio.wait([flushing])
            except asyncio.CancelledError:
                cancelled = True
        try:
            flushing.result()
            if cancelled:
                raise asyncio.CancelledError
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._thread.shutdown(wait=False)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._waiting or self._error is not None:
            return
        batch, self._waiting = self._waiting, []
        self._in_flight = len(batch)
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        self._writing.add_done_callback(lambda done: self._written(batch, done))

    def _write(self, batch: list[tuple[Attempt, bool]]) -> None:
        with self._database.writing() as connection:
            self._table.write(connection, [attempt for attempt, counts in batch if not counts])  # others replace these
            known = self._table.write(connection, [attempt for attempt, counts in batch if counts])
        self.known += known

    def _written(self, batch: list[tuple[Attempt, bool]], done: asyncio.Future[None]) -> None:
        self._writing, self._in_flight = None, 0
        self._error = done.exception()
        if len(self._waiting) < self._backlog or self._error is not None:
            self._room.set()
        if self._error is not None:
            return
        if counted := [attempt for attempt, counts in batch if counts]:
            for callback in self._callbacks:
                callback(counted)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._write_now)
            if len(self._waiting) >= self._batch:
                self._write_now()
