"""What the compiled attention is told: which token of which text stands where, and who goes over which pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from testbed.models.hf_attention import Attention
from testbed.models.hf_kernel import PAGE, compiled, wide
from testbed.models.hf_linear import STEP
from testbed.models.hf_pages import Pages, pages_for
from testbed.models.hf_row import Row

Tensor = torch.Tensor

_TOGETHER = 16  # tokens of one text that go over a page together: their state is to stay in the nearest cache too
_BEGUN = (64, 32)  # lines and columns of a new table
_AHEAD = 8  # columns for pages to come
_NONE = -1  # no page

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


def _address(array: npt.NDArray[Any]) -> int:
    """Where its numbers lie: `array.ctypes` says the same in three times as long."""
    address: int = array.__array_interface__["data"][0]
    return address


class Table:
    """Pages of the texts under way, each in a line that it keeps.

    Attributes:
        cells: lines × columns; what is none stands behind a text's pages.
        address: where they lie.
    """

    def __init__(self) -> None:
        self.cells: Ints = np.empty((0, 0), dtype=np.int32)
        self._resize(*_BEGUN)
        self._free = list[int]()
        self._used = 0

    def enter(self, pages: Sequence[int]) -> int:
        """Notes a text's pages; its line."""
        lines, columns = self.cells.shape
        if not self._free and self._used == lines:
            lines *= 2
        if len(pages) > columns:
            columns = max(2 * columns, len(pages) + _AHEAD)
        if (lines, columns) != self.cells.shape:
            self._resize(lines, columns)
        line = self._free.pop() if self._free else self._used
        self._used = max(self._used, line + 1)
        self.cells[line, : len(pages)] = pages
        self.cells[line, len(pages) :] = _NONE
        return line

    def add(self, line: int, column: int, page: int) -> None:
        """Gives a text one page more, in that column."""
        lines, columns = self.cells.shape
        if column == columns:
            self._resize(lines, columns + _AHEAD)
        self.cells[line, column] = page

    def leave(self, line: int) -> None:
        """The line is another's to have."""
        self._free.append(line)

    def _resize(self, lines: int, columns: int) -> None:
        larger = np.full((lines, columns), _NONE, dtype=np.int32)
        larger[: len(self.cells), : self.cells.shape[1]] = self.cells
        self.cells, self.address = larger, _address(larger)


class Given(NamedTuple):
    """What the model and its attention are given for a plan.

    Attributes:
        ids: the tokens and padding behind them, shape (1, whole steps of the model's products); these give a row the
            same numbers in any company.
        positions: like `ids`: where each stands in its text.
        tokens: the part of `ids` that is no padding, to be filled in.
        places: the part of `positions` that is no padding.
        addresses: of the plan's lines, places, starts and items.
    """

    ids: Tensor
    positions: Tensor
    tokens: Longs
    places: Tensor
    addresses: list[int]


