"""Warm sandboxes, one per attempt: taken in under a millisecond, destroyed after use, replaced in the background."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from testbed.edges import Foreign, Kept
from testbed.errors import SandboxDied, TestbedError, UsageError
from testbed.sandbox.base import Limits, Sandbox, Session


class Pool:
    """Sandboxes of one backend and one set of limits. Belongs to the event loop that first uses it.

    Args:
        sandbox: the backend.
        limits: limits of every call.
        size: most sandboxes alive at one time: warm, in use, starting and ending together.

    Raises:
        UsageError: size is below 1.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None, size: int = 4) -> None:
        if size < 1:
            raise UsageError(f"a sandbox pool needs a size of at least 1, not {size}.")
        self._sandbox = sandbox
        self._limits = limits or Limits()
        self._size = size
        self._alive = 0
        self._warm: deque[Session] = deque()
        self._waiting: deque[asyncio.Future[Session]] = deque()
        self._in_use: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting_at_once = asyncio.Semaphore(os.cpu_count() or 1)
        self._closed = False

    @property
    def size(self) -> int:
        """Most sandboxes alive at one time."""
        return self._size

    async def start(self) -> None:
        """Starts filling the pool without waiting for it; the first `acquire` does so too."""
        self._fill()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A fresh sandbox for the length of a `with` block.

        Raises:
            SandboxDied: none could be started, or the pool is closed.
        """
        session = await self.acquire()
        try:
            yield session
        finally:
            await self.release(session)

    async def acquire(self) -> Session:
        """A sandbox that nobody has used; waits if all are taken. Give it back with `release`.

        Raises:
            SandboxDied: none could be started, or the pool is closed.
            UsageError: the backend was asked for something that is not here, such as a package.
        """
        if self._closed:
            raise SandboxDied("the sandbox pool is closed.")
        if self._warm:
            session = self._warm.popleft()
        else:
            session = await self._wait()
        self._in_use.add(session)
        self._fill()
        return session

    async def release(self, session: Session) -> None:
        """Takes a sandbox back and destroys it in the background."""
        if session in self._in_use:
            self._in_use.remove(session)
            self._spawn(self._end(session))

    async def close(self) -> None:
        """Destroys every sandbox, also those in use, and returns when they are gone.

        Raises:
            Exception: what a backend's session raised at its end; the others have been ended all the same.
        """
        self._closed = True
        while self._waiting:
            _fail(self._waiting.popleft(), SandboxDied("the sandbox pool was closed."))
        for session in (*self._warm, *self._in_use):
            self._spawn(self._end(session))
        self._warm.clear()
        self._in_use.clear()
        failed: list[BaseException] = []
        while self._tasks:
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
            failed += [error for error in ended if isinstance(error, BaseException)]
        if failed:
            raise failed[0]

    async def _wait(self) -> Session:
        turn: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._fill()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._offer(turn.result())  # it came as the caller left
            raise

    def _fill(self) -> None:
        while self._alive < self._size and not self._closed:
            self._alive += 1
            self._spawn(self._begin())

    async def _begin(self) -> None:
        async with self._starting_at_once:
            try:
                session = await self._open()
            except TestbedError as error:  # most often SandboxDied; also a package that is not installed here
                self._refuse(error)
                if self._waiting:
                    self._fill()  # everybody who waits gets an answer
                return
        if self._closed:
            await self._end(session)
        else:
            self._offer(session)

    async def _open(self) -> Session:
        with contextlib.ExitStack() as undo:  # if cancelled too
            undo.callback(self._count_one_less)
            with Foreign(self._not_opened, BaseException):
                session = await self._sandbox.open(self._limits)
            undo.pop_all()
        return session

    def _not_opened(self, error: BaseException) -> BaseException:
        """What a backend means that raises anything: there is no sandbox, and whoever waits for one has to hear of it.

        Raised as it is, a tool would take it for the program's doing. Who is cancelled or interrupted from outside
        still is.
        """
        task = asyncio.current_task()
        cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
        if cancelled or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return error
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        return SandboxDied(f"the sandbox backend {self._sandbox.name!r} could not open a sandbox: {told}")

    async def _end(self, session: Session) -> None:
        with Kept(Exception) as ending:  # one that could not be ended must not keep its place for ever
            await session.close()
        self._count_one_less()
        self._fill()
        if ending.error is not None:
            raise ending.taken()

    def _count_one_less(self) -> None:
        self._alive -= 1

    def _offer(self, session: Session) -> None:
        """Gives a new sandbox to whoever has waited longest, else keeps it warm."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(session)
                return
        self._warm.append(session)

    def _refuse(self, error: TestbedError) -> None:
        """Tells whoever has waited longest that a start failed; with nobody waiting, the next `acquire` tries again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(turn: asyncio.Future[Session], error: SandboxDied) -> None:
    if not turn.done():
        turn.set_exception(error)
