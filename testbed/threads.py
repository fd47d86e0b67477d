"""Two small bridges between threads and asyncio."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """Runs blocking functions off the event loop in daemon threads.

    The standard executor joins its threads when the interpreter exits, so one tool that hangs would hang the program;
    and a hung thread would take a worker's place for ever. Here a call that is cancelled gives its place up to a new
    thread.

    Args:
        size: most calls at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Result of `function()`, run in a thread.

        Raises:
            Exception: whatever the function raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result, error = function(), None
            except BaseException as caught:  # noqa: BLE001  handed to the caller, whatever it is
                result, error = None, caught
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, result, error)

        self._waiting += 1
        if self._waiting > self._threads and self._threads < self._size:
            self._spawn()
        self._queue.put(work)
        try:
            return await future
        except asyncio.CancelledError:
            self._spawn()
            self._queue.put(None)  # whichever thread is free first leaves, so that the number stays what it was
            self._threads -= 1
            raise
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Lets idle threads end; running calls are left to themselves."""
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _spawn(self) -> None:
        self._threads += 1
        threading.Thread(target=self._serve, name="testbed-tool", daemon=True).start()

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the function raised StopIteration"))  # asyncio refuses it as an exception
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class LoopThread:
    """An event loop in a thread of its own, for synchronous callers of asynchronous code."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="testbed-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Result of the coroutine; blocks the calling thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Stops the loop and frees its descriptors."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()
