"""Where rows stand in the cache: those of like width side by side, and few of them move."""

from __future__ import annotations

import random
from math import inf

from testbed.models.hf_places import arrange
from testbed.models.hf_row import Row


def rows_of(widths: list[int]) -> list[Row]:
    return [Row((1,) * width, 8) for width in widths]


def test_rows_of_like_width_stand_side_by_side_and_no_span_cuts_into_its_rows() -> None:
    rng = random.Random(0)
    widths = [rng.randrange(1, 400) for _ in range(100)]
    rows = rows_of(widths)
    order, spans = arrange(rows, {}, 100)
    assert sorted(map(id, order)) == sorted(map(id, rows))
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
    assert spans[-1].last == 100
    for first, last, skip in spans:
        assert max(row.own for row in order[first:last]) == max(widths) - skip
    read = sum((last - first) * (max(widths) - skip) for first, last, skip in spans)
    assert read < 0.7 * 100 * max(widths)


def test_a_span_that_saves_too_little_is_none() -> None:
    order, spans = arrange(rows_of([20, 10, 10, 10]), {}, 21)
    assert [row.own for row in order] == [20, 10, 10, 10]
    assert spans == [(0, 4, 0)]
    assert arrange(rows_of([20, 10, 10, 10]), {}, 10)[1] == [(0, 1, 0), (1, 4, 10)]
    assert len(arrange(rows_of(list(range(1, 400))), {}, inf)[1]) == 1


def test_rows_that_stand_where_they_may_stay_there() -> None:
    rows = rows_of([10] * 8)
    places = {row: place for place, row in enumerate(rows)}
    del places[rows[2]]
    new = Row((1,) * 10, 8)
    order, _ = arrange([*places, new], places, inf)
    assert order == [*rows[:2], new, *rows[3:]]  # the hole is filled, and nobody else moves
    order, _ = arrange(places, places, inf)
    assert order == [*rows[:2], rows[7], *rows[3:7]]


def test_no_rows_are_no_spans() -> None:
    assert arrange([], {}, 1) == ([], [])
