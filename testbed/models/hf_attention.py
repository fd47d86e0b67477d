"""Attention of rows that begin alike: their common beginning is kept once and attended in one product for all of them.

What a row attends to besides is its own. The two parts are put together by their log-sum-exp, which is exact: the
beginning enters the softmax over the row's own scores as one more column. The function is plugged in through
transformers' own interface, so that any architecture that uses it is served; whether it is, `covers` finds out by
comparing logits.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from testbed.models.hf_places import Span
from testbed.models.hf_prefix import Read

Tensor = torch.Tensor

NAME = "testbed_shared"
_PLAIN = "sdpa"  # what serves everything but our own steps
# What models hand to an attention function and what does not change its result here.
_IGNORED = {
    "dropout",
    "is_causal",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "sliding_window",
}

_PRODUCT = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

_running = threading.local()  # a model runs in one thread, and its attention function is given no place for more


@dataclass
class Groups:
    """Which rows share which beginnings.

    Attributes:
        trunks: the beginnings, and the rows (first, last + 1) of each in `order`.
        order: rows in the order of their trunks, those without one last; None where they stand so already.
        back: the inverse of `order`.
        alone: rows without a trunk.
    """

    trunks: list[tuple[Read, int, int]]
    order: Tensor | None
    back: Tensor | None
    alone: int

    def layer(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Each trunk's keys and values in a layer, shape (1, heads, tokens, width)."""
        return [trunk.layers[number] for trunk, _, _ in self.trunks]

    @classmethod
    def of(cls, trunks: Sequence[Read | None], device: torch.device) -> Groups:
        """Groups of rows that have these trunks."""
        places: dict[int, list[int]] = {}
        for row, trunk in enumerate(trunks):
            places.setdefault(id(trunk), []).append(row)
        alone = places.pop(id(None), [])
        order: list[int] = []
        found = []
        for rows in places.values():
            trunk = trunks[rows[0]]
            assert trunk is not None
            found.append((trunk, len(order), len(order) + len(rows)))
            order += rows
        order += alone
        if order == list(range(len(order))):
            return cls(found, None, None, len(alone))
        index = torch.tensor(order, device=device)
        return cls(found, index, index.argsort(), len(alone))


