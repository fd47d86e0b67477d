"""Who goes over which pages with whom, and when each row is given a page."""

from __future__ import annotations

import random

import pytest

from testbed.models.hf_kernel import PAGE
from testbed.models.hf_lineup import Lineup
from testbed.models.hf_pages import pages_for
from testbed.models.hf_plan import Plan, Table
from testbed.models.hf_row import Row


def row_on(pages: list[int], lacks: int, table: Table) -> Row:
    """A row that has read its prompt, which lacks so many tokens of filling its pages."""
    row = Row(tuple(range(PAGE * len(pages) - lacks)), 300, pages=pages)
    row.line = table.enter(pages)
    return row


def gone_over(plan: Plan, table: Table) -> list[list[int]]:
    """The pages that each token goes over, in order."""
    over: list[list[int]] = [[] for _ in plan.places]
    for first, last, line, begin, end in plan.items:
        for n in range(first, last):
            over[n] += table.cells[line, begin:end].tolist()
    for pages, line, start, place in zip(over, plan.lines, plan.starts, plan.places, strict=True):
        pages += table.cells[line, start : place // PAGE + 1].tolist()
    return over


def test_rows_go_together_over_the_pages_that_they_share_and_over_each_page_once() -> None:
    pages = [[7, 8], [0, 1, 2, 4], [6], [0, 1, 5], [0, 1, 2, 3]]
    table, lineup = Table(), Lineup()
    rows = [row_on(each, 3, table) for each in pages]
    lineup.enter(rows)
    for row in rows:
        row.tokens.append(0)
    assert not lineup.begin_pass()
    plan = lineup.next_plan()
    assert [row.pages for row in lineup.rows] == sorted(pages)
    assert [tuple(item) for item in plan.items] == [(0, 3, 4, 0, 2), (0, 2, 4, 2, 3)]
    assert gone_over(plan, table) == sorted(pages)  # in order, too
    lineup.leave({rows[4], rows[2]})
    assert not lineup.begin_pass()
    left = lineup.next_plan()
    assert [tuple(item) for item in left.items] == [(0, 2, 1, 0, 2), (0, 1, 1, 2, 3)]
    assert gone_over(left, table) == [pages[1], pages[3], pages[0]]


@pytest.mark.parametrize("seed", range(4))
def test_every_token_goes_over_the_pages_of_its_text_whoever_comes_and_goes(seed: int) -> None:
    rng, table, lineup = random.Random(seed), Table(), Lineup()
    fresh = iter(range(10**6))
    trunks = [[next(fresh) for _ in range(rng.randrange(1, 5))] for _ in range(6)]
    together = 0
    for _ in range(150):
        coming = []
        for _ in range(rng.choice((0, 0, 0, 1, 5))):
            shared = rng.choice(trunks)
            shared = shared[: rng.randrange(1, len(shared) + 1)]
            own = [next(fresh)] if rng.random() < 0.7 else []  # else the prompt ends with a page, which all share
            coming.append(row_on([*shared, *own], rng.randrange(PAGE) if own else 0, table))
        lineup.enter(coming)
        for row in coming:
            row.tokens.append(0)
        gone = {row for row in lineup.rows if rng.random() < 0.06}
        for row in gone:
            table.leave(row.line)
            row.pages = []
        lineup.leave(gone)
        if not lineup.rows:
            continue
        wanted = [row for row in lineup.rows if row.seen // PAGE == len(row.pages)]
        lacking = lineup.begin_pass()
        assert sorted(map(id, lacking)) == sorted(map(id, wanted))
        for row in lacking:
            page = next(fresh)
            table.add(row.line, len(row.pages), page)
            row.pages.append(page)
        plan = lineup.next_plan()
        assert plan.places == [row.seen for row in lineup.rows]
        assert gone_over(plan, table) == [row.pages for row in lineup.rows]
        together += sum(last - first > 1 for first, last, *_ in plan.items)
        for row in lineup.rows:
            row.tokens.append(0)
    assert together > 100
    assert len({pages_for(row.seen) for row in lineup.rows}) > 1


def test_a_row_that_comes_again_is_a_new_one() -> None:
    table, lineup = Table(), Lineup()
    a, b = (row_on(pages, 1, table) for pages in ([0, 1, 2, 3], [0, 1, 2, 4]))
    lineup.enter([a, b])
    for row in (a, b):
        row.tokens.append(0)
    assert not lineup.begin_pass()
    assert [item.stop for item in lineup.next_plan().items] == [3]
    table.leave(b.line)
    b.restart()
    lineup.leave({b})
    b.pages = [4, 5, 6, 7]
    b.line = table.enter(b.pages)
    lineup.enter([b])
    for row in (a, b):
        row.tokens.append(0)
    assert lineup.begin_pass() == [a]  # which now begins its fifth page, as the other would have
    a.pages.append(8)
    table.add(a.line, 4, 8)
    plan = lineup.next_plan()
    assert plan.items == []
    assert gone_over(plan, table) == [[0, 1, 2, 3, 8], [4, 5, 6, 7]]