class Plan:
    """One pass over a row of tokens.

    Args:
        lines: of each token, where its text stands in the table.
        places: of each token, where in its text; `go_on` moves them.
        starts: of each token, the first page that it goes over on its own, up to its place.
        items: pages that some go over together before that: first token, last + 1, line, first page, last + 1.
    """

    def __init__(self, lines: Ints, places: Longs, starts: Ints, items: Ints) -> None:
        self.lines, self.places, self.starts, self.items = lines, places, starts, items
        self._step, self._due = 0, dict[int, list[int]]()  # rows that lack a page, by the step in which

    @cached_property
    def given(self) -> Given:
        """Made when it is wanted: many plans only become part of others."""
        size = len(self.places)
        whole = torch.zeros(2, 1, -(-size // STEP) * STEP, dtype=torch.long)
        moving = whole[1, 0, :size]
        moving.numpy()[:] = self.places
        self.places = moving.numpy()
        addresses = [_address(array) for array in (self.lines, self.places, self.starts, self.items)]
        return Given(whole[0], whole[1], whole[0, 0, :size].numpy(), moving, addresses)

    @classmethod
    def of_rows(cls, rows: Sequence[Row], table: Table) -> Plan:
        """One token more of each of some rows, those that share pages side by side."""
        lines = np.array([row.line for row in rows], dtype=np.int32)
        counts = [len(row.pages) for row in rows]
        places = [len(row.prompt) + len(row.tokens) - 1 for row in rows]  # as `seen`; every row has a token
        pages = table.cells[lines, : max(counts)]
        # How many pages neighbours have in common, and so each row with any other: what several have is full.
        same = np.logical_and.accumulate((pages[1:] == pages[:-1]) & (pages[1:] != _NONE), axis=1).sum(axis=1).tolist()
        common = list(map(max, [0, *same], [*same, 0]))
        items = [(first, last, lines[first], page, stop) for first, last, page, stop in _shared(same, 0, len(rows), 0)]
        plan = cls(lines, np.array(places), np.array(common, np.int32), np.array(items, np.int32))
        for n, (count, place) in enumerate(zip(counts, places, strict=True)):
            plan._due.setdefault(PAGE * count - place, []).append(n)
        return plan

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[int, int, int]]) -> Plan:
        """Parts of some texts: their lines in the table, the first token and the last + 1."""
        items, lines, places = [], list[int](), list[int]()
        for line, first, last in parts:
            at = len(places) - first
            for begin in range(first, last, _TOGETHER):
                end = min(begin + _TOGETHER, last)
                items.append((at + begin, at + end, line, 0, pages_for(end)))
            places += range(first, last)
            lines += [line] * (last - first)
        nothing = np.full(len(places), np.iinfo(np.int32).max, dtype=np.int32)
        return cls(np.array(lines, np.int32), np.array(places), nothing, np.array(items, np.int32))

    def and_then(self, other: Plan) -> Plan:
        """Both in one pass."""
        size = len(self.places)
        return Plan(
            np.concatenate([self.lines, other.lines]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.starts, other.starts]),
            np.concatenate([self.items.reshape(-1, 5), other.items + np.array([size, size, 0, 0, 0], dtype=np.int32)]),
        )

    def without(self, gone: Sequence[bool]) -> Plan:
        """What is left of a plan for rows when some go; pages that those left have in common are still gone over once.

        Args:
            gone: of each row, whether it goes.
        """
        numbers = list(accumulate((not each for each in gone), initial=0))
        stay = ~np.array(gone)
        lines = self.lines[stay]
        items = [
            (numbers[first], numbers[last], lines[numbers[first]], page, stop)
            for first, last, _, page, stop in self.items.tolist()
            if numbers[first] < numbers[last]
        ]
        plan = Plan(lines, self.places[stay], self.starts[stay], np.array(items, np.int32))
        for step, rows in self._due.items():
            plan._due[step - self._step] = [numbers[n] for n in rows if not gone[n]]
        return plan

    def at_a_new_page(self) -> list[int]:
        """Rows whose next token begins a page that they lack, which they are to be given now."""
        rows = self._due.pop(self._step, [])
        if rows:
            self._due[self._step + PAGE] = rows
        return rows

    def go_on(self) -> None:
        """Every row has one token more."""
        self.given.places.add_(1)  # which are the same: numpy's first use behind a pass takes three times as long
        self._step += 1


def _shared(same: Sequence[int], first: int, last: int, at: int) -> Iterator[tuple[int, ...]]:
    """Pages from number `at` that some of these rows have in common, those of most rows first.

    Args:
        same: how many pages each row has in common with the next.
        first: row.
        last: the row after them.
        at: pages that all of them have in common and that are done.

    Yields:
        The first row, the last + 1, the first page, the last + 1.
    """
    if last - first < 2:
        return
    size = min(same[first : last - 1])
    if size > at:
        yield first, last, at, size
    ends = [n + 1 for n in range(first, last - 1) if same[n] == size]
    for begin, end in pairwise([first, *ends, last]):
        yield from _shared(same, begin, end, size)


class PagedAttention(Attention):
    """Attention over pages.

    Args:
        pages: where keys and values lie.
        table: whose pages these are.

    Attributes:
        layer: whose turn it is.
    """

    def __init__(self, pages: Pages, table: Table) -> None:
        self._pages, self._table, self.layer = pages, table, 0
        self._plan: Plan
        self._cells = pages.cells.ctypes.data

    def over(self, plan: Plan) -> Self:
        """Attention of these tokens, where it is entered."""
        self._plan = plan
        return self

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
        pointers = [*(tensor.data_ptr() for tensor in (query, key, value, out, state)), self._cells + 4 * at]
        sizes = [tokens, len(plan.items), self._table.cells.shape[1], self._pages.stride, heads, keyed]

        function, _ = compiled(key_width, value_width)

        def run(first: int, last: int) -> None:
            function(*pointers, self._table.address, *plan.given.addresses, *sizes, first, last, scale)

        if (threads := min(torch.get_num_threads(), keyed)) == 1:
            run(0, keyed)
        else:
            bounds = [keyed * n // threads for n in range(threads + 1)]
            list(_pool(threads).map(run, bounds[:-1], bounds[1:]))
        return out[..., :value_width]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "testbed-attention")
