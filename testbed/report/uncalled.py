"""Arms none of whose tools was called, although their models wrote calls: their server left them in the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from testbed.protocol import parse, unescape
from testbed.report.record import ArmSummary
from testbed.report.scored import tool_names
from testbed.report.transcript_view import text_of
from testbed.report.words import attempts

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Store

_READ = 1_000  # attempts of an arm that are looked into


def uncalled(store: Store, run: str, arms: Iterable[ArmSummary]) -> Iterator[str]:
    """A caution for each arm of native calls that made none, and whose messages hold some as text."""
    native = {record.name for record in store.run(run).arms if tool_names(record.spec) and _calls_natively(record)}
    for arm in arms:
        if arm.name in native and arm.attempts and not arm.cost.get("tool_calls"):
            yield from _of(store, run, arm)


def _calls_natively(record: ArmRecord) -> bool:
    model = record.spec.get("model")
    return isinstance(model, Mapping) and model.get("kind") == "chat" and bool(model.get("native"))


def _of(store: Store, run: str, arm: ArmSummary) -> Iterator[str]:
    read = [attempt for attempt in islice(store.attempts(run, arm=arm.name), _READ) if attempt.success is not None]
    held = sum(
        any(_holds_a_call(text_of(message)) for message in attempt.transcript if message["role"] == "assistant")
        for attempt in read
    )
    if held:
        yield (
            f"In {held:,} of {attempts(len(read))} of arm {arm.name!r} a message holds a call of a tool as text, which "
            "was not made: its server leaves calls where the model wrote them. Start it with what finds them (vLLM's "
            "and SGLang's --tool-call-parser), or give the model native = false, and run the experiment under another "
            "name."
        )


def _holds_a_call(text: str) -> bool:
    """Whether it is one that could be made: what a length limit has cut, servers that find calls leave there, too."""
    return any(call.fault is None for call in parse(unescape(text)).calls)
