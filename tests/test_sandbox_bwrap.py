"""The bubblewrap backend seen from the host: processes, files, privileges, and how its sandboxes end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits, Result, lockdown, pick

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


@pytest.fixture
async def session():
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


# --- processes of a call


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


def turn_ns(pid: int) -> int:
    """How long the kernel lets a process compute at a time; read where the kernel shows it."""
    try:
        lines = Path(f"/proc/{pid}/sched").read_text().splitlines()
    except FileNotFoundError:
        pytest.skip("this kernel does not show its scheduler (CONFIG_SCHED_DEBUG)")
    found = [int(line.split(":")[1]) for line in lines if line.startswith("se.slice")]
    if not found:
        pytest.skip("this kernel has no turns of a process's own (before Linux 6.12)")
    return found[0]


async def test_the_worker_has_short_turns_on_the_cpu_and_its_programs_have_not(session):
    worker = session._link.worker_pid
    call = asyncio.create_task(session.run("import time; time.sleep(1)"))
    await asyncio.sleep(0.3)
    (program,) = processes_in_namespace_of(worker) - {worker}
    assert turn_ns(worker) == lockdown.SHORT_TURN
    assert turn_ns(program) == turn_ns(os.getpid())
    await call


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


# --- what can be seen


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


# --- how it starts and ends


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


async def test_a_strict_umask_of_the_host_changes_nothing():
    before = os.umask(0o077)
    try:
        session = await Bwrap().open(SMALL)
    finally:
        os.umask(before)
    result = await session.run("import email, os; open('x', 'w').close(); print(os.listdir('/python'))")
    await session.close()
    assert result.status == "ok", result.stderr


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


# --- the self-test


async def test_self_test_passes_and_names_what_it_tried():
    probes = pick("auto").self_test()
    assert {probe.name for probe in probes} == {"launch", "call", "network", "files", "seccomp", "privileges"}
    assert all(probe.passed for probe in probes)


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
        for module in package.glob("*.py"):
            shutil.copy(module, home / "testbed")
        (home / "testbed" / "__init__.py").write_text("")
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


def test_failing_launch_names_cause_and_remedy(tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    (probe,) = Bwrap(str(broken)).self_test()
    assert not probe.passed
    assert "No permissions" in probe.detail
    assert "user namespaces" in probe.remedy
