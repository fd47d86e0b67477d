"""What an honest program gets from a stateless call, on every backend; attacks are in test_sandbox_hostile.py."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.errors import UsageError
from testbed.sandbox import Limits, Result, backends, link

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


@functools.cache
def faults(name: str) -> str:
    return "; ".join(f"{probe.name}: {probe.detail}" for probe in backends()[name].self_test() if not probe.passed)


@pytest.fixture(scope="module", params=list(backends()))
def backend(request: pytest.FixtureRequest) -> str:
    if faults(request.param):
        pytest.skip(f"{request.param} does not work here: {faults(request.param)}")
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(backend):
    session = await backends()[backend].open(SMALL)
    yield session
    await session.close()


async def run(session, code: str, **options) -> Result:
    return await session.run(textwrap.dedent(code), **options)


async def test_output_of_an_honest_program(session):
    result = await run(session, "import sys; print(6 * 7); print('note', file=sys.stderr)")
    assert (result.status, result.exit_code, result.stdout, result.stderr) == ("ok", 0, "42\n", "note\n")
    assert result.stdout_truncated == result.stderr_truncated == 0
    assert 0 < result.milliseconds < 3000


async def test_standard_streams_are_those_of_a_program_in_a_pipe(session):
    code = """
        import sys
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            print(stream.fileno(), stream.isatty(), stream.seekable(), stream.encoding, stream.errors)
        print(sys.stdin.readline() + sys.stdin.read(), end="")
        """
    result = await run(session, code, stdin="first\nsecond\n")
    assert result.stdout.splitlines() == [
        "0 False False utf-8 surrogateescape",
        "1 False False utf-8 surrogateescape",
        "2 False False utf-8 backslashreplace",
        "first",
        "second",
    ], result.stderr


async def test_the_workers_modules_are_not_those_of_the_program(session):
    code = """
        import sys
        assert not [name for name in sys.modules if name.partition(".")[0] == "testbed"]
        try:
            import testbed
        except ModuleNotFoundError:
            print("gone")
        """
    assert (await run(session, code)).stdout == "gone\n"


async def test_last_expression_is_not_echoed(session):
    assert (await session.run("6 * 7")).stdout == ""


async def test_exception_exits_1_and_shows_the_programs_own_lines_only(session):
    result = await run(session, "def half(n):\n    return 1 / n  # here\nhalf(0)")
    assert (result.status, result.exit_code) == ("error", 1)
    assert "ZeroDivisionError" in result.stderr
    assert "# here" in result.stderr
    assert "worker" not in result.stderr


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("exit(4)", 4),
        ("import sys; sys.exit('bye')", 1),
        ("import os; os._exit(7)", 7),
    ],
)
async def test_exit_codes_are_the_programs(session, code, exit_code):
    result = await session.run(code)
    assert result.exit_code == exit_code
    assert result.status == ("ok" if exit_code == 0 else "error")


async def test_stdin_reaches_the_program(session):
    text = "zwölf\n" * 100_000
    result = await session.run("import sys; data = sys.stdin.read(); print(len(data), data[:5])", stdin=text)
    assert result.stdout == f"{len(text)} zwölf\n"


async def test_stdin_that_nobody_reads_does_not_block(session):
    result = await session.run("print('done')", stdin="x" * 3_000_000)
    assert (result.status, result.stdout) == ("ok", "done\n")


async def test_empty_stdin_ends_at_once(session):
    assert (await session.run("import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


async def test_program_is_main_and_can_use_scratch_modules_threads_and_processes(session):
    result = await run(
        session,
        """
        import multiprocessing, pathlib, subprocess, sys, threading
        pathlib.Path("helper.py").write_text("value = 5")
        import helper
        thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
        with multiprocessing.Pool(2) as pool:
            print(pool.map(abs, [-1, -2]))
        print(subprocess.run([sys.executable, "-c", "print(3)"], capture_output=True, text=True).stdout.strip())
        print(__name__, helper.value, sys.version_info[:2])
        """,
    )
    assert result.stdout == f"thread\n[1, 2]\n3\n__main__ 5 {sys.version_info[:2]}\n", result.stderr


async def test_atexit_functions_run_and_threads_are_waited_for(session):
    result = await run(
        session,
        """
        import atexit, threading, time
        atexit.register(print, "bye")
        threading.Thread(target=lambda: (time.sleep(.1), print("late"))).start()
        """,
    )
    assert result.stdout == "late\nbye\n"


async def test_set_order_is_the_same_in_every_sandbox(backend):
    seen = set()
    for _ in range(2):
        session = await backends()[backend].open(SMALL)
        seen.add((await session.run("print(set('abcdefgh'), hash('x'))")).stdout)
        await session.close()
    assert len(seen) == 1


# --- text and output


@pytest.mark.parametrize(
    ("code", "stdout", "error"),
    [
        ("print('日本 é 🂡')", "日本 é 🂡\n", ""),
        ("print('a\\0b')", "a\0b\n", ""),
        ("import os; os.write(1, b'\\xff\\xfeok')", "\\xff\\xfeok", ""),
        ("print('\\ud800')", "", "UnicodeEncodeError"),
        ("x = '\ud800'", "", "UnicodeEncodeError"),
        ("x = 'a\0'", "", "null bytes"),
        ("def", "", "SyntaxError"),
    ],
)
async def test_strange_characters_in_code_and_output(session, code, stdout, error):
    result = await session.run(code)
    assert result.stdout == stdout
    assert error in result.stderr
    assert bool(error) == (result.status == "error")
    result.stdout.encode()  # no lone surrogate may come out
    result.stderr.encode()


async def test_huge_output_keeps_head_and_tail_and_counts_the_cut(session):
    size = 50_000_000
    result = await run(
        session,
        f"""
        import os
        os.write(1, b"<HEAD>")
        for _ in range({size} // 50_000): os.write(1, b"x" * 50_000)
        os.write(1, b"<TAIL>")
        """,
    )
    kept = SMALL.output_kib << 10
    assert result.status == "ok"
    assert result.stdout.startswith("<HEAD>xxx")
    assert result.stdout.endswith("xxx<TAIL>")
    assert result.stdout_truncated == size + 12 - kept
    assert f"[... {result.stdout_truncated} bytes cut ...]" in result.stdout
    assert len(result.stdout) < kept + 100


async def test_output_of_exactly_the_limit_is_whole(session):
    result = await session.run(f"import sys; sys.stdout.write('y' * {SMALL.output_kib << 10})")
    assert (len(result.stdout), result.stdout_truncated) == (SMALL.output_kib << 10, 0)


@pytest.mark.parametrize(
    "code", ["import os; os.close(1); os.close(2)", "import sys; sys.stdout.close()", "import sys; sys.stdout = None"]
)
async def test_closing_the_streams_is_harmless(session, code):
    result = await session.run(code + "\nx = 1")
    assert (result.status, result.stdout) == ("ok", "")


# --- limits and order


async def test_the_sessions_limit_caps_a_longer_timeout(session):
    result = await session.run("while True: pass", timeout=60)
    assert result.status == "timeout"
    assert result.milliseconds < 1000 * SMALL.wall_seconds + 1500


async def test_no_state_leaks_into_the_next_call(session):
    first = await run(
        session,
        """
        import builtins, json, os, sys, random
        builtins.print = None; json.dumps = None; sys.path.append("/tmp/x"); os.environ["LEFT"] = "1"
        sys.modules["planted"] = sys
        for name in ("a.py", "os.py", "/dev/shm/b"): open(name, "w").write("planted")
        os.mkdir("sub"); os.symlink("/python", "sub/link"); os.mkfifo("fifo"); os.chmod("sub", 0)
        os.umask(0o777); os.chdir("/")
        """,
    )
    assert first.status == "ok", first.stderr
    second = await run(
        session,
        """
        import json, os, sys
        print(json.dumps([sorted(os.listdir("/tmp")), os.getcwd(), "LEFT" in os.environ, "/tmp/x" in sys.path, "planted"
        in sys.modules]))
        """,
    )
    assert json.loads(second.stdout) == [["main.py"], "/tmp", False, False, False]


async def test_calls_of_one_session_do_not_mix(session):
    results = await asyncio.gather(*(session.run(f"print({n})") for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]


async def test_senseless_timeout_is_refused(session):
    with pytest.raises(UsageError, match="timeout"):
        await session.run("print(1)", timeout=0)


async def test_oversized_program_is_not_run(session):
    result = await session.run("x = 1\n" * 2_000_000)
    assert result.status == "error"
    assert "longer than" in result.stderr


# --- verdicts


async def test_a_child_killed_for_the_memory_of_the_kernel_makes_the_call_out_of_memory(backend):
    sandbox = backends()[backend]
    session = await sandbox.open(Limits(wall_seconds=30.0, memory_mib=64, processes=40, scratch_mib=16))
    result = await session.run(textwrap.dedent(KERNEL_HOG_BELOW_AN_HONEST_PARENT))
    again = await session.run("print('again')")
    await session.close()
    if "cgroup" not in sandbox.capabilities()["memory"]:
        pytest.skip("no cgroup limits memory here")
    assert (result.status, result.exit_code, again.stdout) == ("oom", None, "again\n"), result


KERNEL_HOG_BELOW_AN_HONEST_PARENT = """
    import os, socket, time
    child = os.fork()
    if child == 0:
        for _ in range(5): os.fork()
        held = []
        for _ in range(60):
            for end in socket.socketpair():
                end.setblocking(False)
                try:
                    while True: end.send(bytes(1 << 15))
                except BlockingIOError: held.append(end)
        time.sleep(3)
        os._exit(0)
    with open("/proc/self/oom_score_adj", "w") as file: file.write("0")  # honest, but not the first to die
    os.waitpid(child, 0)
    print("ok")
    """


async def test_the_worker_tells_ahead_that_it_must_end_what_a_program_left(session, monkeypatch):
    """Or one could make its end so slow that nobody knows what became of it, and be tried again."""
    told = []

    async def receive(*arguments):
        told.append(await link.receive(*arguments))
        return told[-1]

    monkeypatch.setattr("testbed.sandbox.session.receive", receive)
    leave = "import os, time\nif os.fork() == 0: time.sleep(60)\nos._exit(3)"
    results = [await session.run("print(1)"), await session.run(leave), await session.repl(leave)]
    assert [result.exit_code for result in results] == [0, 3, 3]
    assert [frame.get("verdict") for frame in told] == ["exited", "left", "exited", "left", "exited"]


@pytest.mark.parametrize("vfork", [True, False])
async def test_memory_is_not_counted_twice_while_a_child_is_started(backend, vfork):
    """Until it executes, a child of vfork seems to hold all that its parent holds."""
    session = await backends()[backend].open(Limits(wall_seconds=30.0, memory_mib=128))
    code = f"""
        import subprocess, sys
        subprocess._USE_VFORK = {vfork}
        kept = bytearray(b"x") * (84 << 20)
        for _ in range(50):
            subprocess.run([sys.executable, "-S", "-E", "-c", "pass"])
        print("held")
        """
    result = await run(session, code)
    await session.close()
    assert (result.status, result.stdout) == ("ok", "held\n"), result


async def test_cpu_time_of_several_cores_is_not_too_much_for_one_process(backend):
    session = await backends()[backend].open(Limits(wall_seconds=3.0, cpus=2.0))
    code = """
        import hashlib, resource, threading, time
        end = time.monotonic() + 2.6
        def burn():
            while time.monotonic() < end: hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
        threads = [threading.Thread(target=burn) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(min(resource.getrlimit(resource.RLIMIT_CPU)))
        """
    result = await run(session, code)
    await session.close()
    assert result.status == "ok", result
    assert int(result.stdout) > 3.0 * min(2, len(os.sched_getaffinity(0)))


@pytest.mark.slow
async def test_a_crowd_at_the_lock_of_a_programs_maps_gets_it_no_second_try(backend):
    """The same crowd as in `hostile/time.toml`, as large as the default limits allow."""
    attacks = tomllib.loads(Path(__file__).with_name("hostile").joinpath("time.toml").read_text())["attack"]
    (code,) = (attack["code"] for attack in attacks if attack["id"] == "crowd_at_the_lock_of_its_maps")
    for small, large in (("44_000", "60_000"), ("range(22)", "range(50)"), ("range(5)", "range(10)")):
        assert small in code
        code = code.replace(small, large)
    session = await backends()[backend].open(Limits())
    statuses = [(await session.run(code, timeout=3.0)).status for _ in range(2)]
    await session.close()
    assert statuses == ["timeout"] * 2
