"""What is undone if it is not finished: how whoever starts something keeps it from being left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager


class UnlessFinished(AbstractAsyncContextManager["UnlessFinished"]):
    """Cleans up if a block does not come to its end, for an error or because it is cancelled, and lets that go on.

    Blocks in blocks are undone from the innermost to the outermost. Who cancels once more ends the waiting for a
    clean-up; whether it goes on is its own business.

    Args:
        undo: the clean-up to wait for.
    """

    def __init__(self, undo: Callable[[], Awaitable[object]]) -> None:
        self._undo = undo

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self._undo()
