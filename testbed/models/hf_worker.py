"""The thread that owns a local model and batches what many concurrent attempts ask of it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from testbed.errors import ModelError, ModelUnavailable
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_memory import out_of_memory
from testbed.models.hf_queue import Waiting
from testbed.models.hf_score import Forced

T = TypeVar("T")

_log = logging.getLogger(__name__)

# New rows are admitted when those that have a place are at least this share of the batch, or have waited for so many
# tokens: reading prompts a few at a time costs more than a short wait.
_JOIN_SHARE = 1 / 16
_JOIN_WAIT = 8
# After memory ran out, slots come back an eighth at a time, each time after so many tokens with all of them filled;
# after twice as many with every time that it runs out again: the batch lost then costs more than the slots bring.
_PATIENCE = 256


@dataclass(eq=False)
class Job:
    """A row and who waits for it."""

    row: Row
    future: asyncio.Future[Row]
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False


@dataclass(eq=False)
class Scoring:
    """A text to be scored and who waits for it."""

    tokens: Sequence[int]
    future: asyncio.Future[Forced]
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False


class Worker:
    """Decodes rows in a daemon thread; requests join the running batch between tokens.

    Args:
        load: makes the decoder, in the thread.
    """

    def __init__(self, load: Callable[[], Decoder]) -> None:
        self._load = load
        self._inbox: queue.SimpleQueue[Job | Scoring | None] = queue.SimpleQueue()
        self._jobs: dict[Row, Job] = {}
        self._waiting: Waiting[Job] = Waiting()
        self._to_score: list[Scoring] = []
        self._waited = 0
        self._told = False
        self._slots = 0  # of the decoder, as long as there is memory
        self._calm, self._patience = 0, _PATIENCE // 2  # full steps since there was none, and how many make up for that
        self._clock = 0.0  # seconds that steps took, each divided by its rows: what a row's share adds up from
        self._closing, self._closed = threading.Lock(), False
        self.ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="testbed-model", daemon=True)
        self._thread.start()
        # A thread inside the model when the interpreter ends aborts the process, whatever its exit code was to be.
        atexit.register(self._stop)

    async def decode(self, row: Row) -> Row:
        """The row when it is done.

        Raises:
            ModelUnavailable: memory ran out.
            Exception: whatever the model raises.
        """
        loop = asyncio.get_running_loop()
        job = Job(row, loop.create_future(), loop)
        self._put(job)
        try:
            return await job.future
        finally:
            job.cancelled = True  # nobody waits any more: where the row is not done, it is dropped

    async def score(self, tokens: Sequence[int]) -> Forced:
        """What the model gives a text, see `testbed.models.hf_score.forced`; texts that wait are read together.

        Raises:
            ModelUnavailable: memory ran out.
            Exception: whatever the model raises.
        """
        loop = asyncio.get_running_loop()
        job = Scoring(tokens, loop.create_future(), loop)
        self._put(job)
        try:
            return await job.future
        finally:
            job.cancelled = True

    async def close(self) -> None:
        """Ends the thread; rows under way are given up."""
        await asyncio.to_thread(self._stop)
        atexit.unregister(self._stop)

    def _put(self, job: Job | Scoring) -> None:
        with self._closing:
            if self._closed:
                raise ModelUnavailable("the model was closed.")
            self._inbox.put(job)

    def _stop(self) -> None:
        with self._closing:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _serve(self) -> None:
        try:
            decoder = self._load()
        except BaseException as error:  # noqa: BLE001 (a thread's edge: handed to whoever starts the model)
            self.ready.set_exception(error)
            return
        self._slots = decoder.slots
        self.ready.set_result(None)
        while self._receive(block=not decoder.rows and not self._waiting):
            self._score(decoder)
            try:
                self._drop_cancelled(decoder)
                if self._should_join(decoder):
                    self._admit(decoder)
                if decoder.rows:
                    self._step(decoder)
            except Exception as error:  # noqa: BLE001 (a thread's edge: handed to everyone who waits)
                try:
                    self._recover(decoder, error)
                except Exception as broken:  # noqa: BLE001 (nothing can be written any more: whoever waits is told why)
                    self._end(out_of_memory(broken) or broken)
                    return
        self._end(ModelUnavailable("the model was closed while this message was being written."))

    def _end(self, error: Exception) -> None:
        """Takes no more requests, and hands the error to everyone who waits."""
        with self._closing:
            self._closed = True
        while not self._inbox.empty():
            self._receive(block=False)
        self._jobs.update((job.row, job) for job in self._waiting.take(len(self._waiting)))
        self._fail(error)
        self._settle_scores(error)

    def _receive(self, *, block: bool) -> bool:
        """Takes in what has arrived; False when the worker is to end."""
        while block or not self._inbox.empty():
            job = self._inbox.get()
            if job is None:
                return False
            if isinstance(job, Job):
                self._waiting.add(job)
            else:
                self._to_score.append(job)
            block = False
        return True

    def _score(self, decoder: Decoder) -> None:
        self._to_score = [job for job in self._to_score if not job.cancelled]
        if not self._to_score:
            return
        try:
            found = decoder.score([job.tokens for job in self._to_score])
        except Exception as error:  # noqa: BLE001 (a thread's edge: handed to everyone who waits)
            self._settle_scores(out_of_memory(error) or error)
            return
        jobs, self._to_score = self._to_score, []
        for job, forced in zip(jobs, found, strict=True):
            _settle(job.loop, job.future, forced)

    def _settle_scores(self, error: Exception) -> None:
        jobs, self._to_score = self._to_score, []
        for job in jobs:
            _settle(job.loop, job.future, error)

    def _should_join(self, decoder: Decoder) -> bool:
        if not self._waiting or not decoder.free:
            return False
        self._waited += 1
        joining = min(len(self._waiting), decoder.free)
        enough = joining >= _JOIN_SHARE * (len(decoder.rows) + joining) or self._waited > _JOIN_WAIT
        if enough:
            self._waited = 0
        return enough

    def _admit(self, decoder: Decoder) -> None:
        rows = self._next_rows(decoder)
        if not rows:
            return
        for row in rows:
            row.share -= self._clock
        many, begun = len(decoder.rows) + len(rows), time.perf_counter()
        finished = decoder.admit(rows)
        self._clock += (time.perf_counter() - begun) / many
        self._finish(finished)

    def _step(self, decoder: Decoder) -> None:
        rows, begun = len(decoder.rows), time.perf_counter()
        finished = decoder.step()
        self._clock += (time.perf_counter() - begun) / rows
        self._finish(finished)
        if rows == decoder.slots < self._slots:
            self._calm += 1
            if self._calm >= self._patience:
                decoder.slots, self._calm = min(self._slots, decoder.slots + 1 + decoder.slots // 8), 0

    def _next_rows(self, decoder: Decoder) -> list[Row]:
        self._waiting.keep(lambda job: not job.cancelled)
        first = self._waiting.first(decoder.free)
        jobs = self._waiting.take(decoder.fitting([job.row for job in first]))
        if first and not jobs and not decoder.rows:
            (job,) = self._waiting.take(1)
            error = ModelError(
                f"the memory for keys and values holds {decoder.room.cells} tokens, and a message with what stands "
                f"before it may need {job.row.most}."
            )
            _settle(job.loop, job.future, error)
        self._jobs.update((job.row, job) for job in jobs)
        return [job.row for job in jobs]

    def _recover(self, decoder: Decoder, error: Exception) -> None:
        """Gives up the batch; where it was too large, its rows are written again, half as many at once."""
        no_memory = out_of_memory(error)
        if no_memory is None or len(self._jobs) < 2:
            self._fail(no_memory or error)
            decoder.clear()
            return
        decoder.slots = len(self._jobs) // 2
        self._calm, self._patience = 0, min(2 * self._patience, _PATIENCE << 10)
        decoder.clear()  # which makes a cache for so many
        jobs, self._jobs = self._jobs, {}
        for row in jobs:
            row.restart()
        for job in jobs.values():
            self._waiting.add(job)
        if not self._told:
            self._told = True
            _log.warning(
                "The model ran out of memory with %d messages at once; it goes on with %d, and writes these again.",
                len(jobs),
                decoder.slots,
            )

    def _drop_cancelled(self, decoder: Decoder) -> None:
        gone = [row for row, job in self._jobs.items() if job.cancelled]
        decoder.drop(gone)
        for row in gone:
            del self._jobs[row]

    def _finish(self, rows: list[Row]) -> None:
        """Hands rows to those who wait: one call for all of a loop's, since each wakes it up."""
        done: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Row], Row]]] = {}
        for row in rows:
            job = self._jobs.pop(row)
            row.share += self._clock
            done.setdefault(job.loop, []).append((job.future, row))
        for loop, results in done.items():
            _settle_all(loop, results)

    def _fail(self, error: Exception) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            _settle(job.loop, job.future, error)


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T | Exception) -> None:
    _settle_all(loop, [(future, result)])


def _settle_all(loop: asyncio.AbstractEventLoop, results: Iterable[tuple[asyncio.Future[T], T | Exception]]) -> None:
    def settle() -> None:
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits there any more
        loop.call_soon_threadsafe(settle)
