"""CUDA graphs. What is asked of a recording anywhere is asked in test_models_hf_still; here, what only a GPU does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from helpers.tiny_models import never, random_model, rows
from testbed.models import hf_decode
from testbed.models.hf_decode import Decoder
from testbed.models.hf_graph import recorder_for
from testbed.models.hf_still import Record

on_gpus = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_nothing_is_recorded_on_the_processor() -> None:
    assert recorder_for(torch.device("cpu")) is None


@pytest.fixture
def records() -> Record:
    recorder = recorder_for(torch.device("cuda", 0))
    assert recorder is not None
    return recorder.new()


@on_gpus
def test_a_graph_reads_what_is_there_when_it_is_done_again(records: Record) -> None:
    given, found = torch.ones(4, device="cuda:0"), torch.zeros(4, device="cuda:0")
    again = records(lambda: found.copy_(given * 2) and None)
    given.fill_(5)
    again()
    assert found.tolist() == [10.0] * 4


@on_gpus
def test_what_cannot_be_recorded_leaves_everything_as_it_was(records: Record) -> None:
    stream, given = torch.cuda.current_stream(), torch.ones(4, device="cuda:0")
    with pytest.raises(RuntimeError):
        records(lambda: given.sum().item() and None)
    assert torch.cuda.current_stream() == stream
    assert (given + 1).tolist() == [2.0] * 4


@on_gpus
def test_two_threads_record_and_compute_at_once() -> None:
    def work(sums: list[float]) -> None:
        recorder = recorder_for(torch.device("cuda", 0))
        assert recorder is not None
        record, given = recorder.new(), torch.zeros(8, device="cuda:0")
        for _ in range(20):
            given.zero_()
            again = record(lambda: given.add_(1) and None)
            given.zero_()
            again()
            recorder.wait()
            sums.append(float(torch.ones(1 << 16, device="cuda:0").sum()) + float(given.sum()))

    found: list[list[float]] = [[], []]
    threads = [threading.Thread(target=work, args=(sums,)) for sums in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[65536.0 + 8] * 20] * 2


@on_gpus
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_texts_are_the_same_with_graphs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(how: Callable[[torch.device], object] | None) -> list[list[int]]:
        if how is not None:
            monkeypatch.setattr(hf_decode, "recorder_for", how)
        with torch.inference_mode():
            decoder = Decoder(random_model(kind).to("cuda:0"), never, 64)
        assert (decoder._recorder is None) == (how is not None)
        waiting = rows(24, limit=60)
        decoder.admit(waiting)
        while decoder.rows:
            decoder.step()
        if how is None:
            assert decoder._batch.still.made  # type: ignore[union-attr]
        return [row.tokens for row in waiting]

    assert texts(None) == texts(lambda device: None)
