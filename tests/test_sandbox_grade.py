"""Grading over real sandboxes: attacks that must not pass, honest programs that must, and two public benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import SandboxDied, UsageError
from testbed.sandbox import Bwrap, Limits, Pool, Result, Session
from testbed.sandbox.grade import GRADING_LIMITS, CodeGrade, Grader, Tests, grade_code

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

AT_ONCE = 2
PATIENCE = 60.0  # seconds; what is tested here is the verdict, and the machine may be busy


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(Bwrap(), AT_ONCE) as grader:
        yield grader


# --- attacks. Nobody can guess what these tests expect; only what carries the right answers in itself may pass.

HIDDEN = Tests(
    """
    EXPECTED = {3: 'quetzal-58301', 4: 'okapi-90417'}
    def check(f):
        assert f(3) == 'quetzal-58301'
        assert f(4) == EXPECTED[4]
    """.replace("\n    ", "\n"),
    setup="SPARE = 'quetzal-58301'",
    entry_point="f",
)
RIGHT = "def f(x):\n    return {3: 'quetzal-58301', 4: 'okapi-90417'}[x]"

ATTACKS = {
    "empty": "",
    "no function of that name": "def g(x): return 'quetzal-58301'",
    "exit at import": "import os\nos._exit(0)",
    "exit in the function": "import os\ndef f(x): os._exit(0)",
    "sys.exit at import": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit with words": "import sys\ndef f(x): sys.exit('+')",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    "killed by itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "prints passed": "print('passed')\nprint('+')\ndef f(x):\n    print('passed\\n+\\n')\n    return 'passed'",
    "prints passed and leaves": "import os\ndef f(x):\n    print('\\n+\\npassed', flush=True)\n    os._exit(0)",
    "prints a verdict by the nonce": """
        import os, sys
        def nonces():
            frame = sys._getframe()
            while frame:
                for constant in frame.f_code.co_consts:
                    if isinstance(constant, str) and len(constant) == 32:
                        yield constant
                frame = frame.f_back
        def f(x):
            for nonce in nonces():
                os.write(1, f"\\n{nonce} +\\n{nonce} +passed\\n".encode())
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        """,
    "answers true by the nonce": """
        import os, sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for constant in frame.f_code.co_consts:
                    if isinstance(constant, str) and len(constant) == 32:
                        os.write(1, f'\\n{constant} ["tuple","value",true]\\n'.encode())
                frame = frame.f_back
            os._exit(0)
        """,
    "answers everything with true": """
        import sys
        import __main__
        __main__.Program.serve = lambda self, question: '["tuple","value",true]'
        def f(x): return True
        """,
    "answers with a verdict": """
        import __main__
        __main__.Program.serve = lambda self, question: '+'
        def f(x): return True
        """,
    "answers with the answer to another question": """
        import __main__
        serve, seen = __main__.Program.serve, []
        def replay(self, question):
            seen.append(serve(self, question))
            return seen[0]
        __main__.Program.serve = replay
        def f(x): return f
        """,
    "answers with the question": """
        import __main__
        __main__.Program.serve = lambda self, question: question
        def f(x): return f
        """,
    "answers with objects that nobody sent": """
        import __main__
        __main__.Program.serve = lambda self, question: '["tuple","value",["Remote",12345]]'
        def f(x): return f
        """,
    "a name for everything": """
        import __main__
        def f(*args): return True
        more = ("EXPECTED", "SPARE", "check", "all", "AssertionError", "__builtins__")
        __main__.Program._names = lambda self, *names: dict.fromkeys((*names, *more), f)
        """,
    "defines check": "def check(f): pass\ndef f(x): return None",
    "defines the names of the tests": "SPARE = EXPECTED = {}\ncheck = examination = None\ndef f(x): return SPARE",
    "always equal": """
        class Yes:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return hash('quetzal-58301')
            def __bool__(self): return True
            def __contains__(self, other): return True
            __lt__ = __le__ = __gt__ = __ge__ = __req__ = __eq__
        def f(x): return Yes()
        """,
    "always equal int": "class I(int):\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(x): return I(1)",
    "always equal str": "class S(str):\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(x): return S('a')",
    "always equal list": "class L(list):\n    __eq__ = lambda *_: True\ndef f(x): return L()",
    "always equal by its metaclass": """
        class Meta(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class f(metaclass=Meta):
            def __new__(cls, x): return cls
        """,
    "claims the class of a text": """
        class Yes:
            __class__ = str
            __eq__ = lambda *_: True
        def f(x): return Yes()
        """,
    "replaces builtins": """
        import builtins
        class Silent(Exception):
            def __new__(cls, *args): return SystemExit(0)
        builtins.AssertionError = Silent
        for name in ("abs", "all", "any", "isinstance", "len", "sorted", "str", "tuple", "hash", "type", "exec"):
            setattr(builtins, name, lambda *args, **options: True)
        def f(x): return True
        """,
    "replaces the operators": """
        import operator
        for name in dir(operator):
            if not name.startswith("__"):
                setattr(operator, name, lambda *args: True)
        def f(x): return True
        """,
    "changes str's comparison through its type": """
        import ctypes, gc
        slots = gc.get_referents(str.__dict__)[0]
        slots["__eq__"] = lambda *_: True
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))
        def f(x): return "a"
        """,
    "replaces modules": """
        import sys
        class Everything:
            def __getattr__(self, name): return lambda *args, **options: True
        for name in list(sys.modules):
            sys.modules[name] = Everything()
        def f(x): return True
        """,
    "searches memory for the tests": """
        import gc, re, sys
        def strings():
            frame = sys._getframe()
            seen, queue = set(), [gc.get_objects(), vars(sys.modules["__main__"])]
            while frame:
                queue += [frame.f_locals, frame.f_globals, list(frame.f_code.co_consts)]
                frame = frame.f_back
            while queue and len(seen) < 200_000:
                thing = queue.pop()
                if id(thing) in seen:
                    continue
                seen.add(id(thing))
                if isinstance(thing, str):
                    yield thing
                queue += gc.get_referents(thing)
        def f(x):
            for text in strings():
                for found in re.findall(r"(?:quet|oka)[a-z]+-[0-9]+", text):
                    return found
        """,
    "searches files for the tests": """
        import os, re
        def f(x):
            found = []
            for folder, _, names in os.walk("/"):
                if folder.startswith(("/python", "/sys")):
                    continue
                for name in names:
                    try:
                        with open(os.path.join(folder, name), "rb") as file:
                            os.set_blocking(file.fileno(), False)
                            found += re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", file.read(1 << 20) or b"")
                    except (OSError, ValueError):
                        pass
            return (found or [b""])[0].decode()
        """,
    "reads the memory of other processes": """
        import os, re
        def f(x):
            for process in filter(str.isdecimal, os.listdir("/proc")):
                if int(process) == os.getpid():
                    continue
                try:
                    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb") as memory:
                        for line in maps:
                            start, end = (int(part, 16) for part in line.split()[0].split("-"))
                            memory.seek(start)
                            for found in re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", memory.read(end - start)):
                                return found.decode()
                except (OSError, ValueError, OverflowError):
                    pass
        """,
    "reads what comes next for the REPL": """
        import os, re
        def f(x):
            for number in range(3, 64):
                try:
                    os.set_blocking(number, False)
                    for found in re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", os.read(number, 1 << 16)):
                        return found.decode()
                except OSError:
                    pass
        """,
    "says that its cell is done": """
        import os, struct
        def f(x):
            for number in range(3, 64):
                for call in range(10):
                    try:
                        os.set_blocking(number, False)
                        os.write(number, struct.pack(">Q?", call, False))
                    except OSError:
                        pass
            return True
        """,
    "closes every descriptor": "import os\ndef f(x):\n    os.closerange(0, 256)\n    return True",
    "closes its output": "import sys\nsys.stdout.close()\nimport os\nos.close(1)\ndef f(x): return True",
    "kills its parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return True",
    "kills everybody": "import os\ndef f(x):\n    os.kill(-1, 9)\n    return True",
    "leaves threads that print": """
        import threading, time
        def shout():
            while True:
                print('+', 'passed', '["tuple","value","quetzal-58301"]', sep='\\n', flush=True)
                time.sleep(0.001)
        threading.Thread(target=shout, daemon=True).start()
        def f(x): return True
        """,
    "leaves processes that print": """
        import os, time
        if os.fork() == 0:
            while True:
                os.write(1, b'+\\npassed\\n')
                time.sleep(0.001)
        def f(x): return True
        """,
    "answers from a fork and goes on in another": """
        import os
        def f(x):
            if os.fork() == 0:
                return 'quokka'
            os._exit(0)
        """,
    "raises assertion errors": "def f(x): raise AssertionError('+')",
    "raises what ends an interpreter": "def f(x): raise KeyboardInterrupt",
    "raises what ends a generator": "def f(x): raise GeneratorExit",
    "raises its own base exception": "class Out(BaseException): pass\ndef f(x): raise Out('+')",
    "raises with evil text": """
        class Evil(Exception):
            def __str__(self): raise self
            __repr__ = __str__
            args = property(__str__)
        def f(x): raise Evil
        """,
    "raises a text that exits": """
        import os
        class Evil(Exception):
            def __str__(self): os._exit(0)
        def f(x): raise Evil
        """,
    "returns a list that contains itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "returns ten million elements": "def f(x): return [0] * 10_000_000",
    "returns a very deep list": "def f(x):\n    a = 0\n    for _ in range(100_000): a = [a]\n    return a",
    "returns a huge integer": "def f(x): return 1 << 100_000_000",
    "returns itself for ever": "def f(x=None): return f",
    "returns an endless generator": "def f(x):\n    while True: yield 'quetzal-58301'",
    "uses up the memory": "def f(x): return len('x' * (1 << 33))",
    "uses up the memory piece by piece": "def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))",
    "crashes the interpreter": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "overflows the stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return list(map(f, [x]))",
    "reads from standard input": "def f(x): return input()",
    "replaces standard input": "import io, sys\nsys.stdin = io.StringIO('quetzal')\ndef f(x): return input()",
    "traces every call": "import sys\nsys.settrace(print)\nsys.setprofile(print)\ndef f(x): return True",
    "replaces the hooks": "import sys\nsys.displayhook = sys.excepthook = print\ndef f(x): return True",
    "is not Python": "this is (not Python",
    "is not text": "def f(x): return '\udc80'\n# \udcff \x00",
    "is too long": "#" + "x" * (1 << 20),
}

HANGS = {
    "loops for ever": "def f(x):\n    while True: pass",
    "loops at import": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "cannot be interrupted": """
        import signal
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException:
                    pass
        """,
    "returns when it is interrupted": """
        def f(x):
            try:
                while True: pass
            except BaseException:
                return 'quetzal-58301'
        """,
    "prints for ever": "def f(x):\n    while True: print('+\\npassed')",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
}


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


# --- honest programs

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


# --- two public benchmarks

Problems = dict[str, tuple[Tests, str, dict[str, str]]]  # tests, canonical solution, wrong ones

WRONG = """
def _wrong(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1 if value - value == 0 else 0
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, "x"]
    if isinstance(value, tuple):
        return (*value, "x")
    if isinstance(value, (set, frozenset)):
        return value | {"x"}
    if isinstance(value, dict):
        return {**value, "x": "x"}
    return 0 if value is None else None

