"""Where copies of a local model run, and that an attempt does not depend on which of them serves it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_models import ask, has_reference
from testbed.errors import ModelError, UnknownName, UsageError
from testbed.models import hf_files, make_model
from testbed.models.hf import HuggingFace
from testbed.models.hf_placement import Placement, place
from testbed.models.hf_worker import Worker


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    """Lets this machine have GPUs of these names; those that end in "old" do not compute in bfloat16."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: gpus[number])
    monkeypatch.setattr(
        torch.cuda,
        "get_device_capability",
        lambda device: (7, 5) if gpus[int(device.partition(":")[2])].endswith("old") else (9, 0),
    )


def test_without_a_gpu_auto_is_one_copy_in_float32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert place("m", "auto", "auto", "auto") == Placement(("cpu",), "float32")


def test_auto_is_a_copy_in_bfloat16_on_every_gpu_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "H100", "T4 old", "H100")
    assert place("m", "auto", "auto", "auto") == Placement(("cuda:0", "cuda:2"), "bfloat16")
    assert place("m", "cuda", "float32", 1) == Placement(("cuda:0",), "float32")


def test_gpus_that_only_imitate_bfloat16_are_given_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "T4 old", "T4 old")
    assert place("m", "auto", "auto", "auto") == Placement(("cuda:0", "cuda:1"), "float32")


def test_a_numbered_gpu_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "H100", "T4 old", "H100")
    assert place("m", "cuda:2", "auto", "auto") == Placement(("cuda:2",), "bfloat16")
    assert place("m", "cuda:1", "auto", 1) == Placement(("cuda:1",), "float32")


@pytest.mark.parametrize(
    ("gpus", "device", "replicas"),
    [((), "cuda", "auto"), (("H100",), "cuda:1", 1), (("H100",), "cuda", 2), (("H100", "T4"), "auto", 2)],
)
def test_gpus_that_are_not_there_are_refused_with_their_number(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], device: str, replicas: int | str
) -> None:
    machine(monkeypatch, *gpus)
    with pytest.raises(ModelError, match=f"this machine has {min(len(gpus), 1 if ':' not in device else 0)};"):
        place("m", device, "auto", replicas)


def test_replicas_that_nobody_asked_for_are_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.raises(ModelError, match=r"'cuda' was asked for, and of such GPUs.*has 0; use device = 'auto'\.$"):
        place("m", "cuda", "auto", "auto")
    with pytest.raises(ModelError, match=r"with 1 replicas.*replicas = 'auto'"):
        place("m", "cuda", "auto", 1)


@pytest.mark.parametrize(("gpus", "there"), [((), "cpu"), (("H100", "H100"), "cpu, cuda:0, cuda:1")])
def test_a_second_processor_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], there: str
) -> None:
    machine(monkeypatch, *gpus)
    with pytest.raises(ModelError, match=rf"no device 'cpu:1'; this machine has {there}\. .*threads = N"):
        place("m", "cpu:1", "auto", "auto")
    assert place("m", "cpu:0", "auto", "auto").kind == "cpu"


@pytest.mark.parametrize(("device", "meant"), [("gpu", "cuda"), ("GPU:1", "cuda:1")])
def test_a_gpu_is_called_cuda(device: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean '{meant}'"):
        place("m", device, "auto", "auto")


def test_what_no_machine_could_take_is_refused_at_once(llama: Path) -> None:
    for wrong in (0, -1, True, 1.5, "all"):
        with pytest.raises(UsageError, match="replicas must be a whole number"):
            make_model(f"hf:{llama}", {"replicas": wrong})
    with pytest.raises(UnknownName, match="bfloat16"):
        make_model(f"hf:{llama}", {"dtype": "bfloat61"})
    with pytest.raises(UnknownName, match="cuda"):
        make_model(f"hf:{llama}", {"device": "kuda"}).fingerprint()


def test_how_many_copies_there_are_is_no_part_of_an_arm(llama: Path) -> None:
    one, three = (HuggingFace(llama, device="cpu", replicas=n).fingerprint() for n in (1, 3))
    assert one == three
    assert (one["device"], one["dtype"]) == ("cpu", "float32")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Worker]]:
    """Stream, position and server of every message, in order."""
    found: list[tuple[int, int, Worker]] = []
    decode = Worker.decode

    async def noted(self: Worker, row: Any) -> Any:
        found.append((row.stream, row.position, self))
        return await decode(self, row)

    monkeypatch.setattr(Worker, "decode", noted)
    return found


@has_reference
async def test_an_attempt_writes_the_same_whichever_copy_serves_it(served: list[tuple[int, int, Worker]]) -> None:
    requests = [ask(f"What is {3 * n}*{7 * n + 1}?", stream=900 + n, max_tokens=40) for n in range(24)]
    texts = []
    for replicas in (1, 3):
        model = make_model("reference", {"replicas": replicas})
        texts.append([reply.text for reply in await asyncio.gather(*map(model.generate, requests))])
        await model.aclose()
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 8
    shares = sorted(Counter(worker for _, _, worker in served).values())
    assert (len(shares), shares[-1]) == (4, 24)
    assert shares[0] >= 3  # 8 each, but for what was done before the last came


async def test_further_messages_of_an_attempt_go_to_the_copy_that_read_the_first(
    llama: Path, served: list[tuple[int, int, Worker]]
) -> None:
    model = HuggingFace(llama, device="cpu", replicas=2)
    requests = [ask(f"What is {n}?", stream=n, max_tokens=4) for n in range(6)]
    for turn in range(3):
        order = requests if turn % 2 == 0 else requests[::-1]
        await asyncio.gather(*(model.generate(replace(request, position=4 * turn)) for request in order))
    await model.aclose()
    copies = {stream: {worker for other, _, worker in served if other == stream} for stream in range(6)}
    assert {len(workers) for workers in copies.values()} == {1}
    assert len(set().union(*copies.values())) == 2


async def test_a_copy_that_cannot_be_loaded_is_told_and_the_others_end(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = hf_files.load_model, []
    before = set(threading.enumerate())

    def second_fails(*arguments: Any) -> Any:
        loaded.append(1)
        if len(loaded) == 2:
            raise ModelError("no room on this device.")
        return load(*arguments)

    monkeypatch.setattr(hf_files, "load_model", second_fails)
    model = HuggingFace(llama, device="cpu", replicas=2)
    with pytest.raises(ModelError, match="no room"):
        await model.start()
    await model.aclose()
    begun = set(threading.enumerate()) - before
    assert not [thread for thread in begun if thread.name == "testbed-model"]


async def test_texts_are_scored_by_every_copy_to_the_same_numbers(llama: Path) -> None:
    talk = [{"role": "user", "content": "What is 1?"}, {"role": "assistant", "content": "It is 1."}]
    found = []
    for replicas in (1, 2):
        model = HuggingFace(llama, device="cpu", replicas=replicas)
        found += await asyncio.gather(*(model.score(talk, [], [1]) for _ in range(4)))  # type: ignore[arg-type]
        await model.aclose()
    first = found[0][0].logprobs
    assert all(score[0].logprobs == pytest.approx(first, abs=1e-5) for score in found)
