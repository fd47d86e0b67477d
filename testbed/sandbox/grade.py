"""Judges a program by hidden tests that it never meets.

Two sandboxes: the program runs in a fresh one, the tests in another. They share no process and no file. Where the tests
use a function of the program, the host carries the question over, and plain data back (`exchange.py`). The verdict
comes from the tests' sandbox; the program's is asked for values only, so that the most a program can forge is what its
functions return. A sandbox that has held tests is reset and used for other tests, never for a program: its worker's
memory may still hold what it was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from testbed.closing import Closing
from testbed.errors import SandboxDied, UsageError
from testbed.sandbox.base import Limits, Result, Sandbox, Session
from testbed.sandbox.exchange import LARGEST
from testbed.sandbox.pool import Pool
from testbed.sandbox.undo import UnlessFinished
from testbed.threads import LoopThread

#: For pools that grade: the timeout of a grade is the limit on its calls, and the longest message fits in the output's
#: kept half, whatever the program printed before.
GRADING_LIMITS = Limits(wall_seconds=120.0, output_kib=4 * LARGEST >> 10)

MOST_CALLS = 20_000
LONGEST_PROGRAM = 1 << 18  # characters

_HERE = Path(__file__).parent
_benches: weakref.WeakKeyDictionary[Pool, _Bench] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Tests:
    """The hidden tests of one task. Trusted: they come from the task's author.

    What they use and neither define nor find among Python's builtins they get from the program. They compare data (see
    `exchange.py`); objects of the program's own classes they can only use. Arguments reach the program as copies, so
    they cannot see what it does to them; and they can pass it data only, no functions.

    Attributes:
        code: Python source, such as a few asserts; the program passes if it runs to its end.
        setup: source that runs before it, without the program: helper functions, expected values.
        entry_point: if given, `code` defines a function `check`, which is then called with what the program defines
            under this name.
        required: further names that the program must define, also where Python has a builtin of that name.
    """

    __test__ = False  # pytest must not collect a class for its name

    code: str
    setup: str = ""
    entry_point: str = ""
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodeGrade:
    """What became of an examination.

    Attributes:
        passed: whether every test held.
        reason: "passed", or one line on what went wrong; it may quote the tests and the program's own words.
        calls: how often the tests used something of the program's: a function, an attribute, the next item.
        seconds: wall-clock time.
    """

    passed: bool
    reason: str
    calls: int
    seconds: float


async def grade_code(pool: Pool, program: str, tests: Tests, timeout: float = 10.0) -> CodeGrade:
    """Runs a program under hidden tests.

    Args:
        pool: sandboxes for this alone (who waits here while holding one may wait for ever), at least two, and best with
            `GRADING_LIMITS`: a call that takes longer than its limits allow fails, and so does a value that is larger
            than half of the output.
        program: Python source, whose `__name__` is "solution".
        tests: the tests.
        timeout: seconds of wall-clock time for everything together, once there are two sandboxes.

    Raises:
        UsageError: the tests themselves cannot be run, or the pool is too small.
        SandboxDied: a sandbox was lost or could not be started; says nothing about the program.
    """
    if pool.size < 2:
        raise UsageError(f"grading needs a pool of at least 2 sandboxes, one for the tests; this one has {pool.size}.")
    async with _benches.setdefault(pool, _Bench()).pair(pool) as (programs, examiners):
        examination = _Examination(programs, examiners, time.monotonic() + timeout)
        began = time.monotonic()
        try:
            verdict = await examination.hold(program, tests)
        except _Failed as failure:
            verdict = f"-{failure}"
        passed = verdict == "+"
        reason = "passed" if passed else _printable(verdict[1:])
        return CodeGrade(passed, reason, examination.calls, time.monotonic() - began)


class Grader(Closing):
    """Grades for synchronous callers, from any thread, on sandboxes of its own.

    Args:
        sandbox: the backend.
        at_once: most programs at one time.
    """

    def __init__(self, sandbox: Sandbox, at_once: int = 2) -> None:
        self._pool = Pool(sandbox, GRADING_LIMITS, 2 * at_once)
        self._loop = LoopThread()

    def grade(self, program: str, tests: Tests, timeout: float = 10.0) -> CodeGrade:
        """See `grade_code`; blocks the calling thread."""
        return self._loop.run(grade_code(self._pool, program, tests, timeout))

    def close(self) -> None:
        """Ends its sandboxes and its thread."""
        try:
            self._loop.run(self._pool.close())
        finally:
            self._loop.close()


class _Failed(Exception):
    """The program does not pass, for the reason given."""


class _Examination:
    """One program, one set of tests, and the host between them.

    Args:
        programs: sandbox of the program.
        examiners: sandbox of the tests.
        deadline: when the time is up, on the monotonic clock.
    """

    def __init__(self, programs: Session, examiners: Session, deadline: float) -> None:
        self._programs, self._examiners, self._deadline = programs, examiners, deadline
        self.calls = 0

    async def hold(self, program: str, tests: Tests) -> str:
        """Carries questions and answers until the tests have a verdict: "+", or "-" and a reason.

        Raises:
            _Failed: the program cannot pass any more.
            UsageError: the tests cannot be run.
            SandboxDied: a sandbox was lost.
        """
        said = await self._tell_tests(_begin_tests(tests))
        if said[:1] == "!":
            raise UsageError(f"these tests cannot be run: {said[1:]}")
        if len(program) > LONGEST_PROGRAM:
            raise _Failed(f"the program is longer than {LONGEST_PROGRAM} characters")
        answer = await self._tell_program(_begin_program(program, said[1:]))
        while (said := await self._tell_tests(f"examination.go_on({answer!a})"))[:1] == "?":
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise _Failed(f"the tests used the program more than {MOST_CALLS} times")
            answer = await self._tell_program(f"program.serve({said[1:]!a})")
        return said

    async def _tell_program(self, call: str) -> str:
        return await self._tell(self._programs, call, "the program")

    async def _tell_tests(self, call: str) -> str:
        return await self._tell(self._examiners, call, "the tests")

    async def _tell(self, session: Session, call: str, who: str) -> str:
        """Has a call made in a sandbox and returns what it says.

        A nonce of this one call marks the line, so that nothing printed by accident is taken for it. Against forgery by
        the program it need not help: that would be another answer of the program's.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _Failed("timeout")
        nonce = secrets.token_hex(16)
        *before, last = call.rsplit("\n", 1)
        result = await session.repl("\n".join([*before, f"say({nonce!r}, {last})"]), left)
        if result.status == "sandbox_died":
            raise SandboxDied(f"the sandbox of {who} died: {result.reason}")
        start = result.stdout.rfind(f"\n{nonce} ")
        if result.status != "ok" or result.state_lost or start < 0:
            raise _Failed(_why(result, who))
        line = result.stdout[start + len(nonce) + 2 :].partition("\n")[0]
        if len(line) > LARGEST + 1 or not line.isascii():
            raise _Failed(f"{who} sent what cannot be a message")
        return line


