"""Values in the records of foreign logs: paths to them, tests on them, and the kinds that import needs."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.errors import DataError, UsageError, did_you_mean
from testbed.types import well_formed

_TEST = re.compile(r"(?P<path>.+?)\s*(?P<sign>>=|<=|!=|==|=|>|<)\s*(?P<value>.*)", re.DOTALL)
_ORDER = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@dataclass(frozen=True)
class Path:
    """Where a value stands in a record.

    Attributes:
        text: a column; ``usage.total`` for a nested value; ``infos[].r`` or ``accs[]`` for one value per list
            element, each of which is an attempt of its own.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip() or self.text.count("[]") > 1:
            raise UsageError(f"{self.text!r} names no column. Write column, column.key, or column[].key for a list.")

    @property
    def over(self) -> Path | None:
        """The list that a path with ``[]`` runs over, else None."""
        head, mark, _ = self.text.partition("[]")
        return Path(head) if mark else None

    def read(self, where: str, record: Mapping[str, Any], element: int = 0) -> Any:
        """The value in a record; of a list, in the element of this index.

        Raises:
            DataError: the record has no such column, or something else stands there.
        """
        head, mark, tail = self.text.partition("[]")
        value = _lookup(where, record, head)
        if not mark:
            return value
        if not isinstance(value, list):
            raise DataError(f"{where}: {head!r} is no list, so {self.text!r} finds nothing in it.")
        tail = tail.removeprefix(".")
        return _lookup(where, value[element], tail) if tail else value[element]


@dataclass(frozen=True)
class Test:
    """A condition on a value: ``column`` (true/false, 1/0), ``column=value``, ``column!=value``, ``column>=number``.

    The other signs of order are ``>``, ``<=`` and ``<``.

    Attributes:
        path: the value's place.
        sign: the comparison; empty for a plain truth value.
        value: what is compared with; two numbers are compared as numbers.
    """

    __test__ = False  # pytest must not collect a class for its name
    path: Path
    sign: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Test:
        """Reads ``column=value`` and the like.

        Raises:
            UsageError: it is none of the forms.
        """
        found = _TEST.fullmatch(text.strip())
        if found is None:
            return cls(Path(text.strip()))
        sign = "=" if found["sign"] == "==" else found["sign"]
        if sign in _ORDER and _number(found["value"]) is None:
            raise UsageError(f"{text!r} compares with {found['value']!r}, which is no number.")
        return cls(Path(found["path"]), sign, found["value"].strip())

    def holds(self, where: str, record: Mapping[str, Any], element: int = 0) -> bool:
        """Whether a record (of a list, its element) meets the condition.

        Raises:
            DataError: the value cannot be compared so.
        """
        value = self.path.read(where, record, element)
        if self.sign in ("=", "!="):
            return _equals(value, self.value) is (self.sign == "=")
        if self.sign:
            number, limit = _number(value), _number(self.value)
            if number is None or limit is None:
                raise DataError(f"{where}: {self.path.text!r} is {_brief(value)}, which is no number.")
            return bool(_ORDER[self.sign](number, limit))
        truth = _TRUTH.get(_plain(value).lower())
        if truth is None:
            raise DataError(
                f"{where}: {self.path.text!r} is {_brief(value)}, which is neither true/false nor 1/0. "
                f"Say what counts, such as {self.path.text}=correct or {self.path.text}>=1."
            )
        return truth


def read_number(where: str, path: Path, value: Any) -> float:
    """A finite number that is not negative.

    Raises:
        DataError: it is something else.
    """
    number = _number(value)
    if number is None or number < 0 or math.isinf(number):
        raise DataError(f"{where}: {path.text!r} is {_brief(value)}, but a number of at least 0 is needed.")
    return number


def read_whole(where: str, path: Path, value: Any, most: int = 2**53) -> int:
    """A whole number that is not negative and at most `most`.

    Raises:
        DataError: it is something else.
    """
    number = read_number(where, path, value)
    if number != int(number) or number > most:
        raise DataError(f"{where}: {path.text!r} is {_brief(value)}, but a whole number up to {most} is needed.")
    return int(number)


def read_ended(where: str, path: Path, value: Any) -> str:
    """A code as in `Attempt.ended`.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, str) or not re.fullmatch(r"answered|(limit|missing):\w+", value, re.ASCII):
        raise DataError(f"{where}: {path.text!r} is {_brief(value)}, but answered, limit:… or missing:… is needed.")
    return value


def read_faults(where: str, path: Path, value: Any) -> dict[str, int]:
    """Numbers of tool faults by kind.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: {path.text!r} is {_brief(value)}, but an object of numbers by kind of fault is needed."
        )
    return {kind: read_whole(where, path, number) for kind, number in value.items()}


def read_name(where: str, path: Path, value: Any) -> str:
    """Text or a number that names something.

    Raises:
        DataError: it is empty or something else.
    """
    text = _plain(value) if isinstance(value, str | int | float) else ""
    if not text or well_formed(text) != text:
        raise DataError(f"{where}: {path.text!r} is {_brief(value)}, but a name is needed.")
    return text


def _lookup(where: str, record: Any, text: str) -> Any:
    if isinstance(record, Mapping) and text in record:
        return record[text]
    value = record
    for part in text.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = value.keys() if isinstance(value, Mapping) else ()
            raise DataError(f"{where}: there is no column {text!r}.{did_you_mean(part, map(str, known))}")
        value = value[part]
    return value


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _equals(value: Any, text: str) -> bool:
    if value is None:
        return text in ("", "null")
    if _plain(value) == text or (isinstance(value, bool) and _plain(value) == text.lower()):
        return True
    left, right = _number(value), _number(text)
    return left is not None and left == right


def _number(value: Any) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
