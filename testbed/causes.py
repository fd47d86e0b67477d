"""Why attempts are missing, or ended as they should not, counted by cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from testbed.types import Attempt

_SHOWN = 3  # causes that are told
_LONGEST = 160  # characters of one
_SHORT_ID = 8


@dataclass
class Causes:
    """Counts attempts by what ended them.

    Args:
        what: became of them.
    """

    what: str = "missing"
    _counts: Counter[str] = field(default_factory=Counter)
    _first: str = ""

    def add(self, attempt: Attempt) -> None:
        """Counts one."""
        self._first = min(self._first or attempt.id, attempt.id)
        self._counts[_cause(attempt)] += 1

    def told(self, option: str = "") -> str:
        """The commonest causes and an attempt to look at; "" if there is none.

        Args:
            option: further options of the command that shows it, such as " --store results.sqlite".
        """
        if not self._counts:
            return ""
        told = [f"{count:,} x {cause}" for cause, count in self._counts.most_common(_SHOWN)]
        rest = self._counts.total() - sum(count for _, count in self._counts.most_common(_SHOWN))
        told += [f"{rest:,} of other causes"] if rest else []
        look = f"see `testbed show {self._first[:_SHORT_ID]}{option}`"
        return f"{self._counts.total():,} {self.what}: {'; '.join(told)}; {look}"


def _cause(attempt: Attempt) -> str:
    """Such as "model_not_asked (chat:openai:x: no connection)"; the record's last message says why."""
    kind = attempt.ended.removeprefix("missing:")
    last = attempt.transcript[-1] if attempt.transcript else None
    why = " ".join(str(last["content"]).split()) if last is not None and last["role"] == "system" else ""
    if len(why) > _LONGEST:
        why = why[: _LONGEST - 1] + "…"
    return f"{kind} ({why})" if why else kind
