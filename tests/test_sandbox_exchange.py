"""Messages between a program and its tests, also from somebody hostile."""

from __future__ import annotations

import collections
import enum
import json
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hostile_messages import HOSTILE
from testbed.sandbox.examiner import Remote
from testbed.sandbox.exchange import DEEPEST, LARGEST, Malformed, Unsendable, pack, unpack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**60), max_value=10**60)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions()
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=6
)
DATA = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(collections.deque)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.binary().map(bytearray)
    ),
    max_leaves=12,
)


def refuse(value: Any) -> int:
    raise AssertionError(f"{value!r} is data")


def there_and_back(value: Any) -> Any:
    return unpack(pack(value, refuse), refuse)


def types_of(value: Any) -> Any:
    if isinstance(value, dict):
        return [dict, *((types_of(key), types_of(value)) for key, value in value.items())]
    if isinstance(value, (list, tuple, collections.deque)):
        return [type(value), *map(types_of, value)]
    return type(value)


@settings(deadline=None)
@given(DATA)
def test_data_arrives_equal_and_of_the_same_types(value):
    arrived = there_and_back(value)
    assert arrived == value
    assert types_of(arrived) == types_of(value)


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, complex(-0.0, math.nan)])
def test_every_float_arrives_bit_by_bit(value):
    assert repr(there_and_back(value)) == repr(value)


def test_integers_of_more_digits_than_python_prints_arrive():
    assert there_and_back(7**9000) == 7**9000


class Suit(enum.IntEnum):
    HEARTS = 4


class Point(NamedTuple):
    x: int
    y: int


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __int__(self) -> int:
        return 99

    __hash__ = int.__hash__
    __index__ = __int__


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"

    def __len__(self) -> int:
        return 0


class Pile(list):
    def __iter__(self):
        return iter(["another"])


class Table(dict):
    def items(self):
        return [("another", 1)]


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Suit.HEARTS, 4),
        (Liar(5), 5),
        (Liar(1 << 70), 1 << 70),
        (Word("mine"), "mine"),
        (Pile([1, 2]), [1, 2]),
        (Table(a=2), {"a": 2}),
        (Point(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
    ],
)
def test_a_subclass_is_sent_as_its_base_by_the_methods_of_the_base(value, base):
    arrived = there_and_back(value)
    assert arrived == base
    assert type(arrived) is type(base)


@pytest.mark.parametrize("value", [range(1, 9, 2), range(0), range(2**70), Decimal("0.10"), Fraction(1, 3)])
def test_values_of_the_standard_library_keep_their_type(value):
    arrived = there_and_back(value)
    assert (type(arrived), arrived) == (type(value), value)


def test_what_is_no_data_is_held_and_sent_as_a_number():
    held: list[Any] = []

    def hold(value: Any) -> int:
        held.append(value)
        return len(held) - 1

    things = [print, object(), (n for n in range(3)), random.Random, {}.keys()]
    arrived = unpack(pack([1, *things], hold), held.__getitem__)
    assert all(a is b for a, b in zip(arrived, [1, *things], strict=True))


def test_a_list_that_contains_itself_is_not_sent():
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(Unsendable):
        pack(cycle, refuse)


@pytest.mark.parametrize(
    "value",
    ["x" * (LARGEST + 1), [0] * (LARGEST + 1), 1 << (4 * LARGEST + 8), b"x" * LARGEST],
    ids=["str", "list", "int", "bytes"],
)
def test_values_beyond_the_size_of_a_message_are_not_sent(value):
    with pytest.raises(Unsendable):
        pack(value, refuse)


def test_a_value_is_sent_down_to_the_deepest_level_and_no_further():
    nested: Any = 1
    for _ in range(DEEPEST + 1):
        nested = [nested]
    assert there_and_back(nested) == nested
    with pytest.raises(Unsendable):
        pack([nested], refuse)


def number_only(number: int) -> Remote:
    if type(number) is not int:
        raise TypeError(number)
    return Remote(refuse_to_ask, number)


def refuse_to_ask(*question: Any) -> Any:
    raise AssertionError(f"reading a message asked the program {question!r:.100}")


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_a_message_that_nobody_honest_writes_is_refused(text):
    with pytest.raises(Malformed):
        unpack(text, number_only)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20))
def test_any_json_is_read_or_refused_and_asks_nothing(tree):
    try:
        unpack(json.dumps(tree), number_only)
    except Malformed:
        return


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused_and_asks_nothing(text):
    try:
        unpack(text, number_only)
    except Malformed:
        return
