"""Why attempts are missing, or ended as they should not, counted by cause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.types import Attempt

_SHOWN = 3  # causes that are told
_LONGEST = 240  # characters of one
_ENDING = 100  # of these, for its end
_SHORT_ID = 8
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")  # no address, version or part of a name


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
        common = but_for_numbers(self._counts).most_common(_SHOWN)
        told = [f"{count:,} x {_shortened(cause)}" for cause, count in common]
        rest = self._counts.total() - sum(count for _, count in common)
        told += [f"{rest:,} of other causes"] if rest else []
        look = f"see `testbed show {self._first[:_SHORT_ID]}{option}`"
        return f"{self._counts.total():,} {self.what}: {'; '.join(told)}; {look}"


def but_for_numbers(counts: Mapping[str, int]) -> Counter[str]:
    """Texts that differ in numbers only as one each, with what the numbers reach from and to: "518 to 577 tokens"."""
    groups: dict[str, list[str]] = {}
    for text in counts:
        groups.setdefault(_NUMBER.sub("0", text), []).append(text)
    return Counter({_spanned(texts): sum(counts[text] for text in texts) for texts in groups.values()})


def _spanned(texts: list[str]) -> str:
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    spans = iter([_span(sorted(set(column), key=_value)) for column in columns])
    return _NUMBER.sub(lambda _: next(spans), texts[0])


def _span(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _cause(attempt: Attempt) -> str:
    """Such as "model_not_asked (chat:openai:x: no connection)"; the record's last message says why."""
    kind = attempt.ended.removeprefix("missing:")
    last = attempt.transcript[-1] if attempt.transcript else None
    why = " ".join(str(last["content"]).split()) if last is not None and last["role"] == "system" else ""
    return f"{kind} ({why})" if why else kind


def _shortened(cause: str) -> str:
    """Its beginning and its end, cut between words where it has any: what to do stands at the end."""
    if len(cause) <= _LONGEST:
        return cause
    begins, ends = cause[: _LONGEST - _ENDING], cause[-_ENDING:]
    before, _, _ = begins.rpartition(" ")
    _, _, after = ends.partition(" ")
    head = before if len(before) > len(begins) / 2 else begins
    return f"{head} … {after if len(after) > len(ends) / 2 else ends}"
