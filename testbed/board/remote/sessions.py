"""Sessions: attempts under way here, driven from elsewhere.

A step is durable before it is answered, and is known by its number: a step that is sent again, because its answer was
lost, gets the same answer and is charged once. A session that nobody ends ends by its seconds, as a failure. After a
restart of the server, sessions go on where they were: their steps are read again, with the results that were stored,
while nobody's clock runs. Those that called a tool which keeps state cannot; they are recorded as missing, in the audit
log too, and may be served again where the board allows it.

All sessions run on an event loop of their own, so that no tool can hold up the board's pages.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from testbed.board import boards
from testbed.board.audit import note
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, Refused
from testbed.board.remote import serving as remote_serving
from testbed.board.remote.bench import Bench, open_bench
from testbed.board.remote.live import Live
from testbed.board.remote.serving import Served
from testbed.board.schema import entry_run, sessions
from testbed.errors import InfrastructureError
from testbed.store.schema import pack
from testbed.store.writer import AttemptTable
from testbed.threads import LoopThread
from testbed.types import Attempt, Status

T = TypeVar("T")


class Sessions:
    """The sessions of a server; all its coroutines run on its own loop, through `run`.

    Args:
        db: the board's database.
    """

    def __init__(self, db: BoardDatabase) -> None:
        self._db, self._loop = db, LoopThread()
        self._benches: dict[str, Bench] = {}
        self._live: dict[str, Live] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._began: dict[str, float] = {}  # when sessions that are to be read again began, by the monotonic clock
        self._opening, self._resuming = asyncio.Lock(), asyncio.Lock()

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Result of a coroutine of these sessions; it goes on even if whoever waits for it is gone."""
        return await asyncio.shield(asyncio.wrap_future(self._loop.submit(make())))

    def close(self) -> None:
        """Frees what tools hold; sessions under way are taken up again when the server is back."""
        try:
            self._loop.run(self._aclose())
        finally:
            self._loop.close(10.0)

    async def bench(self, slug: str) -> Bench:
        """A board, ready to serve.

        Raises:
            NotFound: there is no such board.
            Refused: it is not private, or its tools do not work here.
        """
        async with self._opening:
            if slug not in self._benches:
                board = await asyncio.to_thread(boards.get, self._db, slug)
                if not board.private:
                    raise Refused(f"the tasks of {slug!r} are public: run them yourself, and submit the run.")
                self._benches[slug] = await open_bench(self._db, board)
            return self._benches[slug]

    async def begin(self, bench: Bench, served: Served) -> dict[str, Any]:
        """Begins a session that was given out; returns what `look` does."""
        return await self.look(bench, served)  # it may have been taken up already, by whoever looks at its entry

    async def look(self, bench: Bench, served: Served) -> dict[str, Any]:
        """How a session stands, with its last observation: for whoever comes back."""
        async with self._turn(bench, served) as live:
            return (live or await self._ended(bench, served)).view()

    async def step(self, bench: Bench, served: Served, n: int, action: str) -> dict[str, Any]:
        """Takes one message of the agent.

        Args:
            bench: the session's board.
            served: the session.
            n: the step's number, from 0: one that was taken before is answered as it was.
            action: the message.

        Raises:
            Conflict: another action was taken as step `n`, `n` is not the next step, or the session has ended.
        """
        async with self._turn(bench, served) as live:
            if live is None:
                return (await self._ended(bench, served)).repeat(n, action)
            if n != len(live.steps):
                return live.repeat(n, action)
            if live.seconds_left <= 0:
                live.end("limit:seconds")
                await self._write(live)
                return live.repeat(n, action)
            try:
                reply = await live.take(action)
            except InfrastructureError as error:
                await self._lose(live, error)
                return live.repeat(n, action)
            await self._write(live)
            return reply

    async def give_up(self, bench: Bench, served: Served) -> dict[str, Any]:
        """Ends a session without an answer, which is a failure; returns what `look` does."""
        async with self._turn(bench, served) as live:
            if live is not None:
                live.end("agent:silent")
                await self._write(live)
        return (await self._ended(bench, served)).view()

    async def resume_all(self, bench: Bench, entry: str) -> None:
        """Takes up all of an entry's open sessions again that a restart interrupted, so that their clocks run."""
        for served in await asyncio.to_thread(remote_serving.sessions_of, self._db, entry, state="open"):
            if served.id not in self._live:
                await self._resumed(bench, served)

    @asynccontextmanager
    async def _turn(self, bench: Bench, served: Served) -> AsyncIterator[Live | None]:
        """The session under way, while nobody else works on it; None if it has ended.

        What was waited for may be over, or ahead of the database: then the session is read again.
        """
        while (live := await self._resumed(bench, served)) is not None:
            async with live.turn:
                if self._live.get(live.id) is live:
                    yield live
                    return
        yield None

    async def _resumed(self, bench: Bench, served: Served) -> Live | None:
        """The session under way; None if it has ended."""
        if served.id in self._live:
            return self._live[served.id]
        async with self._resuming:
            if served.id in self._live:
                return self._live[served.id]
            stored = await self._stored(served.id)
            if stored.state != "open":
                return None
            live = Live(bench, stored, await self._hash(stored))
            began = self._began.get(live.id)
            try:
                await live.resume(None if began is None else time.monotonic() - began)
            except InfrastructureError as error:
                await self._lose(live, error)
                return None
            self._keep(live)
            return live

    async def _stored(self, id_: str) -> Served:
        return await asyncio.to_thread(remote_serving.session, self._db, id_)

    async def _ended(self, bench: Bench, served: Served) -> Live:
        stored, hash_ = await self._stored(served.id), await self._hash(served)
        if stored.state == "lost":  # its sample may have been served again since, and have an attempt
            return Live(bench, stored, hash_, ended=f"missing:{InfrastructureError.kind}")
        attempt = await asyncio.to_thread(self._db.store.find, Live(bench, stored, hash_).attempt_id)
        assert attempt is not None  # it was written with the state
        return Live(bench, stored, hash_, ended=attempt.ended)

    async def _hash(self, served: Served) -> str:
        """Of the session's arm in the store."""
        run = await asyncio.to_thread(self._db.store.run, entry_run(served.entry))
        return next(arm.hash for arm in run.arms if arm.name == served.arm)

    def _keep(self, live: Live) -> None:
        self._live[live.id] = live
        self._began.pop(live.id, None)
        self._time(live)

    def _time(self, live: Live) -> None:
        loop = asyncio.get_running_loop()
        expire = self._expire
        self._timers[live.id] = loop.call_later(max(live.seconds_left, 0.01), lambda: loop.create_task(expire(live)))

    async def _expire(self, live: Live) -> None:
        """Ends a session whose seconds are over: what nobody ended is a failure, and no way to drop one."""
        async with live.turn:
            if self._live.get(live.id) is not live:
                return
            if live.seconds_left > 0:  # a grader's time was taken off its clock
                self._time(live)
                return
            live.end("limit:seconds")
            await self._write(live)

    async def _lose(self, live: Live, error: InfrastructureError) -> None:
        live.lose(error)
        await self._write(live, lost=str(error))

    async def _write(self, live: Live, lost: str = "") -> None:
        """Makes what has happened durable; without that, it has not happened: the session is read again."""
        async with AsyncExitStack() as undo:  # whatever goes wrong, memory is ahead of the database
            undo.push_async_callback(self._forget, live)
            await asyncio.to_thread(self._store, live, live.attempt() if live.ended else None, lost)
            undo.pop_all()
        if live.ended:
            await self._drop(live)

    async def _forget(self, live: Live) -> None:
        """Has a session read again when it is next asked for, while its clock runs on."""
        self._began[live.id] = time.monotonic() - live.seconds  # nobody gains time by what could not be kept
        await self._drop(live)

    def _store(self, live: Live, attempt: Attempt | None, lost: str) -> None:
        state = "open" if attempt is None else "lost" if attempt.status is Status.MISSING else "done"
        values = {"steps": pack(live.steps), "state": state}
        with self._db.writing() as connection:
            as_it_was = sessions.c.id == live.id, sessions.c.state == "open", sessions.c.steps == live.kept
            if connection.execute(sessions.update().where(*as_it_was).values(**values)).rowcount != 1:
                raise Conflict("the session has ended, or went on by way of another server; ask how it stands.")
            if attempt is not None:
                AttemptTable(self._db.database).write(connection, [attempt])
            if lost:
                note(connection, "", "remote.session-lost", live.id, entry=live.served.entry, why=lost[:500])
        live.kept = values["steps"]

    async def _drop(self, live: Live) -> None:
        self._live.pop(live.id, None)
        if (timer := self._timers.pop(live.id, None)) is not None:
            timer.cancel()
        await live.aclose()

    async def _aclose(self) -> None:
        for live in list(self._live.values()):
            await self._drop(live)
        for bench in self._benches.values():
            await bench.aclose()


_making = threading.Lock()


def sessions_in(state: Any) -> Sessions:
    """The sessions of an application, from its state; made when they are first asked for."""
    with _making:
        if getattr(state, "remote", None) is None:
            state.remote = Sessions(state.db)
        found: Sessions = state.remote
        return found


def close_sessions(state: Any) -> None:
    """Ends what `sessions_in` made."""
    with _making:
        made, state.remote = getattr(state, "remote", None), None
    if made is not None:
        made.close()
