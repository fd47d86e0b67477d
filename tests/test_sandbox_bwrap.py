"""The bubblewrap backend seen from the host: processes, files, privileges, and how its sandboxes end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits, Result, lockdown, pick
from testbed.sandbox.base import LARGEST
from testbed.sandbox.cgroup import Cgroup, Cgroups

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


async def test_a_worker_that_cannot_be_confined_is_gone_and_told(monkeypatch):
    """Version 1 takes no process of a real-time policy, say."""
    seen = []

    def refuse(self, pid):
        seen.append(pid)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    sandbox = Bwrap()
    sandbox._cgroups = Cgroups.find()
    if not sandbox._cgroups.controllers:
        pytest.skip(f"no cgroup can be made here: {sandbox._cgroups}")
    monkeypatch.setattr(Cgroup, "add", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxDied, match="Invalid argument"):
        await sandbox.open(SMALL)
    assert await gone(set(seen))
    assert sandbox._uids == set()
    assert len(os.listdir("/proc/self/fd")) == before


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


@pytest.fixture(scope="module")
def as_an_ordinary_user():
    """Runs Python code that can import the sandbox as a user without rights, and returns what it prints."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else; as a user, every other test is this one")
    nobody, candidates = 65534, (sys.executable, "/usr/bin/python3")
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    usable = (p for p in candidates if os.path.exists(p) and not _exit_code([p, "-c", check], nobody))
    python = next(usable, None)
    if python is None or _exit_code(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], nobody):
        pytest.skip("this machine has no Python 3.11 outside root's home, or no user namespaces for ordinary users")
    package = Path(__file__).resolve().parents[1] / "testbed"
    home = Path("/var/tmp") / f"testbed-{os.getpid()}"

    def call(code: str) -> str:
        done = subprocess.run(
            [python, "-c", textwrap.dedent(code)],
            user=nobody,
            group=nobody,
            extra_groups=[],
            cwd=home,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        shutil.copytree(package / "sandbox", home / "testbed" / "sandbox")
        for module in package.glob("*.py"):
            shutil.copy(module, home / "testbed")
        (home / "testbed" / "__init__.py").write_text("")
        yield call
    finally:
        shutil.rmtree(home)


def test_self_test_passes_for_an_ordinary_user(as_an_ordinary_user):
    code = "from testbed.sandbox import Bwrap; print([p for p in Bwrap().self_test() if not p.passed])"
    assert as_an_ordinary_user(code) == "[]\n"


CALLS_OF_ONE_SESSION = """
import asyncio, json, sys
from testbed.sandbox import Bwrap, Limits
async def main():
    sandbox = Bwrap()
    session = await sandbox.open(Limits(memory_mib=128))
    for code in {codes!r}:
        result = await session.run(code)
        print(result.stdout or result, end="")
    await session.close()
    print(sandbox.capabilities().get("devices"))
asyncio.run(main())
"""


def test_an_ordinary_users_devices_cannot_be_touched_either(as_an_ordinary_user):
    touch = """
import os
for name in ("null", "zero", "full", "random", "urandom"):
    try:
        os.utime("/dev/" + name)
        print("BREACH", name)
    except OSError:
        open("/dev/" + name, "r+b", buffering=0).close()
print("held")
"""
    assert as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[touch])) == "held\nread-only\n"


def test_flags_of_an_ordinary_users_scratch_are_gone_with_the_call(as_an_ordinary_user):
    """The folder is the program's own there, which may set what `lsattr` shows; since Linux 6.6."""
    flags = """
import fcntl, os
folder = os.open("/tmp", os.O_RDONLY)
try:
    before = fcntl.ioctl(folder, 0x80086601, bytes(8))
    fcntl.ioctl(folder, 0x40086602, (0xC0).to_bytes(8, "little"))  # nodump, noatime
    print(before.hex(), fcntl.ioctl(folder, 0x80086601, bytes(8)) != before)
except OSError as error:
    print(error)
"""
    first, second, _ = as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[flags, flags])).splitlines()
    if "ioctl" in first:
        pytest.skip(f"files in memory have no flags here: {first}")
    assert first == second
    assert first.endswith("True")


def test_queued_signals_of_an_ordinary_users_sandbox_are_bounded(as_an_ordinary_user):
    limit = "import resource; print(resource.getrlimit(resource.RLIMIT_SIGPENDING))"
    assert as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[limit])) == "(1024, 1024)\nread-only\n"


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
