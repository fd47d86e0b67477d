"""The bubblewrap backend seen from the host: the processes of calls, and what of the host can be seen."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.processes import gone, processes_in_namespace_of, programs_of
from testbed.sandbox import Bwrap, Limits, Result, lockdown
from testbed.sandbox.base import LARGEST
from testbed.sandbox.cgroup import Cgroups

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
    call = asyncio.create_task(session.run("import time; time.sleep(60)"))
    (program,) = await programs_of(worker)
    assert turn_ns(worker) == lockdown.SHORT_TURN
    assert turn_ns(program) == turn_ns(os.getpid())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("words", [["nice", "-n", "7"], ["nice", "-n", "-7"], ["chrt", "--batch", "0"]], ids=" ".join)
def test_the_worker_has_short_turns_and_its_hosts_priority_also_where_that_is_not_the_usual(words):
    if words == ["nice", "-n", "-7"] and os.geteuid() != 0:
        pytest.skip("only root can raise its priority")
    host = """
    import asyncio, os
    from pathlib import Path
    from testbed.sandbox import Bwrap, Limits
    async def main():
        session = await Bwrap().open(Limits())
        worker = session._link.worker_pid
        print(os.sched_getscheduler(worker) & 0xFFFF, os.getpriority(os.PRIO_PROCESS, worker))
        sched = Path(f"/proc/{worker}/sched")
        print([line.split(":")[1].strip() for line in sched.read_text().splitlines() if line.startswith("se.slice")]
              if sched.exists() else [])
        code = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"
        print((await session.run(code)).stdout)
        await session.close()
    asyncio.run(main())
    """
    done = subprocess.run([*words, sys.executable, "-c", textwrap.dedent(host)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    worker, turn, program = done.stdout.split("\n")[:3]
    policy, more = (os.SCHED_BATCH, 0) if words[0] == "chrt" else (os.SCHED_OTHER, int(words[2]))
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + more)
    assert worker == f"{policy} {nice}"
    assert turn in ("[]", f"['{lockdown.SHORT_TURN}']")  # none before Linux 6.12
    assert program == f"{policy} {max(nice, 0)}"  # programs have no precedence of the host's


@pytest.mark.parametrize(
    ("cpus", "limited", "seconds"),
    [(1.0, True, 4), (0.3, True, 4), (2.0, True, 3 * min(2, os.cpu_count()) + 1), (0.3, False, 3 * os.cpu_count() + 1)],
)
async def test_a_program_may_use_the_cpu_time_of_all_cores_that_it_has(cpus, limited, seconds):
    sandbox, nowhere = Bwrap(), Cgroups([], {})
    sandbox._cgroups = Cgroups.find() if limited else nowhere
    if limited and "cpu" not in sandbox._cgroups.controllers:
        pytest.skip(f"no cgroup limits cores here: {sandbox._cgroups}")
    session = await sandbox.open(replace(SMALL, cpus=cpus))
    result = await run(session, "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))", timeout=3)
    await session.close()
    assert result.stdout == f"({seconds}, {seconds + 1})\n"


async def test_as_much_output_as_may_be_asked_for_is_no_want_of_memory():
    """Every byte takes six characters in a message, and both streams are full."""
    most = LARGEST["output_kib"]
    session = await Bwrap().open(replace(SMALL, wall_seconds=30.0, output_kib=int(most)))
    code = f"import os\nfor _ in range({most:g} // 16):\n  for stream in (1, 2): os.write(stream, bytes(1 << 14))"
    result = await session.run(code)
    await session.close()
    assert (result.status, result.reason) == ("ok", "")
    assert len(result.stdout) == len(result.stderr) == int(most) << 10


async def test_a_crash_is_not_handed_to_a_program_of_the_hosts(session):
    """At 0, and only there, the kernel would still feed a core to a `core_pattern` that is a program (core(5))."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    result = await run(session, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert result.stdout == f"({core}, {core})\n"


async def test_worker_killed_from_outside_costs_one_call_only(session):
    call = asyncio.create_task(session.run("import time; time.sleep(2)"))
    assert await programs_of(session._link.worker_pid)
    os.kill(session._link.worker_pid, signal.SIGKILL)
    result = await call
    assert (result.status, result.exit_code) == ("sandbox_died", None)
    assert result.reason
    assert (await session.run("print('again')")).stdout == "again\n"


async def test_cancelled_call_leaves_nothing_running(session):
    worker = session._link.worker_pid
    call = asyncio.create_task(session.run("while True: pass"))
    inside = {worker, *await programs_of(worker)}
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
