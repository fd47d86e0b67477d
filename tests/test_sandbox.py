"""Attacks on the real sandbox, one property each."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from testbed.errors import SandboxDied, SandboxUnavailable, UnknownName, UsageError
from testbed.sandbox import Bwrap, Limits, Result, pick
from testbed.sandbox.seccomp import architectures, denied_calls, program
from testbed.sandbox.session import WorkerSession, handshake

needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


@pytest.fixture
async def session():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    session = await Bwrap().open(SMALL)
    yield session
    await session.close()


async def run(session, code: str, **options) -> Result:
    return await session.run(textwrap.dedent(code), **options)


def processes_in_namespace_of(pid: int) -> set[int]:
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.add(int(name))
            except OSError:
                continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def gone(pids: set[int], seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return not any(map(alive, pids))


# --- what an honest program gets


async def test_output_of_an_honest_program(session):
    result = await run(session, "import sys; print(6 * 7); print('note', file=sys.stderr)")
    assert (result.status, result.exit_code, result.stdout, result.stderr) == ("ok", 0, "42\n", "note\n")
    assert result.stdout_truncated == result.stderr_truncated == 0
    assert 0 < result.milliseconds < 3000


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


async def test_set_order_is_the_same_in_every_sandbox():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    seen = set()
    for _ in range(2):
        session = await Bwrap().open(SMALL)
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


async def test_endless_output_ends_at_the_timeout(session):
    began = time.monotonic()
    result = await session.run("import os\nwhile True: os.write(1, b'x' * 65536)", timeout=0.5)
    assert result.status == "timeout"
    assert result.stdout_truncated > 0
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "code", ["import os; os.close(1); os.close(2)", "import sys; sys.stdout.close()", "import sys; sys.stdout = None"]
)
async def test_closing_the_streams_is_harmless(session, code):
    result = await session.run(code + "\nx = 1")
    assert (result.status, result.stdout) == ("ok", "")


# --- time


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import contextlib, signal\nfor n in range(1, 65):\n  with contextlib.suppress(OSError, ValueError): "
        "signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "sum(10 ** 9 for _ in iter(int, 1))",
        "import atexit, time; atexit.register(time.sleep, 60)",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        "import sys; sys.excepthook = lambda *a: __import__('time').sleep(60); 1/0",
    ],
)
async def test_timeout_stops_whatever_does_not_end(session, code):
    result = await session.run(code, timeout=0.5)
    assert (result.status, result.exit_code) == ("timeout", None)
    assert "0.5 s" in result.reason
    assert 500 <= result.milliseconds < 1500


async def test_the_sessions_limit_caps_a_longer_timeout(session):
    result = await session.run("while True: pass", timeout=60)
    assert result.status == "timeout"
    assert result.milliseconds < 1000 * SMALL.wall_seconds + 1500


@pytest.mark.parametrize("how", ["daemon", "group", "stdout"])
async def test_processes_of_a_call_die_with_it(session, how):
    code = {
        "daemon": "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    os.close(1); os.close(2); time.sleep(60)\n  os._exit(0)",
        "group": "import os, time\nfor _ in range(5):\n  if os.fork() == 0:\n    os.setpgid(0, 0); time.sleep(60)",
        "stdout": "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
    }[how]
    result = await session.run(code + "\nprint('over')", timeout=2)
    assert result.status == "ok"
    assert result.milliseconds < 1500  # a child that holds stdout does not prolong the call
    assert processes_in_namespace_of(session._link.worker_pid) == {session._link.worker_pid}


async def test_timeout_kills_children_too(session):
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    assert (await session.run(code, timeout=0.5)).status == "timeout"
    assert processes_in_namespace_of(session._link.worker_pid) == {session._link.worker_pid}


# --- state


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


async def test_scratch_is_emptied_of_deep_and_locked_trees(session):
    deep = "import os\nfor _ in range(3000):\n  os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)"
    assert (await session.run(deep)).status == "ok"
    assert (await session.run("import os; print(os.listdir('/tmp'))")).stdout == "['main.py']\n"


# --- limits


async def test_memory_hog_in_one_process_fails_alone(session):
    result = await session.run("x = bytearray(10 ** 9)")
    assert result.status == "error"
    assert "MemoryError" in result.stderr
    assert (await session.run("print(1)")).stdout == "1\n"


async def test_memory_hog_in_many_processes_is_stopped(session):
    code = """
    import os, time
    for _ in range(16):
        if os.fork() == 0:
            x = bytearray(b"x") * 40_000_000
            time.sleep(60)
    time.sleep(60)
    """
    result = await run(session, code)
    assert (result.status, result.exit_code) == ("oom", None)
    assert "128 MiB" in result.reason


async def test_shared_memory_hog_is_stopped(session):
    result = await session.run(
        "import mmap, time\nm = mmap.mmap(-1, 400 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\ntime.sleep(60)"
    )
    assert result.status == "oom"


async def test_hiding_memory_from_the_count_is_refused(session):
    result = await session.run("import ctypes; print(ctypes.CDLL(None).prctl(4, 0, 0, 0, 0))")
    assert result.stdout == "-1\n"


async def test_fork_bomb_is_bounded_and_the_sandbox_survives(session):
    peak = 0

    async def count() -> None:
        nonlocal peak
        while True:
            peak = max(peak, len(processes_in_namespace_of(session._link.worker_pid)))
            await asyncio.sleep(0.02)

    counter = asyncio.create_task(count())
    code = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    result = await session.run(code, timeout=1)
    counter.cancel()
    assert result.status == "timeout"
    assert result.milliseconds < 3000
    assert 2 <= peak <= SMALL.processes + 2
    assert (await session.run("print(1)")).stdout == "1\n"


async def test_orphans_do_not_use_up_the_process_limit(session):
    code = """
    import os, time
    for _ in range(100):
        if os.fork() == 0:
            if os.fork() == 0: os._exit(0)
            os._exit(0)
        os.wait()
        time.sleep(.005)
    print("done")
    """
    assert (await run(session, code)).stdout == "done\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", "File too large"),
        ("for i in range(100): open(f'f{i}', 'wb').write(bytes(4 << 20))", "No space left"),
        ("for i in range(100): open(f'/dev/shm/f{i}', 'wb').write(bytes(4 << 20))", "No space left"),
        ("for i in range(100_000): open(f'f{i}', 'w').close()", "No space left"),
        ("files = [open('/dev/null') for _ in range(1000)]", "Too many open files"),
        (
            "import threading, time\nfor _ in range(99):\n"
            "  threading.Thread(target=time.sleep, args=(2,), daemon=True).start()",
            "new thread",
        ),
    ],
    ids=["file", "scratch", "shm", "inodes", "descriptors", "threads"],
)
async def test_filling_up_a_resource_is_the_programs_own_error(session, code, message):
    result = await session.run(code)
    assert result.status == "error"
    assert message in result.stderr
    assert (
        await session.run("import os; open('x', 'wb').write(bytes(1 << 20)); print(os.listdir('.'))")
    ).status == "ok"


async def test_burning_cpu_in_many_threads_ends_with_the_wall_clock(session):
    code = "import hashlib, threading\ndef burn():\n  while True: hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 6)\n"
    code += "for _ in range(4): threading.Thread(target=burn).start()"
    result = await session.run(code, timeout=1)
    assert result.status == "timeout"
    assert result.milliseconds < 2500


async def test_segfault_is_killed_with_its_signal(session):
    result = await session.run("print('before', flush=True)\nimport ctypes; ctypes.string_at(0)")
    assert (result.status, result.exit_code) == ("killed", -signal.SIGSEGV)
    assert result.stdout == "before\n"
    assert "signal 11" in result.reason


async def test_no_core_is_dumped(session):
    result = await session.run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert result.stdout == "(0, 0)\n"


async def test_limits_cannot_be_raised(session):
    code = """
    import resource
    for kind in ("NPROC", "DATA", "AS", "FSIZE", "NOFILE", "CPU"):
        number = getattr(resource, "RLIMIT_" + kind)
        hard = resource.getrlimit(number)[1]
        assert hard not in (-1, 1 << 62), kind
        try: resource.setrlimit(number, (hard + 1, hard + 1)); print("raised", kind)
        except ValueError: pass
    """
    result = await run(session, code)
    assert (result.status, result.stdout) == ("ok", ""), result.stderr


# --- the world


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"])
async def test_no_network_socket_can_be_made(session, family):
    result = await session.run(f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)")
    assert "PermissionError" in result.stderr


async def test_no_name_can_be_resolved_and_no_connection_made(session):
    result = await session.run("import socket; socket.create_connection(('127.0.0.1', 22), timeout=1)")
    assert result.status == "error"
    assert (await session.run("import socket; socket.getaddrinfo('example.org', 80)")).status == "error"


async def test_host_files_cannot_be_seen(session, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    project = Path(__file__).resolve().parents[1]
    paths = [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/hostname",
        str(secret),
        str(project / "pyproject.toml"),
        str(Path.home()),
        "/bin/sh",
    ]
    paths += ["/usr", "/home", "/root", "/var", "/sys", "/run", "/mnt", "/proc/meminfo", "/proc/cmdline", "/proc/sys"]
    result = await session.run(
        "import json, os, sys; print([p for p in json.load(sys.stdin) if os.path.exists(p)])", stdin=json.dumps(paths)
    )
    assert result.stdout == "[]\n"
    roots = await session.run("import os; print(sorted(os.listdir('/')))")
    assert set(eval(roots.stdout)) <= {"dev", "lib", "lib64", "proc", "python", "tmp"}


async def test_installed_packages_cannot_be_imported(session):
    result = await session.run("import numpy")
    assert "ModuleNotFoundError" in result.stderr


async def test_nothing_outside_scratch_can_be_written(session):
    code = """
    import os
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/tmp", "/proc")]
        for name in ["planted", *files[:3]]:
            path = os.path.join(folder, name)
            if folder == "/dev" and name != "planted": continue
            try: open(path, "a"); print("wrote", path)
            except OSError: pass
    for path in ("/proc/planted", "/proc/1/planted", "/proc/1/comm", "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger"):
        try: open(path, "w"); print("wrote", path)
        except OSError: pass
    """
    result = await run(session, code)
    assert (result.status, result.stdout) == ("ok", ""), result.stderr


async def test_environment_holds_nothing_of_the_host(session, monkeypatch):
    monkeypatch.setenv("API_KEY", "sk-secret")
    fresh = await Bwrap().open(SMALL)
    result = await fresh.run(
        "import os; print(sorted(os.environ))\nfor p in ('self', '1'):\n"
        "  try: print(open(f'/proc/{p}/environ').read())\n  except OSError: pass"
    )
    await fresh.close()
    assert "secret" not in result.stdout
    assert "API_KEY" not in result.stdout
    assert str(Path.home()) not in result.stdout


async def test_no_descriptor_is_inherited(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    with (tmp_path / "secret").open("w+") as secret:
        os.set_inheritable(secret.fileno(), True)
        session = await Bwrap().open(SMALL)
        result = await session.run(
            "import os\nfor n in range(256):\n  try: os.fstat(n); print(n)\n  except OSError: pass"
        )
        await session.close()
    assert result.stdout.split() == ["0", "1", "2"]


async def test_user_is_not_root_and_can_become_nobody_else(session):
    code = """
    import os
    assert 0 not in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) and 0 not in os.getgroups()
    for call in (os.setuid, os.setgid):
        try: call(0); print("became root")
        except OSError: pass
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    assert all(int(status[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    """
    result = await run(session, code)
    assert (result.status, result.stdout) == ("ok", ""), result.stderr


async def test_every_denied_system_call_is_refused(session):
    code = """
    import ctypes, errno, json, sys
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in json.load(sys.stdin).items():
        ctypes.set_errno(0)
        if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM: print(name)
    """
    result = await run(session, code, stdin=json.dumps(denied_calls(os.uname().machine)))
    assert (result.status, result.stdout) == ("ok", ""), result.stderr


async def test_unknown_system_calls_do_not_exist(session):
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    print([(libc.syscall(n, 0), ctypes.get_errno()) for n in (451, 600, 0x40000000 | 39)])
    """
    assert (await run(session, code)).stdout == "[(-1, 38), (-1, 38), (-1, 38)]\n"


async def test_new_namespaces_are_refused_through_clone(session):
    code = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
        ctypes.set_errno(0)
        if libc.syscall(clone, flag | 17, 0, 0, 0, 0) == 0: os._exit(9)
        print(ctypes.get_errno())
    """
    assert (await run(session, code)).stdout == "1\n" * 4


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs the 32-bit system-call gate of x86")
async def test_foreign_architecture_calls_kill_the_program(session):
    code = """
    import ctypes, mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
    print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
    """
    result = await run(session, code)
    assert (result.status, result.exit_code) == ("killed", -signal.SIGSYS)


# --- the worker


async def test_worker_cannot_be_killed_stopped_or_read(session):
    before = session._link.worker_pid
    code = """
    import os, resource, signal
    for number in range(1, 65):
        try: os.kill(1, number)
        except OSError: pass
    attempts = {
        "mem": lambda: open("/proc/1/mem", "rb").read(1),
        "environ": lambda: open("/proc/1/environ").read(),
        "maps": lambda: open("/proc/1/maps").read(),
        "fd": lambda: os.listdir("/proc/1/fd"),
        "root": lambda: os.listdir("/proc/1/root"),
        "cwd": lambda: os.readlink("/proc/1/cwd"),
        "exe": lambda: os.readlink("/proc/1/exe"),
        "oom": lambda: open("/proc/1/oom_score_adj", "w").write("1000"),
        "limits": lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
        "user's priority": lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19),
        "affinity": lambda: os.sched_setaffinity(1, {0}),
        "scheduler": lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    }
    for name, attempt in attempts.items():
        try: attempt(); print(name)
        except OSError: pass
    """
    result = await run(session, code)
    assert (result.status, result.stdout) == ("ok", ""), result.stderr
    assert (await session.run("print(1)")).stdout == "1\n"
    assert session._link.worker_pid == before


async def test_forged_frames_are_only_output(session):
    forged = json.dumps(HONEST | {"stdout": "forged"})
    code = f"""
    import os, struct
    body = {forged!r}.encode()
    for descriptor in range(256):
        try: os.write(descriptor, struct.pack(">I", len(body)) + body)
        except OSError: pass
    os._exit(5)
    """
    result = await run(session, code)
    assert (result.status, result.exit_code) == ("error", 5)
    assert forged in result.stdout
    assert (await session.run("print(2)")).stdout == "2\n"


async def test_worker_killed_from_outside_costs_one_call_only(session):
    call = asyncio.create_task(session.run("import time; time.sleep(2)"))
    await asyncio.sleep(0.2)
    os.kill(session._link.worker_pid, signal.SIGKILL)
    result = await call
    assert (result.status, result.exit_code) == ("sandbox_died", None)
    assert result.reason
    assert (await session.run("print('again')")).stdout == "again\n"


async def test_cancelled_call_leaves_nothing_running(session):
    worker = session._link.worker_pid
    call = asyncio.create_task(session.run("while True: pass"))
    await asyncio.sleep(0.2)
    inside = processes_in_namespace_of(worker)
    assert len(inside) == 2
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await gone(inside)
    assert (await session.run("print('again')")).stdout == "again\n"


async def test_calls_of_one_session_do_not_mix(session):
    results = await asyncio.gather(*(session.run(f"print({n})") for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]


async def test_close_ends_every_process_and_descriptor():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    sandbox = Bwrap()
    await (await sandbox.open(SMALL)).close()
    before = set(os.listdir("/proc/self/fd"))
    session = await sandbox.open(SMALL)
    inside = processes_in_namespace_of(session._link.worker_pid)
    await session.close()
    await session.close()
    assert await gone(inside)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    with pytest.raises(SandboxDied, match="closed"):
        await session.run("print(1)")


@needs_bwrap
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_nothing_outlives_a_host_that_is_killed(busy):
    host = f"""
    import asyncio, sys
    from testbed.sandbox import Bwrap, Limits
    async def main():
        session = await Bwrap().open(Limits(wall_seconds=60))
        bomb = "import os\\nfor _ in range(3): os.fork()\\nwhile True: pass"
        call = asyncio.create_task(session.run(bomb)) if {busy} else None
        await asyncio.sleep(.5)
        print(session._link.worker_pid, flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(host)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inside = processes_in_namespace_of(int(process.stdout.readline()))
        assert len(inside) == (9 if busy else 1)
        process.kill()
    assert await gone(inside, 2.0)


@needs_bwrap
async def test_ctrl_c_of_the_host_does_not_reach_the_sandbox():
    host = """
    import asyncio, signal
    from testbed.sandbox import Bwrap, Limits
    async def main():
        session = await Bwrap().open(Limits())
        call = asyncio.create_task(session.run("import time; time.sleep(1); print('done')"))
        await asyncio.sleep(.3)
        print("ready", flush=True)
        print((await call).status, flush=True)
        await session.close()
    signal.signal(signal.SIGINT, lambda *_: None)
    asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(host)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "ok\n"


@needs_bwrap
async def test_a_strict_umask_of_the_host_changes_nothing():
    before = os.umask(0o077)
    try:
        session = await Bwrap().open(SMALL)
    finally:
        os.umask(before)
    result = await session.run("import email, os; open('x', 'w').close(); print(os.listdir('/python'))")
    await session.close()
    assert result.status == "ok", result.stderr


@needs_bwrap
async def test_where_proc_cannot_be_mounted_the_sandbox_works_and_says_what_is_missing(tmp_path):
    refusing = tmp_path / "bwrap"
    refusing.write_text(
        f"""#!/bin/sh
        case " $* " in
            *" --proc "*) echo "bwrap: Can't mount proc on /newroot/proc: Operation not permitted" >&2; exit 1;;
        esac
        exec {shutil.which("bwrap")} "$@"
        """
    )
    refusing.chmod(0o755)
    sandbox = Bwrap(str(refusing))
    session = await sandbox.open(SMALL)
    code = "import os\nif os.fork() == 0:\n  while True: pass\nprint(os.path.exists('/proc'))"
    results = [await session.run(code, timeout=2), await session.run("while True: pass", timeout=0.3)]
    inside = processes_in_namespace_of(session._link.worker_pid)
    await session.close()
    assert [result.status for result in results] == ["ok", "timeout"]
    assert results[0].stdout == "False\n"
    assert len(inside) == 1
    assert "cannot be mounted" in sandbox.capabilities()["memory"]


# --- a host that believes nothing


class LyingWorker:
    """Plays the worker's end of the control socket with whatever frames a test wants."""

    def __init__(self) -> None:
        self.killed = False

    async def start(self, *answers: bytes) -> LyingWorker:
        here, self._there = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=here)
        self._there.sendall(b"".join(answers))
        return self

    async def kill(self) -> str:
        self.killed = True
        self.writer.close()
        self._there.close()
        return ""


def frame(**fields: object) -> bytes:
    body = json.dumps(fields).encode()
    return struct.pack(">I", len(body)) + body


HONEST = {
    "type": "result",
    "seq": 1,
    "verdict": "exited",
    "exit_code": 0,
    "stdout": "",
    "stderr": "",
    "stdout_cut": 0,
    "stderr_cut": 0,
    "clean": True,
}
CONFINED = {"type": "ready", "pid": 1, "uid": 5, "seccomp": 2, "no_new_privs": 1, "dumpable": 0, "capabilities": False}


@pytest.mark.parametrize(
    "answer",
    [
        frame(**HONEST | {"seq": 2}),
        frame(**HONEST | {"type": "ready"}),
        frame(**HONEST | {"stdout": 5}),
        frame(**HONEST | {"stdout_cut": -1}),
        frame(**HONEST | {"exit_code": None}),
        frame(**HONEST | {"verdict": "passed", "exit_code": None}),
        struct.pack(">I", 1 << 31),
        struct.pack(">I", 4) + b"nope",
        struct.pack(">I", 2) + b"[]",
    ],
)
async def test_unexpected_frame_kills_the_session(answer):
    worker = await LyingWorker().start(answer)

    async def start() -> LyingWorker:
        return worker

    session = await WorkerSession(start, SMALL).open()
    result = await session.run("print(1)")
    assert result.status == "sandbox_died"
    assert worker.killed


@pytest.mark.parametrize(
    "wrong",
    [
        {"seccomp": 0},
        {"no_new_privs": 0},
        {"dumpable": 1},
        {"capabilities": True},
        {"uid": 0},
        {"pid": 7},
        {"type": "result"},
        {"uid": None},
    ],
)
async def test_worker_that_is_not_confined_is_refused(wrong):
    worker = await LyingWorker().start(
        frame(type="hello", machine="x86_64", python="3.11.0"), frame(**CONFINED | wrong)
    )
    with pytest.raises(SandboxDied):
        await handshake(worker, SMALL, 5)
    assert worker.killed


async def test_worker_on_an_architecture_without_a_filter_is_refused():
    worker = await LyingWorker().start(frame(type="hello", machine="sparc", python="3.11.0"))
    with pytest.raises(SandboxDied, match="system-call filter"):
        await handshake(worker, SMALL, 5)


@pytest.mark.parametrize("machine", architectures())
def test_filter_is_well_formed(machine):
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    assert len(steps) < 4096
    assert all(at + 1 + max(yes, no) < len(steps) for at, (code, yes, no, _) in enumerate(steps) if code & 7 == 5)
    assert steps[-1][0] == 0x06


# --- choosing


@needs_bwrap
async def test_self_test_passes_and_names_what_it_tried():
    probes = pick("auto").self_test()
    assert {probe.name for probe in probes} == {"launch", "call", "network", "files", "seccomp", "privileges"}
    assert all(probe.passed for probe in probes)


@needs_bwrap
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else; as a user, every other test is this one"
)
def test_self_test_passes_for_an_ordinary_user():
    nobody, candidates = 65534, (sys.executable, "/usr/bin/python3")
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    usable = (p for p in candidates if os.path.exists(p) and not _exit_code([p, "-c", check], nobody))
    python = next(usable, None)
    if python is None or _exit_code(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], nobody):
        pytest.skip("this machine has no Python 3.11 outside root's home, or no user namespaces for ordinary users")
    package = Path(__file__).resolve().parents[1] / "testbed"
    home = Path("/var/tmp") / f"testbed-{os.getpid()}"
    try:
        shutil.copytree(package / "sandbox", home / "testbed" / "sandbox")
        shutil.copy(package / "errors.py", home / "testbed")
        (home / "testbed" / "__init__.py").touch()
        code = "from testbed.sandbox import Bwrap; print([p for p in Bwrap().self_test() if not p.passed])"
        done = subprocess.run(
            [python, "-c", code],
            user=nobody,
            group=nobody,
            extra_groups=[],
            cwd=home,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
    finally:
        shutil.rmtree(home)
    assert done.stdout == "[]\n", done.stderr


def _exit_code(command: list[str], user: int) -> int:
    try:
        return subprocess.run(command, user=user, group=user, extra_groups=[], capture_output=True).returncode
    except PermissionError:
        return 1


def test_without_a_working_backend_there_is_an_error_and_no_fallback(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
        pick("auto")


@needs_bwrap
def test_failing_launch_names_cause_and_remedy(tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    (probe,) = Bwrap(str(broken)).self_test()
    assert not probe.passed
    assert "No permissions" in probe.detail
    assert "user namespaces" in probe.remedy


def test_unknown_backend_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="bwrap"):
        pick("bwrp")


@pytest.mark.parametrize(
    "wrong",
    [{"wall_seconds": 0}, {"wall_seconds": float("inf")}, {"memory_mib": 8}, {"processes": -1}, {"output_kib": 0}],
)
def test_senseless_limits_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Limits(**wrong)


async def test_senseless_timeout_is_refused(session):
    with pytest.raises(UsageError, match="timeout"):
        await session.run("print(1)", timeout=0)


async def test_oversized_program_is_not_run(session):
    result = await session.run("x = 1\n" * 2_000_000)
    assert result.status == "error"
    assert "longer than" in result.stderr