class Attention(ABC):
    """What our own attention does while one of these is entered; outside, a model has transformers' own."""

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of query (rows, heads, tokens, width); returns (rows, tokens, heads, width)."""

    def __enter__(self) -> Self:
        _running.step = self
        return self

    def __exit__(self, *_: object) -> None:
        _running.step = None


@dataclass
class Step(Attention):
    """What attention must know of one step of decoding.

    Attributes:
        groups: which rows share what.
        mask: added to the rows' own scores, shape (rows, columns).
        spans: rows side by side that have columns from some number on.
        layer: whose turn it is; the cache says so, since some models' layers do not know their number.
    """

    groups: Groups
    mask: Tensor
    spans: Sequence[Span]
    layer: int = 0
    _by_heads: dict[int, list[Tensor]] = field(default_factory=dict, repr=False)

    def masks_of(self, heads: int) -> list[Tensor]:
        """Each span's mask for so many key heads, shape (rows × heads, 1, columns); made once for all layers."""
        if heads not in self._by_heads:
            parts = [self.mask[first:last, skip:] for first, last, skip in self.spans]
            self._by_heads[heads] = [part.repeat_interleave(heads, 0)[:, None] for part in parts]
        return self._by_heads[heads]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one new token of each row, over its trunk and its own keys.

        Args:
            query: shape (rows, heads, 1, width), with rows besides that are padding.
            key: the rows' own, shape (rows, key heads, columns, width).
            value: like `key`.
            scale: of the scores.

        Returns:
            Shape (rows, 1, heads, width), like `query`.
        """
        (rows, keyed), (padded, heads, _, width) = key.shape[:2], query.shape
        query = query[:rows].reshape(rows, keyed, heads // keyed, width)
        shared, mass = _over_trunks(query, self.groups, self.layer, scale) if self.groups.trunks else (None, None)
        parts = []
        for (first, last, skip), mask in zip(self.spans, self.masks_of(keyed), strict=True):
            keys, values = (tensor[first:last, :, skip:].flatten(0, 1) for tensor in (key, value))
            scores = torch.baddbmm(mask, query[first:last].flatten(0, 1), keys.transpose(1, 2), alpha=scale)
            if shared is None or mass is None:
                parts.append(torch.bmm(scores.softmax(-1, dtype=torch.float32).to(value.dtype), values))
                continue
            also = mass[first:last].reshape(*scores.shape[:2], 1)
            weights = torch.cat([scores.to(mass.dtype), also], -1).softmax(-1).to(value.dtype)
            mixed = torch.bmm(weights[..., :-1], values)
            parts.append(mixed.addcmul_(weights[..., -1:], shared[first:last].reshape(mixed.shape)))
        if padded > rows:
            parts.append(parts[0].new_zeros((padded - rows) * keyed, *parts[0].shape[1:]))
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(padded, 1, heads, -1)


def plug_in(model: Any) -> bool:
    """Makes a model use `attend` in our steps, and what it used before in all else; False where it cannot."""
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation not in (_PLAIN, NAME) or any(map(_bites, DynamicCache(config=model.config).layers)):
        return False
    if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}:
        return False
    if not model._can_set_attn_implementation():  # asked beforehand, or transformers warns of it
        return False
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return bool(config._attn_implementation == NAME)


def unplug(model: Any) -> None:
    """Gives a model its own attention back."""
    model.set_attn_implementation(_PLAIN)


def _bites(layer: Any) -> bool:
    # `max_position_embeddings` is no bound on what a window may be asked to hide, so every window counts.
    return isinstance(layer, DynamicSlidingWindowLayer)


class NotCoveredError(Exception):
    """An attention layer does something that `attend` does not know."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as the step or reading that is entered has it; outside of these, transformers' own.

    Args:
        module: the attention layer.
        query: shape (rows, heads, tokens, width).
        key: shape (rows, key heads, columns, width).
        value: like `key`.
        attention_mask: not looked at in a step or reading, which knows who attends to what.
        scaling: of the scores.
        more: what else transformers hands over.

    Returns:
        Shape (rows, tokens, heads, width), and None for the weights.

    Raises:
        NotCoveredError: the layer caps its scores, has sinks, or wants anything else that is unknown here.
    """
    step: Attention | None = getattr(_running, "step", None)
    # Where nothing is shared, a GPU's own kernels are as good; on the CPU they are slower than ours.
    if step is None or (query.device.type != "cpu" and isinstance(step, Step) and not step.groups.trunks):
        plain = ALL_ATTENTION_FUNCTIONS[_PLAIN]
        found: tuple[Tensor, None] = plain(module, query, key, value, attention_mask, scaling=scaling, **more)
        return found
    if unknown := [name for name, wanted in more.items() if wanted is not None and name not in _IGNORED]:
        raise NotCoveredError(f"attention takes {unknown[0]!r}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return step.attend(query, key, value, scale), None


def _over_trunks(query: Tensor, groups: Groups, layer: int, scale: float) -> tuple[Tensor, Tensor]:
    """What each row reads in its trunk, and the logarithm of that part's mass.

    Args:
        query: shape (rows, key heads, queries per key head, width).
        groups: which rows share what.
        layer: whose keys.
        scale: of the scores.

    Returns:
        Shapes (rows, key heads, queries per key head, width) and (rows, key heads, queries per key head).
    """
    rows, keyed, each, width = query.shape
    if groups.order is not None:
        query = query.index_select(0, groups.order)
    query = query.transpose(0, 1).reshape(keyed, rows * each, width)
    sizes = [(last - first) * each for _, first, last in groups.trunks]
    queries = torch.split(query[None], [*sizes, groups.alone * each], 2)
    found = [_with_mass(own, *pair, scale) for own, pair in zip(queries, groups.layer(layer), strict=False)]
    parts, masses = [part for part, _ in found], [mass for _, mass in found]
    if groups.alone:
        parts.append(parts[0].new_zeros(1, keyed, groups.alone * each, parts[0].shape[-1]))
        masses.append(masses[0].new_full((1, keyed, groups.alone * each), -torch.inf))
    shared = torch.cat(parts, 2).view(keyed, rows, each, -1).transpose(0, 1)
    total = torch.cat(masses, 2).view(keyed, rows, each).transpose(0, 1)
    if groups.back is not None:
        shared, total = shared.index_select(0, groups.back), total.index_select(0, groups.back)
    return shared, total


def with_mass(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention, and the log-sum-exp of its scores.

    Args:
        query: shape (1, heads, n, width).
        keys: shape (1, key heads, tokens, width).
        values: like `keys`.
        scale: of the scores.
        causal: the n tokens see one another, each those before it and itself.

    Returns:
        Shapes (1, heads, n, width) and (1, heads, n).
    """
    heads, size = query.shape[1:3]
    keyed = keys.shape[1]
    if keyed != heads and causal:
        keys, values = (tensor.repeat_interleave(heads // keyed, 1) for tensor in (keys, values))
    elif keyed != heads:  # queries that have a key head in common go over it in one product
        query = query.reshape(1, keyed, -1, query.shape[3])
    part, mass = _with_mass(query, keys, values, scale, causal=causal)
    return part.reshape(1, heads, size, -1), mass.reshape(1, heads, size)


def _with_mass(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """See `with_mass`; there is a key head for each of the queries'."""
    if query.device.type == "cpu" and keys.shape[-1] == values.shape[-1]:
        # The one product of PyTorch's own that also says the log-sum-exp.
        found: tuple[Tensor, Tensor] = _PRODUCT(query, keys, values, is_causal=causal, scale=scale)
        return found
    scores = torch.matmul(query, keys.transpose(2, 3)).float() * scale
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    mass = scores.logsumexp(-1)
    return torch.matmul((scores - mass[..., None]).exp().to(values.dtype), values), mass
