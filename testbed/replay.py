"""What the tools of a recorded attempt returned, found again by call.

A transcript is a whole recording: the messages of the model hold every call with its arguments, and each is followed by
its result in the order of the calls, as the model was shown it, with the kind of its fault and its tokens.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from testbed.errors import FaultKind, NotRecorded, did_you_mean
from testbed.protocol import parse
from testbed.results import of_fault, refusal
from testbed.types import Message, ToolCall, ToolResult, canonical

_SHOWN = 200  # characters of a call in messages

Key = tuple[str, str]


class Exchange(NamedTuple):
    """A call and what came back."""

    call: ToolCall
    result: ToolResult


def exchanges(transcript: Iterable[Message]) -> Iterator[Exchange]:
    """Every call of a transcript that has a result, in order."""
    calls: deque[ToolCall] = deque()
    for message in transcript:
        if message["role"] == "assistant":
            calls = deque(parse(message["content"]).calls)
        elif message["role"] == "tool" and calls:
            fault = FaultKind(message["fault"]) if "fault" in message else None
            told = (message.get("tokens", 0), message.get("cut"))
            yield Exchange(calls.popleft(), ToolResult(message["name"], message["content"], fault, *told))


class Recorded:
    """The results of one recorded attempt: each is given once, to a call with the same tool and arguments.

    Calls with equal arguments get theirs in the recorded order. Tools that keep state answer in the order in which they
    were called, all of them together: what they would have said in another order was not recorded.

    Args:
        transcript: of the recorded attempt; None where there is none.
        what: the recorded attempt, for messages.
        stateful: names of the tools that keep state; None for all.
        live: whether calls that were not recorded are to be made.
    """

    def __init__(
        self,
        transcript: Iterable[Message] | None,
        *,
        what: str,
        stateful: Collection[str] | None = None,
        live: bool = False,
    ) -> None:
        self._what, self._live, self._stateful = what, live, stateful
        self._there = transcript is not None
        self._by_call: dict[Key, deque[ToolResult]] = defaultdict(deque)
        self._in_order: deque[tuple[Key, ToolResult]] = deque()
        self._order_used = self._order_left = False
        for call, result in exchanges(transcript or ()):
            if call.fault is None and not refused(call, result):  # the others are told anew, as things then stand
                if self._keeps_state(call.name):
                    self._in_order.append((_key(call), result))
                else:
                    self._by_call[_key(call)].append(result)

    def take(self, call: ToolCall) -> ToolResult | None:
        """The recorded result of a call; None where it is to be made.

        Raises:
            NotRecorded: there is none, and it is not to be made; names the nearest recorded call.
        """
        result = self._next(call) if self._keeps_state(call.name) else self._of(call)
        if result is None and not self._live:
            raise NotRecorded(f"{self._what}: {self._missing(call)}")
        return result

    def _keeps_state(self, name: str) -> bool:
        return self._stateful is None or name in self._stateful

    def _of(self, call: ToolCall) -> ToolResult | None:
        left = self._by_call.get(_key(call))
        return left.popleft() if left else None

    def _next(self, call: ToolCall) -> ToolResult | None:
        if not self._order_left and self._in_order and self._in_order[0][0] == _key(call):
            self._order_used = True
            return self._in_order.popleft()[1]
        if self._live and self._order_used and not self._order_left:
            raise NotRecorded(
                f"{self._what}: {self._missing(call)} It cannot be made either: {call.name} keeps state, and its "
                "earlier calls were replayed, not made."
            )
        self._order_left = True
        return None

    def _missing(self, call: ToolCall) -> str:
        if not self._there:
            return "this attempt was not recorded."
        asked = _shown(_key(call))
        if self._keeps_state(call.name) and self._in_order:
            return f"the call {asked} was not recorded here; recorded next is {_shown(self._in_order[0][0])}."
        left = [_shown(key) for key, results in self._by_call.items() if results]
        again = " once more" if _key(call) in self._by_call else ""
        near = did_you_mean(asked, left) if left else " No recorded call is left."
        return f"the call {asked} was not recorded{again}.{near}"


def _key(call: ToolCall) -> Key:
    return call.name, canonical(dict(call.arguments))


def _shown(key: Key) -> str:
    text = f"{key[0]} {key[1]}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def refused(call: ToolCall, result: ToolResult) -> bool:
    """Whether no tool had the call: there is none of its name, or it came after the budget.

    The words may be cut to the tokens that were left.
    """
    if result.fault is FaultKind.TOOL_NOT_FOUND:
        return True
    kind = FaultKind.BUDGET_EXHAUSTED
    told = [of_fault(kind, refusal(call.name, whole=whole)) for whole in (True, False)]
    return result.fault is kind and any(text.startswith(result.text) for text in told)
