"""Keys and values in pages that never move: texts that begin alike have their first pages in common.

A page holds a few tokens of one text in all layers. What attempts share is counted, not copied; only a page that is not
full is copied for whoever goes on from it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence

import numpy as np
import torch

from testbed.models.hf_kernel import PAGE, wide
from testbed.models.hf_memory import unforked
from testbed.models.hf_prefix import Layout

__all__ = ["PAGE", "Pages", "pages_for"]


def pages_for(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE)


class Pages:
    """The memory, and who holds what of it.

    Args:
        layout: of a model's keys and values.
        count: how many pages there are; memory is taken when they are first written.

    Attributes:
        shapes: of each layer: where it lies in a page, its key heads, widths of a key and of a value.
        stride: numbers in a page.
        cells: all pages, one after another.
    """

    def __init__(self, layout: Layout, count: int) -> None:
        self.shapes, self.stride = _shapes(layout)
        self.cells = _lazy(count * self.stride).reshape(count, self.stride)
        self._free = list[int]()
        self._held = list[int]()  # by how many, of every page that was taken once
        self.make_room: Callable[[], bool] = lambda: False  # what is done where no page is free

    @staticmethod
    def token_bytes(layout: Layout) -> int:
        """Memory of one token."""
        return _shapes(layout)[1] * 4 // PAGE

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return len(self._held) - len(self._free)

    def take(self) -> int:
        """A page of one's own.

        Raises:
            MemoryError: there is none.
        """
        while not self._free and len(self._held) == len(self.cells):
            if not self.make_room():
                raise MemoryError("all pages of keys and values are held")
        if self._free:
            page = self._free.pop()
            self._held[page] = 1
            return page
        self._held.append(1)
        return len(self._held) - 1

    def hold(self, pages: Sequence[int]) -> None:
        """Counts one more who holds these."""
        for page in pages:
            self._held[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Counts one less who holds these; pages that nobody holds are free."""
        for page in pages:
            self._held[page] -= 1
            if not self._held[page]:
                self._free.append(page)

    def cut(self, pages: Sequence[int], size: int) -> list[int]:
        """The pages of a text's first `size` tokens, for who holds the whole and goes on from there; frees the rest."""
        kept, rest = list(pages[: pages_for(size)]), pages[pages_for(size) :]
        self.release(rest)
        if size % PAGE and self._held[kept[-1]] > 1:  # others read there what is to be written over
            shared, kept[-1] = kept[-1], self.take()
            self.cells[kept[-1]] = self.cells[shared]
            self.release([shared])
        return kept

    def fork(self, pages: Sequence[int], size: int) -> list[int]:
        """Pages for a text that begins with the first `size` tokens of another's."""
        self.hold(pages)
        return self.cut(pages, size)


def pageable(layout: Layout) -> bool:
    """Whether such keys and values can lie in pages: numbers of float32 on the processor."""
    like = layout.like
    alike = all(layout.shapes[a][1] == layout.shapes[b][1] for (a, _), (b, _) in layout.places)
    return like.device.type == "cpu" and like.dtype == torch.float32 and alike


def _shapes(layout: Layout) -> tuple[list[tuple[int, int, int, int]], int]:
    shapes, at = [], 0
    for (keys, _), (values, _) in layout.places:
        _, heads, width = layout.shapes[keys]
        value_width = layout.shapes[values][2]
        shapes.append((at, heads, width, value_width))
        at += PAGE * heads * (wide(width) + wide(value_width))
    return shapes, at


def _lazy(size: int) -> np.ndarray:
    """So many numbers, whose memory is taken where they are written."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(size, dtype=np.float32)
    try:
        memory = mmap.mmap(-1, max(1, 4 * size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {4 * size} bytes for keys and values: {error}") from error
    unforked(memory)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # pages are taken side by side, so that little of a large one is in vain
        with contextlib.suppress(OSError):  # not every kernel has them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.float32, count=size)
