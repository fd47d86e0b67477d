"""The key-value cache of a batch whose rows come and go.

All rows are aligned at their *last* token, so that one column takes the next token of every row, whatever their length.
The model sees a window of the buffers, and a mask that hides what stands before each row's first token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from testbed.models.hf_attention import Step
from testbed.models.hf_prefix import Layers

Tensor = torch.Tensor

_AHEAD = 128  # columns kept free after the last one: the cache is moved at most once in so many tokens


class _AlignedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, in buffers of shape (rows, heads, columns, width) of which the model sees a window.

    transformers' own layer grows by concatenation, which copies the whole cache for every token.
    """

    rows = low = end = index = 0
    step: Step | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one more column and shows the window up to it."""
        column, self.end = self.end, self.end + key_states.shape[2]
        self.keys[: self.rows, :, column : self.end] = key_states
        self.values[: self.rows, :, column : self.end] = value_states
        if self.step is not None:
            self.step.layer = self.index
        return self.keys[: self.rows, :, self.low : self.end], self.values[: self.rows, :, self.low : self.end]

    def get_seq_length(self) -> int:
        """Columns in the window."""
        return self.end - self.low


class AlignedCache(Cache):  # type: ignore[misc]
    """The layers' buffers; every row's last cached token stands in column `end` − 1.

    Args:
        slots: most rows.
        like: keys and values of each layer, shape (heads, tokens, width), of any text.
        columns_last: whether keys lie in memory column by column, as our own attention reads them fastest on a CPU.
    """

    layers: list[Any]

    def __init__(self, slots: int, like: Layers, *, columns_last: bool = False) -> None:
        super().__init__(layers=[_new_layer(index, keys, values) for index, (keys, values) in enumerate(like)])
        self._slots, self._columns_last = slots, columns_last
        self._rows, self._columns, self._end = 0, 0, 0

    def show(self, rows: int, width: int, step: Step | None = None) -> None:
        """Sets the window that the model sees and extends: the first `rows`, the last `width` columns."""
        for layer in self.layers:
            layer.rows, layer.low, layer.end, layer.step = rows, self._end - width, self._end, step
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
                elif name == "keys" and self._columns_last:
                    new = old.new_zeros(size, old.shape[1], old.shape[3], columns).transpose(2, 3)
                else:
                    new = old.new_zeros(size, old.shape[1], columns, old.shape[3])
                new[:used, :, target - used_width : target] = kept
                setattr(layer, name, new)
        self._rows, self._columns, self._end = size, columns, target

    def fill(self, first: int, last: int, layers: Layers) -> None:
        """Gives rows `first` to `last` − 1 a text."""
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.keys[first:last, :, self._end - keys.shape[1] : self._end] = keys
            layer.values[first:last, :, self._end - values.shape[1] : self._end] = values

    def copy(self, row: int, width: int) -> Layers:
        """The last `width` columns of a row."""
        window = slice(self._end - width, self._end)
        return [
            (_packed(layer.keys[row, :, window]), _packed(layer.values[row, :, window])) for layer in self.layers
        ]

    def move(self, source: int, target: int, width: int) -> None:
        """Copies the last `width` columns of a row to another."""
        window = slice(self._end - width, self._end)
        for layer in self.layers:
            layer.keys[target, :, window] = layer.keys[source, :, window]
            layer.values[target, :, window] = layer.values[source, :, window]


def _packed(window: Tensor) -> Tensor:
    return window.clone(memory_format=torch.contiguous_format)


def _new_layer(index: int, keys: Tensor, values: Tensor) -> _AlignedLayer:
    layer = _AlignedLayer()
    layer.index = index
    layer.keys = keys.new_empty(0, keys.shape[0], 0, keys.shape[2])
    layer.values = values.new_empty(0, values.shape[0], 0, values.shape[2])
    layer.is_initialized, layer.dtype, layer.device = True, keys.dtype, keys.device
    return layer
