"""Other people's coroutines, where they can hold up and end nobody but themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from testbed.edges import Kept
from testbed.errors import TransportError
from testbed.threads import LoopThread, settle

T = TypeVar("T")

GRACE = 0.5  # seconds that a loop has to take note of a cancelled call before it counts as blocked
TICK = 0.02  # seconds between looks at a call, at least
CLOSING = 3.0  # seconds that a loop gets to end
IDLE = (None, 0.0)


class OwnLoop:
    """Runs coroutines on an event loop in a thread of its own, the same one as long as none of them blocks it.

    What they raise, SystemExit and the like too, is the result of their call. One that blocks its loop is given up with
    it when its time is over: later calls get another loop, and those it held up are nobody's fault.
    """

    def __init__(self) -> None:
        self._stage: _Stage | None = None  # only the callers' loop reads and writes it

    async def run(self, make: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Result of `await make()`.

        Args:
            make: called on the other loop.
            timeout: seconds it may take, those apart for which its loop was held up; None is no limit.

        Raises:
            TimeoutError: it took longer.
            TransportError: another call blocked the loop for so long that it was given up.
            RuntimeError: it raised what asyncio must not see: SystemExit, CancelledError and the like.
            Exception: whatever else it raised.
        """
        call = _Call(make)
        self._begin(call)
        if timeout is not None:
            call.loop.call_later(timeout, self._check, call, timeout)
        try:
            result: T = await call.future
            return result
        finally:
            call.stage.give_up(call)

    async def aclose(self) -> None:
        """Ends the loop; one that is blocked is left to itself."""
        stage, self._stage = self._stage, None
        if stage is not None:
            await asyncio.to_thread(stage.close, CLOSING)

    def _begin(self, call: _Call) -> None:
        if self._stage is None:
            self._stage = _Stage()
        self._stage.begin(call)

    def _check(self, call: _Call, timeout: float) -> None:
        """Ends a call whose time is up; looks again later at one that began late, or that others held up."""
        if call.future.done():
            return
        now, stage = time.monotonic(), call.stage
        running, since = stage.step
        others = now - since if since and running is not call else 0.0  # seconds that their step takes so far
        left = timeout
        if call.began is not None:
            held_up = stage.busy - call.busy_before - call.busy + others
            left = call.began + timeout + held_up - now
        if others > timeout and (running is None or running.future.done()):
            self._give_up(stage)  # blocked by what a call left behind
            call.loop.call_later(timeout, self._check, call, timeout)  # this one may have been begun on another
        elif left > 0:
            call.loop.call_later(max(left, TICK), self._check, call, timeout)
        else:
            call.future.set_exception(TimeoutError(f"took longer than {timeout:g} s"))
            stage.give_up(call)
            call.loop.call_later(GRACE, self._look, call, since)

    def _look(self, call: _Call, since: float) -> None:
        """Leaves a loop that a call still blocks after it has been cancelled."""
        if call.stage.step == (call, since):
            self._give_up(call.stage)

    def _give_up(self, stage: _Stage) -> None:
        """Leaves a blocked loop to itself: calls that it did not begin are begun on another one."""
        if self._stage is stage:
            self._stage = None
        left, stage.calls = [call for call in stage.calls if not call.future.done()], {}  # none is begun again twice
        for call in left:
            if call.began is None:
                self._begin(call)
            else:
                call.future.set_exception(TransportError("another call blocked the event loop and was given up."))
        stage.close(0)


class _Call:
    """One call: waiting, begun on a stage, then done or given up."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self.make = make
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.stage: _Stage
        self.began: float | None = None
        self.busy = self.busy_before = 0.0  # seconds that its steps took, and all steps until it began

    async def perform(self, stage: _Stage) -> None:
        if self.stage is not stage:
            return
        self.began, self.busy_before = time.monotonic(), stage.busy
        with Kept() as kept:  # for the caller
            kept.result = await self.make()
        with contextlib.suppress(RuntimeError):  # the caller's loop was closed meanwhile: nobody is there to be told
            self.loop.call_soon_threadsafe(settle, self.future, kept.result, kept.error)


_current: ContextVar[_Call | None] = ContextVar("call", default=None)  # whose task a new task belongs to


class _Stage(LoopThread):
    """A loop in a thread that keeps account of whose steps take how long.

    Attributes:
        calls: those begun or waiting here.
        step: whose step is being executed just now, and since when; nobody's and 0 between steps.
        busy: seconds that all steps took so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[_Call, Future[None]] = {}
        self.step: tuple[_Call | None, float] = IDLE
        self.busy = 0.0
        self._loop.set_task_factory(self._task)
        self._loop.set_exception_handler(lambda loop, context: None)  # what a call leaves behind is its own affair

    def begin(self, call: _Call) -> None:
        call.stage = self
        context = copy_context()
        context.run(_current.set, call)
        self.calls[call] = context.run(self.submit, call.perform(self))

    def give_up(self, call: _Call) -> None:
        if (task := self.calls.pop(call, None)) is not None:
            task.cancel()

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return asyncio.Task(_Steps(work, self, _current.get()), loop=loop, **options)


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are timed."""

    def __init__(self, work: Coroutine[Any, Any, Any], stage: _Stage, call: _Call | None) -> None:
        self._work, self._stage, self._call = work, stage, call

    def send(self, value: Any) -> Any:
        return self._timed(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._timed(self._work.throw, *error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def _timed(self, step: Callable[..., Any], *values: Any) -> Any:
        stage, began = self._stage, time.monotonic()
        stage.step = self._call, began
        try:
            return step(*values)
        finally:
            took = time.monotonic() - began
            stage.busy += took
            if self._call is not None:
                self._call.busy += took
            stage.step = IDLE
