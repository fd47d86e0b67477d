"""Of two ways to do a step the faster one is taken; the parts of the cache that recorded steps work on are few."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.recording import recorder, trial
from helpers.tiny_models import random_model
from testbed.models.hf_row import Row
from testbed.models.hf_still import StillSteps, Ways


def test_both_ways_are_tried_as_often_and_then_the_faster_one_is_taken() -> None:
    ways = Ways(2)
    assert not ways.takes_recorded
    ways.usual += [9.0, 2.0]
    assert ways.takes_recorded
    ways.recorded += [8.0]
    assert ways.takes_recorded
    ways.recorded += [3.0]
    assert ways.settled
    assert not ways.takes_recorded
    ways.recorded[1] = 1.0
    assert ways.takes_recorded


@torch.inference_mode()
def test_what_a_recorded_step_is_told_counts_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def told(self: StillSteps, rows: Any, many: int) -> None:
        now[0] += 5
        give(self, rows, many)

    give = StillSteps._give
    monkeypatch.setattr(StillSteps, "_give", told)
    batch = trial(random_model(), recorder(2)._replace(clock=lambda: now[0]))
    rows, logits = batch.enter([Row((6, 7, 8), 20)])
    for _ in range(6):
        for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
            row.tokens.append(token)
        rows, logits = batch.rows, batch.advance()
    assert batch.still is not None
    (ways,) = batch.still._known.values()
    assert ways.usual == [0, 0]
    assert ways.recorded == [5, 5]


@pytest.mark.parametrize("columns", [64, 100, 513, 3000])
def test_a_step_sees_all_columns_of_its_rows_and_shapes_are_few(columns: int) -> None:
    some, windows, heights = random.Random(0), set(), set()
    for _ in range(3000):
        end = some.randrange(1, columns)
        width, rows = some.randrange(1, end + 1), some.randrange(1, 257)
        cache = SimpleNamespace(columns=columns, rows=256, end=end, places=1)
        shape = StillSteps(None, cache, recorder())._shape(rows, width)  # type: ignore[arg-type]
        assert rows <= shape.rows <= min(256, max(4, rows + 7))
        assert 0 <= shape.first <= end - width
        assert end < shape.last <= columns
        windows.add((shape.first, shape.last))
        heights.add(shape.rows)
    assert len(windows) <= 8 * 9 / 2
    assert len(heights) <= 3 + 32


def test_places_without_a_row_of_a_small_cache_are_none() -> None:
    cache = SimpleNamespace(columns=100, rows=5, end=50, places=1)
    assert StillSteps(None, cache, recorder())._shape(5, 10).rows == 5  # type: ignore[arg-type]
