"""The rows under way in pages: in which order they go through the model, and when each begins a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import compress, pairwise
from operator import attrgetter

from testbed.beginnings import in_common
from testbed.models.hf_kernel import PAGE
from testbed.models.hf_plan import Plan
from testbed.models.hf_row import Row


class Lineup:
    """Rows of which each pass reads one token, those that share pages side by side.

    Attributes:
        rows: in order.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._plan: Plan | None = None  # of the last pass, without those that left since
        self._next: dict[Row, tuple[Row, int]] = {}  # who stood next to a row, and how many pages they have in common
        self._passes = 0
        self._due: defaultdict[int, list[Row]] = defaultdict(list)  # rows that lack a page, by the pass before which

    def enter(self, rows: Iterable[Row]) -> None:
        """Takes in rows that have pages for what was read of them."""
        for row in rows:
            self._due[self._passes + PAGE * len(row.pages) - row.seen].append(row)
            self.rows.append(row)
        self._plan = None

    def leave(self, gone: AbstractSet[Row]) -> None:
        """Takes rows out, whose pages were taken from them."""
        stay = [row not in gone for row in self.rows]
        self._next = {a: known for a, known in self._next.items() if a not in gone and known[0] not in gone}
        if self._plan is not None:
            self._plan = self._plan.of_those(stay)
        self.rows = list(compress(self.rows, stay))

    def begin_pass(self) -> list[Row]:
        """Goes on to the next pass; rows whose token in it begins a page, which they are to be given now."""
        due = dict.fromkeys(self._due.pop(self._passes, ()))
        rows = [row for row in due if row.seen == PAGE * len(row.pages)]  # others have left since
        self._passes += 1
        if rows:
            self._due[self._passes - 1 + PAGE] += rows
        return rows

    def next_plan(self) -> Plan:
        """The pass that was begun, all of whose rows have pages for it."""
        if self._plan is None:
            self._plan = Plan.of_rows(self.rows, self._arrange())
        else:
            self._plan.go_on()
        return self._plan

    def _arrange(self) -> list[int]:
        """Puts rows that share pages side by side; how many each has in common with the next."""
        self.rows.sort(key=attrgetter("pages"))
        before, self._next = self._next, {}
        for row, other in pairwise(self.rows):
            known = before.get(row)
            if known is None or known[0] is not other:  # what two have in common stays: a new page is one row's own
                known = other, in_common(row.pages, other.pages) if row.pages[0] == other.pages[0] else 0
            self._next[row] = known
        return [size for _, size in self._next.values()]
