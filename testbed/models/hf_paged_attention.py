"""What the compiled attention is told: which token of which text stands where, and who goes over which pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from testbed.models.hf_attention import Attention
from testbed.models.hf_kernel import PAGE, compiled, wide
from testbed.models.hf_pages import Pages, pages_for
from testbed.models.hf_row import Row

Tensor = torch.Tensor

_TOGETHER = 16  # tokens of one text that go over a page together: their state is to stay in the nearest cache too
_AHEAD = 8  # columns for pages to come
_NONE = -1  # no page

Ints = npt.NDArray[np.int32]


class Plan:
    """One pass over a row of tokens.

    Args:
        table: the pages of each text, a row of it each, and what is none behind them.
        sequences: of each token, which text it belongs to.
        places: of each token, where in it.
        items: first token, last + 1, whose pages, first page, last + 1; each token's pages come in order.

    Attributes:
        places: as given; `go_on` moves them.
    """

    def __init__(
        self,
        table: Ints,
        sequences: Sequence[int] | Ints,
        places: Sequence[int] | Ints,
        items: Sequence[tuple[int, ...]] | Ints,
    ) -> None:
        self.table = table
        self.sequences, self.places = np.array(sequences, dtype=np.int32), np.array(places, dtype=np.int32)
        self.items = np.array(items, dtype=np.int32)

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Plan:
        """One token more of each of some rows, those that share pages side by side."""
        table = _table([row.pages for row in rows])
        # How many pages neighbours have in common, and so each row with any other: what several have is full.
        same = np.logical_and.accumulate((table[1:] == table[:-1]) & (table[1:] != _NONE), axis=1).sum(axis=1)
        common = np.maximum(np.append(0, same), np.append(same, 0))
        own = np.empty((len(rows), 5), dtype=np.int32)
        own[:, 0] = own[:, 2] = np.arange(len(rows))
        own[:, 1], own[:, 3], own[:, 4] = own[:, 0] + 1, common, [len(row.pages) for row in rows]
        shared = list(_shared(same.tolist(), 0, len(rows), 0)) if len(rows) > 1 else []
        return cls(table, own[:, 0], [row.seen for row in rows], np.array([*shared, *own], dtype=np.int32))

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[Sequence[int], int, int]]) -> Plan:
        """Parts of some texts: their pages, the first token and the last + 1."""
        sequences, places, items = list[int](), list[int](), []
        for n, (_, first, last) in enumerate(parts):
            for begin in range(first, last, _TOGETHER):
                end = min(begin + _TOGETHER, last)
                items.append((len(places), len(places) + end - begin, n, 0, pages_for(end)))
                places += range(begin, end)
                sequences += [n] * (end - begin)
        return cls(_table([pages for pages, _, _ in parts]), sequences, places, items)

    def and_then(self, other: Plan) -> Plan:
        """Both in one pass."""
        columns = max(self.table.shape[1], other.table.shape[1])
        tables = [np.pad(each.table, ((0, 0), (0, columns - each.table.shape[1]))) for each in (self, other)]
        tokens, texts = len(self.places), len(self.table)
        return Plan(
            np.concatenate(tables),
            np.concatenate([self.sequences, other.sequences + texts]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.items, other.items + np.array([tokens, tokens, texts, 0, 0], dtype=np.int32)]),
        )

    def at_a_new_page(self) -> list[int]:
        """Rows whose next token begins a page that they lack."""
        lacks = self.places // PAGE >= self.items[-len(self.places) :, 4]
        return [int(n) for n in np.flatnonzero(lacks)]

    def turn_page(self, row: int, page: int) -> None:
        """Gives a row one page more."""
        item = self.items[row - len(self.places)]
        if item[4] == self.table.shape[1]:
            self.table = np.pad(self.table, ((0, 0), (0, _AHEAD)))
        self.table[row, item[4]] = page
        item[4] += 1

    def go_on(self) -> None:
        """Every row has one token more."""
        self.places += 1


def _shared(same: Sequence[int], first: int, last: int, at: int) -> Iterator[tuple[int, ...]]:
    """Pages from number `at` that some of these rows have in common, those of most rows first.

    Args:
        same: how many pages each row has in common with the next.
        first: row.
        last: the row after them.
        at: pages that all of them have in common and that are done.
    """
    size = min(same[first : last - 1])
    if size > at:
        yield first, last, first, at, size
    ends = [n + 1 for n in range(first, last - 1) if same[n] == size]
    for begin, end in pairwise([first, *ends, last]):
        if end - begin > 1:
            yield from _shared(same, begin, end, size)


def _table(texts: Sequence[Sequence[int]]) -> Ints:
    table = np.full((len(texts), max(map(len, texts), default=0) + _AHEAD), _NONE, dtype=np.int32)
    for row, pages in zip(table, texts, strict=True):
        row[: len(pages)] = pages
    return table


class PagedAttention(Attention):
    """Attention over pages.

    Args:
        pages: where keys and values lie.

    Attributes:
        layer: whose turn it is.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages, self.layer = pages, 0
        self._plan: Plan
        self._indices: list[int] = []
        self._cells = pages.cells.ctypes.data

    @contextmanager
    def over(self, plan: Plan) -> Iterator[None]:
        """The model runs over these tokens."""
        self._plan = plan
        self._indices = [array.ctypes.data for array in (plan.table, plan.sequences, plan.places, plan.items)]
        with self:
            yield

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Writes keys and values into pages; attention, query (1, heads, tokens, width), to (1, tokens, heads, …)."""
        plan, tokens = self._plan, len(self._plan.places)
        heads, padded, width = query.shape[1:]
        at, keyed, key_width, value_width = self._pages.shapes[self.layer]
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        if wide(width) != width:
            query = torch.nn.functional.pad(query, (0, wide(width) - width))
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = query.new_empty(1, padded, heads, wide(value_width))
        if padded > tokens:
            out[0, tokens:] = 0.0
        state = query.new_empty(tokens, heads, 2)
        pointers = [tensor.data_ptr() for tensor in (query, key, value, out, state)]
        sizes = [tokens, len(plan.items), plan.table.shape[1], self._pages.stride, heads, keyed]

        function, _ = compiled(key_width, value_width)

        def run(first: int, last: int) -> None:
            function(*pointers, self._cells + 4 * at, *self._indices, *sizes, first, last, scale)

        if (threads := min(torch.get_num_threads(), keyed)) == 1:
            run(0, keyed)
        else:
            bounds = [keyed * n // threads for n in range(threads + 1)]
            list(_pool(threads).map(run, bounds[:-1], bounds[1:]))
        return out[..., :value_width]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "testbed-attention")
