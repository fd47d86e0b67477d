"""Which row of the cache a message stands in: long ones first, so that attention to the short ones reads no padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from testbed.models.hf_row import Row

# Where one span may end and the next begin, as parts of all rows: the longest are the fewest.
_BOUNDS = (16, 8, 4, 2, 1)


class Span(NamedTuple):
    """Rows of like width side by side.

    Attributes:
        first: row.
        last: the row after them.
        skip: columns that stand before all of theirs, from the widest row's first one.
    """

    first: int
    last: int
    skip: int


def arrange(rows: Iterable[Row], places: Mapping[Row, int], worth: float) -> tuple[list[Row], list[Span]]:
    """An order of rows in which those of like width are side by side, and in which few of them move.

    Args:
        rows: in any order.
        places: where some of them stand.
        worth: cells (rows times columns) of padding that a span of its own must save.
    """
    rows = sorted(rows, key=lambda row: -row.own)
    order: list[Row] = []
    spans = _spans([row.own for row in rows], worth)
    for first, last, _ in spans:
        stays = {at: row for row in rows[first:last] if first <= (at := places.get(row, -1)) < last}
        moves = iter([row for row in rows[first:last] if not first <= places.get(row, -1) < last])
        order += [stays.get(place) or next(moves) for place in range(first, last)]
    return order, spans


def _spans(widths: Sequence[int], worth: float) -> list[Span]:
    spans: list[Span] = []
    first = 0
    for last in [len(widths) // part for part in _BOUNDS]:
        if first == last:
            continue
        skip = widths[0] - widths[first]
        if spans and (last - first) * (skip - spans[-1].skip) < worth:
            spans[-1] = spans[-1]._replace(last=last)
        else:
            spans.append(Span(first, last, skip))
        first = last
    return spans
