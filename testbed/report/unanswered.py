"""Arms none of whose attempts came to an answer: what their models wrote in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from testbed.protocol import parse
from testbed.report.record import ArmSummary
from testbed.report.transcript_view import text_of
from testbed.report.words import attempts

if TYPE_CHECKING:
    from testbed.store import Store

_READ = 1_000  # attempts of an arm that are looked into
_QUOTED = 80  # characters of the first message


def unanswered(store: Store, run: str, arms: Iterable[ArmSummary]) -> Iterator[str]:
    """A caution for each arm of which no attempt ended with an answer, and no message holds one."""
    for arm in arms:
        if arm.attempts and not arm.ended.get("answered"):
            yield from _of(store, run, arm)


def _of(store: Store, run: str, arm: ArmSummary) -> Iterator[str]:
    said = (
        text_of(message)
        for attempt in islice(store.attempts(run, arm=arm.name), _READ)
        if attempt.success is not None
        for message in attempt.transcript
        if message["role"] == "assistant"
    )
    first = next(said, None)
    if first is None or any(parse(text).answer is not None for text in (first, *said)):
        return
    where = f"the first {attempts(_READ)}" if arm.attempts + arm.missing > _READ else attempts(arm.attempts)
    beginning = " ".join(first.split())
    quoted = beginning if len(beginning) <= _QUOTED else f"{beginning[:_QUOTED]}…"
    yield (
        f"No message in {where} of arm {arm.name!r} held an answer in the form that the prompt asks for, so that all "
        f"of them failed. The first message {f'begins: {quoted}' if quoted else 'is empty'}"
    )
