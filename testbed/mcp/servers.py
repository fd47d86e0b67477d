"""MCP servers that run: started when needed, kept, called, and ended for sure.

A session must be left in the task that entered it, and an answer is parsed on the loop that reads it. So all sessions
of a server live on an event loop in a thread of their own: whoever calls, from whichever loop or thread, only waits for
a result, and 50 MB of it hold up nobody else.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from testbed.errors import FaultKind, ToolFault, TransportError, UsageError
from testbed.mcp.description import McpServer
from testbed.mcp.session import Listing, Session
from testbed.threads import LoopThread, settle

if TYPE_CHECKING:
    from mcp.types import CallToolResult

T = TypeVar("T")


class Servers:
    """The running servers (or sessions) of one description, at most `slots`, each doing one call at a time.

    So a call that hangs takes nobody else's time, and a timeout is the fault of the call that it ends: its server is
    ended with it. Nothing runs before `start` or the first call, nor after `aclose`.

    Args:
        name: how the experiment names it, such as "mcp:files".
        spec: what to start or to reach.

    Raises:
        UsageError: the server cannot be started or reached; says why, with what it wrote to stderr.
    """

    def __init__(self, name: str, spec: McpServer) -> None:
        self.name, self.spec = name, spec
        self._guard = threading.Lock()
        self._thread: LoopThread | None = None
        self._slots: asyncio.Semaphore
        self._idle: list[Session]
        self._held: dict[int, tuple[object, Session]]  # by id of the attempt, which is kept alive beside
        self._retiring: set[asyncio.Task[None]]
        self._under_way: set[asyncio.Task[Any]]
        thread = LoopThread()
        try:
            self.listing: Listing = thread.run(self._discover())
        except TransportError as error:
            raise UsageError(str(error)) from error
        finally:
            thread.close()

    async def start(self) -> None:
        """Has one server ready.

        Raises:
            UsageError: it cannot be started.
        """
        try:
            await asyncio.wrap_future(self._loop().submit(self._tracked(self._warm())))
        except TransportError as error:
            raise UsageError(str(error)) from error

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        attempt: object = None,
        off_clock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> CallToolResult:
        """The server's answer.

        Args:
            tool: the server's name of the tool.
            arguments: valid ones.
            attempt: whose server it is, where each attempt has its own; the same object for all its calls.
            off_clock: around the wait for a slot, as in `testbed.tool_base.AttemptContext`.

        Raises:
            ToolFault: it took too long, or the server refused the arguments.
            TransportError: the server died, or could not be reached.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        begin = partial(loop.call_soon_threadsafe, settle, turn, None, None)
        answer = asyncio.wrap_future(self._loop().submit(self._tracked(self._call(tool, arguments, attempt, begin))))
        answer.add_done_callback(lambda _: settle(turn, None, None))  # it may fail before its turn
        try:
            with off_clock():
                await turn
            return await answer
        finally:
            answer.cancel()  # where the caller was

    async def end(self, attempt: object) -> None:
        """Ends the attempt's server, if it has one."""
        if self._thread is not None:
            await asyncio.wrap_future(self._thread.submit(self._end(attempt)))

    async def aclose(self) -> None:
        """Ends every server, at last by force."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose`, for programs about to exit."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._close_all())
            thread.close()

    def _loop(self) -> LoopThread:
        with self._guard:
            if self._thread is None:
                self._thread = LoopThread()
                self._slots = asyncio.Semaphore(self.spec.slots)
                self._idle, self._held, self._retiring, self._under_way = [], {}, set(), set()
                _left_open.add(self)
                atexit.register(_close_left)
            return self._thread

    # -- on the servers' own loop
    # ------------------------------------------------------------------------------------------------------------

    async def _discover(self) -> Listing:
        session = Session(self.name, self.spec)
        try:
            return await session.open()
        finally:
            await session.close()

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; what is under way at the end is given up before servers are ended."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await work
        finally:
            self._under_way.discard(task)

    async def _warm(self) -> None:
        if not self._idle and not self._held:
            async with self._slots:
                self._idle.append(await self._open())

    async def _call(
        self, tool: str, arguments: Mapping[str, Any], attempt: object, begin: Callable[[], object]
    ) -> CallToolResult:
        session = await self._take(attempt, begin)
        sound = False
        try:
            result = await session.call(tool, arguments)
            sound = True
            return result
        except ToolFault as fault:
            sound = fault.kind is not FaultKind.TIMEOUT
            raise
        finally:
            self._give(session, attempt, sound)

    async def _take(self, attempt: object, begin: Callable[[], object]) -> Session:
        """A server for one call; `begin` is told once there is a slot for it."""
        held = self._held.pop(id(attempt), None)
        if held is None:
            await self._slots.acquire()
        with suppress(RuntimeError):  # the caller's loop was closed meanwhile
            begin()
        if held is not None:
            return held[1]
        with ExitStack() as undo:  # if cancelled too: the slot would be lost for ever
            undo.callback(self._slots.release)
            session = self._found_idle() or await self._open()
            undo.pop_all()
        return session

    def _found_idle(self) -> Session | None:
        """A server that is alive and at nobody's service; None if there is none."""
        while self._idle:
            if (session := self._idle.pop()).alive:
                return session
            self._retire(session)
        return None

    def _give(self, session: Session, attempt: object, sound: bool) -> None:
        if sound and self.spec.per_attempt and attempt is not None:
            self._held[id(attempt)] = attempt, session
            return
        if sound and not self.spec.per_attempt:
            self._idle.append(session)
        else:
            self._retire(session)
        self._slots.release()

    async def _end(self, attempt: object) -> None:
        held = self._held.pop(id(attempt), None)
        if held is not None:
            self._retire(held[1])
            self._slots.release()

    async def _open(self) -> Session:
        session = Session(self.name, self.spec)
        with ExitStack() as undo:  # if cancelled too: a server that was started must be ended
            undo.callback(self._retire, session)
            if await session.open() != self.listing:
                raise UsageError(
                    f"{self.name}: the server offers something else than when it was first asked, so results would "
                    "not be comparable. Run again once it no longer changes."
                )
            undo.pop_all()
        return session

    def _retire(self, session: Session) -> None:
        task = asyncio.get_running_loop().create_task(session.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        for session in [*self._idle, *(session for _, session in self._held.values())]:
            self._retire(session)
        self._idle.clear()
        self._held.clear()
        if self._retiring:
            await asyncio.wait(set(self._retiring))


_left_open: weakref.WeakSet[Servers] = weakref.WeakSet()


def _close_left() -> None:
    for servers in list(_left_open):
        servers.close()
