"""What a program and the tests that judge it say to each other. Only the standard library: it runs in both sandboxes.

The program (`examinee.py`) and the tests (`examiner.py`) never share a process. The host carries questions from the
tests to the program, and answers back. What they hold is plain data, or the number of something that stays where it is.

Plain data: None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, deque,
Decimal, Fraction. A value of a subclass is sent as its base, a scalar of numpy as Python's. Everything is a copy: what
the program does to its arguments the tests do not see.

A message is JSON, so reading one runs nothing; a list in it begins with the name of a type. Whatever cannot be read so
is `Malformed`.
"""

from __future__ import annotations

import importlib
import json
import math
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

LARGEST = 1 << 20  # characters of a message
DEEPEST = 100  # levels of data in data

_EXACT_IN_JSON = 1 << 63

_Type = tuple[str, Callable[[Any], Iterable[Any]], Callable[..., Any]]  # module, parts of a value, value of the parts


def _of(module: str, name: str) -> Callable[..., Any]:
    """A type that is imported only where a value of it arrives."""
    return lambda *parts: getattr(importlib.import_module(module), name)(*parts)


# The types' own methods are named, since a subclass may have replaced them.
_CONTAINERS: dict[str, _Type] = {
    "list": ("builtins", list.__iter__, lambda *items: list(items)),
    "tuple": ("builtins", tuple.__iter__, lambda *items: items),
    "set": ("builtins", set.__iter__, lambda *items: set(items)),
    "frozenset": ("builtins", frozenset.__iter__, lambda *items: frozenset(items)),
    "deque": ("collections", iter, lambda *items: _of("collections", "deque")(items)),
    "dict": (
        "builtins",
        lambda value: [*dict.keys(value), *dict.values(value)],
        lambda *parts: dict(zip(parts[: len(parts) // 2], parts[len(parts) // 2 :], strict=True)),
    ),
}
_SCALARS: dict[str, _Type] = {
    "int": ("builtins", lambda value: [hex(value)], lambda text: int(text, 16)),
    "float": ("builtins", lambda value: [value.hex()], float.fromhex),
    "complex": ("builtins", lambda z: [z.real.hex(), z.imag.hex()], lambda *two: complex(*map(float.fromhex, two))),
    "bytes": ("builtins", lambda value: [bytes.hex(value)], bytes.fromhex),
    "bytearray": ("builtins", lambda value: [bytearray.hex(value)], bytearray.fromhex),
    "range": ("builtins", lambda value: [value.start, value.stop, value.step], range),
    "Decimal": ("decimal", lambda value: [str(value)], _of("decimal", "Decimal")),
    # Not as text, which may be 1e999999999 and take for ever.
    "Fraction": (
        "fractions",
        lambda value: [value.numerator, value.denominator],
        lambda top, bottom: _of("fractions", "Fraction")(top, bottom),
    ),
}
_TYPES = _CONTAINERS | _SCALARS
_EXACT = frozenset({bool, int, float, complex, str, type(None), list, tuple, dict})


class Unsendable(Exception):
    """A value is too large or too deep, or it is the tests' and no data."""


class Malformed(Exception):
    """A message that `pack` would not write."""


def pack(value: Any, hold: Callable[[Any], int]) -> str:
    """Writes a value as a message.

    Args:
        value: what to send.
        hold: keeps something that is not data and gives the number by which the other side will mean it.

    Raises:
        Unsendable: it is too large or too deep (as a list that contains itself is).
    """
    text = json.dumps(_Writer(hold).tree(value, 0), separators=(",", ":"))
    if len(text) > LARGEST:
        raise Unsendable(f"a value of more than {LARGEST} characters")
    return text


def unpack(text: str, held: Callable[[int], Any]) -> Any:
    """Reads a message.

    Args:
        text: what `pack` wrote, or anything at all.
        held: what stands for something that is not data, by its number.

    Raises:
        Malformed: it is none; `pack` would not write this.
    """
    if len(text) > LARGEST:
        raise Malformed("a message that is too long")
    try:
        return _read(json.loads(text, parse_constant=_refuse), held, 0)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise Malformed(f"a message that cannot be read ({type(error).__name__})") from None


class _Writer:
    """Turns values into what JSON can hold, up to a size."""

    def __init__(self, hold: Callable[[Any], int]) -> None:
        self._hold, self._left = hold, LARGEST

    def tree(self, value: Any, depth: int) -> Any:
        """The value as JSON's own scalar, or a list that begins with the name of its type."""
        value = _exact(value)
        kind = type(value)
        self._spend(1 + (len(value) if kind is str else value.bit_length() // 4 if kind is int else 0))
        if value is None or kind in (bool, str):
            return value
        if (kind is int and -_EXACT_IN_JSON < value < _EXACT_IN_JSON) or (kind is float and math.isfinite(value)):
            return value
        name, parts = _parts(value)
        if parts is None:
            return ["Remote", self._hold(value)]
        if depth > DEEPEST:
            raise Unsendable(f"a value nested more than {DEEPEST} deep")
        self._spend(0, ahead=operator.length_hint(parts))
        return [name, *(self.tree(part, depth + 1) for part in parts)]

    def _spend(self, size: int, ahead: int = 0) -> None:
        self._left -= size
        if self._left < ahead:
            raise Unsendable(f"a value of more than {LARGEST} characters")


def _parts(value: Any) -> tuple[str, Iterable[Any] | None]:
    """The name of the type that a value is sent as, and what it is made from there; None if it is no data."""
    for base in type(value).__mro__:
        if base.__name__ in _TYPES and base.__module__ == _TYPES[base.__name__][0]:
            return base.__name__, _TYPES[base.__name__][1](value)
    return "", None


def _exact(value: Any) -> Any:
    """A value of a subclass of a scalar type as its base."""
    kind = type(value)
    if kind in _EXACT:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, complex):
        return complex.__complex__(value)
    if any(base.__module__ == "numpy" and base.__name__ == "generic" for base in kind.__mro__):
        return value.item()
    return value


def _read(tree: Any, held: Callable[[int], Any], depth: int) -> Any:
    if not isinstance(tree, list):
        if isinstance(tree, dict):
            raise ValueError
        return tree
    if depth > DEEPEST + 1:
        raise ValueError
    name, *parts = (_read(part, held, depth + 1) for part in tree)
    if name in _CONTAINERS:
        return _CONTAINERS[name][2](*parts)
    if not all(type(part) in (str, int) for part in parts):
        raise ValueError
    return held(*parts) if name == "Remote" else _SCALARS[name][2](*parts)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def say(nonce: str, text: str) -> None:
    """Prints a line that the host will know by its nonce, among and after whatever else was printed."""
    data = f"\n{nonce} {text}\n".encode("ascii", "backslashreplace")
    while data:
        data = data[os.write(1, data) :]
