"""What a pass over tokens of many texts is told: whose they are, where they stand, and who goes over which pages.

All of it is made between two passes, when nothing of numpy or PyTorch is left in the processor's caches and each of
their calls takes tens of microseconds: so plans are plain lists, handed over as arrays of the standard library.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, compress, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from testbed.models.hf_pages import pages_for
from testbed.models.hf_row import Row

Tensor = torch.Tensor

# Rows of a pass come in multiples of this: PyTorch computes the last numbers of a tensor otherwise than those before
# them, and MKL, which has the products that are not compiled here, those of fewer rows.
STEP = 16

_TOGETHER = 16  # tokens of one text that go over a page together: their state is to stay in the nearest cache too
_LINES, _COLUMNS = 64, 32  # of a new table
_AHEAD = 8  # columns for pages to come
_TOKENS = 256  # that new inputs have memory for
_EVERY = (1 << 31) - 1  # more than any page's number


class Table:
    """Pages of the texts under way, each in a line that it keeps.

    Attributes:
        cells: lines × columns; a text's line goes on with whatever stood there before.
        address: where they lie.
    """

    def __init__(self) -> None:
        self.cells: npt.NDArray[np.int32] = np.zeros((0, 0), dtype=np.int32)
        self._resize(_LINES, _COLUMNS)
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
        at = line * columns
        self._flat[at : at + len(pages)] = array("i", pages)
        return line

    def add(self, line: int, column: int, page: int) -> None:
        """Gives a text one page more, in that column."""
        lines, columns = self.cells.shape
        if column == columns:
            columns += _AHEAD
            self._resize(lines, columns)
        self._flat[line * columns + column] = page

    def leave(self, line: int) -> None:
        """The line is another's to have."""
        self._free.append(line)

    def _resize(self, lines: int, columns: int) -> None:
        larger = np.zeros((lines, columns), dtype=np.int32)
        larger[: len(self.cells), : self.cells.shape[1]] = self.cells
        self.cells, self.address = larger, larger.ctypes.data
        self._flat = larger.data.cast("B").cast("i")


class Item(NamedTuple):
    """Pages that some tokens go over together.

    Attributes:
        first: token.
        last: token + 1.
        line: of the table in which the pages stand.
        page: first of the line's pages.
        stop: last of them + 1.
    """

    first: int
    last: int
    line: int
    page: int
    stop: int


class Plan:
    """One pass over a row of tokens.

    Args:
        lines: of each token, where its text stands in the table.
        places: of each token, where in its text; `go_on` moves them, and nothing else of a plan changes.
        starts: of each token, the first page that it goes over on its own, up to its place.
        items: what some go over together before that.
    """

    def __init__(self, lines: list[int], places: list[int], starts: list[int], items: list[Item]) -> None:
        self.lines, self.places, self.starts, self.items = lines, places, starts, items

    @cached_property
    def arrays(self) -> tuple[array[int], array[int], array[int]]:
        """Lines, starts and items as the compiled function takes them: int32, these (items, 5)."""
        return array("i", self.lines), array("i", self.starts), array("i", chain.from_iterable(self.items))

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """Where these arrays lie."""
        lines, starts, items = (numbers.buffer_info()[0] for numbers in self.arrays)
        return lines, starts, items

    @classmethod
    def of_rows(cls, rows: Sequence[Row], same: Sequence[int]) -> Plan:
        """One token more of each of some rows.

        Args:
            rows: those that share pages side by side.
            same: how many pages each has in common with the next; what several have in common is full.
        """
        lines = [row.line for row in rows]
        places = [len(row.prompt) + len(row.tokens) - 1 for row in rows]  # as `seen`; every row has a token
        shared = _shared(same, 0, len(rows), 0)
        items = [Item(first, last, lines[first], page, stop) for first, last, page, stop in shared]
        return cls(lines, places, list(map(max, [0, *same], [*same, 0])), items)

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[int, int, int]]) -> Plan:
        """Parts of some texts: their lines in the table, the first token and the last + 1."""
        items, lines, places = [], list[int](), list[int]()
        for line, first, last in parts:
            at = len(places) - first
            for begin in range(first, last, _TOGETHER):
                end = min(begin + _TOGETHER, last)
                items.append(Item(at + begin, at + end, line, 0, pages_for(end)))
            places += range(first, last)
            lines += [line] * (last - first)
        return cls(lines, places, [_EVERY] * len(places), items)

    def and_then(self, other: Plan) -> Plan:
        """Both in one pass."""
        n = len(self.places)
        behind = [Item(first + n, last + n, line, page, stop) for first, last, line, page, stop in other.items]
        return Plan(
            self.lines + other.lines, self.places + other.places, self.starts + other.starts, self.items + behind
        )

    def of_those(self, stay: Sequence[bool]) -> Plan:
        """What is left of a plan for rows when some go; pages that those left have in common are still gone over once.

        Args:
            stay: of each row, whether it stays.
        """
        numbers = list(accumulate(stay, initial=0))
        lines = list(compress(self.lines, stay))
        items = [
            Item(numbers[first], numbers[last], lines[numbers[first]], page, stop)
            for first, last, _, page, stop in self.items
            if numbers[first] < numbers[last]
        ]
        return Plan(lines, list(compress(self.places, stay)), list(compress(self.starts, stay)), items)

    def go_on(self) -> None:
        """Every row has one token more."""
        self.places = [place + 1 for place in self.places]


def _shared(same: Sequence[int], first: int, last: int, at: int) -> Iterator[tuple[int, int, int, int]]:
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
        if end - begin > 1:
            yield from _shared(same, begin, end, size)


class Inputs:
    """Tokens and their places as the model takes them, in memory that each pass uses again.

    Attributes:
        places_at: where the places lie.
    """

    def __init__(self) -> None:
        self._have(_TOKENS)

    def of(self, tokens: Sequence[int], places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Both, shape (1, whole steps of the model's products): these give a row the same numbers in any company."""
        lacks = -len(tokens) % STEP
        whole, padding = len(tokens) + lacks, [0] * lacks
        if whole > len(self._tokens):
            self._have(2 * whole)
        self._tokens[:whole] = array("q", [*tokens, *padding])
        self._places[:whole] = array("q", [*places, *padding])
        if whole not in self._made:
            self._made[whole] = self._both[0, None, :whole], self._both[1, None, :whole]
        return self._made[whole]

    def _have(self, size: int) -> None:
        self._both = torch.zeros(2, size, dtype=torch.long)
        self._tokens, self._places = (each.numpy().data.cast("B").cast("q") for each in self._both)
        self.places_at = self._both[1].data_ptr()
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
