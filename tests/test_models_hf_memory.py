"""Memory of local models: bounded, and refused by name where it does not suffice."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_models import ask, decode, make_tokenizer, never, random_model, reply_of, rows, save
from testbed.errors import ContextFull, ModelError, UsageError
from testbed.models import hf_cache, hf_memory, hf_pages
from testbed.models.hf import HuggingFace
from testbed.models.hf_aligned import AlignedBatch
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_memory import Room
from testbed.models.hf_pages import PAGE
from testbed.models.hf_worker import Worker

TOKEN = 2 * 2 * 2 * 16 * 4  # bytes: layers, keys and values, heads, width (8, and vectors are whole), float32
ASIDE = TOKEN // 2  # where a token lies in no page


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows lie side by side, as on other devices."""
    monkeypatch.setattr(Decoder, "_may_use_pages", lambda self: False)


def test_a_token_takes_what_its_keys_and_values_take() -> None:
    assert Decoder(random_model(), never, 4).room.token == TOKEN
    assert Decoder(random_model("mistral"), never, 4).room.token == ASIDE


def test_as_many_rows_are_admitted_as_have_pages_to_be_written_to_their_limits() -> None:
    decoder = Decoder(random_model(), never, 64, memory=TOKEN * 480 * 4 // 3)
    assert decoder.room.cells == 480
    waiting = rows(20)  # 40 tokens each: 3 of 30 pages
    assert decoder.fitting(waiting) == 10
    decoder.admit(waiting[:7])
    assert decoder.fitting(waiting[7:]) == 3
    assert decoder.fitting(rows(2, limit=60)) == 1  # of 5 pages
    assert decoder.fitting(rows(5, limit=5)) == 5


def test_as_many_rows_are_admitted_as_can_be_written_to_their_limits_side_by_side() -> None:
    decoder = Decoder(random_model("mistral"), never, 64, memory=ASIDE * 400 * 4 // 3)
    assert decoder.room.cells == 400
    waiting = rows(20)  # 40 tokens each
    assert decoder.fitting(waiting) == 10
    decoder.admit(waiting[:7])
    assert decoder.fitting(waiting[7:]) == 3
    assert decoder.fitting(rows(1, limit=60)) == 0  # all rows are as wide as the widest
    assert decoder.fitting(rows(3, limit=5)) == 3


def test_slots_bound_the_rows_where_memory_does_not() -> None:
    decoder = Decoder(random_model(), never, 4)
    decoder.admit(rows(3))
    assert decoder.fitting(rows(9)) == 1


@pytest.mark.parametrize("prompt", [10, 90])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_cache_never_grows_beyond_its_memory(kind: str, prompt: int) -> None:
    token = TOKEN if kind == "llama" else ASIDE
    decoder, waiting = Decoder(random_model(kind), never, 64, memory=token * 1000 * 4 // 3), rows(40, prompt, 40)
    written = []
    while waiting or decoder.rows:
        fitting = decoder.fitting(waiting)
        if fitting:
            written += decoder.admit(waiting[:fitting])
            del waiting[:fitting]
        if decoder.rows:
            written += decoder.step()
        batch = decoder._batch
        if isinstance(batch, AlignedBatch):
            assert sum(buffer.nbytes for buffer in batch._cache._buffers) <= decoder.room.token * 1000
        else:
            assert batch._pages.used * PAGE <= 4000 // 3
        assert batch.kept._bytes <= decoder.room.texts
    free = rows(40, prompt, 40)
    decode(random_model(kind), free)
    assert {row.stream: row.tokens for row in written} == {row.stream: row.tokens for row in free}


def test_what_is_being_read_and_what_was_read_share_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, held = Decoder(random_model("mistral"), never, 64, memory=ASIDE * 4000), list[int]()
    batch = decoder._batch
    empty = torch.Tensor.new_empty

    def noting(like: torch.Tensor, *shape: int, **more: Any) -> torch.Tensor:
        new = empty(like, *shape, **more)
        held.append(new.nbytes)
        return new

    monkeypatch.setattr(torch.Tensor, "new_empty", noting)
    for wave in range(3):
        asked = [Row(tuple(6 + (7 * n + m + wave) % 390 for n in range(60)), 4, stream=m) for m in range(30)]
        decoder.admit(asked)
        while decoder.rows:
            decoder.step()
        assert batch.kept._bytes + max(held) <= decoder.room.texts
    assert len(batch.kept._used) > 3


def test_a_share_of_what_is_free_is_taken_and_what_is_granted_is_divided() -> None:
    cpu = torch.device("cpu")
    assert 1 << 26 < hf_memory.free_bytes(cpu) < 1 << 50
    assert hf_memory.granted(1.5, cpu, 4) == 3 << 29
    assert hf_memory.granted("auto", cpu, 4) < hf_memory.granted("auto", cpu, 1)


def test_models_that_share_a_device_are_never_granted_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Owner:
        pass

    monkeypatch.setattr(hf_memory, "_granted", type(hf_memory._granted)())
    monkeypatch.setattr(hf_memory, "_of_host", lambda: 1000)
    monkeypatch.setattr(hf_memory, "_of_cgroup", lambda: None)
    cpu, owners = torch.device("cpu"), [Owner() for _ in range(4)]
    found = [hf_memory.granted("auto", cpu, 1, owner) for owner in owners]
    assert found == [500, 250, 125, 62]
    assert hf_memory.granted("auto", cpu, 2, owners[0]) == (1000 - 437) // 4  # its own grant is its own
    for owner in owners[1:]:
        hf_memory.release(owner)
    assert hf_memory.granted("auto", cpu, 1, Owner()) == 1000 // 2 - (1000 - 437) // 4


async def test_a_model_that_is_closed_gives_back_what_it_was_granted(tmp_path: Path) -> None:
    model = HuggingFace(save(random_model(), make_tokenizer(), tmp_path), device="cpu")
    await model.start()
    assert hf_memory._granted[model]["cpu"] > 0
    await model.aclose()
    assert model not in hf_memory._granted


@pytest.mark.parametrize(("limit", "left"), [("1000", 1000 - 900 + 300 + 200), ("max", None)])
def test_a_containers_limit_counts_and_cached_files_make_room(tmp_path: Path, limit: str, left: int | None) -> None:
    for file, text in (("max", limit), ("current", "900"), ("stat", "anon 400\ninactive_file 300\nactive_file 200\n")):
        (tmp_path / f"memory.{file}").write_text(text)
    assert hf_memory._of_cgroup(tmp_path) == left
    assert hf_memory._of_cgroup(tmp_path / "none") is None


async def test_a_model_of_which_no_message_fits_is_refused_by_name_before_any_is_asked(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu", memory=1e-4, name="hf:tiny")
    with pytest.raises(ModelError, match=r"hf:tiny takes conversations of 512 tokens.*157 tokens.*context = "):
        await model.start()
    await model.aclose()


@pytest.mark.parametrize("memory", [1e-4, 1e-5])
async def test_little_memory_is_told_in_figures_that_are_not_nothing(llama: Path, memory: float) -> None:
    model = HuggingFace(llama, device="cpu", memory=memory)
    with pytest.raises(ModelError, match=r"need \d.* [MK]iB, and there is memory for [\d.]+ [MK]iB") as told:
        await model.start()
    assert not re.search(r"\b0\.00", str(told.value))
    await model.aclose()


async def test_a_context_longer_than_the_models_is_refused_with_both(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu", context=4096)
    with pytest.raises(ModelError, match=r"context = 4096 was asked for, and the model takes 512 tokens"):
        await model.start()
    await model.aclose()
    assert (await reply_of(llama, ask(max_tokens=3), context=512)).usage.generated_tokens


async def test_who_set_the_context_that_is_full_is_told_what_to_change(llama: Path) -> None:
    long = ask("abc " * 200)
    with pytest.raises(ContextFull, match=r"Raise context = 10 .*\(the model takes 512\)"):
        await reply_of(llama, long, context=10)
    for options in ({}, {"context": 512}):
        with pytest.raises(ContextFull, match="Use a model with a longer context"):
            await reply_of(llama, ask("abc " * 600), **options)


async def test_a_shorter_context_makes_it_fit_and_is_another_model_to_the_comparison(llama: Path) -> None:
    reply = await reply_of(llama, ask(max_tokens=5), memory=1e-4, context=150)
    assert reply.usage.generated_tokens >= 1
    whole, shorter = HuggingFace(llama, device="cpu"), HuggingFace(llama, device="cpu", context=300)
    assert whole.fingerprint() != shorter.fingerprint()
    assert "context" not in whole.fingerprint()


@pytest.mark.parametrize("option", [{"memory": 0}, {"memory": "much"}, {"memory": True}, {"context": 0}])
def test_impossible_limits_are_refused(llama: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        HuggingFace(llama, device="cpu", **option)


def test_a_row_that_will_never_fit_is_refused_alone() -> None:
    async def ask_for_both() -> list[Any]:
        worker = Worker(lambda: Decoder(random_model(), never, 4, memory=TOKEN * 64 * 4 // 3))
        large, small = rows(1, limit=55)[0], rows(1)[0]
        try:
            return await asyncio.gather(worker.decode(large), worker.decode(small), return_exceptions=True)
        finally:
            await worker.close()

    refused, written = asyncio.run(asyncio.wait_for(ask_for_both(), 30))
    assert isinstance(refused, ModelError)
    assert "holds 64 tokens" in str(refused)
    assert len(written.tokens) == 30


def test_a_cache_of_many_short_rows_makes_way_for_few_long_ones() -> None:
    decoder = Decoder(random_model("mistral"), never, 64, memory=ASIDE * 1000 * 4 // 3)
    batch = decoder._batch
    assert isinstance(batch, AlignedBatch)
    for waiting in (rows(60, prompt=2, limit=5), rows(2, prompt=150, limit=350)):
        assert decoder.fitting(waiting) == len(waiting)
        decoder.admit(waiting)
        moved = 0
        while decoder.rows:
            before = batch._cache._buffers[0]
            decoder.step()
            moved += batch._cache._buffers[0] is not before
            assert sum(buffer.nbytes for buffer in batch._cache._buffers) <= ASIDE * 1000
    assert moved <= 4  # not with every token


def test_pages_that_rows_share_count_once() -> None:
    decoder = Decoder(random_model(), never, 64, memory=TOKEN * 608 * 4 // 3)  # 38 pages
    decoder.admit(rows(4, prompt=200, limit=40))  # 15 pages each, 12 of them shared
    assert decoder.fitting(rows(9, prompt=10, limit=30)) == (38 - 12 - 4 * 3) // 3


@pytest.mark.usefixtures("without_pages")
def test_beginnings_that_rows_stand_on_count_once() -> None:
    decoder = Decoder(random_model(), never, 64, memory=ASIDE * 600 * 4 // 3)
    decoder.admit(rows(4, prompt=200, limit=40))
    assert {row.apart for row in decoder.rows} == {200}
    assert decoder.fitting(rows(9, prompt=10, limit=30)) == 6  # of 600, 200 stand apart: ten rows of 40 fit


@pytest.mark.usefixtures("without_pages")
def test_what_is_kept_never_outlives_the_beginning_that_it_needs() -> None:
    decoder = Decoder(random_model(), never, 64, memory=ASIDE * 600 * 4)
    kept: Any = decoder._batch.kept
    for wave in range(12):
        prompt = tuple(6 + (7 * n + 13 * wave) % 390 for n in range(150))
        asked = [Row(prompt, 10 + n, stream=n, keep=True) for n in range(4)]
        decoder.admit(asked[:2])
        while decoder.rows:
            decoder.step()
            if asked[2:] and wave % 3:
                decoder.admit([asked.pop()])
        for read in kept._kept.values():
            assert read.trunk is None or kept._kept[read.trunk.tokens] is read.trunk
        assert kept._bytes == sum(read.bytes for read in kept._kept.values()) <= decoder.room.texts


def test_room_counts_rows_by_the_widest() -> None:
    room = Room(bytes=400, token=1)
    assert room.cells == 300
    assert room.fitting(rows(9, prompt=20, limit=30), []) == 6
    assert room.fitting([*rows(1, prompt=20, limit=30), *rows(9, prompt=20, limit=80)], []) == 3


@pytest.mark.parametrize("lazy", [hf_pages._lazy, lambda size: hf_cache._zeros((size,), torch.zeros(1))])
def test_processes_start_however_much_memory_models_were_promised(lazy: Callable[[int], object]) -> None:
    """Two promises side by side are one to the system, which refuses to fork more than the machine has."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        held = [lazy(int(0.6 * most) // 4) for _ in range(2)]
    except MemoryError:
        pytest.skip("this system promises no more memory than it has")
    assert subprocess.run(["true"], preexec_fn=lambda: None, check=True).returncode == 0  # what makes it fork
    del held
