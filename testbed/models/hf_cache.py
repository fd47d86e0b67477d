"""The key-value cache of a batch whose rows come and go.

All rows are aligned at their *last* token, so that one column takes the next token of every row, whatever their length.
The model sees a window of the buffers, and a mask that hides what stands before each row's first token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from testbed.models.hf_attention import Step
from testbed.models.hf_prefix import Blocks, Layout

Tensor = torch.Tensor

_AHEAD = 64  # columns kept free after the last one: the cache is moved at most once in so many tokens


class _AlignedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, in buffers of shape (rows, heads, columns, width) of which the model sees a window.

    transformers' own layer grows by concatenation, which copies the whole cache for every token.
    """

    rows = low = end = index = 0
    step: Step | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the columns that follow and shows the window up to them."""
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
        layout: of the buffers, which have rows besides: shape (tensors, rows, heads, columns, width).
        slots: most rows.
        cells: most rows times columns; whoever admits rows sees to it that they can be written to their limits.
    """

    layers: list[Any]

    def __init__(self, layout: Layout, slots: int, cells: int) -> None:
        super().__init__(layers=[_new_layer(index, layout.like) for index in range(len(layout.places))])
        self._layout, self._slots, self._cells = layout, slots, cells
        self._rows, self._columns, self._end = 0, 0, 0
        self._buffers: list[Tensor] = []

    def show(self, rows: int, width: int, new: int = 1, step: Step | None = None) -> None:
        """Sets the window that the model sees and extends by `new` columns: the first `rows`, the last `width`."""
        for layer in self.layers:
            layer.rows, layer.low, layer.end, layer.step = rows, self._end - width, self._end, step
        self._end += new

    def open(self, rows: int, width: int, new: int) -> None:
        """Makes an empty cache have room for just so many rows, columns, and columns that follow."""
        self._allocate(rows, width + new, width, 0, 0)

    def reserve(self, rows: int, width: int, used: int, used_width: int, most: int = 0) -> None:
        """Makes room for rows of up to `width` columns and one column more, keeping the window of used ones.

        Args:
            rows: how many.
            width: their columns.
            used: how many of them hold something.
            used_width: columns of those.
            most: columns that they may grow to.
        """
        if rows <= self._rows and self._end >= width and self._end < self._columns:
            return
        size, target = self._rows, max(width, used_width)
        if rows > size:
            size = max(rows, min(self._slots, 2 * size, self._cells // max(most, target + 1)))
        columns = self._columns if target + _AHEAD <= self._columns else 2 * (target + _AHEAD)
        self._allocate(size, max(target + 1, min(columns, self._cells // size)), target, used, used_width)

    def _allocate(self, rows: int, columns: int, end: int, used: int, used_width: int) -> None:
        same = (rows, columns) == (self._rows, self._columns)
        for n, (count, heads, width) in enumerate(self._layout.shapes):
            if n == len(self._buffers):
                self._buffers.append(self._layout.like.new_empty(count, 0, heads, 0, width))
            old = self._buffers[n]
            kept = old[:, :used, :, self._end - used_width : self._end]
            if same:
                kept = kept.clone()
            else:
                self._buffers[n] = old.new_zeros(count, rows, heads, columns, width)
            self._buffers[n][:, :used, :, end - used_width : end] = kept
        for layer, (keys, values) in zip(self.layers, self._layout.pairs(self._buffers), strict=True):
            layer.keys, layer.values = keys, values
        self._rows, self._columns, self._end = rows, columns, end

    def fill(self, first: int, last: int, text: Blocks) -> None:
        """Gives rows `first` to `last` − 1 a text."""
        for buffer, block in zip(self._buffers, text, strict=True):
            buffer[:, first:last, :, self._end - block.shape[2] : self._end] = block[:, None]

    def copy(self, row: int, width: int, behind: int = 0) -> Blocks:
        """The last `width` columns of a row, but for the very last ones `behind`."""
        last = self._end - behind
        return tuple(
            buffer[:, row, :, last - width : last].clone(memory_format=torch.contiguous_format)
            for buffer in self._buffers
        )

    def move(self, source: int, target: int, width: int) -> None:
        """Copies the last `width` columns of a row to another."""
        for buffer in self._buffers:
            buffer[:, target, :, self._end - width : self._end] = buffer[:, source, :, self._end - width : self._end]


def _new_layer(index: int, like: Tensor) -> _AlignedLayer:
    layer = _AlignedLayer()
    layer.index = index
    layer.is_initialized, layer.dtype, layer.device = True, like.dtype, like.device
    return layer
