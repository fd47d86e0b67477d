"""What a session's REPL promises, one property each, in the real sandbox; attacks are in test_sandbox_hostile.py."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from testbed.errors import SandboxDied, UsageError
from testbed.sandbox import Bwrap, Limits, Result, Session

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

LIMITS = Limits(wall_seconds=10.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = await Bwrap().open(LIMITS)
    yield session
    await session.close()


async def cell(session: Session, code: str, timeout: float | None = None) -> Result:
    return await session.repl(textwrap.dedent(code), timeout)


async def test_names_imports_and_files_are_there_in_the_next_cell(session: Session) -> None:
    await cell(session, "import math; x = 40\ndef f(n): return n + x\nopen('note', 'w').write('kept')")
    result = await cell(session, "print(f(2), math.floor(2.5), open('note').read())")
    assert (result.status, result.stdout, result.state_lost) == ("ok", "42 2 kept\n", False)


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("6 * 7", "42\n"),
        ("x = 1; x + 1", "2\n"),
        ("'text'", "'text'\n"),
        ("None", ""),
        ("6 * 7\nx = 1", ""),
        ("print('a')\n'b'", "a\n'b'\n"),
        ("", ""),
        ("# only a comment", ""),
        ("for i in range(2):\n    i", ""),
        ("@staticmethod\ndef f(): pass", ""),
    ],
)
async def test_value_of_a_last_expression_is_displayed(session: Session, code: str, stdout: str) -> None:
    assert (await session.repl(code)).stdout == stdout


async def test_last_value_has_the_name_underscore(session: Session) -> None:
    await cell(session, "6 * 7")
    assert (await cell(session, "_ + 1")).stdout == "43\n"


async def test_an_exception_shows_the_cells_own_lines_and_keeps_the_state(session: Session) -> None:
    await cell(session, "x = 1\ndef half(n):\n    return 1 / n  # here")
    result = await cell(session, "half(0)")
    assert (result.status, result.exit_code, result.state_lost) == ("error", 1, False)
    assert "# here" in result.stderr
    assert "ZeroDivisionError" in result.stderr
    assert "testbed" not in result.stderr
    assert (await cell(session, "x")).stdout == "1\n"


async def test_a_syntax_error_runs_nothing(session: Session) -> None:
    await cell(session, "x = 1")
    result = await cell(session, "x = 2\nx = (")
    assert (result.status, result.exit_code) == ("error", 1)
    assert "SyntaxError" in result.stderr
    assert (await cell(session, "x")).stdout == "1\n"


async def test_a_cell_out_of_time_is_interrupted_and_keeps_the_state(session: Session) -> None:
    await cell(session, "n = 0")
    result = await cell(session, "while True: n += 1", timeout=0.3)
    assert (result.status, result.exit_code, result.state_lost) == ("timeout", None, False)
    assert "KeyboardInterrupt" in result.stderr
    assert "testbed" not in result.stderr
    assert result.reason == "stopped after 0.3 s"
    assert (await cell(session, "n > 0")).stdout == "True\n"


STUBBORN = {
    "ignores": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "catches": "import time\nwhile True:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt: pass",
    "in C": "max(range(10 ** 13))",
    "stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("how", STUBBORN)
async def test_a_cell_that_withstands_the_interrupt_costs_the_state(session: Session, how: str) -> None:
    await cell(session, "x = 1")
    result = await cell(session, STUBBORN[how], timeout=0.3)
    assert (result.status, result.state_lost) == ("timeout", True)
    assert (await cell(session, "'x' in globals()")).stdout == "False\n"


async def test_a_cell_that_ignores_interrupts_does_not_spoil_the_next(session: Session) -> None:
    await cell(session, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); x = 1")
    result = await cell(session, "while True: pass", timeout=0.3)
    assert (result.status, result.state_lost) == ("timeout", False)


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("import sys; sys.exit(3)", "error", 3),
        ("exit()", "ok", 0),
        ("import sys; sys.exit('bye')", "error", 1),
        ("import os; os._exit(0)", "ok", 0),
        ("import os; os._exit(7)", "error", 7),
        ("import os; os.kill(os.getpid(), 9)", "killed", -9),
    ],
)
async def test_leaving_ends_the_state_and_says_so(session: Session, code: str, status: str, exit_code: int) -> None:
    await cell(session, "x = 1")
    result = await cell(session, code)
    assert (result.status, result.exit_code, result.state_lost) == (status, exit_code, True)
    after = await cell(session, "'x' in globals()")
    assert (after.stdout, after.state_lost) == ("False\n", False)


async def test_what_is_printed_before_leaving_is_not_lost(session: Session) -> None:
    result = await cell(session, "import atexit, sys; atexit.register(print, 'last'); print('first'); sys.exit()")
    assert result.stdout == "first\nlast\n"


async def test_threads_and_processes_stand_still_between_cells(session: Session) -> None:
    await cell(
        session,
        """
        import os, threading, time
        counted = [0]
        def count():
            while True:
                counted[0] += 1
                time.sleep(0.001)
        threading.Thread(target=count, daemon=True).start()
        if os.fork() == 0:
            while True:
                with open("beat", "a") as file: file.write(".")
                time.sleep(0.001)
        time.sleep(0.1)
        """,
    )
    before = await cell(session, "print(counted[0], os.path.getsize('beat'))")
    await asyncio.sleep(0.5)
    after = await cell(session, "print(counted[0], os.path.getsize('beat'))")
    for earlier, later in zip(before.stdout.split(), after.stdout.split(), strict=True):
        assert int(earlier) > 10
        assert int(later) - int(earlier) < 100, "it went on while nobody had asked for anything"
    again = await cell(session, "time.sleep(0.3); print(counted[0], os.path.getsize('beat'))")
    for earlier, later in zip(after.stdout.split(), again.stdout.split(), strict=True):
        assert int(later) > int(earlier) + 10, "it did not go on in the next cell"


async def test_output_of_background_threads_appears_in_a_later_cell(session: Session) -> None:
    await cell(session, "import threading, time\nthreading.Timer(0.05, print, ['later']).start()")
    assert "later\n" in (await cell(session, "time.sleep(0.5)")).stdout


async def test_standard_input_is_empty(session: Session) -> None:
    assert "EOFError" in (await cell(session, "input()")).stderr


async def test_output_is_cut_in_each_cell_anew(session: Session) -> None:
    for _ in range(2):
        result = await cell(session, "print('a' * 100_000)")
        assert result.stdout.startswith("aaa")
        assert result.stdout_truncated == 100_001 - (16 << 10)
    assert (await cell(session, "print('short')")).stdout_truncated == 0


async def test_inspect_finds_the_source_of_earlier_cells(session: Session) -> None:
    await cell(session, "def f():\n    return 1  # found")
    assert "# found" in (await cell(session, "import inspect; print(inspect.getsource(f))")).stdout


async def test_a_program_ends_the_state_and_empties_the_folder(session: Session) -> None:
    await cell(session, "x = 1; open('note', 'w').close()")
    program = await session.run("import os; print(os.path.exists('note'))")
    assert (program.stdout, program.state_lost) == ("True\n", True)
    after = await cell(session, "import os; print('x' in globals(), os.listdir())")
    assert (after.stdout, after.state_lost) == ("False []\n", False)
    assert (await session.run("print()")).state_lost
    assert not (await session.run("print()")).state_lost


async def test_reset_ends_the_state_and_empties_the_folder(session: Session) -> None:
    await cell(session, "x = 1; open('note', 'w').close()")
    await session.reset()
    result = await cell(session, "import os; print('x' in globals(), os.listdir())")
    assert (result.stdout, result.state_lost) == ("False []\n", False)


async def test_two_sessions_share_nothing(session: Session) -> None:
    await cell(session, "x = 1; open('note', 'w').close()")
    other = await Bwrap().open(LIMITS)
    result = await cell(other, "import os; print('x' in globals(), os.listdir())")
    await other.close()
    assert result.stdout == "False []\n"


async def test_memory_of_all_cells_counts_together(session: Session) -> None:
    for _ in range(4):
        result = await cell(session, "blocks = [*globals().get('blocks', []), bytearray(50 << 20)]")
    assert "MemoryError" in result.stderr
    assert (await cell(session, "len(blocks)")).stdout == "2\n"


async def test_long_cells_do_not_fill_the_memory_and_the_latest_show_their_lines() -> None:
    small = await Bwrap().open(replace(LIMITS, memory_mib=24))
    results = [await small.repl(f"size = 1\nlen('{'x' * 1_000_000}')") for _ in range(24)]
    failed = await small.repl("size / 0  # here")
    await small.close()
    assert {result.status for result in results} == {"ok"}
    assert "size / 0  # here" in failed.stderr


async def test_a_cell_that_uses_the_time_of_many_is_not_ended_for_its_cpu_seconds(session: Session) -> None:
    """A program's CPU time is limited by its own timeout; a REPL's adds up over cells and is not."""
    for _ in range(4):
        result = await cell(
            session, "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
        )
        assert (result.status, result.state_lost) == ("ok", False)


async def test_senseless_timeout_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="above 0"):
        await session.repl("1", timeout=0)


async def test_a_closed_session_says_so(session: Session) -> None:
    await session.close()
    with pytest.raises(SandboxDied, match="closed"):
        await session.repl("1")


async def test_a_lost_worker_is_reported_with_the_lost_state(session: Session) -> None:
    await cell(session, "x = 1")
    running = asyncio.ensure_future(cell(session, "import time; time.sleep(5)"))
    await asyncio.sleep(0.3)
    await session._link.kill()  # type: ignore[attr-defined]
    result = await running
    assert (result.status, result.state_lost) == ("sandbox_died", True)
    assert (await cell(session, "'x' in globals()")).stdout == "False\n"


async def test_a_cancelled_cell_leaves_a_fresh_session(session: Session) -> None:
    await cell(session, "x = 1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await cell(session, "import time; time.sleep(5)")
    assert (await cell(session, "'x' in globals()")).stdout == "False\n"
