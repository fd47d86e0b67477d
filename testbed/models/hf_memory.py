"""How much memory a model's keys and values may take, and how many messages fit in it."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from testbed.errors import ModelError, ModelUnavailable

if TYPE_CHECKING:
    from testbed.models.hf_row import Row

_OF_HOST, _OF_DEVICE = 0.5, 0.8  # of what is free: the host has other users, the device's activations need some too
_FOR_TEXTS = 0.25  # of the memory, at most, for what was read and may be asked again
_TEXT_TOKENS = 1 << 16  # and at most so many: prompts, and earlier turns of the attempts that are under way
_GIB = 1 << 30
_UNKNOWN = _GIB  # bytes, where the system does not say what is free
# How the allocators that raise plain RuntimeErrors put it: the host's, and CUDA's where PyTorch's own is not asked.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_granted: WeakKeyDictionary[object, dict[str, int]] = WeakKeyDictionary()  # bytes by model and device


@dataclass(frozen=True)
class Room:
    """Memory for keys and values.

    Attributes:
        bytes: in all.
        token: bytes of one token's keys and values.
    """

    bytes: int
    token: int

    @property
    def texts(self) -> int:
        """Bytes for texts that were read and may be asked again, and for what is being read."""
        return min(int(self.bytes * _FOR_TEXTS), _TEXT_TOKENS * self.token)

    @property
    def cells(self) -> int:
        """Tokens that the rows under way may hold, padding included: also the most of one message and its prompt."""
        return (self.bytes - self.texts) // self.token

    def check(self, name: str, context: int | None) -> None:
        """Refuses a model of which not even one message, as long as its context, fits.

        Raises:
            ModelError: with what is needed and what there is.
        """
        if context is not None and context > self.cells:
            need, have = (_readable(size * self.token) for size in (context, self.cells))
            raise ModelError(
                f"{name} takes conversations of {context:,} tokens, whose keys and values need {need}, and "
                f"there is memory for {have} ({self.cells:,} tokens). Give the model context = … tokens that "
                "fit (it then is another model to the comparison), or raise memory = … (GiB, up to a quarter of which "
                "is kept for texts that are read again)."
            )

    def fitting(self, waiting: Sequence[Row], under_way: Iterable[Row]) -> int:
        """How many of the rows that wait, in order, can join those under way, all of them written to their limits.

        The beginnings that rows stand on count once, since nothing else may hold them any more.
        """
        under_way = list(under_way)
        apart = sum({id(row.trunk): row.apart for row in under_way}.values())
        width = max([row.most for row in under_way], default=0)
        for n, row in enumerate(waiting):
            width = max(width, row.most)
            if (len(under_way) + n + 1) * width + apart > self.cells:
                return n
        return len(waiting)


def _readable(size: int) -> str:
    """Bytes in the largest unit of which they are a tenth or more."""
    units = {"GiB": 30, "MiB": 20, "KiB": 10}
    unit = next((unit for unit, power in units.items() if size >= 0.1 * (1 << power)), "")
    return f"{size / (1 << units[unit]):,.2f} {unit}" if unit else f"{size} bytes"


def granted(memory: float | str, device: torch.device, sharers: int, owner: object = None) -> int:
    """Bytes for one of several copies of a model on a device: GiB, or "auto" for a share of what is free.

    What other models of this process were granted there counts as taken: mostly they have yet to fill it.

    Args:
        memory: what was asked for.
        device: where.
        sharers: the copies there.
        owner: the model; its grant counts until `release`.
    """
    place = str(device)
    taken = sum(sizes.get(place, 0) for model, sizes in list(_granted.items()) if model is not owner)
    size = free_bytes(device, taken) // sharers if isinstance(memory, str) else int(memory * _GIB)
    if owner is not None:
        _granted.setdefault(owner, {})[place] = size * sharers
    return size


def release(owner: object) -> None:
    """Says that a model holds nothing any more."""
    _granted.pop(owner, None)


def free_bytes(device: torch.device, taken: int = 0) -> int:
    """Bytes that keys and values may take by default: a share of what is free now, without what others may take."""
    if device.type == "cuda":
        return int(max(torch.cuda.mem_get_info(device)[0] - taken, 0) * _OF_DEVICE)
    known = [size for size in (_of_host(), _of_cgroup()) if size is not None]
    return int(max(min(known) - taken, 0) * _OF_HOST) if known else _UNKNOWN


def _of_host() -> int | None:
    try:
        return _sizes(Path("/proc/meminfo"))["MemAvailable:"] << 10
    except (OSError, KeyError):  # another system than Linux: not all of them say
        with contextlib.suppress(ValueError, OSError):
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_cgroup(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container leaves; files that are only cached there make room."""
    try:
        used, parts = int((folder / "memory.current").read_text()), _sizes(folder / "memory.stat")
        return int((folder / "memory.max").read_text()) - used + parts["inactive_file"] + parts["active_file"]
    except (OSError, ValueError, KeyError):  # no such limit here
        return None


def _sizes(file: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for line in file.read_text().splitlines() if len(words := line.split()) > 1}


def out_of_memory(error: Exception) -> ModelUnavailable | None:
    """What it means that memory ran out; None for any other error."""
    untyped = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    if not untyped and not isinstance(error, torch.OutOfMemoryError | MemoryError):
        return None
    return ModelUnavailable(
        "the model ran out of memory; a smaller batch = … or memory = … in the model's options needs less."
    )


def unforked(memory: mmap.mmap) -> None:
    """Leaves memory out of processes that this one forks.

    They have no use for it; and where two such memories lie side by side, a fork is refused once they come to more than
    the machine has, however little of them was written.
    """
    if hasattr(mmap, "MADV_DONTFORK"):
        memory.madvise(mmap.MADV_DONTFORK)
