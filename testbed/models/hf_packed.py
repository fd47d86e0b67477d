"""Reading several prompts as one row: no padding, and what was read before is attended to where it lies.

Each prompt's new tokens attend to one another and to the pieces of text that stand before them (a beginning that others
share, an attempt's own words), each piece in a product of its own; the results are put together by their log-sum-exp,
which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicLayer

from testbed.models import hf_attention
from testbed.models.hf_prefix import Blocks, Layout, Read, Tokens

Tensor = torch.Tensor

_STEP = 64  # tokens of one reading are a multiple of this: products of few sizes are prepared once


class Wanted(NamedTuple):
    """A prompt that is to be read.

    Attributes:
        prompt: all of it.
        past: a text that it begins with.
        size: tokens of that which are not read again.
    """

    prompt: Tokens
    past: Read | None = None
    size: int = 0

    @property
    def new(self) -> int:
        """Tokens to be read."""
        return len(self.prompt) - self.size

    @property
    def trunk(self) -> Read | None:
        """What can be the trunk of a text that goes on from `past`."""
        trunk = self.past and (self.past.trunk or self.past)
        return trunk if trunk and len(trunk.tokens) <= self.size else None

    def pieces(self) -> list[tuple[Read, int]]:
        """What stands before the new tokens: at most two texts, and how many of each one's own tokens."""
        if self.past is None:
            return []
        trunk = self.past.trunk
        if trunk is None:
            return [(self.past, self.size)]
        apart = len(trunk.tokens)
        pieces = [(trunk, min(self.size, apart)), (self.past, self.size - apart)]
        return [(read, size) for read, size in pieces if size > 0]


class _Piece(NamedTuple):
    """Tokens of the row, `first` to `last` − 1, that attend to the first `size` of a text's own."""

    first: int
    last: int
    read: Read
    size: int


class _PackedLayer(DynamicLayer):  # type: ignore[misc]
    """Keeps the new keys and values, and shows these only."""

    into: tuple[Tensor, Tensor]
    reading: Reading
    index = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keeps keys and values, shape (1, heads, tokens, width)."""
        for kept, new in zip(self.into, (key_states, value_states), strict=True):
            kept[:, : new.shape[2]] = new[0]
        self.reading.layer = self.index
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens before the new ones, as far as the model is to know."""
        return 0


class Reading(hf_attention.Attention):
    """What attention must know while several prompts are read as one row.

    Args:
        group: the prompts, in their order.
        total: tokens of the row, padding behind them included.
    """

    def __init__(self, group: Sequence[Wanted], total: int) -> None:
        self.layer = 0
        ends = list(accumulate((wanted.new for wanted in group), initial=0))
        self.places = list(pairwise(ends))
        self._sizes = [last - first for first, last in self.places]
        self._padding = total - ends[-1]
        shared: list[_Piece] = []
        own: list[_Piece] = []
        for (first, last), wanted in zip(self.places, group, strict=True):
            for into, (read, size) in zip((shared, own), wanted.pieces(), strict=False):
                begin = first
                if into and into[-1].last == first and into[-1].read is read and into[-1].size == size:
                    begin = into.pop().first  # neighbours that share it attend to it together
                into.append(_Piece(begin, last, read, size))
        self._pieces = [pieces for pieces in (shared, own) if pieces]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of all new tokens, query (1, heads, tokens, width); returns (1, tokens, heads, width)."""
        sizes = [*self._sizes, self._padding]
        parts = zip(*(torch.split(tensor, sizes, 2) for tensor in (query, key, value)), strict=True)
        found = [hf_attention.with_mass(q, k, v, scale, causal=True) for q, k, v in parts if q.shape[2]]
        mixed, mass = _joined(found)
        for pieces in self._pieces:
            part, also = _joined(self._over(pieces, query, found[0], scale))
            total = torch.logaddexp(mass, also)
            mixed = mixed * (mass - total).exp().to(mixed.dtype) + part * (also - total).exp().to(mixed.dtype)
            mass = total
        return mixed

    def _over(
        self, pieces: Sequence[_Piece], query: Tensor, like: tuple[Tensor, Tensor], scale: float
    ) -> list[tuple[Tensor, Tensor]]:
        """What all tokens read in some pieces; nothing, with no mass, where they have none."""
        found: list[tuple[Tensor, Tensor]] = []

        def none(size: int) -> None:
            part, mass = like
            if size:
                empty = part.new_zeros(*part.shape[:2], size, part.shape[3])
                found.append((empty, mass.new_full((*mass.shape[:2], size), -torch.inf)))

        at = 0
        for first, last, read, size in pieces:
            none(first - at)
            keys, values = (tensor[:, :, :size] for tensor in read.layers[self.layer])
            found.append(hf_attention.with_mass(query[:, :, first:last], keys, values, scale))
            at = last
        none(query.shape[2] - at)
        return found


def _joined(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Parts (1, heads, n, width) and masses (1, heads, n), side by side: (1, tokens, heads, width) and (…, 1)."""
    parts, masses = ([pair[i].transpose(1, 2) for pair in found] for i in (0, 1))
    return torch.cat(parts, 1), torch.cat(masses, 1)[..., None]


