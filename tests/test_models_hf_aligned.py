"""Rows side by side on another device than the processor: "meta", which computes nothing and refuses all else.

What is written there, and with which logits, is asked in test_models_hf_shared, _kept, _memory and _still.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest
import torch
from transformers import masking_utils

from helpers.tiny_models import random_model
from testbed.models import hf_attention
from testbed.models.hf_aligned import AlignedBatch
from testbed.models.hf_cache import layout_of
from testbed.models.hf_row import Row
from testbed.models.hf_sample import logprobs_of, sample
from testbed.models.hf_still import Recorder

ASKS = "Tensor.item"  # only numbers that the processor waits for are not to be had there
AGAIN = Recorder(lambda: lambda run: run, lambda: None, 1)  # does a step again instead of recording it


@pytest.mark.parametrize("recorder", [None, AGAIN])
@pytest.mark.parametrize("share_from", [0.0, inf])
def test_a_batch_puts_nothing_on_another_device_than_the_model(
    share_from: float, recorder: Recorder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device="meta") + torch.zeros(2)
    # transformers asks whether there is padding, to leave its mask out.
    monkeypatch.setattr(masking_utils, "_ignore_causal_mask_sdpa", lambda *args, **more: False)
    with torch.device("meta"):
        model = random_model()
    assert hf_attention.plug_in(model)
    with torch.inference_mode():
        batch = steps_of(model, share_from, recorder)
    assert batch.still is None or share_from == 0 or batch.still.made > 0


def steps_of(model: object, share_from: float, recorder: Recorder | None) -> AlignedBatch:
    """Rows enter, are written, remembered, leave, and come again."""
    layout = layout_of(model)
    memory = 4096 * layout.token_bytes
    batch = AlignedBatch(model, layout, memory, 16, share_from, shares=True, recorder=recorder)
    rows = [
        Row(tuple(range(6, 40)), 40, temperature=(1.0, 0.0, 0.7)[n % 3], top_p=(1, 0.9)[n % 2], stream=n)
        for n in range(6)
    ]
    write(*batch.enter(rows[:3]))
    for _ in range(3):
        write(batch.rows, batch.advance())
    write(*batch.enter(rows[3:]))
    for _ in range(3):
        write(batch.rows, batch.advance())
    gone = batch.rows[0]
    batch.remember(gone)
    batch.leave([gone])
    write(*batch.enter([Row((*gone.prompt, *gone.tokens, 9, 9), 9, position=6)]))
    for _ in range(5):
        write(batch.rows, batch.advance())
    return batch


def write(rows: Sequence[Row], logits: torch.Tensor) -> None:
    """The same token for every row; sampling is followed up to its first question."""
    assert logits.device.type == "meta"
    assert logits.shape == (len(rows), 400)
    with pytest.raises(RuntimeError, match=ASKS):
        sample(logits, rows)
    logprobs_of(logits, torch.tensor([7] * len(rows), device=logits.device))
    for row in rows:
        row.tokens.append(7)
