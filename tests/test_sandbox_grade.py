"""Grading over real sandboxes: honest programs must pass, and what is said of the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from testbed.errors import SandboxDied, UsageError
from testbed.sandbox import Bwrap, Limits, Pool, Result, Session
from testbed.sandbox.grade import GRADING_LIMITS, Tests, grade_code

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)


PATIENCE = 60.0  # seconds; what is tested here is the verdict, and the machine may be busy


HONEST = {
    "prints": ("assert f(2) == 3", "print('hello')\ndef f(x):\n    print('+', x, end='')\n    return x + 1"),
    "prints a megabyte": ("assert f(2) == 3", "def f(x):\n    print('x' * (1 << 20))\n    return x + 1"),
    "prints more than is kept": ("assert f(2) == 3", "def f(x):\n    print('x' * (20 << 20))\n    return x + 1"),
    "prints to the error stream": (
        "assert f(2) == 3",
        "import sys\ndef f(x):\n    print(x, file=sys.stderr)\n    return 3",
    ),
    "is slow": ("assert f(2) == 3", "import time\ndef f(x):\n    time.sleep(1)\n    return x + 1"),
    "is recursive": ("assert f(900) == 900", "def f(x): return 1 + f(x - 1) if x else 0"),
    "raises the recursion limit": (
        "assert f(20_000) == 20_000",
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(x): return 1 + f(x - 1) if x else 0",
    ),
    "uses random": (
        "assert sorted(f([1, 2, 3])) == [1, 2, 3]",
        "import random\ndef f(x): return random.sample(x, len(x))",
    ),
    "yields": ("assert list(f(3)) == [0, 1, 2] and next(f(1)) == 0", "def f(x): yield from range(x)"),
    "returns an iterator": ("assert sum(f(3)) == 9", "def f(x): return map(lambda n: n * 3, range(x))"),
    "returns None": ("assert f(1) is None and f(2) == None", "def f(x): pass"),
    "returns a tuple": ("assert f(1) == (1, [2], {3}) and type(f(1)) is tuple", "def f(x): return (1, [2], {3})"),
    "returns a set": (
        "assert f(1) == {1, 2} and frozenset() in g(1)",
        "def f(x): return {1, 2}\ndef g(x): return {frozenset()}",
    ),
    "returns a Counter": ("assert f('aab') == {'a': 2, 'b': 1}", "from collections import Counter as f"),
    "returns floats": (
        "import math\nassert f(1) == 0.1 and math.isnan(g(1)) and g(2) == math.inf and str(g(3)) == '-0.0'",
        "def f(x): return 0.1\ndef g(x): return {1: float('nan'), 2: float('inf'), 3: -0.0}[x]",
    ),
    "returns other numbers": (
        "assert f(1) == 0.5 and f(2) == 1j and f(3) == 1 and f(4) == 10**5000 and f(5) is True",
        "from fractions import Fraction\nfrom decimal import Decimal\n"
        "def f(x): return [Fraction(1, 2), 1j, Decimal(1), 10**5000, True][x - 1]",
    ),
    "returns text of every kind": (
        "assert f(1) == 'é\\n\\x00\\u2028\\ud800' and f(2) == b'\\x00\\xff'",
        "def f(x): return 'é\\n\\x00\\u2028\\ud800' if x == 1 else b'\\x00\\xff'",
    ),
    "returns many elements": ("assert f(100_000) == [*range(100_000)]", "def f(x): return list(range(x))"),
    "returns a named tuple": (
        "assert f(1) == (1, 2)",
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(1, 2)",
    ),
    "returns an enum": (
        "assert f(1) == 2",
        "from enum import IntEnum\nclass C(IntEnum):\n    A = 2\ndef f(x): return C.A",
    ),
    "returns a function": ("assert f(1)(2) == 3", "def f(x): return lambda y: x + y"),
    "returns a match": ("import re\nassert f('ab') and not f('ba')", "import re\ndef f(x): return re.match('a', x)"),
    "changes its globals": (
        "assert [f(), f(), f()] == [1, 2, 3]",
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
    ),
    "changes its arguments": ("x = [3, 1]\nassert f(x) == [1, 3]", "def f(x):\n    x.sort()\n    return x"),
    "takes options": (
        "assert f(1, *[2], c=3, **{'d': 4}) == (1, 2, 3, 4)",
        "def f(a, b, *, c, d=0): return a, b, c, d",
    ),
    "defines a constant": ("assert f(1) == LIMIT and LIMIT == 9", "LIMIT = 9\ndef f(x): return LIMIT"),
    "defines classes": (
        "root = Node(1)\nroot.left = Node(2)\n"
        "assert total(root) == 3 and root.left.value == 2 and str(root) == 'Node 1'\n"
        "assert [n.value for n in root] == [1, 2] and len(root) == 2 and root[0] == 1 and root.up() is None",
        "class Node:\n"
        "    def __init__(self, value): self.value, self.left = value, None\n"
        "    def __str__(self): return f'Node {self.value}'\n"
        "    def __iter__(self): return iter([self] + ([self.left] if self.left else []))\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, index): return [self.value][index]\n"
        "    def up(self): return None\n"
        "def total(node): return node.value + (total(node.left) if node.left else 0) if node else 0",
    ),
    "uses dataclasses and types": (
        "assert f([2, 1]) == [1, 2]",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field\nfrom typing import List, NamedTuple\n"
        "@dataclass(order=True)\nclass Item:\n    n: int\n    rest: List[int] = field(default_factory=list)\n"
        "class Pair(NamedTuple):\n    a: int\n"
        "def f(x: List[int]) -> List[int]: return [item.n for item in sorted(map(Item, x))]",
    ),
    "uses the standard library": (
        "assert f(10) == 55",
        "import collections, functools, heapq, itertools, math, operator, re, statistics, bisect, copy, pickle\n"
        "@functools.lru_cache(None)\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def f(x): return pickle.loads(pickle.dumps(fib))(x)",
    ),
    "uses threads": (
        "assert f(3) == [0, 1, 4]",
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
        "def f(x): return list(pool.map(lambda n: n * n, range(x)))",
    ),
    "writes files": (
        "assert f('a') == 'a' and f('b') == 'b'",
        "def f(x):\n    open('note.txt', 'w').write(x)\n    return open('note.txt').read()",
    ),
    "captures its own output": (
        "assert f(1) == 'hello\\n'",
        "import contextlib, io\ndef f(x):\n    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        print('hello')\n    return text.getvalue()",
    ),
    "replaces its output": (
        "assert f(1) == 2",
        "import io, sys\nsys.stdout = io.StringIO()\ndef f(x):\n    print(x)\n    return 2",
    ),
    "has a main part": (
        "assert f(1) == 2",
        "def f(x): return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))",
    ),
    "raises what the tests expect": (
        "try:\n    f(-1)\nexcept ValueError as error:\n    assert str(error) == 'negative: -1'\n"
        "else:\n    assert False",
        "class Negative(ValueError): pass\ndef f(x): raise Negative(f'negative: {x}')",
    ),
    "has the name of a builtin": ("assert sum(1, 2) == 3", "def sum(a, b): return a + b"),
    "helps itself with the same names": (
        "assert f([1]) == 1",
        "def check(x): return x[0]\nprogram = say = None\ndef f(x): return check(x)",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_passes(grader, name):
    tests, program = HONEST[name]
    required = ("sum",) if "builtin" in name else ()
    grade = grader.grade(program, Tests(tests, required=required), PATIENCE)
    assert (grade.passed, grade.reason) == (True, "passed")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(x): return 1", "assertion failed: assert f(1) == 2"),
        ("def g(x): return 1", "NameError: name 'f' is not defined"),
        ("def f(x): return x / 0", "ZeroDivisionError: division by zero"),
        ("class Own(Exception): pass\ndef f(x): raise Own('why')", "Own: why"),
        ("def f(x) return", "SyntaxError: expected ':' (solution.py, line 1)"),
        ("import os\nos._exit(3)", "the program ended with exit code 3"),
        ("raise SystemExit(3)", "the program ended: SystemExit: 3"),
        ("def f(x): return [0] * 10**7", "Unsendable: a value of more than 1048576 characters"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def f(x): raise ValueError('\x1b[31m', 'é')", "ValueError: ('\\x1b[31m', '\\xe9')"),
        ("def f(x): raise ValueError('\\x1b[31mé\\n+')", "ValueError: \ufffd[31m\\xe9 +"),
        (
            "def f(x): return [[[]]]\nimport __main__\n__main__.say = 3",
            "the program spoiled the interpreter: TypeError: 'int' object is not callable",
        ),
    ],
)
def test_the_reason_says_what_went_wrong(grader, program, reason):
    assert grader.grade(program, Tests("assert f(1) == 2"), PATIENCE).reason == reason


def test_the_program_gets_copies_and_the_tests_keep_their_own(grader):
    tests = Tests("x = [3, 1]\nf(x)\nassert x == [3, 1]")
    assert grader.grade("def f(x): x.sort()", tests, PATIENCE).passed


def test_the_program_is_not_told_what_is_expected(grader):
    spy = "seen = []\ndef f(*args):\n    seen.append(args)\n    return 1\ndef report(): return repr(seen)"
    tests = Tests("f(5) == 'secret'\n'secret' in [f(6)]\nassert report() == '[(5,), (6,)]'")
    assert grader.grade(spy, tests, PATIENCE).passed


@pytest.mark.parametrize(
    "tests", [Tests("assert f("), Tests("def test(f): pass", entry_point="f"), Tests("assert True")]
)
def test_tests_that_cannot_be_run_are_an_error_and_no_grade(grader, tests):
    with pytest.raises(UsageError, match="these tests cannot be run"):
        grader.grade("def f(x): return 1", tests, PATIENCE)


def test_each_program_gets_sandboxes_that_nobody_used(grader):
    program = "import os\nleft = os.path.exists('left')\nopen('left', 'w').close()\ndef f(): return left"
    tests = Tests("import os\nassert f() is False and os.listdir('.') == []\nopen('left', 'w').close()")
    assert [grader.grade(program, tests, PATIENCE).reason for _ in range(4)] == ["passed"] * 4


def test_more_callers_than_sandboxes_all_get_their_grades(grader):
    with ThreadPoolExecutor(8) as threads:
        programs = [f"def f(x): return {n % 2}" for n in range(16)]
        grades = list(threads.map(lambda program: grader.grade(program, Tests("assert f(1)"), PATIENCE), programs))
    assert [grade.passed for grade in grades] == [n % 2 == 1 for n in range(16)]


@pytest.mark.parametrize("which", [0, 1], ids=["the program's", "the tests'"])
async def test_a_sandbox_that_dies_is_no_grade(which):
    pool = Pool(Bwrap(), GRADING_LIMITS, 2)
    try:
        await pool.start()
        while len(pool._warm) < 2:
            await asyncio.sleep(0.01)
        sessions = list(pool._warm)
        grade = asyncio.create_task(grade_code(pool, "import time\ndef f(x): time.sleep(3)", Tests("f(1)"), PATIENCE))
        end = time.monotonic() + 20
        while not sessions[1]._has_state and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        os.kill(sessions[which]._link.worker_pid, signal.SIGKILL)
        with pytest.raises(SandboxDied):
            await grade
    finally:
        await pool.close()


async def test_a_grade_that_is_cancelled_gives_its_sandboxes_back():
    pool = Pool(Bwrap(), GRADING_LIMITS, 2)
    try:
        hung = asyncio.create_task(grade_code(pool, "while True: pass", Tests("f(1)"), PATIENCE))
        await asyncio.sleep(1)
        hung.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hung
        assert (await grade_code(pool, "def f(x): return 1", Tests("assert f(1)"), PATIENCE)).passed
    finally:
        await pool.close()


async def test_a_grade_that_is_cancelled_as_it_tidies_up_gives_its_sandboxes_back(monkeypatch):
    pool = Pool(Bwrap(), GRADING_LIMITS, 2)
    tidies = asyncio.Event()

    async def hang(session: Session) -> None:
        tidies.set()
        await asyncio.sleep(PATIENCE)

    try:
        with monkeypatch.context() as patched:
            patched.setattr("testbed.sandbox.session.WorkerSession.reset", hang)
            grade = asyncio.create_task(grade_code(pool, "def f(x): return 1", Tests("assert f(1)"), PATIENCE))
            await tidies.wait()
            grade.cancel()
            with pytest.raises(asyncio.CancelledError):
                await grade
        async with asyncio.timeout(20):
            assert (await grade_code(pool, "def f(x): return 1", Tests("assert f(1)"), PATIENCE)).passed
    finally:
        await pool.close()


async def test_a_pool_without_room_for_the_tests_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        await grade_code(Pool(Bwrap(), GRADING_LIMITS, 1), "def f(): pass", Tests("assert f() is None"))


class Recorded:
    """A session that remembers what it was told."""

    def __init__(self, session: Session, told: list[str]) -> None:
        self._session, self.told = session, told

    async def repl(self, code: str, timeout: float | None = None) -> Result:
        self.told.append(code)
        return await self._session.repl(code, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Recording:
    """A real backend whose sessions are kept with what they were told."""

    name = identity = "recording"

    def __init__(self) -> None:
        self.sessions: list[Recorded] = []

    async def open(self, limits: Limits) -> Any:
        self.sessions.append(Recorded(await Bwrap().open(limits), []))
        return self.sessions[-1]


async def test_a_sandbox_that_held_tests_is_used_again_but_never_for_a_program() -> None:
    backend = Recording()
    pool = Pool(backend, GRADING_LIMITS, 4)  # type: ignore[arg-type]
    programs = ["def f(x): return x + 1", "def f(x): return x", "import os\nos._exit(0)", "def f(x): 1 / 0"] * 3
    grades = await asyncio.gather(*(grade_code(pool, program, Tests("assert f(1) == 2")) for program in programs))
    assert [grade.passed for grade in grades] == [True, False, False, False] * 3
    with pytest.raises(UsageError, match="cannot be run"):
        await grade_code(pool, programs[0], Tests("this is no Python"))
    await pool.close()
    held_tests = [s for s in backend.sessions if any("Examination(" in code for code in s.told)]
    ran_programs = [s for s in backend.sessions if any("Program()" in code for code in s.told)]
    assert not set(held_tests) & set(ran_programs)
    assert all(sum("Program()" in code for code in s.told) == 1 for s in ran_programs)
    assert len(ran_programs) == len(programs)
    assert 1 <= len(held_tests) <= 2


async def test_tests_leave_nothing_for_the_next_tests() -> None:
    async with contextlib.AsyncExitStack() as stack:
        pool = Pool(Bwrap(), GRADING_LIMITS, 2)
        stack.push_async_callback(pool.close)
        nosy = "import builtins, os\nassert not hasattr(builtins, 'left') and not os.path.exists('/tmp/left')\n"
        leaving = "builtins.left = 1\nopen('/tmp/left', 'w').close()\nassert f(1) == 2"
        for _ in range(2):
            assert (await grade_code(pool, "def f(x): return x + 1", Tests(nosy + leaving))).reason == "passed"
