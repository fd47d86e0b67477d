"""What a model has read and may be asked to read again: keys and values of prompts, and of what attempts wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import torch

from testbed.beginnings import in_common

Tensor = torch.Tensor
Tokens = tuple[int, ...]
Blocks = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """How the keys and values of all layers lie in a few tensors: those of one shape are stacked in one block.

    So a text is moved, copied or cut in one operation, however many layers there are.

    Attributes:
        like: a tensor of the right kind and device, of any shape.
        shapes: of each block: how many tensors it stacks, heads, width.
        places: of each layer's keys and of its values: the block, and which of its tensors.
    """

    like: Tensor
    shapes: tuple[tuple[int, int, int], ...]
    places: tuple[tuple[tuple[int, int], tuple[int, int]], ...]

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]]) -> Layout:
        """The layout for a model whose layers' keys and values, shape (…, heads, tokens, width), look like these."""
        counts: dict[tuple[int, int], int] = {}
        places = []
        for pair in layers:
            place = []
            for tensor in pair:
                shape = (tensor.shape[-3], tensor.shape[-1])
                counts[shape] = counts.get(shape, 0) + 1
                place.append((list(counts).index(shape), counts[shape] - 1))
            places.append((place[0], place[1]))
        return cls(layers[0][0], tuple((n, *shape) for shape, n in counts.items()), tuple(places))

    @property
    def token_bytes(self) -> int:
        """Memory of one token."""
        return sum(n * heads * width for n, heads, width in self.shapes) * self.like.element_size()

    def pairs(self, blocks: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values layer by layer."""
        return [(blocks[a][i], blocks[b][j]) for (a, i), (b, j) in self.places]


@dataclass(frozen=True, eq=False)
class Read:
    """A text that was read.

    Attributes:
        layout: of `blocks`.
        tokens: the whole text.
        blocks: keys and values of what stands behind the trunk, each of shape (tensors, heads, tokens, width).
        trunk: a text that this one begins with and that others share; its keys and values are not repeated here.
        logits: after the last token; None where nobody has them.
    """

    layout: Layout
    tokens: Tokens
    blocks: Blocks
    trunk: Read | None = None
    logits: Tensor | None = None

    @property
    def own(self) -> int:
        """Tokens behind the trunk."""
        return len(self.tokens) - (len(self.trunk.tokens) if self.trunk else 0)

    @property
    def bytes(self) -> int:
        """Memory it takes, its trunk's not counted."""
        return sum(block.nbytes for block in self.blocks) + (0 if self.logits is None else self.logits.nbytes)

    @cached_property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of what stands behind the trunk, layer by layer, shape (1, heads, tokens, width)."""
        return self.layout.pairs([block[:, None] for block in self.blocks])

    def part(self, first: int, last: int) -> Blocks:
        """Keys and values of its tokens from `first` to `last` − 1."""
        before = len(self.trunk.tokens) if self.trunk else 0
        own = tuple(block[:, :, max(first - before, 0) : max(last - before, 0)] for block in self.blocks)
        if self.trunk is None or first >= before:
            return own
        head = self.trunk.part(first, min(last, before))
        return head if last <= before else tuple(torch.cat(both, 2) for both in zip(head, own, strict=True))


class Kept(Protocol):
    """A text that was read."""

    @property
    def tokens(self) -> Tokens:
        """The whole text."""

    @property
    def logits(self) -> Tensor | None:
        """After the last token; None where nobody has them."""


K = TypeVar("K", bound=Kept)


class Prefixes(ABC, Generic[K]):
    """The texts read last.

    Args:
        limit: memory they may take, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: dict[Tokens, K] = {}
        self._sorted: list[Tokens] = []
        self._used: OrderedDict[K, None] = OrderedDict()  # those used longest ago first

    @abstractmethod
    def _enter(self, read: K) -> int:
        """Bytes that are taken by keeping a text besides those that are kept."""

    @abstractmethod
    def _leave(self, read: K) -> int:
        """Bytes that are free when a text is not kept any more."""

    def get(self, text: Tokens) -> K | None:
        """What was read of just this text, where the logits after it are known."""
        found = self._kept.get(text)
        if found is None or found.logits is None:
            return None
        self._touch(found)
        return found

    def longest(self, text: Tokens) -> tuple[K | None, int]:
        """What was read that begins like a text for longest, and for how many tokens; None and 0 if nothing does."""
        at = bisect_left(self._sorted, text)
        # Of all texts in order, the ones next to a text have most in common with it.
        near = [(in_common(other, text), other) for other in self._sorted[max(at - 1, 0) : at + 1]]
        size, best = max(near, default=(0, ()))
        if not size:
            return None, 0
        found = self._kept[best]
        self._touch(found)
        return found, size

    def add(self, read: K) -> None:
        """Keeps a text; the ones used longest ago make room."""
        self._bytes += self._enter(read)
        if (old := self._kept.get(read.tokens)) is not None:
            self.remove(old)
        insort(self._sorted, read.tokens)
        self._kept[read.tokens] = read
        self._note(read)

    def forget(self) -> bool:
        """Lets go of the text used longest ago; False where there is none."""
        if self._used:
            self.remove(next(iter(self._used)))
            return True
        return False

    def remove(self, read: K) -> None:
        """Lets go of a text."""
        self._bytes -= self._leave(read)
        self._strike(read)

    def _note(self, read: K) -> None:
        """Counts a text that is kept from now on as used just now, and keeps to the limit."""
        self._used[read] = None
        self._touch(read)
        while self._bytes > self._limit and self.forget():
            pass

    def _strike(self, read: K) -> None:
        """Finds a text no more."""
        del self._used[read]
        del self._kept[read.tokens]
        del self._sorted[bisect_left(self._sorted, read.tokens)]

    def _touch(self, read: K) -> None:
        """Counts a text as used just now."""
        self._used.move_to_end(read)


class KeptReads(Prefixes[Read]):
    """The texts read last, each with a copy of its keys and values."""

    def _enter(self, read: Read) -> int:
        return read.bytes

    _leave = _enter

    def add(self, read: Read) -> None:
        """Keeps a text, and the one it has as its trunk; the ones used longest ago make room."""
        if read.trunk is not None and read.trunk not in self._used:
            self.add(read.trunk)
        super().add(read)

    def _touch(self, read: Read) -> None:
        """Counts a text as used just now, and its trunk after it: else its memory would be held and in no account."""
        super()._touch(read)
        if read.trunk is not None and read.trunk in self._used:
            self._used.move_to_end(read.trunk)
