"""The key-value cache of a batch whose rows come and go.

All rows are aligned at their *last* token, so that one column takes the next token of every row, whatever their length.
The model sees a window of the buffers, and a mask that hides what stands before each row's first token.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

Tensor = torch.Tensor

_AHEAD = 128  # columns kept free after the last one: the cache is moved at most once in so many tokens
PREFIX_BYTES = 128 << 20


@dataclass(frozen=True)
class Prefix:
    """A prompt that was read: keys and values of each layer, shape (heads, tokens, width), and the logits after it."""

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(t.nbytes for pair in self.layers for t in pair) + self.logits.nbytes


class Prefixes:
    """The prompts read last: many attempts start with the same one.

    Args:
        limit: memory they may take, in bytes.
    """

    def __init__(self, limit: int = PREFIX_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def get(self, prompt: tuple[int, ...]) -> Prefix | None:
        """What was read of a prompt, if it is still kept."""
        found = self._kept.get(prompt)
        if found is not None:
            self._kept.move_to_end(prompt)
        return found

    def add(self, prompt: tuple[int, ...], prefix: Prefix) -> None:
        """Keeps a prompt; the ones used longest ago make room."""
        self._kept[prompt] = prefix
        self._bytes += prefix.bytes
        while self._bytes > self._limit and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].bytes


class _AlignedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, in buffers of shape (rows, heads, columns, width) of which the model sees a window.

    transformers' own layer grows by concatenation, which copies the whole cache for every token.
    """

    rows = low = end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one more column and shows the window up to it."""
        column, self.end = self.end, self.end + key_states.shape[2]
        self.keys[: self.rows, :, column : self.end] = key_states
        self.values[: self.rows, :, column : self.end] = value_states
        return self.keys[: self.rows, :, self.low : self.end], self.values[: self.rows, :, self.low : self.end]

    def get_seq_length(self) -> int:
        """Columns in the window."""
        return self.end - self.low


class AlignedCache(Cache):  # type: ignore[misc]
    """The layers' buffers; every row's last cached token stands in column `end` − 1.

    Args:
        slots: most rows.
    """

    layers: list[Any]

    def __init__(self, slots: int) -> None:
        super().__init__(layers=[])
        self._slots, self._rows, self._columns, self._end = slots, 0, 0, 0

    def show(self, rows: int, width: int) -> None:
        """Sets the window that the model sees and extends: the first `rows`, the last `width` columns."""
        for layer in self.layers:
            layer.rows, layer.low, layer.end = rows, self._end - width, self._end
        self._end += 1

    def reserve(self, rows: int, width: int, used: int, used_width: int) -> None:
        """Makes room for `rows` rows of up to `width` columns and one column more, keeping the window of used ones."""
        if rows <= self._rows and self._end >= width and self._end < self._columns:
            return
        size = min(self._slots, max(rows, 2 * self._rows)) if rows > self._rows else self._rows
        target = max(width, used_width)
        columns = self._columns if target + _AHEAD <= self._columns else 2 * (target + _AHEAD)
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                kept = old[:used, :, self._end - used_width : self._end]
                if (size, columns) == (self._rows, self._columns):
                    new, kept = old, kept.clone()
                else:
                    new = old.new_zeros(size, old.shape[1], columns, old.shape[3])
                new[:used, :, target - used_width : target] = kept
                setattr(layer, name, new)
        self._rows, self._columns, self._end = size, columns, target

    def fill(self, first: int, last: int, prefix: Prefix) -> None:
        """Gives rows `first` to `last` − 1 a prompt."""
        if not self.layers:
            self.layers = [self._new_layer(keys, values) for keys, values in prefix.layers]
        for layer, (keys, values) in zip(self.layers, prefix.layers, strict=True):
            layer.keys[first:last, :, self._end - keys.shape[1] : self._end] = keys
            layer.values[first:last, :, self._end - values.shape[1] : self._end] = values

    def move(self, source: int, target: int, width: int) -> None:
        """Copies the last `width` columns of a row to another."""
        for layer in self.layers:
            layer.keys[target, :, self._end - width : self._end] = layer.keys[source, :, self._end - width : self._end]
            layer.values[target, :, self._end - width : self._end] = layer.values[
                source, :, self._end - width : self._end
            ]

    def _new_layer(self, keys: Tensor, values: Tensor) -> _AlignedLayer:
        layer = _AlignedLayer()
        layer.keys = keys.new_zeros(self._rows, keys.shape[0], self._columns, keys.shape[2])
        layer.values = values.new_zeros(self._rows, values.shape[0], self._columns, values.shape[2])
        layer.is_initialized, layer.dtype, layer.device = True, keys.dtype, keys.device
        return layer
