"""The model's thread: whoever asks is always answered, and nothing of a batch that failed stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from helpers.tiny_models import never, random_model
from testbed.errors import ModelError, ModelUnavailable
from testbed.models.hf_decode import Decoder
from testbed.models.hf_row import Row
from testbed.models.hf_worker import Worker


async def started() -> tuple[Worker, Decoder]:
    made: list[Decoder] = []

    def load() -> Decoder:
        made.append(Decoder(random_model(), never, 4, memory=64 << 20))
        return made[0]

    worker = Worker(load)
    await asyncio.wrap_future(worker.ready)
    return worker, made[0]


async def test_nothing_of_a_batch_that_ran_out_of_memory_stays_beside_the_new_one() -> None:
    worker, decoder = await started()
    batch: Any = decoder._batch
    old = weakref.ref(batch)

    def full(*_: Any) -> Any:
        raise MemoryError

    batch._forward = full
    del batch
    gc.disable()
    try:
        rows = await asyncio.gather(*(worker.decode(Row((6, 7, n + 9), 20, stream=n)) for n in range(4)))
        assert [len(row.tokens) for row in rows] == [20] * 4
        assert decoder._batch is not old()
        assert old() is None
    finally:
        gc.enable()
        await worker.close()


class Panic(BaseException):
    """What libraries in other languages raise where they give up."""


async def test_whatever_ends_the_thread_is_told_to_who_waits_and_to_who_comes_later() -> None:
    worker, decoder = await started()

    def panic() -> Any:
        raise Panic("out of luck")

    decoder._batch.advance = panic  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="thread ended by Panic: out of luck"):
        await asyncio.wait_for(worker.decode(Row((6, 7), 20)), 20)
    with pytest.raises(ModelUnavailable, match="thread ended by Panic: out of luck"):
        await worker.decode(Row((6, 7), 20))
    await worker.close()


async def test_who_asks_a_model_that_could_not_be_loaded_is_told_so_however_often() -> None:
    def load() -> Decoder:
        raise ModelError("no such weights")

    worker = Worker(load)
    with pytest.raises(ModelError, match="no such weights"):
        await asyncio.wrap_future(worker.ready)
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="could not be loaded: no such weights"):
            await worker.decode(Row((6, 7), 20))
    await worker.close()
