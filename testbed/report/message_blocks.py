"""What a model wrote, in pieces: its prose, its calls as the testbed's parser reads them, its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from testbed.errors import LONGEST_NAME
from testbed.protocol import ANSWER_CLOSE, ANSWER_OPEN, CALL_CLOSE, CALL_OPEN, parse
from testbed.types import ToolCall

MOST_CALLS = 100  # of one message that are shown as calls; what a model writes behind them stands as text
MOST_ARGUMENTS = 100  # of one call that are shown one by one; a call with more stands as it was written
MOST_BLOCKS = 1_000  # of one message; what a model writes behind them stands as text
MOST_SPREAD = 20  # times as long as on one line; lists in lists, a line each, grow with the square of their depth


@dataclass(frozen=True)
class Block:
    """A piece of a step.

    Attributes:
        label: what it is, such as "calls python", "code", "answers"; empty for plain text.
        text: as it was written or returned.
        fault: whether it is a fault of the model.
    """

    label: str
    text: str
    fault: bool = False


def read_blocks(text: str) -> Iterator[Block]:
    """What a model wrote, in order; at least one block, even of nothing."""
    action = parse(text)
    at = made = 0
    for call in action.calls[:MOST_CALLS]:  # the parser found them in this order, from one opening tag to the next
        if made >= MOST_BLOCKS:
            break
        begins = text.index(CALL_OPEN, at)
        ends = text.find(CALL_CLOSE, begins)
        own = [*_prose(text[at:begins]), *_call(call, text[begins + len(CALL_OPEN) : ends if ends >= 0 else None])]
        yield from own
        made += len(own)
        at = ends + len(CALL_CLOSE) if ends >= 0 else len(text)
    if action.answer is not None:
        ends = text.index(ANSWER_CLOSE, text.index(ANSWER_OPEN))
        yield from _prose(text[: text.rindex(ANSWER_OPEN, 0, ends)])  # what mentions the tag before it is prose
        yield Block("answers", action.answer)
        at = ends + len(ANSWER_CLOSE)
    yield from _prose(text[at:]) if at else [Block("", text)]


def _prose(text: str) -> Iterator[Block]:
    if text.strip():
        yield Block("", text)


def short(name: str) -> str:
    """A name that a model made up, cut where it is too long for a heading."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _call(call: ToolCall, body: str) -> Iterator[Block]:
    yield Block(f"calls {short(call.name)}".rstrip(), "")
    if call.fault is not None:
        yield Block(call.fault.replace("_", " "), call.message, fault=True)
    elif len(call.arguments) <= MOST_ARGUMENTS and all(
        len(name) <= LONGEST_NAME for name in (call.name, *call.arguments)
    ):
        try:
            yield from [Block(name, _as_text(value)) for name, value in call.arguments.items()]
            if _says_no_more(body):
                return
        except RecursionError:  # lists in lists in lists: what can be read cannot always be written with line breaks
            pass
    yield Block("as written", body)


def _says_no_more(body: str) -> bool:
    """Whether a call holds nothing that the parser passes over: other names than its two, or one name twice."""
    try:
        return bool(json.loads(body, object_pairs_hook=_without_repeats).keys() <= {"name", "arguments"})
    except ValueError:
        return False


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _as_text(value: Any) -> str:
    """A JSON value for reading: a text stands as it is, unless it would read as another value, such as "3" as 3."""
    if isinstance(value, str) and value.strip() and not _reads_as_json(value):
        return value
    flat, spread = json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2)
    return spread if len(spread) <= MOST_SPREAD * len(flat) else flat


def _reads_as_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
