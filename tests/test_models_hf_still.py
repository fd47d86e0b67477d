"""Steps that are recorded and done again: the same logits, whoever comes and goes, and the usual way where they fail.

On the processor a recording is a list of operations on tensors that stay where they are, as a GPU's graph is.
"""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.recording import record, recorder, trial
from helpers.tiny_models import SIZES, never, random_model
from testbed.models import hf_cache, hf_decode, hf_linear, hf_still
from testbed.models.hf_check import agrees
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_still import Recorder, StillSteps

Texts = dict[tuple[int, int], list[int]]


@pytest.fixture(autouse=True)
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows as they lie on a GPU, and PyTorch's own products: compiled ones are no operations of its."""
    monkeypatch.setattr(Decoder, "_may_use_pages", lambda self: False)
    monkeypatch.setattr(hf_linear, "speed_up", lambda model: 0)
    with torch.inference_mode():
        yield


@pytest.fixture
def written_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Texts, StillSteps | None]]:
    """Texts of rows of all kinds, some of two turns, with this recorder; and what was recorded."""

    def write(how: Recorder | None, kind: str = "llama", rows: int = 14) -> tuple[Texts, StillSteps | None]:
        monkeypatch.setattr(hf_decode, "recorder_for", lambda device: how)
        decoder = Decoder(random_model(kind), never, 9)
        return go_on(decoder, rows), decoder._batch.still  # type: ignore[union-attr]

    return write


def go_on(decoder: Decoder, rows: int) -> Texts:
    """Rows come in groups, some begin alike, and every second one has another turn."""
    some = random.Random(3)
    common = tuple(some.randrange(6, 396) for _ in range(40))
    waiting = [
        Row(
            (*common[: 40 * (n % 4 == 0)], *(some.randrange(6, 396) for _ in range(some.randrange(2, 60)))),
            some.randrange(2, 40),
            temperature=some.choice([0.0, 0.7, 1.0]),
            stream=n,
            keep=n % 2 == 0,
        )
        for n in range(rows)
    ]
    texts: Texts = {}
    while waiting or decoder.rows:
        joining = decoder.fitting(waiting[: some.randrange(0, 4)])
        done = decoder.admit(waiting[:joining]) if joining else []
        waiting = waiting[joining:]
        if decoder.rows:
            done += decoder.step()
        for row in done:
            texts[row.stream, row.position] = row.tokens
            if row.keep and row.position == 0:
                said = (*row.prompt, *row.tokens, 7, 8, 9)
                waiting.append(Row(said, 12, stream=row.stream, position=len(row.tokens)))
    return texts


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recorded_steps_give_the_logits_of_one_pass_over_the_text(kind: str, dtype: torch.dtype) -> None:
    model = random_model(kind).to(dtype)
    batch = trial(model, recorder())
    assert agrees(model, [lambda: batch])
    assert batch.still is not None
    assert batch.still.made > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_texts_are_the_same_with_recorded_steps(
    kind: str, written_by: Callable[..., tuple[Texts, StillSteps | None]]
) -> None:
    usual, nothing = written_by(None, kind)
    recorded, still = written_by(recorder(), kind)
    assert nothing is None
    assert still is not None
    assert still.made > 3
    assert not still.refused
    assert recorded == usual


def test_recordings_that_are_slower_are_not_taken(
    written_by: Callable[..., tuple[Texts, StillSteps | None]],
) -> None:
    texts, still = written_by(recorder(pays=False), rows=8)
    assert texts == written_by(None, rows=8)[0]
    assert still is not None
    tried = [ways for ways in still._known.values() if ways.settled]
    assert tried
    assert not any(ways.takes_recorded for ways in tried)


