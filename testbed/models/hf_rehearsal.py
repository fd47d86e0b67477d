"""Rehearsals of what is to be recorded: whether it can be, is found out by doing it and looking at each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Tensor = torch.Tensor

# Operations for which the processor must know numbers: it would wait, and a recording knows none.
_ASKING = {
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "grouped_mm_fallback",  # of transformers
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}


def _by_mask(_: Tensor, indices: Sequence[Tensor | None], *more: Any) -> bool:
    """Whether rows are chosen by a mask: how many that are is seen only by looking at it."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _group_by_group(rows: Tensor, *more: Any) -> bool:
    """Whether products of groups of rows are made one after another, each when its size is known."""
    at_once = rows.is_cuda and torch.cuda.get_device_capability(rows.device)[0] in (9, 10)  # those of PyTorch 2.13
    return not at_once or rows.dtype != torch.bfloat16


_ASKING_SOMETIMES: dict[str, Callable[..., bool]] = {
    "_grouped_mm": _group_by_group,  # of mixtures of experts
    "index": _by_mask,
    "index_put": _by_mask,
    "index_put_": _by_mask,
}


class Rehearsal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does what a function does, as long as nothing in it asks for numbers or brings them from another device.

    A recording that fails halfway can leave PyTorch's memory in disorder, so this is found out before.

    Raises:
        RuntimeError: something does.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks at an operation and does it; in inference mode, at those that it is made of."""
        with self:
            found = function.decompose(*args, **(kwargs or {}))
        return self.do(function, args, kwargs or {}) if found is NotImplemented else found

    def do(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Looks at an operation that is made of no others and does it."""
        name = function.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in _ASKING or (name in _ASKING_SOMETIMES and _ASKING_SOMETIMES[name](*args)):
            raise RuntimeError(f"the model asks for numbers in the middle of a step ({name}).")
        found = function(*args, **kwargs)
        # Single numbers may come from the processor, but for those that are copied from there.
        copies = name in ("_to_copy", "copy_")
        places = {tensor.device for tensor in (*given, *([found] if copies else [])) if tensor.ndim or copies}
        if len(places) > 1 or (name == "lift_fresh" and not found.is_cpu):  # what Python's numbers are made into
            raise RuntimeError(f"the model moves numbers between devices in the middle of a step ({name}).")
        return found
