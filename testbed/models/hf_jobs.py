"""What is asked of a local model's thread, and how those who wait in event loops get what they asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from testbed.models.hf_row import Row
from testbed.models.hf_score import Forced

T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """A row and who waits for it."""

    row: Row
    future: asyncio.Future[Row]
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False


@dataclass(eq=False)
class Scoring:
    """A text to be scored and who waits for it."""

    tokens: Sequence[int]
    future: asyncio.Future[Forced]
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False


def settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T | Exception) -> None:
    """Hands a result, or an error, to whoever waits for it in a loop."""
    settle_all(loop, [(future, result)])


def settle_all(loop: asyncio.AbstractEventLoop, results: Iterable[tuple[asyncio.Future[T], T | Exception]]) -> None:
    """Hands over several at once: each call wakes the loop up."""

    def hand_over() -> None:
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits there any more
        loop.call_soon_threadsafe(hand_over)
