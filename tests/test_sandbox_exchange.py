"""Messages between a program and its tests, also from somebody hostile, and the tests' side of the conversation."""

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

from testbed.sandbox.examiner import Examination, Remote, names_of
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


HOSTILE = [
    "",
    "nonsense",
    "[",
    "{}",
    '{"tuple": 1}',
    "[]",
    "[[]]",
    "[1, 2]",
    "[null]",
    '["int"]',
    '["int", 5]',
    '["int", "zz"]',
    '["int", "1", "2"]',
    '["list", NaN]',
    '["float", "a lot"]',
    '["bytes", "0"]',
    '["set", ["list"]]',
    '["dict", 1]',
    '["dict", ["list"], 1]',
    '["dict", 1, 2, 3]',
    '["range", 1, 2, 0]',
    '["range", "1"]',
    '["range", ["Remote", 0]]',
    '["complex", ["Remote", 0], "0"]',
    '["Decimal", ["tuple", 0]]',
    '["Fraction", "1/0"]',
    '["Fraction", ["Remote", 0]]',
    '["Remote"]',
    '["Remote", "0"]',
    '["Remote", 0, 0]',
    '["Remote", ["Remote", 0]]',
    '["__import__", "os"]',
    '["eval", "1"]',
    '[["list"], 1]',
    '[["Remote", 0], 1]',
    "9" * 5000,
    "[" * 100_000,
    '["list", ' * 500 + "1" + "]" * 500,
    '"' + "x" * LARGEST + '"',
]


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


def test_names_that_tests_take_from_elsewhere_are_told_from_their_own():
    made, used = names_of(
        "import math as m\n"
        "from string import digits\n"
        "root = Node(1)\n"
        "def check(candidate):\n"
        "    local = helper(candidate)\n"
        "    global late\n"
        "    late = 1\n"
        "    assert all(other(x) == local for x in [late]), m\n"
        "class Case(Base):\n"
        "    attribute = inner\n"
    )
    assert made == {"m", "digits", "root", "check", "Case", "late"}
    assert used - made - {"all"} == {"Node", "helper", "other", "Base", "inner"}


# --- the tests' side, whose questions are answered by hand


def begin(
    tests: str, setup: str = "", entry_point: str = "", required: tuple[str, ...] = ()
) -> tuple[Examination, str]:
    examination = Examination(setup, tests, entry_point, [*required])
    return examination, examination.begin()


def question(said: str) -> Any:
    assert said[:1] == "?", said
    return unpack(said[1:], lambda number: f"Remote {number}")


def value(thing: Any) -> str:
    return pack(("value", thing), refuse)


F_IS_REMOTE_0 = '["tuple","value",["dict","f",["Remote",0]]]'


def test_tests_ask_for_names_then_for_calls_and_then_say_their_verdict():
    examination, said = begin("assert f([1], key=2) == 3")
    assert question(said) == ("names", "f")
    said = examination.go_on(F_IS_REMOTE_0)
    assert question(said) == ("call", "Remote 0", ([1],), {"key": 2})
    assert examination.go_on(value(3)) == "+"


@pytest.mark.parametrize("answer", ["4", "true", "3.5", '"3"', "null", '["list",3]', '["Remote",1]', '["Remote",0]'])
def test_a_wrong_answer_does_not_pass(answer):
    examination, _ = begin("assert f(1) == 3")
    examination.go_on(F_IS_REMOTE_0)
    assert examination.go_on(f'["tuple","value",{answer}]')[:1] == "-"


@pytest.mark.parametrize(
    "answer",
    [
        "+",
        "+passed",
        "",
        "null",
        '["tuple","+"]',
        '["tuple","value"]',
        '["tuple","value",3,3]',
        '["list","value",3]',
        '["Remote",0]',
        '["tuple",["Remote",0],3]',
        '["tuple","stop"]',
        '["tuple","stop",1]',
        '["tuple","raise"]',
        '["tuple","raise","AssertionError",["tuple"],"no"]',
        '["tuple","raise","SystemExit",["tuple",0],"no"]',
        '["tuple","raise","GeneratorExit",["tuple"],"no"]',
        '["tuple","raise","BaseExceptionGroup",["tuple"],"no"]',
        '["tuple","raise","ExceptionGroup",["tuple","a",["list"]],"no"]',
        '["tuple","raise","UnicodeDecodeError",["tuple"],"no"]',
        '["tuple","raise","StopIteration",["tuple"],"no"]',
        '["tuple","raise","exit",["tuple",0],"no"]',
        '["tuple","raise","print",["tuple","+"],"no"]',
        '["tuple","raise","__import__",["tuple","os"],"no"]',
        '["tuple","raise",["Remote",0],["tuple"],"no"]',
        '["tuple","raise","ValueError",["Remote",0],"no"]',
        '["tuple","raise","ValueError",["tuple",["Remote",0]],"no"]',
        '["tuple","raise","ValueError",["tuple"],["Remote",0]]',
        *HOSTILE,
    ],
    ids=lambda answer: answer[:40],
)
@pytest.mark.parametrize("moment", ["names", "call"])
def test_a_forged_answer_never_passes_and_never_hangs_the_tests(answer, moment):
    examination, _ = begin("assert f(1) == 3")
    if moment == "call":
        examination.go_on(F_IS_REMOTE_0)
    assert examination.go_on(answer)[:1] == "-"


