"""Characters that do not show, or that change how others show, made visible.

What a model writes may hold any character: control codes that drive a terminal, marks that turn the direction of
writing and so show a text in another order than it has, letters without a shape that hide words from a reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# Control codes but for line breaks and tabs; marks of format and direction (Cf), private use, separators of lines and
# paragraphs, halves of surrogate pairs, numbers that are no characters, fillers that look like nothing, and the
# selectors that can carry hidden text. Of these, one U+FE0E or U+FE0F by itself stays: emoji are made of them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]+"
)
_OF_EMOJI = ("\ufe0e", "\ufe0f")
_PICTURES = 0x2400  # where Unicode keeps its pictures of control codes
_DELETE = 0x7F
_LONGEST_SHOWN = 10  # characters that stand for one that does not show, such as ‹U+E0001›
_STRETCH = 4096  # characters of a text that are looked at together


def visible(text: str, mark: Callable[[str], str] = str) -> str:
    """Text in which every character shows: control codes as their pictures (␛), others as ‹U+202E›.

    Args:
        text: any text, lone halves of surrogate pairs included.
        mark: what becomes of a row of characters that were made visible.

    Returns:
        Text that UTF-8 can hold.
    """

    def shown(found: re.Match[str]) -> str:
        unseen = found.group()
        return unseen if unseen in _OF_EMOJI else mark(unseen.translate(_NAMES))

    return _UNSEEN.sub(shown, text)


def beginning(text: str, longest: int) -> str:
    """As much of a text as takes so many characters once `visible` has shown it, or somewhat less."""
    if len(text) * _LONGEST_SHOWN <= longest:
        return text
    room = longest
    for start in range(0, len(text), _STRETCH):
        stretch = text[start : start + _STRETCH]
        room -= len(stretch) + (_LONGEST_SHOWN - 1) * sum(map(len, _UNSEEN.findall(stretch)))
        if room < 0:
            return text[:start]
    return text


def visible_in(value: Any) -> Any:
    """A JSON value with every text in it as `visible` shows it, names of fields included."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): visible_in(inner) for key, inner in value.items()}
    return [visible_in(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Names(dict[int, str]):
    """What stands for a character that does not show; each name is made once, as a text may hold millions of it."""

    def __missing__(self, code: int) -> str:
        name = chr(_PICTURES + code) if code < 0x20 else "␡" if code == _DELETE else f"‹U+{code:04X}›"
        self[code] = name
        return name


_NAMES = _Names()
