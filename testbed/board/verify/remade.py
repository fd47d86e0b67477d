"""Whether a tool result that was made again is the recorded one, another one, or nobody can tell.

Time and memory come out otherwise on another machine, whoever is honest. So results that one of them ended are not held
against anybody; but who says that one did must say it in the testbed's own words, which leave no room for others, and
nothing of it passes for checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal

from testbed.budget import LARGEST
from testbed.errors import FaultKind
from testbed.report.leaks import CODE
from testbed.results import cut_to_tokens, of_fault
from testbed.types import ToolResult

Compared = Literal["same", "other", "open"]
PRINTED = "\nIt printed before:\n"  # what follows in a program's fault is the program's own
UNSTEADY = (FaultKind.TIMEOUT, FaultKind.EXECUTION_ERROR)
# What tells the time, draws numbers, names processes and addresses, or does things in whatever order.
_MODULES = "random|secrets|uuid|time|datetime|os|platform|tempfile|threading|multiprocessing|concurrent|asyncio"
_DRAWS = re.compile(rf"\b(?:import|from)\b[^\n]*\b(?:{_MODULES})\b|__import__|\.random\b|\bid\(")
_SIGNALS = (6, 9, 11, 15, 24, 25)  # with which a machine ends a program that takes too much


def compared(
    own: ToolResult,
    second: ToolResult,
    recorded: ToolResult,
    words: frozenset[str],
    count: Callable[[str], int] | None = None,
) -> Compared:
    """How a recorded result compares with what the server's tool returned.

    Args:
        own: the whole of what it returned.
        second: the same once more.
        recorded: as the transcript has it, perhaps cut to the tokens that were left.
        words: in which an attempt is told that the machine ended this tool's call, see `machine_words`.
        count: tokens of a text as the attempt's model counts them; None where that is not known here.
    """
    if is_same(own, recorded, count) or is_same(second, recorded, count):
        return "same"
    if (own.text, own.fault) != (second.text, second.fault) or _ended_by_machine(own, words):
        return "open"  # a program that draws numbers or tells the time, or a slow server
    if not _ended_by_machine(recorded, words):
        return "other"
    _, told, before = recorded.text.partition(PRINTED)
    return "open" if not told or before in own.text else "other"


def is_same(own: ToolResult, recorded: ToolResult, count: Callable[[str], int] | None = None) -> bool:
    """Whether a result, made again whole, is the recorded one, see `compared`.

    One that was cut must have had more than the tokens that were left, and have been cut there.
    """
    if recorded.cut is None or own.fault != recorded.fault:
        return (own.text, own.fault) == (recorded.text, recorded.fault)
    if count is None:
        return len(own.text) > len(recorded.text) and own.text.startswith(recorded.text)
    shown = cut_to_tokens(own.text, recorded.cut, count)
    return shown == recorded.text and shown != own.text


def machine_words(name: str, tool: Mapping[str, Any]) -> frozenset[str]:
    """How an attempt is told that time or memory ended a tool's call, to the letter.

    Args:
        name: of the tool.
        tool: its description in the arm's hash: all limits are in it.
    """
    timeout, failed = FaultKind.TIMEOUT, FaultKind.EXECUTION_ERROR
    said = {of_fault(failed, f"ended by signal {signal}") for signal in _SIGNALS} | {of_fault(failed, "MemoryError")}
    for number in map("{:g}".format, _numbers(tool)):
        said |= {
            of_fault(timeout, f"{name}: took longer than {number} s."),
            of_fault(timeout, f"stopped after {number} s"),
            of_fault(timeout, f"stopped after more than {number} s of CPU time in one process"),
            of_fault(failed, f"stopped for using more than {number} MiB of memory"),
        }
    return frozenset(said)


def may_draw(arguments: Mapping[str, Any]) -> bool:
    """Whether a call runs a program that imports what may come out otherwise another time, though seldom."""
    code = arguments.get(CODE)
    return isinstance(code, str) and _DRAWS.search(code) is not None


def less_own_words(call: Mapping[str, Any], text: str) -> str:
    """A fault's text without the call's arguments, which it may repeat: for who looks for what a tool showed."""
    for value in sorted((v for v in call.values() if isinstance(v, str) and v), key=len, reverse=True):
        text = re.sub(re.escape(value), " ", text)
    return text


def _ended_by_machine(result: ToolResult, words: frozenset[str]) -> bool:
    if result.fault not in UNSTEADY:
        return False
    told = result.text.partition(PRINTED)[0]
    return told in words or (result.cut is not None and any(known.startswith(told) for known in words))


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a description."""
    if isinstance(value, Mapping):
        yield from chain.from_iterable(map(_numbers, value.values()))
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        yield float(value)
