"""The tests' side of the conversation with a program; their questions are answered by hand."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.hostile_messages import HOSTILE
from testbed.sandbox.examiner import Examination, names_of
from testbed.sandbox.exchange import pack, unpack


def refuse(value: Any) -> int:
    raise AssertionError(f"{value!r} is data")


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
