"""Programs that attack their graders over real sandboxes: only the right answers may pass."""

from __future__ import annotations

import shutil
import textwrap

import pytest

from helpers.cheating_programs import ATTACKS, HANGS, HIDDEN, RIGHT
from testbed.sandbox.grade import CodeGrade, Tests

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)
PATIENCE = 60.0  # seconds; what is tested here is the verdict, and the machine may be busy


def dedent(program: str) -> str:
    return textwrap.dedent(program)


def test_only_the_right_answers_pass_the_tests_that_are_attacked_here(grader):
    assert grader.grade(RIGHT, HIDDEN, PATIENCE) == CodeGrade(True, "passed", 2, pytest.approx(PATIENCE, abs=PATIENCE))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_does_not_pass(grader, name):
    grade = grader.grade(dedent(ATTACKS[name]), HIDDEN, PATIENCE)
    assert not grade.passed
    assert grade.reason not in ("", "passed", "timeout")


@pytest.mark.parametrize("name", HANGS)
def test_a_program_that_hangs_fails_by_its_time(grader, name):
    grade = grader.grade(dedent(HANGS[name]), HIDDEN, 1.5)
    assert (grade.passed, grade.reason) == (False, "timeout")
    assert grade.seconds < 15


# Tests whose own functions the program defines too, or that look away at the wrong moment.
@pytest.mark.parametrize(
    ("tests", "program"),
    [
        (
            "assert isinstance(f(1), str) and len(f(1)) == 3 and sorted(f(1)) == ['a', 'b', 'c'] and abs(g(1)) == 7",
            "isinstance = len = sorted = abs = all = lambda *args: 7\nAssertionError = SystemExit\n"
            "def f(x): return 7\ndef g(x): return 'a'",
        ),
        ("assert all(map(lambda x: f(x) == 'secret', [1, 2]))", "def f(x): raise StopIteration"),
        ("assert 'secret' in f(1)", "class All:\n    __contains__ = lambda *_: True\ndef f(x): return All()"),
        ("assert not f(1) != 'secret'", "class Yes:\n    __ne__ = lambda *_: False\ndef f(x): return Yes()"),
        ("assert f(1) == Pair(1, 2)", "class Pair:\n    def __new__(*_): return 1.5\ndef f(x): return Pair"),
        (
            "assert f(1) == Pair(1, 2)",
            "class Pair:\n    __eq__ = lambda *_: True\none = Pair()\nPair.__new__ = lambda *_: one\n"
            "Pair.__init__ = lambda *_: None\ndef f(x): return one",
        ),
        ("x = [3, 1, 2]\nassert f(x) == [1, 2, 3] or x == f(x) == []", "def f(x):\n    x.clear()\n    return x"),
        (
            "assert abs(f(1) - 0.25) < 0.01",
            "class Near(float):\n    __sub__ = lambda *_: 0.0\ndef f(x): return Near(9)",
        ),
        ("assert {f(1): 1} == {'secret': 1}", "class S(str):\n    __hash__ = lambda _: 1\ndef f(x): return S('a')"),
        ("assert len(f(1)) == 3", "class L(list):\n    __len__ = lambda _: 3\ndef f(x): return L()"),
        ("assert f(1) >= 10", "class I(int):\n    __ge__ = lambda *_: True\ndef f(x): return I(1)"),
    ],
)
def test_a_replaced_operator_or_builtin_does_not_pass(grader, tests, program):
    grade = grader.grade(program, Tests(tests), PATIENCE)
    assert not grade.passed
    assert grade.reason != "timeout"
