"""What a model has read and may be asked to read again: keys and values of prompts, and of what attempts wrote."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Tensor = torch.Tensor
Tokens = tuple[int, ...]
Layers = Sequence[tuple[Tensor, Tensor]]

PREFIX_BYTES = 128 << 20


@dataclass(frozen=True, eq=False)
class Read:
    """A text that was read.

    Attributes:
        tokens: the whole text.
        layers: keys and values of each layer, shape (heads, tokens, width), of what stands behind the trunk.
        trunk: a text that this one begins with and that others share; its keys and values are not repeated here.
        logits: after the last token; None where nobody has them.
    """

    tokens: Tokens
    layers: Layers
    trunk: Read | None = None
    logits: Tensor | None = None

    @property
    def own(self) -> int:
        """Tokens behind the trunk."""
        return len(self.tokens) - (len(self.trunk.tokens) if self.trunk else 0)

    @property
    def bytes(self) -> int:
        """Memory it takes, its trunk's not counted."""
        logits = 0 if self.logits is None else self.logits.nbytes
        return sum(t.nbytes for pair in self.layers for t in pair) + logits

    def first(self, n: int) -> Layers:
        """Keys and values of its first `n` tokens."""
        if self.trunk is None:
            return [(keys[:, :n], values[:, :n]) for keys, values in self.layers]
        before = len(self.trunk.tokens)
        if n <= before:
            return self.trunk.first(n)
        return [
            (torch.cat([head[0], own[0][:, : n - before]], 1), torch.cat([head[1], own[1][:, : n - before]], 1))
            for head, own in zip(self.trunk.layers, self.layers, strict=True)
        ]


class Prefixes:
    """The texts read last.

    Args:
        limit: memory they may take, in bytes.
    """

    def __init__(self, limit: int = PREFIX_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[Tokens, Read] = OrderedDict()
        self._sorted: list[Tokens] = []

    def get(self, text: Tokens) -> Read | None:
        """What was read of just this text, where the logits after it are known."""
        found = self._kept.get(text)
        if found is None or found.logits is None:
            return None
        self._kept.move_to_end(text)
        return found

    def longest(self, text: Tokens) -> tuple[Read | None, int]:
        """What was read that begins like a text for longest, and for how many tokens; None and 0 if nothing does."""
        at = bisect_left(self._sorted, text)
        # Of all texts in order, the ones next to a text have most in common with it.
        near = [(_common(other, text), other) for other in self._sorted[max(at - 1, 0) : at + 1]]
        size, best = max(near, default=(0, ()))
        if not size:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best], size

    def add(self, read: Read) -> None:
        """Keeps a text; the ones used longest ago make room."""
        old = self._kept.pop(read.tokens, None)
        if old is None:
            insort(self._sorted, read.tokens)
        else:
            self._bytes -= old.bytes
        self._kept[read.tokens] = read
        self._bytes += read.bytes
        while self._bytes > self._limit and self._kept:
            tokens, gone = self._kept.popitem(last=False)
            del self._sorted[bisect_left(self._sorted, tokens)]
            self._bytes -= gone.bytes


def _common(one: Tokens, other: Tokens) -> int:
    """How many tokens two texts begin with in common."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(n for n in range(size) if one[n] != other[n])