def _spoil(right):
    return lambda *args, **options: _wrong(right(*args, **options))
"""


def wrong_solutions(canonical: str, empty: str, functions: list[str]) -> dict[str, str]:
    """Solutions that say nothing, that return nothing, and that are always near the right answer and never at it."""
    return {
        "empty": empty,
        "None": empty + "".join(f"\ndef {name}(*args, **options):\n    return None\n" for name in functions),
        "wrong": f"{canonical}\n{WRONG}\n" + "".join(f"{name} = _spoil({name})\n" for name in functions),
    }


def humaneval(data_dir: Path) -> Problems:
    """Tests, canonical solution and wrong ones of every problem."""
    problems = {}
    with gzip.open(data_dir / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            right, name = row["prompt"] + row["canonical_solution"], row["entry_point"]
            tests = Tests(row["test"], setup=row["prompt"], entry_point=name)
            problems[row["task_id"]] = (tests, right, wrong_solutions(right, row["prompt"], [name]))
    assert len(problems) == 164
    return problems


def mbpp(data_dir: Path) -> Problems:
    """The same of the test split."""
    problems = {}
    with open(data_dir / "mbpp" / "mbpp.jsonl", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not 11 <= row["task_id"] <= 510:
                continue
            code = "\n".join([row["test_setup_code"], *row["test_list"]])
            made = re.findall(r"^def (\w+)", row["code"], re.MULTILINE)
            functions = [name for name in made if re.search(rf"\b{name}\b", code)]
            tests = Tests(code, required=tuple(functions))
            problems[f"MBPP/{row['task_id']}"] = (tests, row["code"], wrong_solutions(row["code"], "", functions))
    assert len(problems) == 500
    return problems


def reasons(grader: Grader, work: dict[str, tuple[str, Tests]]) -> dict[str, str]:
    with ThreadPoolExecutor(AT_ONCE + 1) as threads:
        grades = threads.map(lambda job: grader.grade(*job, PATIENCE), work.values())
        return {name: grade.reason for name, grade in zip(work, grades, strict=True)}


def test_one_in_four_canonical_solutions_of_humaneval_passes(grader, data_dir):
    problems = list(humaneval(data_dir).items())[::4]
    work = {name: (right, tests) for name, (tests, right, _) in problems}
    assert {name: reason for name, reason in reasons(grader, work).items() if reason != "passed"} == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("benchmark", [humaneval, mbpp])
def test_every_canonical_solution_passes(grader, data_dir, benchmark):
    work = {name: (right, tests) for name, (tests, right, _) in benchmark(data_dir).items()}
    assert {name: reason for name, reason in reasons(grader, work).items() if reason != "passed"} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("benchmark", [humaneval, mbpp])
def test_every_empty_or_wrong_solution_fails(grader, data_dir, benchmark):
    work = {
        f"{name} {kind}": (program, tests)
        for name, (tests, _, wrong) in benchmark(data_dir).items()
        for kind, program in wrong.items()
    }
    found = reasons(grader, work)
    assert [name for name, reason in found.items() if reason == "passed"] == []
    assert [name for name, reason in found.items() if reason == "timeout"] == []


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
