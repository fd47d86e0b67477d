"""Tries that cost a reply which does not come again: what is left of such attempts counts as missing.

What broke may have chosen it: were an attempt simply made again, those that break would be drawn twice. So that a run
which is stopped, or ends in whatever way, does not forget it, such a try is stored while the next one waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from testbed.errors import ModelNotAsked, YokeMissing
from testbed.trial import has_reply
from testbed.types import REDRAWN, Attempt


class LostTries:
    """How many such tries there were, by attempt."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def remember(self, missing: Iterable[Attempt]) -> None:
        """Takes in what is stored of attempts recorded as missing whose model, asked again, writes something else."""
        for attempt in missing:
            asked = attempt.ended != f"missing:{ModelNotAsked.kind}" or has_reply(attempt.transcript)
            lost = attempt.faults.get(REDRAWN, 0) + (asked and attempt.ended != f"missing:{YokeMissing.kind}")
            if lost:
                self._of[attempt.id] = lost

    def add(self, id: str) -> None:
        """Counts one more try at an attempt."""
        self._of[id] = self._of.get(id, 0) + 1

    def marked(self, attempt: Attempt) -> Attempt:
        """The attempt, with how many earlier tries were lost among its faults."""
        lost = self._of.get(attempt.id, 0)
        return replace(attempt, faults={**attempt.faults, REDRAWN: lost}) if lost else attempt
