"""What verification finds, as an entry's reasons keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "unchecked", "wrong"]
# What is checked, in the order in which it is told.
CHECKS = ("bundle", "structure", "arms", "missing", "copies", "answers", "counts", "tools", "leaks", "model")
MOST_TOLD = 10  # things of one kind that are told one by one; of more, how many there are
MOST_WRONG = 200  # after which nobody need read on
_LONGEST = 600


@dataclass(frozen=True)
class Reason:
    """One thing that was found.

    Attributes:
        check: of `CHECKS`.
        level: "ok", "note" (what readers should know, and no fault), "unchecked" or "wrong".
        text: in words; of a wrong attempt, which one.
        entry: id of the other entry that it is about; "" where it is about none.
    """

    check: str
    level: Level
    text: str
    entry: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As the database holds it."""
        about = {"entry": self.entry} if self.entry else {}
        return {"check": self.check, "level": self.level, "text": self.text, **about}


class Stopped(Exception):
    """Nothing more need be checked: what was found decides."""


class Findings:
    """What was found so far; each thing is told once."""

    def __init__(self) -> None:
        self._told: dict[Reason, None] = {}
        self._more: Counter[tuple[str, Level]] = Counter()

    def ok(self, check: str, text: str) -> None:
        """Something was checked and is right."""
        self._add(check, "ok", text)

    def note(self, check: str, text: str, entry: str) -> None:
        """Something is no fault, and worth knowing: that of another entry."""
        self._add(check, "note", text, entry)

    def unchecked(self, check: str, text: str) -> None:
        """Something could not be checked."""
        self._add(check, "unchecked", text)

    def wrong(self, check: str, text: str, entry: str = "") -> None:
        """Something is not as its author says, or is in another entry already.

        Raises:
            Stopped: so much is wrong that nobody need read on.
        """
        self._add(check, "wrong", text, entry)
        if sum(count for (_, level), count in self._more.items() if level == "wrong") >= MOST_WRONG:
            raise Stopped

    @property
    def state(self) -> str:
        """What becomes of the entry: verified, partly or rejected."""
        levels = {level for _, level in self._more}
        return "rejected" if "wrong" in levels else "partly" if "unchecked" in levels else "verified"

    def reasons(self) -> list[Reason]:
        """What is wrong, what could not be checked, what is worth knowing, what is right: each by the checks' order."""
        found = [reason for level in ("wrong", "unchecked", "note", "ok") for reason in self._of(level)]
        return found

    def _of(self, level: str) -> Iterable[Reason]:
        for check in CHECKS:
            told = [reason for reason in self._told if (reason.check, reason.level) == (check, level)]
            yield from told
            for (name, kind), count in self._more.items():
                if (name, kind) == (check, level) and count > len(told):
                    yield Reason(check, kind, f"{count - len(told):,} more of the same kind.")

    def _add(self, check: str, level: Level, text: str, entry: str = "") -> None:
        reason = Reason(check, level, text if len(text) <= _LONGEST else text[:_LONGEST] + "…", entry)
        if reason in self._told:
            return
        self._more[check, level] += 1
        if self._more[check, level] <= MOST_TOLD:
            self._told[reason] = None


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence, the first few of them."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names):,} in all)"
