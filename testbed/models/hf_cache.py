"""The key-value cache of a batch whose rows come and go.

All rows are aligned at their *last* token, so that one column takes the next token of every row, whatever their length.
The model sees a window of the buffers, and a mask that hides what stands before each row's first token.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from testbed.errors import ModelError
from testbed.models.hf_attention import Step
from testbed.models.hf_memory import unforked
from testbed.models.hf_prefix import Blocks, Layout

Tensor = torch.Tensor

# Columns kept free after the last one: the rows are moved back once in so many tokens. To go on further would touch
# more memory, which costs more than that.
_AHEAD = 64


class _AlignedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, in buffers of shape (rows, heads, columns, width) of which the model sees a window.

    transformers' own layer grows by concatenation, which copies the whole cache for every token.
    """

    rows = low = end = index = 0
    step: Step | None = None
    column: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the columns that follow and shows the window up to them; or the column that a tensor names."""
        keys, values = self.keys[: self.rows], self.values[: self.rows]
        if self.column is not None:
            keys.index_copy_(2, self.column, key_states)
            values.index_copy_(2, self.column, value_states)
        else:
            column, self.end = self.end, self.end + key_states.shape[2]
            keys[:, :, column : self.end] = key_states
            values[:, :, column : self.end] = value_states
        if self.step is not None:
            self.step.layer = self.index
        return keys[:, :, self.low : self.end], values[:, :, self.low : self.end]

    def get_seq_length(self) -> int:
        """Columns in the window."""
        return self.end - self.low


class AlignedCache(Cache):  # type: ignore[misc]
    """The layers' buffers; every row's last cached token stands in column `end` − 1.

    Args:
        layout: of the buffers, which have rows besides: shape (tensors, rows, heads, columns, width).
        slots: most rows.
        cells: most rows times columns; whoever admits rows sees to it that they can be written to their limits.

    Attributes:
        places: another number whenever the buffers lie elsewhere.
    """

    layers: list[Any]

    def __init__(self, layout: Layout, slots: int, cells: int) -> None:
        super().__init__(layers=[_new_layer(index, layout.like) for index in range(len(layout.places))])
        self._layout, self._slots, self._cells = layout, slots, cells
        self._rows, self._columns, self._end, self._most, self._turn = 0, 0, 0, 0, 0
        self._buffers: list[Tensor] = []
        self.places = 0

    @property
    def rows(self) -> int:
        """That there are places for."""
        return self._rows

    @property
    def columns(self) -> int:
        """In all, used or not."""
        return self._columns

    @property
    def end(self) -> int:
        """Where the next column goes."""
        return self._end

    def show(self, rows: int, width: int, new: int = 1, step: Step | None = None) -> None:
        """Sets the window that the model sees and extends by `new` columns: the first `rows`, the last `width`."""
        for layer in self.layers:
            layer.rows, layer.low, layer.end, layer.step = rows, self._end - width, self._end, step
            layer.column = None
        self._end += new

    def stand(self, rows: int, first: int, last: int, column: Tensor) -> None:
        """Sets a window that does not move: columns `first` to `last` − 1; new keys go where `column`, (1,), says."""
        for layer in self.layers:
            layer.rows, layer.low, layer.end, layer.step, layer.column = rows, first, last, None, column

    def grow(self) -> None:
        """Counts a column that was written into a window that does not move."""
        self._end += 1

    def lacks(self, rows: int, width: int, most: int = 0) -> bool:
        """Whether there is no room for rows of up to `width` columns, which may become `most`, and one column more."""
        self._most = most or self._most
        return rows > self._rows or self._end < width or self._end >= min(self._columns, self._turn)

    def open(self, pasts: Sequence[int], new: int) -> None:
        """Makes an empty cache have room for just rows of so many columns, which `fill` gives, and columns after."""
        width = max(pasts)
        shape = len(pasts), width + new
        self._buffers = [self._layout.like.new_empty(n, shape[0], h, shape[1], w) for n, h, w in self._layout.shapes]
        for buffer in self._buffers:
            buffer[..., : width - min(pasts), :] = 0  # what the mask hides is multiplied by zero, and must be a number
        self._show_buffers(*shape, width)

    def reserve(self, rows: int, width: int, kept: Sequence[int]) -> None:
        """Makes room for rows of up to `width` columns and one column more.

        Args:
            rows: how many.
            width: their columns.
            kept: columns of the first rows that hold something.
        """
        target = max([width, *kept])
        wanted = 2 * self._rows if rows > self._rows else self._rows
        size = max(rows, min(self._slots, wanted, self._cells // max(self._most, target + 1)))
        lazy = _is_lazy(self._layout.like)
        if lazy:  # columns that nobody has written to cost nothing: wider rows may come, and would move all others
            target = max(target, min(target + 2 * _AHEAD, self._cells // size - _AHEAD))
        # Elsewhere they grow by parts of what they are: whatever was recorded of them has to be recorded again.
        grown = self._most + _AHEAD if lazy else target + target // 4
        columns = self._columns if target + _AHEAD <= self._columns else max(target + 2 * _AHEAD, grown)
        self._allocate(size, max(target + 1, min(columns, self._cells // size)), target, kept)

    def _allocate(self, rows: int, columns: int, end: int, kept: Sequence[int]) -> None:
        same = (rows, columns) == (self._rows, self._columns)
        self.places += not same
        for n, (count, heads, width) in enumerate(self._layout.shapes):
            if n == len(self._buffers):
                self._buffers.append(self._layout.like.new_empty(count, 0, heads, 0, width))
            old = self._buffers[n]
            new = self._buffers[n] = old if same else _zeros((count, rows, heads, columns, width), old)
            for row, size in enumerate(kept):
                text = old[:, row, :, self._end - size : self._end]
                new[:, row, :, end - size : end] = text.clone() if same else text
        self._show_buffers(rows, columns, end)

    def _show_buffers(self, rows: int, columns: int, end: int) -> None:
        for layer, (keys, values) in zip(self.layers, self._layout.pairs(self._buffers), strict=True):
            layer.keys, layer.values = keys, values
        self._rows, self._columns, self._end, self._turn = rows, columns, end, end + _AHEAD

    def fill(self, row: int, text: Blocks, behind: int = 0) -> None:
        """Gives a row a text, which ends so many columns before the last one."""
        last = self._end - behind
        for buffer, block in zip(self._buffers, text, strict=True):
            buffer[:, row, :, last - block.shape[2] : last] = block

    def show_row(self, row: int, width: int, behind: int = 0) -> Blocks:
        """The last `width` columns of a row, but for the very last ones `behind`, where they lie."""
        last = self._end - behind
        return tuple(buffer[:, row, :, last - width : last] for buffer in self._buffers)

    def copy(self, row: int, width: int) -> Blocks:
        """A copy of the last `width` columns of a row."""
        return tuple(block.clone(memory_format=torch.contiguous_format) for block in self.show_row(row, width))


def layout_of(model: Any) -> Layout:
    """How a model's keys and values look, seen on one token.

    Raises:
        ModelError: it keeps something else.
    """
    layers = DynamicCache(config=model.config).layers
    # A sliding window is made by the mask: its keys are all kept here.
    other = {type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    if other or not layers:
        raise ModelError(
            f"{type(model).__name__} keeps a state that cannot be batched here ({', '.join(sorted(other)) or 'none'}); "
            "serve it with vLLM and use chat:openai:NAME instead."
        )
    cache = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return Layout.of([(layer.keys, layer.values) for layer in cache.layers])


def _is_lazy(like: Tensor) -> bool:
    return like.device.type == "cpu" and hasattr(mmap, "MAP_ANONYMOUS")


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros, since what the mask hides is multiplied by zero; where the system can, memory is taken page by page."""
    if not _is_lazy(like):
        return like.new_zeros(shape)
    size = math.prod(shape) * like.element_size()
    # Not `np.zeros`: it asks for huge pages, each of which is cleared for a few columns of one row.
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        unforked(pages)
    except OSError as error:
        raise MemoryError(f"no {size} bytes for keys and values: {error}") from error
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


def _new_layer(index: int, like: Tensor) -> _AlignedLayer:
    layer = _AlignedLayer()
    layer.index = index
    layer.is_initialized, layer.dtype, layer.device = True, like.dtype, like.device
    return layer
