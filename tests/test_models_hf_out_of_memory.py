"""Where memory runs out, or those who wait are gone: the other rows are written all the same."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.tiny_models import decode, never, random_model, rows
from testbed.errors import ModelUnavailable
from testbed.models import hf_jobs, hf_worker
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_worker import Worker


def tight(most: int) -> Decoder:
    """A decoder whose device has memory for so many rows only, though nothing said so beforehand."""
    model = random_model("mistral")
    forward = model.forward

    def limited(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(**inputs)

    decoder = Decoder(model, never, 64)
    model.forward = limited
    return decoder


async def written_by(decoder: Decoder, asked: list[Row]) -> list[Any]:
    worker = Worker(lambda: decoder)
    try:
        return await asyncio.wait_for(asyncio.gather(*map(worker.decode, asked), return_exceptions=True), 60)
    finally:
        await worker.close()


async def test_out_of_memory_halves_the_slots_writes_the_rows_again_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = rows(40)
    decode(random_model("mistral"), alone)
    decoder, asked = tight(most=3), [*rows(39), Row(alone[0].prompt, 30, stream=39, logprobs=[])]
    with caplog.at_level(logging.WARNING):
        found = await written_by(decoder, asked)
    assert [row.tokens for row in found] == [row.tokens for row in alone]
    assert len(found[-1].logprobs) == 30
    assert all(row.share > 0 for row in found)
    assert decoder.slots <= 3
    assert len(caplog.messages) == 1
    assert "out of memory" in caplog.messages[0]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
async def test_however_it_is_told_memory_that_ran_out_costs_no_row(error: Exception) -> None:
    alone, decoder, steps = rows(6), tight(most=9), 0
    decode(random_model("mistral"), alone)
    forward = decoder._model.forward

    def fail_once(**inputs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise error
        return forward(**inputs)

    decoder._model.forward = fail_once
    found = await written_by(decoder, rows(6))
    assert [row.tokens for row in found] == [row.tokens for row in alone]


async def test_whoever_waits_is_told_where_not_even_a_new_batch_can_be_made() -> None:
    decoder = tight(most=2)

    def fails() -> None:
        raise RuntimeError("the device is lost")

    decoder.clear = fails  # type: ignore[method-assign]
    worker = Worker(lambda: decoder)
    found = await asyncio.wait_for(asyncio.gather(*map(worker.decode, rows(8)), return_exceptions=True), 30)
    assert {str(error) for error in found} == {"the device is lost"}
    with pytest.raises(ModelUnavailable):
        await worker.decode(rows(1)[0])
    await worker.close()


async def test_attempts_that_give_up_in_mid_batch_leave_the_others_alone() -> None:
    model, given_up, asked = random_model(), threading.Event(), rows(6)
    forward = model.forward

    @wraps(forward)
    def waits(*args: Any, **inputs: Any) -> Any:
        assert not asked[0].tokens or given_up.wait(60)
        return forward(*args, **inputs)

    model.forward = waits
    worker = Worker(lambda: Decoder(model, never, 8))
    tasks = [asyncio.create_task(worker.decode(row)) for row in asked]
    while not asked[0].tokens:
        await asyncio.sleep(0.001)
    for gone in (tasks[0], tasks[2]):
        gone.cancel()
    await asyncio.wait({tasks[0], tasks[2]})
    given_up.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    await worker.close()
    assert [isinstance(row, Row) for row in found] == [False, True, False, True, True, True]
    assert len(asked[0].tokens) < 30


def test_an_event_loop_that_closed_meanwhile_is_no_error_of_the_others() -> None:
    def closed(_: Any) -> None:
        raise RuntimeError("Event loop is closed")

    loop: Any = SimpleNamespace(is_closed=lambda: False, call_soon_threadsafe=closed)  # it closed after that was asked
    hf_jobs.settle_all(loop, [])


async def test_slots_come_back_little_by_little_when_memory_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_worker, "_PATIENCE", 4)
    model, most, seen = random_model("mistral"), 7, list[int]()
    forward = model.forward

    def limited(**inputs: Any) -> Any:
        rows = inputs["input_ids"].shape[0]
        seen.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(**inputs)

    decoder = Decoder(model, never, 16)
    model.forward = limited
    worker = Worker(lambda: decoder)
    try:
        await asyncio.gather(*map(worker.decode, rows(16)))
        least, most = decoder.slots, 64
        await asyncio.gather(*map(worker.decode, rows(120)))
    finally:
        await worker.close()
    assert least <= 7
    assert decoder.slots == 16
    grown = [slots for slots, before in zip(seen[1:], seen, strict=False) if slots > before > least]
    assert max(grown, default=0) <= 16


async def test_without_memory_for_a_single_row_it_is_the_infrastructures_fault() -> None:
    for outcome in await written_by(tight(most=0), rows(3)):
        assert isinstance(outcome, ModelUnavailable)
