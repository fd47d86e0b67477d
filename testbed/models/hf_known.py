"""The tokens of conversations that were asked about last: samples of one task begin alike."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

MOST = 1 << 21  # tokens that are kept, which take some 80 MiB
Conversation = tuple[tuple[tuple[str, str], ...], str]


class KnownPrompts:
    """Conversations and their tokens, those asked about longest ago making room: few long ones, or many short ones.

    Args:
        encode: tokens of a conversation: of its turns, and of the tools as JSON.
        most: tokens that are kept.

    Attributes:
        size: tokens that are kept at present.
    """

    def __init__(self, encode: Callable[[tuple[tuple[str, str], ...], str], tuple[int, ...]], most: int = MOST) -> None:
        self._encode, self._most, self.size = encode, most, 0
        self._known: OrderedDict[Conversation, tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, turns: tuple[tuple[str, str], ...], tools: str) -> tuple[int, ...]:
        """Tokens of a conversation."""
        asked = turns, tools
        with self._lock:
            if (found := self._known.get(asked)) is not None:
                self._known.move_to_end(asked)
                return found
        tokens = self._encode(turns, tools)
        with self._lock:
            if asked not in self._known:  # another thread may have been as quick
                self._known[asked] = tokens
                self.size += len(tokens)
            while self.size > self._most:
                self.size -= len(self._known.popitem(last=False)[1])
        return tokens