def _why(result: Result, who: str) -> str:
    """Why a sandbox gave no answer."""
    if result.status == "timeout":
        return "timeout"
    if result.status in ("oom", "killed"):
        return f"{who}: {result.reason}"
    if result.state_lost:
        return f"{who} ended with exit code {result.exit_code}"
    if result.stdout_truncated:
        return f"{who} printed too much, or too large a value"
    words = result.stderr.strip().rpartition("\n")[2]
    return f"{who} spoiled the interpreter: {words}" if words else f"{who} closed the output"


def _printable(text: str) -> str:
    """One line for people: the words may be the program's, and a terminal would obey some characters."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[:400])


class _Bench:
    """The examiners' sandboxes of one pool: kept between examinations, since only trusted code runs in them."""

    def __init__(self) -> None:
        self._idle: list[Session] = []
        self._pairing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def pair(self, pool: Pool) -> AsyncIterator[tuple[Session, Session]]:
        """A fresh sandbox for a program and one for tests.

        They are taken together: if many took one each and then waited for another, all would wait for ever. The
        program's comes first: while somebody waits for it, an examiner's may become idle.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with self._pairing:
                programs = await stack.enter_async_context(pool.session())
                examiners = self._idle.pop() if self._idle else await pool.acquire()
            sound = False
            try:
                yield programs, examiners
                sound = True
            except UsageError:
                sound = True
                raise
            finally:
                await self._put_back(pool, examiners, sound=sound)

    async def _put_back(self, pool: Pool, examiners: Session, *, sound: bool) -> None:
        """Resets a sandbox and keeps it for the next tests; one that is not sound, or is lost, is destroyed."""
        if not sound:
            await pool.release(examiners)
            return
        with contextlib.suppress(SandboxDied):
            async with UnlessFinished(lambda: pool.release(examiners)):
                await examiners.reset()
            self._idle.append(examiners)


def _begin_program(program: str, question: str) -> str:
    return f"""{_modules("boundary", "exchange", "examinee")}
from testbed.sandbox.examinee import Program
from testbed.sandbox.exchange import say
program = Program()
program.begin({program!a}, {question!a})"""


def _begin_tests(tests: Tests) -> str:
    return f"""{_modules("boundary", "exchange", "examiner")}
from testbed.sandbox.examiner import Examination
from testbed.sandbox.exchange import say
examination = Examination({tests.setup!a}, {tests.code!a}, {tests.entry_point!a}, {list(tests.required)!a})
examination.begin()"""


@functools.cache
def _modules(*names: str) -> str:
    """Code that makes modules of this package importable in a sandbox, where there is no such package."""
    sources = {f"{__package__}.{name}": (_HERE / f"{name}.py").read_text(encoding="utf-8") for name in names}
    return f"""import sys, types
for name, source in {sources!a}.items():
    sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), sys.modules[name].__dict__)"""
