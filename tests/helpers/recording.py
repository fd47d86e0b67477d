"""Recordings of what PyTorch does, as a GPU's graphs are: of numbers in places, not of what Python thought."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from testbed.models import hf_attention
from testbed.models.hf_aligned import AlignedBatch
from testbed.models.hf_cache import layout_of
from testbed.models.hf_rehearsal import Rehearsal
from testbed.models.hf_still import Recorder


class Recording(Rehearsal):
    """Notes every operation with the tensors that it was given; done again, the same tensors are read and written.

    Raises:
        RuntimeError: an operation asks for a number, or is given one that comes from the processor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, Any, Any, Any]] = []

    def do(self, function: Any, args: Any, kwargs: Any) -> Any:
        found = super().do(function, args, kwargs)
        self.noted.append((function, args, kwargs, found))
        return found

    def again(self) -> None:
        """Does all of it once more, in the same places."""
        for function, args, kwargs, found in self.noted:
            before = {
                leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)
            }
            outs = [leaf for leaf in tree_leaves(found) if torch.is_tensor(leaf)]
            writes = function._schema.is_mutable
            if not writes and outs and all(out.untyped_storage().data_ptr() in before for out in outs):
                continue  # another view of what is there
            fresh = [leaf for leaf in tree_leaves(function(*args, **kwargs)) if torch.is_tensor(leaf)]
            if not writes:
                for out, new in zip(outs, fresh, strict=True):
                    out.copy_(new)


def record(run: Callable[[], None]) -> Callable[[], None]:
    """A recording of a function, made as `testbed.models.hf_graph` makes one."""
    run()
    with Recording() as recording:
        run()
    return recording.again


def recorder(tried: int = 1, *, pays: bool = True) -> Recorder:
    """A recorder for the processor; by its clock all that comes later is faster, or slower."""
    seconds = map(math.sqrt if pays else math.exp2, itertools.count())
    return Recorder(lambda: record, lambda: None, tried, lambda: next(seconds))


def trial(model: Any, how: Recorder) -> AlignedBatch:
    """A batch whose steps are recorded."""
    assert hf_attention.plug_in(model)
    layout = layout_of(model)
    return AlignedBatch(model, layout, 4096 * layout.token_bytes, 64, math.inf, shares=True, recorder=how)