class Packer:
    """Reads groups of prompts with a model that `hf_attention` covers.

    Args:
        model: a transformers causal language model in evaluation mode.
        layout: of its keys and values.
        most: tokens of a group, padding included; memory for so many is kept.
        chooses: whether the model can be told which logits are wanted.
    """

    def __init__(self, model: Any, layout: Layout, most: int, *, chooses: bool) -> None:
        self._model, self._layout, self._most, self._chooses = model, layout, most, chooses
        self._space: Blocks = ()

    def groups(self, wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
        """Prompts that are read together: those that go on from one beginning side by side."""
        group: list[Wanted] = []
        numbers: dict[int, int] = {}  # of trunks in the order in which they appear: runs are to round alike
        for each in sorted(wanted, key=lambda each: numbers.setdefault(id(each.trunk), len(numbers))):
            if group and sum(other.new for other in group) + each.new > self._most - _STEP:
                yield group
                group = []
            group.append(each)
        if group:
            yield group

    def run(self, group: Sequence[Wanted]) -> Iterator[tuple[Wanted, Blocks, Tensor]]:
        """Each prompt with keys and values of its new tokens, good until the next reading, and the logits after it."""
        tokens = [token for wanted in group for token in wanted.prompt[wanted.size :]]
        places = [place for wanted in group for place in range(wanted.size, len(wanted.prompt))]
        lacks = -len(tokens) % _STEP if len(tokens) > _STEP else 0
        reading = Reading(group, len(tokens) + lacks)
        space = self._room(len(tokens) + lacks)
        device = self._model.device
        last = torch.tensor([end - 1 for _, end in reading.places], device=device)
        with reading:
            output = self._model(
                input_ids=torch.tensor([tokens + [0] * lacks], device=device),
                position_ids=torch.tensor([places + [0] * lacks], device=device),
                # A mask of four dimensions is taken as it is; nobody looks at it.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=self._model.dtype, device=device),
                past_key_values=self._cache(space, reading),
                use_cache=True,
                **({"logits_to_keep": last} if self._chooses else {}),
            )
        logits = output.logits[0] if self._chooses else output.logits[0, last]
        for wanted, (begin, end), after in zip(group, reading.places, logits, strict=True):
            yield wanted, tuple(block[:, :, begin:end] for block in space), after.clone()

    def _room(self, size: int) -> Blocks:
        if not self._space or self._space[0].shape[2] < size:
            most = max(size, min(self._most, 4 * size))
            self._space = ()  # before there is more: not both at once
            self._space = tuple(self._layout.like.new_empty(n, heads, most, w) for n, heads, w in self._layout.shapes)
        space = self._space
        if space[0].shape[2] > self._most:
            self._space = ()  # a single prompt that is longer: its memory is not kept
        return space

    def _cache(self, space: Blocks, reading: Reading) -> Cache:
        layers = []
        for index, into in enumerate(self._layout.pairs(space)):
            layer = _PackedLayer()
            layer.into, layer.reading, layer.index = into, reading, index
            layer.is_initialized, layer.dtype, layer.device = True, into[0].dtype, into[0].device
            layers.append(layer)
        return Cache(layers=layers)
