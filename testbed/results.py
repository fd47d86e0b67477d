"""What a tool returned, as text that a model can be shown and a store can hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from testbed.errors import FaultKind
from testbed.types import well_formed

NO_OUTPUT = "(no output)"
_CUT = re.compile(r"\n\[\d+ more characters cut\]\Z")
_LONGEST_NOTE = 60  # characters of such a note


def as_text(result: Any) -> str:
    """A tool's result as text: bytes are decoded, text blocks joined, other values written as JSON where they can be.

    None becomes `NO_OUTPUT`.
    """
    if isinstance(result, str):
        return result
    if result is None:
        return NO_OUTPUT
    if isinstance(result, bytes | bytearray):
        return result.decode("utf-8", "replace")
    if isinstance(result, list) and result and all(isinstance(b, dict) and b.get("type") == "text" for b in result):
        return "\n".join(str(block.get("text", "")) for block in result)  # content blocks, as MCP tools return them
    if isinstance(result, dict | list | tuple):
        try:
            return json.dumps(result, ensure_ascii=False, default=str)
        except (TypeError, ValueError):  # keys that are no text, or a value that holds itself
            return str(result)
    return str(result)


def cut(text: str, characters: int) -> str:
    """`text` in at most so many characters, well formed; what was left out is stated after it.

    What was cut before, as a replayed result was, stays as it is.
    """
    before = _CUT.search(text, max(0, len(text) - _LONGEST_NOTE))
    if len(text) <= characters or (before and before.start() <= characters):
        return well_formed(text)
    return f"{well_formed(text[:characters])}\n[{len(text) - characters} more characters cut]"


def refusal(tool: str, *, whole: bool) -> str:
    """What a call is told that comes after the budget: that of the tool, or the `whole` one."""
    if whole:
        return "the tool budget is spent; answer now."
    return f"no calls of {tool} are left; use another tool or answer."


def of_fault(kind: FaultKind, message: str) -> str:
    """A fault of the model as the result of its call."""
    return f"error: {kind}: {message}"


def cut_to_tokens(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """A prefix of `text` that counts at most `tokens`, found by bisection; the longest where counts only grow."""
    if tokens <= 0:
        return ""
    if count(text) <= tokens:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]