def test_no_more_recordings_are_kept_than_memory_is_meant_for(
    written_by: Callable[..., tuple[Texts, StillSteps | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_still, "_MOST", 2)
    texts, still = written_by(recorder(), rows=8)
    assert texts == written_by(None, rows=8)[0]
    assert still is not None
    assert len(still._known) <= 2


def test_where_memory_ends_in_a_recording_the_messages_go_on_and_it_is_told_once(
    written_by: Callable[..., tuple[Texts, StillSteps | None]], caplog: pytest.LogCaptureFixture
) -> None:
    made: list[None] = []

    def short(run: Callable[[], None]) -> Callable[[], None]:
        made.append(None)
        if len(made) > 3:  # the first ones are those of the trial
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
        return record(run)

    with caplog.at_level(logging.WARNING):
        texts, still = written_by(recorder()._replace(new=lambda: short), rows=8)
    assert texts == written_by(None, rows=8)[0]
    assert still is not None
    assert still.refused.startswith("CUDA out of memory")
    assert [one.getMessage() for one in caplog.records] == [
        "Steps of the model are not recorded any more, so that it may be slower: "
        "CUDA out of memory. Tried to allocate 2.00 GiB."
    ]


def test_a_model_that_asks_for_its_numbers_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}  # asks how long the longest text is
    config = LlamaConfig(vocab_size=400, num_key_value_heads=2, max_position_embeddings=64, **SIZES)
    config.rope_parameters = rope
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(hf_decode, "recorder_for", lambda device: recorder())
    with caplog.at_level(logging.WARNING):
        decoder = Decoder(model, never, 9)
    assert decoder.shares
    assert decoder._recorder is None
    assert "asks for numbers in the middle of a step (_local_scalar_dense)" in caplog.text
    row = Row((6, 7, 8), 20)
    decoder.admit([row])
    while decoder.rows:
        decoder.step()
    assert len(row.tokens) == 20


def test_what_a_recording_misses_is_found_out_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled products are none of PyTorch's operations: done again, they would leave what they wrote before."""
    monkeypatch.undo()
    monkeypatch.setattr(Decoder, "_may_use_pages", lambda self: False)
    monkeypatch.setattr(hf_decode, "recorder_for", lambda device: recorder())
    with torch.inference_mode(False):  # weights made in inference mode are not compiled
        model = random_model()
    if not hf_linear.speed_up(model):
        pytest.skip("this system executes nothing that was written into memory")
    assert Decoder(model, never, 9)._recorder is None


@pytest.mark.parametrize("slots", [1, 9])
@pytest.mark.parametrize("lazy", [True, False])
def test_a_recording_is_done_with_other_numbers_too_before_anything_is_written(
    slots: int, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was recorded: the logits that were there already are right once, and later they are those of before."""
    empty = recorder(pays=False)._replace(new=lambda: lambda run: run() or (lambda: None))
    monkeypatch.setattr(hf_decode, "recorder_for", lambda device: empty)
    monkeypatch.setattr(hf_cache, "_is_lazy", lambda like: lazy)
    assert Decoder(random_model(), never, slots)._recorder is None


def test_places_without_a_row_read_only_what_the_model_has_read_of_a_row() -> None:
    """Else they may write what is no number, which a mask hides from no row that gets the place."""
    model = random_model()
    model.get_input_embeddings().weight[0] = torch.nan
    batch = trial(model, recorder())
    for entering in ([Row((6, 7), 40), Row((6, 8), 40)], [Row((6, 9), 40)], [Row((6, 10), 40)]):
        rows, logits = batch.enter(entering)
        for _ in range(4):
            assert logits.isfinite().all()
            for row in rows:
                row.tokens.append(7)
            rows, logits = batch.rows, batch.advance()
        assert logits.isfinite().all()
        for row in rows:
            row.tokens.append(7)
    assert batch.still is not None
    assert batch.still.made > 1


def test_where_steps_are_not_recorded_any_more_a_batch_that_is_given_up_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[None] = []

    def short(run: Callable[[], None]) -> Callable[[], None]:
        made.append(None)
        if len(made) > 1:  # the first one is that of the trial
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return record(run)

    monkeypatch.setattr(hf_decode, "recorder_for", lambda device: recorder()._replace(new=lambda: short))
    decoder = Decoder(random_model(), never, 9)
    for _ in range(2):
        decoder.admit([Row((6, 7, 8), 9)])
        while decoder.rows:
            decoder.step()
        decoder.clear()
    assert len(made) == 2
    assert len(caplog.records) == 1


def test_recordings_share_memory_only_as_long_as_one_of_them_is_kept(
    written_by: Callable[..., tuple[Texts, StillSteps | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def new() -> Callable[..., Any]:
        before: weakref.WeakSet[Any] = weakref.WeakSet()
        made: list[None] = []

        def shared(run: Callable[[], None]) -> Callable[[], None]:
            if made and not before:
                raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
            recording = record(run)
            made.append(None)
            before.add(recording.__self__)  # type: ignore[attr-defined]
            return recording

        return shared

    monkeypatch.setattr(hf_still, "_MOST", 2)
    _, still = written_by(recorder(2)._replace(new=new), rows=8)
    assert still is not None
    assert not still.refused
    assert still.made > 2
