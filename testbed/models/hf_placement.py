"""Where the copies of a local model run, in which numbers, and which of them serves an attempt."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.errors import ModelError, UnknownName, UsageError

if TYPE_CHECKING:
    from testbed.models.hf_decode import Row
    from testbed.models.hf_score import Forced
    from testbed.models.hf_worker import Worker

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
_REMEMBERED = 65_536  # attempts whose replica is known; more are never under way


@dataclass(frozen=True)
class Placement:
    """Where a model runs.

    Attributes:
        devices: of each replica, such as ("cuda:0", "cuda:1").
        dtype: of the weights and the cache.
    """

    devices: tuple[str, ...]
    dtype: str

    @property
    def kind(self) -> str:
        """Kind of the devices, such as "cuda": what can change rounding, and so belongs to an arm's hash."""
        return self.devices[0].partition(":")[0]


def check(dtype: str, replicas: int | str) -> None:
    """Raises `UsageError` if one of the options has a value that no machine could take."""
    if dtype not in (*DTYPES, "auto"):
        raise UnknownName("dtype", str(dtype), (*DTYPES, "auto"))
    whole = isinstance(replicas, int) and not isinstance(replicas, bool) and replicas >= 1
    if not whole and replicas != "auto":
        raise UsageError(f"model: replicas must be a whole number of at least 1, or 'auto', not {replicas!r}.")


def place(name: str, device: str, dtype: str, replicas: int | str) -> Placement:
    """Decides what is left to "auto".

    Args:
        name: the model's, for messages.
        device: "cpu", "cuda" for as many GPUs as there are replicas, "cuda:1" for that one, or "auto": GPUs where there
            are any.
        dtype: one of `DTYPES`, or "auto": bfloat16 on GPUs that compute in it, else float32.
        replicas: how many copies of the model, or "auto": one on every GPU of the first one's kind, else one.

    Raises:
        UnknownName: there is no such device.
        ModelError: this machine has not the GPUs, or no second processor.
    """
    import torch

    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        if "gpu" in device.lower():
            meant = device.lower().replace("gpu", "cuda")
            raise UsageError(f"unknown device {device!r}. Did you mean {meant!r}?") from None
        raise UnknownName("device", device, DEVICES) from None
    if kind.type == "cpu" and kind.index:
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(gpus))])
        raise ModelError(
            f"{name}: there is no device {device!r}; this machine has {there}. All of its processor's cores are one "
            "device; threads = N uses so many of them."
        )
    if kind.type != "cuda":
        devices = [device] * (1 if replicas == "auto" else int(replicas))
    else:
        numbers = _like_the_first(gpus) if kind.index is None else [kind.index] if kind.index < gpus else []
        wanted = max(1, len(numbers)) if replicas == "auto" else int(replicas)
        if len(numbers) < wanted:
            stated = replicas != "auto"  # what nobody has set is no part of what was asked for
            shared = f" with {wanted} replicas, each on a GPU of its own" if stated else ""
            both = " and replicas = 'auto'" if stated else ""
            raise ModelError(
                f"{name}: device {device!r} was asked for{shared}, and of such GPUs this machine has {len(numbers)}; "
                f"use device = 'auto'{both}."
            )
        devices = [f"cuda:{number}" for number in numbers[:wanted]]
    return Placement(tuple(devices), _dtype(devices[0]) if dtype == "auto" else dtype)


def _like_the_first(gpus: int) -> list[int]:
    """Numbers of the GPUs that round as the first does: an attempt must not depend on which of them serves it."""
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(gpus)]
    return [number for number, name in enumerate(names) if name == names[0]]


def _dtype(device: str) -> str:
    import torch

    if not device.startswith("cuda"):
        return "float32"
    major, _ = torch.cuda.get_device_capability(device)
    return "bfloat16" if major >= 8 else "float32"  # older ones only imitate bfloat16


class Replicas:
    """Several copies of a model, which share the attempts.

    A new attempt goes to the copy with the least to do, and its further messages to the same one, which has read what
    stands before them. That no copy serves any attempt otherwise than another would is the decoder's matter: an
    attempt's random numbers are its own.

    Args:
        workers: one for each copy, at least one.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = list(workers)
        self._under_way = [0] * len(self._workers)
        self._served: OrderedDict[int, int] = OrderedDict()  # number of a copy, by stream

    @property
    def ready(self) -> bool:
        """Whether every copy is loaded, or has failed to."""
        return all(worker.ready.done() for worker in self._workers)

    async def start(self) -> None:
        """Waits until every copy is loaded.

        Raises:
            ModelError: one of them cannot be.
        """
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(worker.ready)) for worker in self._workers))

    async def decode(self, row: Row) -> Row:
        """See `testbed.models.hf_worker.Worker.decode`."""
        number = self._served.pop(row.stream, None) if row.position else None
        if number is None:
            number = self._idlest()
        self._served[row.stream] = number
        if len(self._served) > _REMEMBERED:
            self._served.popitem(last=False)
        self._under_way[number] += 1
        try:
            return await self._workers[number].decode(row)
        finally:
            self._under_way[number] -= 1

    async def score(self, tokens: Sequence[int]) -> Forced:
        """See `testbed.models.hf_worker.Worker.score`."""
        number = self._idlest()
        self._under_way[number] += 1
        try:
            return await self._workers[number].score(tokens)
        finally:
            self._under_way[number] -= 1

    async def close(self) -> None:
        """Ends every copy's thread; what is under way is given up."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def _idlest(self) -> int:
        return min(range(len(self._workers)), key=self._under_way.__getitem__)
