"""Arms none of whose attempts came to an answer: what their models wrote in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


def _served(store: Store, run: str) -> set[str]:
    """Arms whose model is behind a server, which writes the messages out of its tokens."""
    models = {record.name: record.spec.get("model") for record in store.run(run).arms}
    return {name for name, model in models.items() if isinstance(model, Mapping) and model.get("kind") == "chat"}


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
    served = _served(store, run)
    where = f"the first {attempts(_READ)}" if arm.attempts + arm.missing > _READ else attempts(arm.attempts)
    lost = (
        " Where the model's tags are special tokens, its server may leave them out: see `chat:` in the page on the "
        "experiment file."
        if arm.name in served
        else ""
    )
    beginning = " ".join(first.split())
    quoted = beginning if len(beginning) <= _QUOTED else f"{beginning[:_QUOTED]}…"
    yield (
        f"No message in {where} of arm {arm.name!r} held an answer in the form that the prompt asks for, so that all "
        f"of them failed, whatever limit ended them.{lost} The first message "
        f"{f'begins: {quoted}' if quoted else 'is empty'}"
    )
