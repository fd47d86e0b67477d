"""Two small bridges between threads and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from testbed.edges import Kept

T = TypeVar("T")

_LEFT_BEHIND = 1.0  # seconds that cancelled coroutines get to end before their loop is closed
_EXECUTORS = ("asyncio_", "ThreadPoolExecutor")  # names of threads that the interpreter waits for at its end
_unending: list[object] = []  # never collected: a coroutine that is collected runs once more, and may not end then


class DaemonThreads:
    """Runs blocking functions off the event loop in daemon threads.

    The standard executor joins its threads when the interpreter exits, so one tool that hangs would hang the program;
    and a hung thread would take a worker's place for ever. Here a call that is given up leaves its place to a new
    thread, and time spent waiting for a free thread does not count against a call.

    Args:
        size: most calls at once; those given up do not count.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._guard = threading.RLock()  # environments with event loops of their own may share an arm's tools
        self._threads = 0  # that take calls
        self._calls = 0  # that have a place
        self._line: deque[asyncio.Future[None]] = deque()  # who waits for one, in order; whoever is taken out has one

    async def run(
        self,
        function: Callable[[], T],
        timeout: float | None = None,
        off_clock: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> T:
        """Result of `function()`, run in a thread.

        Args:
            function: what to run.
            timeout: seconds it may take, counted from when a thread begins it; None is no limit.
            off_clock: around the wait for a place, as in `testbed.tool_base.AttemptContext`.

        Raises:
            TimeoutError: it took longer.
            RuntimeError: it raised what asyncio must not see: StopIteration, SystemExit and the like.
            Exception: whatever else it raised.
        """
        with off_clock():
            await self._come()
        try:
            return await self._in_thread(function, timeout)
        finally:
            self._leave()

    def close(self) -> None:
        """Lets idle threads end; running calls are left to themselves."""
        with self._guard:
            for _ in range(self._threads):
                self._queue.put(None)
            self._threads, self._queue = 0, queue.SimpleQueue()  # whoever comes next begins afresh

    async def _come(self) -> None:
        """Waits for a place, first come first served."""
        with self._guard:
            if self._calls < self._size:  # so nobody waits
                self._calls += 1
                return
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append(place)
        with contextlib.ExitStack() as undo:  # if cancelled too
            undo.callback(self._step_out, place)
            await place
            undo.pop_all()

    def _step_out(self, place: asyncio.Future[None]) -> None:
        """Leaves the line, or the place that came at the same moment."""
        with self._guard:
            if place in self._line:
                self._line.remove(place)
            else:
                self._leave()

    def _leave(self) -> None:
        """Hands a place on to whoever has waited longest."""
        with self._guard:
            while self._line:
                place = self._line.popleft()
                with contextlib.suppress(RuntimeError):  # its loop was closed meanwhile: nobody is there to take it
                    place.get_loop().call_soon_threadsafe(settle, place, None, None)
                    return
            self._calls -= 1

    async def _in_thread(self, function: Callable[[], T], timeout: float | None) -> T:
        job = _Job(function)
        timer = job.loop.call_later(timeout, self._check, job, timeout) if timeout is not None else None
        with self._guard:
            if self._calls > self._threads and self._threads < self._size:
                self._spawn()
            self._queue.put(job)
        try:
            result: T = await job.future
            return result
        finally:
            if timer is not None:
                timer.cancel()
            if job.future.cancelled():
                self._give_up(job)

    def _check(self, job: _Job, timeout: float) -> None:
        """Ends a call whose time is up; looks again later at one that began late."""
        if job.future.done():
            return
        # What has not begun cannot be over before a whole timeout from now.
        left = timeout if job.began is None else job.began + timeout - time.monotonic()
        if left > 0:
            job.loop.call_later(left, self._check, job, timeout)
            return
        self._give_up(job)
        job.future.set_exception(TimeoutError(f"took longer than {timeout:g} s"))

    def _give_up(self, job: _Job) -> None:
        with self._guard:
            if job.abandon():  # its thread is lost until the function returns, and leaves then
                self._threads -= 1
                if self._calls > self._threads:
                    self._spawn()

    def _spawn(self) -> None:
        self._threads += 1
        threading.Thread(target=_serve, args=(self._queue,), name="testbed-tool", daemon=True).start()


class _Job:
    """One call: waiting, then begun by a thread, then done or abandoned."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.began: float | None = None
        self._abandoned = self._finished = False
        self._lock = threading.Lock()

    def abandon(self) -> bool:
        """Nobody waits for it any more; True if a thread is busy with it, which from now on is on its own."""
        with self._lock:
            self._abandoned = True
            return self.began is not None and not self._finished

    def serve(self) -> bool:
        """Runs it in the calling thread; whether the thread may take another one."""
        with self._lock:
            if self._abandoned:
                return True
            self.began = time.monotonic()
        with Kept() as kept:  # for the caller
            kept.result = self.function()
        with self._lock:
            self._finished = True
            if self._abandoned:
                return False
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody is there to be told
            self.loop.call_soon_threadsafe(settle, self.future, kept.result, kept.error)
        return True


def _serve(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        if not job.serve():
            return
        del job  # a thread that waits must not keep the last result alive


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Ends a future with what a function returned or raised, unless it has ended already."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:  # asyncio refuses StopIteration, and would take SystemExit or CancelledError for its own
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}({error})"))


def left_behind(patience: float = _LEFT_BEHIND) -> bool:
    """Whether other people's code still runs that would keep the interpreter from ending, as it waits for that.

    Args:
        patience: seconds that threads get to end.
    """
    until = time.monotonic() + patience
    while not _unending:
        others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        if not any(not thread.daemon or thread.name.startswith(_EXECUTORS) for thread in others):
            return False
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    return True


class LoopThread:
    """An event loop in a thread of its own, for synchronous callers of asynchronous code."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="testbed-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Result of the coroutine; blocks the calling thread. An interrupt cancels it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()  # on an interrupt; a future that is done stays as it is

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins the coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, patience: float | None = None) -> None:
        """Cancels what still runs, stops the loop and frees its descriptors.

        Args:
            patience: seconds to wait for that; None is for ever, for coroutines that do not block.
        """
        with contextlib.suppress(RuntimeError):  # it has been closed
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience)
        if self._thread.is_alive():
            _unending.append(self)

    def _serve(self) -> None:
        self._insist(self._loop.run_forever)
        self._insist(lambda: self._loop.run_until_complete(self._wind_up()))
        self._loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _unending.extend((await asyncio.wait(tasks, timeout=_LEFT_BEHIND))[1])
        await self._loop.shutdown_asyncgens()
        await asyncio.sleep(0)  # transports that were closed last get to say so

    def _insist(self, run: Callable[[], object]) -> None:
        """Runs the loop again where a task ended it: SystemExit and KeyboardInterrupt pass through asyncio's loops."""
        while True:
            try:
                run()
                return
            except (SystemExit, KeyboardInterrupt):  # the task has it too, and with it whoever waits for that
                continue