def test_the_program_cannot_bring_in_names_that_the_tests_did_not_ask_for():
    examination, _ = begin("assert all([f(1) == 3])")
    names = '["dict","f","all","check","AssertionError",["Remote",0],["Remote",1],["Remote",1],["Remote",1]]'
    examination.go_on(f'["tuple","value",{names}]')
    assert examination.go_on(value(4)) == "-assertion failed: assert all([f(1) == 3])"


def test_a_required_name_is_the_programs_also_where_python_has_a_builtin():
    examination, said = begin("assert sum(1, 2) == 3", required=("sum",))
    assert question(said) == ("names", "sum")
    assert examination.go_on(value({})) == "-no function named sum"


def test_objects_of_the_program_are_never_compared_not_even_with_themselves():
    for expression in (
        "f == 3",
        "f == f",
        "f != 3",
        "3 != f",
        "[f] == [3]",
        "f in [3]",
        "f < 3",
        "max(f, 3)",
        "f == g",
    ):
        examination, said = begin(f"assert {expression}", required=("f", "g"))
        said = examination.go_on('["tuple","value",["dict","f","g",["Remote",0],["Remote",0]]]')
        assert said == "-TypeError: objects of the program's own classes are not compared; compare their data", (
            expression
        )


def test_an_object_of_the_program_is_not_none():
    examination, _ = begin("assert f is not None and f != None and not f == None")
    assert examination.go_on(F_IS_REMOTE_0) == "+"


def test_membership_is_decided_by_the_data_that_an_object_yields():
    examination, _ = begin("assert 3 in f")
    said = examination.go_on(F_IS_REMOTE_0)
    assert question(said) == ("apply", "iter", "Remote 0")
    assert question(examination.go_on('["tuple","value",["Remote",1]]')) == ("apply", "next", "Remote 1")
    examination.go_on(value(True))
    assert examination.go_on('["tuple","stop"]') == "-assertion failed: assert 3 in f"


def test_a_program_cannot_end_a_loop_of_the_tests_with_stop_iteration():
    examination, _ = begin("assert all(map(lambda x: f(x) == 3, [1, 2]))")
    examination.go_on(F_IS_REMOTE_0)
    assert examination.go_on('["tuple","stop"]') == "-RuntimeError: the program raised StopIteration"


def test_tests_can_expect_a_builtin_exception_with_its_message():
    examination, _ = begin(
        "try:\n    f(1)\nexcept KeyError as error:\n    assert error.args == ('k',)\nelse:\n    assert False\n"
    )
    examination.go_on(F_IS_REMOTE_0)
    assert examination.go_on(pack(("raise", "KeyError", ("k",), "KeyError: 'k'"), refuse)) == "+"


def test_tests_that_pass_a_function_say_that_they_cannot():
    examination, _ = begin("assert f(lambda x: x) == 3")
    assert "pass a function" in examination.go_on(F_IS_REMOTE_0)


@pytest.mark.parametrize(
    ("tests", "setup", "entry_point", "fault"),
    [
        ("assert f(1) ==", "", "", "!SyntaxError"),
        ("assert f(1) == 1", "1 / 0", "", "!ZeroDivisionError"),
        ("def test(f): pass", "", "f", "!NameError: the tests define no function named check"),
        ("assert sum([1]) == 1", "", "", "!NameError: the tests use nothing"),
        ("", "", "", "!NameError: the tests use nothing"),
    ],
)
def test_faulty_tests_are_told_from_a_program_that_fails(tests, setup, entry_point, fault):
    assert begin(tests, setup, entry_point)[1].startswith(fault)


def test_the_entry_point_is_the_programs_even_if_setup_and_tests_define_it():
    examination, said = begin("def f(): return 3\ndef check(g): assert g() == 3", "def f(): return 3", "f")
    assert question(said) == ("names", "f")
    examination.go_on(F_IS_REMOTE_0)
    assert examination.go_on(value(4))[:1] == "-"
