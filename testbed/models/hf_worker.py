"""The thread that owns a local model and batches what many concurrent attempts ask of it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext

import torch

from testbed.edges import Kept
from testbed.errors import ModelError, ModelUnavailable
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_jobs import Job, Scoring, settle, settle_all
from testbed.models.hf_memory import out_of_memory
from testbed.models.hf_queue import Waiting
from testbed.models.hf_score import Forced

_log = logging.getLogger(__name__)

# New rows are admitted when those that have a place are at least this share of the batch, or have waited for so many
# tokens: reading prompts a few at a time costs more than a short wait.
_JOIN_SHARE = 1 / 8
_JOIN_WAIT = 12
# After memory ran out, slots come back an eighth at a time, each time after so many tokens with all of them filled;
# after twice as many with every time that it runs out again: the batch lost then costs more than the slots bring.
_PATIENCE = 256


class Worker:
    """Decodes rows in a daemon thread; requests join the running batch between tokens.

    Args:
        load: makes the decoder, in the thread.
        turn: what each of its steps is made within, see `testbed.models.hf_turns`.
    """

    def __init__(
        self, load: Callable[[], Decoder], turn: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self._load, self._turn = load, turn
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
        self._ended = ""  # by what, if it was not closed
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
                raise ModelUnavailable(self._ended or "the model was closed.")
            self._inbox.put(job)

    def _stop(self) -> None:
        with self._closing:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _serve(self) -> None:
        with Kept() as loading, self._turn():  # a thread's edge: handed to whoever starts the model
            loading.result = self._load()
        if loading.error is not None:
            self._end(ModelUnavailable(f"the model could not be loaded: {loading.error}"))  # to whoever asks later
            self.ready.set_exception(loading.taken())
            return
        decoder: Decoder = loading.result
        self._slots = decoder.slots
        self.ready.set_result(None)
        with Kept() as work, torch.inference_mode():  # entered once: for each token, it would show
            while self._receive(block=not decoder.rows and not self._waiting):
                with self._turn():
                    self._score(decoder)
                    self._write(decoder)
        if work.error is None:
            self._end(ModelUnavailable("the model was closed while this message was being written."))
        else:  # nothing can be written any more: whoever waits is told why
            self._end(_meant(work.taken()))

    def _write(self, decoder: Decoder) -> None:
        """One more token of every row, the first ones of those that join."""
        with Kept(Exception) as writing:  # handed to everyone who waits
            self._drop_cancelled(decoder)
            if self._should_join(decoder):
                self._admit(decoder)
            if decoder.rows:
                self._step(decoder)
        if writing.error is not None:
            self._recover(decoder, writing.taken())

    def _end(self, error: Exception) -> None:
        """Takes no more requests, and hands the error to everyone who waits."""
        with self._closing:
            if not self._closed:
                self._closed, self._ended = True, str(error)
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
        with Kept(Exception) as reading:  # handed to everyone who waits
            reading.result = decoder.score([job.tokens for job in self._to_score])
        if reading.error is not None:
            self._settle_scores(_meant(reading.taken()))
            return
        jobs, self._to_score = self._to_score, []
        for job, forced in zip(jobs, reading.result, strict=True):
            settle(job.loop, job.future, forced)

    def _settle_scores(self, error: Exception) -> None:
        jobs, self._to_score = self._to_score, []
        for job in jobs:
            settle(job.loop, job.future, error)

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
            settle(job.loop, job.future, error)
        self._jobs.update((job.row, job) for job in jobs)
        return [job.row for job in jobs]

    def _recover(self, decoder: Decoder, error: Exception) -> None:
        """Gives up the batch; where it was too large, its rows are written again, half as many at once."""
        no_memory = out_of_memory(error)
        traceback.clear_frames(error.__traceback__)  # what they hold must not stand beside the new batch
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
        if gone:
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
            settle_all(loop, results)

    def _fail(self, error: Exception) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            settle(job.loop, job.future, error)


def _meant(error: BaseException) -> Exception:
    """What whoever waits is told."""
    if isinstance(error, Exception):
        return out_of_memory(error) or error
    return ModelError(f"the model's thread ended by {type(error).__name__}: {error}")
