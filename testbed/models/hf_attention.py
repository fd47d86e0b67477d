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
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

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
    "output_router_logits",  # of mixtures of experts
    "sliding_window",
}

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

    needed = True  # whether it does anything but what transformers' own attention does

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
        layer: whose turn it is; the cache says so, since some models' layers do not know their number.
    """

    groups: Groups
    mask: Tensor
    layer: int = 0

    def __post_init__(self) -> None:
        self.needed = bool(self.groups.trunks)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one new token of each row, over its trunk and its own keys.

        Args:
            query: shape (rows, heads, 1, width).
            key: the rows' own, shape (rows, key heads, columns, width).
            value: like `key`.
            scale: of the scores.

        Returns:
            Shape (rows, 1, heads, width), like `query`.
        """
        (rows, keyed), (_, heads, _, width) = key.shape[:2], query.shape
        query = query.reshape(rows, keyed, heads // keyed, width)
        shared, mass = _over_trunks(query, self.groups, self.layer, scale)
        scores = torch.matmul(query, key.transpose(2, 3)) * scale + self.mask[:, None, None]
        weights = torch.cat([scores.to(mass.dtype), mass[..., None]], -1).softmax(-1).to(value.dtype)
        mixed = torch.matmul(weights[..., :-1], value).addcmul_(weights[..., -1:], shared)
        return mixed.view(rows, 1, heads, -1)


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
    # Where nothing is shared, PyTorch's own kernels are as good.
    if step is None or not step.needed:
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


def _with_mass(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention, and the log-sum-exp of its scores.

    Args:
        query: shape (1, heads, n, width).
        keys: shape (1, heads, tokens, width).
        values: like `keys`.
        scale: of the scores.

    Returns:
        Shapes (1, heads, n, width) and (1, heads, n).
    """
    scores = torch.matmul(query, keys.transpose(2, 3)).float() * scale
    mass = scores.logsumexp(-1)
    return torch.matmul((scores - mass[..., None]).exp().to(values.dtype), values), mass
