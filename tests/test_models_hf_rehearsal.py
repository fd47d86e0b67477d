"""Rehearsals: what a recording could not know is refused, and all else is done as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from testbed.models.hf_rehearsal import Rehearsal


@pytest.fixture(autouse=True, params=[True, False])
def inference(request: pytest.FixtureRequest) -> Iterator[None]:
    """In inference mode, in which models are run, PyTorch shows operations as one that are made of others."""
    with torch.inference_mode(request.param):
        yield


@pytest.mark.parametrize(
    "asking",
    [
        lambda given: given.sum().item(),
        lambda given: given[given > 1],
        lambda given: given.masked_fill_(given > 1, 0)[given.long().bool()],
        lambda given: given.nonzero(),
        lambda given: bool((given > 1).any()),
        lambda given: given.repeat_interleave(given.long()),
        lambda given: given.to("meta"),
        lambda given: torch.ops.aten.lift_fresh(torch.zeros((), device="meta")),
        lambda given: torch.zeros(4, device="meta").copy_(given),
        lambda given: torch.zeros(()).to("meta"),
        # In inference mode, these are shown as one operation each.
        lambda given: torch.where(given > 1),
        lambda given: given.argwhere(),
        lambda given: torch.nn.functional.one_hot(given.long()),
        lambda given: torch.allclose(given, given),
        lambda given: given[(given > 1).byte()],
        lambda given: torch._grouped_mm(
            torch.ones(4, 16), torch.ones(2, 16, 16), offs=torch.tensor([2, 4], dtype=torch.int32)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_a_rehearsal_refuses_what_a_recording_cannot_know(asking: Callable[[torch.Tensor], Any]) -> None:
    with Rehearsal(), pytest.raises(RuntimeError, match="in the middle of a step"):
        asking(torch.arange(4.0))


def test_a_rehearsal_does_what_it_looks_at() -> None:
    given, rows = torch.arange(8.0).view(4, 2), torch.tensor([2, 0])
    with Rehearsal():
        found = given[rows].masked_fill(given[rows] > 4, 0).index_select(0, rows.flip(0) // 2).cumsum(0)
        hidden = torch.zeros(4, dtype=torch.bool)
        hidden[rows] = torch.ones(2, dtype=torch.bool)
    assert found.tolist() == [[4.0, 0.0], [4.0, 1.0]]
    assert hidden.tolist() == [True, False, True, False]


def test_a_rehearsal_asks_for_nothing_where_all_numbers_are_repeated_alike() -> None:
    """So are the angles of rotary embeddings in some models."""
    with Rehearsal():
        found = torch.arange(3.0).repeat_interleave(2)
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
