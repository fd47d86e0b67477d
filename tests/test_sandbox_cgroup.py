"""Cgroups of sandboxes: real ones, of whichever version this machine has; skipped where none can be made."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
from testbed.sandbox import Bwrap, Limits
from testbed.sandbox.cgroup import CONTROLLERS, ROOM_MIB, ROOM_PROCESSES, Cgroup, Cgroups, cpu_time
from testbed.sandbox.cgroup_tree import Hierarchy, hierarchies, new_name

SMALL = Limits(wall_seconds=60.0, memory_mib=64, processes=40, scratch_mib=16, output_kib=16, file_mib=8)


@pytest.fixture
def cgroups() -> Cgroups:
    found = Cgroups.find()
    if set(found.controllers) != set(CONTROLLERS):
        pytest.skip(f"this process may not make cgroups here: {found}")
    return found


@pytest.fixture
async def sandbox(cgroups):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    return Bwrap()


def processes_in(folder: str) -> set[int]:
    return {int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()}


async def until_inside(cgroup: Cgroup, count: int, seconds: float = 20.0) -> dict[str, set[int]]:
    """The processes in each folder, once there are so many."""
    end = time.monotonic() + seconds
    while True:
        inside = {name: processes_in(folder) for name, folder in cgroup.folders.items()}
        if all(len(pids) == count for pids in inside.values()) or time.monotonic() > end:
            return inside
        await asyncio.sleep(0.02)


def value(cgroup: Cgroup, controller: str, *names: str) -> str:
    """Contents of the first of the files that there is: the versions call them differently."""
    folder = Path(cgroup.folders[controller])
    return next(path for name in names if (path := folder / name).exists()).read_text().strip()


def throttled(cgroup: Cgroup) -> int:
    lines = Path(cgroup.folders["cpu"], "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled "))


def cpu_seconds(pids: set[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def start_inside(cgroup: Cgroup, code: str) -> subprocess.Popen[str]:
    """A Python outside of every sandbox that runs `code` once it is in the cgroup."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\ninput()\n{textwrap.dedent(code)}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    cgroup.add(process.pid)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process


HOG = """
hog = bytearray(400 << 20)
hog[::4096] = bytes([1]) * len(hog[::4096])
print("alive", flush=True)
"""


# --- where


UNIFIED = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/testbed.scope\n"


@pytest.mark.parametrize(
    ("mounts", "membership", "expected"),
    [
        (
            "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            UNIFIED,
            [(2, (), "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/testbed.scope")],
        ),
        (
            "33 31 0:29 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            "34 31 0:30 / /cg/freezer rw - cgroup cgroup rw,freezer\n"
            "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n"
            "35 31 0:31 / /cg/memory rw - cgroup cgroup rw,memory\n",
            "5:freezer:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n",
            [(1, ("cpu",), "/cg/cpu,cpuacct/a"), (1, ("memory",), "/cg/memory/a/b"), (2, (), "/cg/unified")],
        ),
        (
            "9 8 0:3 /docker/5f /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
            "4:pids:/docker/5f\n",
            [(1, ("pids",), "/sys/fs/cgroup/pids")],
        ),
        (
            "9 8 0:3 /docker/5f /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
            "4:pids:/docker/5f66\n",
            [],
        ),
        ("9 8 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../other\n", []),
        (
            "8 7 0:3 / /shown ro - cgroup2 cgroup2 rw\n9 8 0:3 / /with\\040space rw - cgroup2 cgroup2 rw\n"
            "10 8 0:3 / /again ro - cgroup2 cgroup2 rw\n",
            "0::/\n",
            [(2, (), "/with space")],
        ),
    ],
    ids=["unified", "version 1 and unified", "container", "another container", "outside the namespace", "two mounts"],
)
def test_own_cgroup_is_found_in_every_hierarchy(mounts, membership, expected):
    assert [(h.version, h.controllers, h.folder) for h in hierarchies(mounts, membership)] == expected


def test_every_controller_is_used_or_has_a_reason_why_not():
    found = Cgroups.find()
    assert set(found.controllers) | set(found.missing) == set(CONTROLLERS)
    assert not set(found.controllers) & set(found.missing)
    assert all(found.missing.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_user_without_delegation_gets_none_and_is_told_what_to_do():
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        found = Cgroups.find()
        os.write(write_end, f"{found.create(Limits())} {found}".encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as file:
        said = file.read()
    os.waitpid(child, 0)
    assert said.startswith("None none; not memory, pids, cpu: ")
    assert "Delegate=yes" in said or "not mounted" in said


FIND = """
from testbed.sandbox import Limits
from testbed.sandbox.cgroup import Cgroups
first, second = Cgroups.find(), Cgroups.find()
print(second)
if cgroup := second.create(Limits()):
    print(os.path.dirname(cgroup.folders["memory"]), cgroup.remove())
print(open("/proc/self/cgroup").read())
"""


@pytest.fixture
def own_cgroup(cgroups):
    """A cgroup of version 2 that nobody divided yet."""
    if cgroups.controllers["memory"] != 2:
        pytest.skip("the memory controller of this machine is mounted as version 1")
    cgroup = cgroups.create(Limits(memory_mib=1024))
    yield cgroup
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(Path(cgroup.folders["memory"], "testbed-host"))
    assert remove_soon(cgroup)


def test_host_on_version_2_moves_into_a_leaf_of_a_cgroup_that_is_its_own(own_cgroup):
    folder = own_cgroup.folders["memory"]
    with start_inside(own_cgroup, FIND) as process:
        lines = process.communicate()[0].split("\n")
    assert lines[:2] == ["memory (version 2), pids (version 2), cpu (version 2)", f"{folder} True"]
    assert lines[2].endswith(f"{os.path.basename(folder)}/testbed-host")


def test_host_on_version_2_leaves_a_cgroup_alone_that_it_shares(own_cgroup):
    folder = own_cgroup.folders["memory"]
    stranger = start_inside(own_cgroup, "input()")
    with start_inside(own_cgroup, FIND) as process:
        lines = process.communicate()[0].split("\n")
    inside = processes_in(folder)
    stranger.communicate()
    assert lines[0].startswith("none; not memory, pids, cpu: other processes share the cgroup of this one; start")
    assert lines[1].endswith(os.path.basename(folder))
    assert inside == {stranger.pid}
    assert not Path(folder, "testbed-host").exists()


# --- what


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [(1.0, (20_000, 20_000)), (2.5, (50_000, 20_000)), (0.05, (1_000, 20_000)), (0.01, (1_000, 100_000))],
)
def test_cpus_become_a_quota_that_the_kernel_takes(cpus, expected):
    assert cpu_time(cpus) == expected


async def test_worker_and_programs_are_inside_and_bwrap_is_not(sandbox):
    session = await sandbox.open(SMALL)
    link = session._link
    call = asyncio.create_task(session.run("import os, time\nos.fork()\ntime.sleep(60)", timeout=60))
    inside = await until_inside(link.cgroup, 3)
    await session.close()
    await call
    assert set(inside) == set(CONTROLLERS)
    assert all(len(pids) == 3 and link.worker_pid in pids for pids in inside.values())
    assert not any(link._process.pid in pids for pids in inside.values())


async def test_limits_are_those_that_were_asked_for(sandbox):
    session = await sandbox.open(Limits(memory_mib=50, scratch_mib=20, processes=10, cpus=1.5))
    cgroup = session._link.cgroup
    memory = int(value(cgroup, "memory", "memory.max", "memory.limit_in_bytes"))
    swap = value(cgroup, "memory", "memory.swap.max", "memory.memsw.limit_in_bytes", "memory.swappiness")
    pids = int(value(cgroup, "pids", "pids.max"))
    cpu = value(cgroup, "cpu", "cpu.max", "cpu.cfs_quota_us")
    await session.close()
    assert memory == (50 + 20 + ROOM_MIB) << 20
    assert swap in ("0", str(memory))  # version 1 limits memory and swap together
    assert pids == 10 + ROOM_PROCESSES
    assert cpu.split()[0] == "30000"


async def test_limits_hold_for_a_worker_that_replaces_a_lost_one(sandbox):
    session = await sandbox.open(SMALL)
    first = session._link
    os.kill(first.worker_pid, signal.SIGKILL)
    statuses = [(await session.run("print(1)")).status for _ in range(2)]
    second = session._link
    inside = [processes_in(folder) for folder in second.cgroup.folders.values()]
    await session.close()
    assert statuses == ["sandbox_died", "ok"]
    assert inside == [{second.worker_pid}] * len(CONTROLLERS)


def test_no_more_processes_than_allowed(cgroups):
    cgroup = cgroups.create(Limits(processes=12))
    bomb = """
        os.setsid()
        born = 0
        while True:
            try: pid = os.fork()
            except BlockingIOError: break
            if pid == 0: time.sleep(60)
            born += 1
        print(born + 1, flush=True)
        os.killpg(os.getpgid(0), 9)
        """
    with start_inside(cgroup, bomb) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == 12 + ROOM_PROCESSES
    assert remove_soon(cgroup)


async def test_no_more_cpu_time_than_allowed(cgroups):
    cgroup = cgroups.create(Limits(cpus=0.1))
    with start_inside(cgroup, "os.fork()\nwhile True: pass") as process:
        pids = (await until_inside(cgroup, 2))["cpu"]
        before, began = cpu_seconds(pids), time.monotonic()
        time.sleep(1.5)
        used, lasted = cpu_seconds(pids) - before, time.monotonic() - began
        times = throttled(cgroup)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert len(pids) == 2
    assert used <= 0.1 * lasted + 0.1  # two endless loops would have used twice `lasted`
    assert times > 0
    assert process.wait() == -signal.SIGKILL
    assert remove_soon(cgroup)


async def test_neighbours_of_two_busy_sandboxes_get_their_turn(sandbox):
    limits = Limits(wall_seconds=60, cpus=0.1)  # little, so that it is reached on a busy machine too
    noisy = [await sandbox.open(limits) for _ in range(2)]
    quiet = await sandbox.open(Limits(wall_seconds=60))
    loops = "import os\nfor _ in range(4): os.fork()\nwhile True: pass"
    calls = [asyncio.create_task(session.run(loops)) for session in noisy]
    inside = [(await until_inside(session._link.cgroup, 17))["cpu"] for session in noisy]
    before, began = [cpu_seconds(pids) for pids in inside], time.monotonic()
    results = [await quiet.run("print(sum(range(100_000)))") for _ in range(10)]
    await asyncio.sleep(1.0)
    used = [cpu_seconds(pids) - start for pids, start in zip(inside, before, strict=True)]
    lasted = time.monotonic() - began
    times = [throttled(session._link.cgroup) for session in noisy]
    for session in (*noisy, quiet):
        await session.close()
    await asyncio.gather(*calls)
    assert [len(pids) for pids in inside] == [17, 17]
    assert all(0 < share <= 0.1 * lasted + 0.1 for share in used)
    assert max(used) < 4 * min(used)
    assert min(times) > 0
    assert [result.status for result in results] == ["ok"] * 10
    assert max(result.milliseconds for result in results) < 5000


def cpu_limits(cgroup: Cgroup) -> tuple[str, str]:
    return value(cgroup, "cpu", "cpu.max", "cpu.cfs_quota_us"), value(cgroup, "cpu", "cpu.weight", "cpu.shares")


def test_limit_on_cpu_time_can_be_lifted_and_set_again(cgroups):
    cgroup = cgroups.create(SMALL)
    before = cpu_limits(cgroup)
    cgroup.hurry(True)
    cgroup.hurry(True)
    lifted = cpu_limits(cgroup)
    cgroup.hurry(False)
    after = cpu_limits(cgroup)
    assert cgroup.remove()
    assert before == after
    assert lifted[0].split()[0] in ("max", "-1")
    assert int(lifted[1]) == 10 * int(before[1])


async def test_limit_on_cpu_time_holds_after_a_call_that_was_stopped(sandbox):
    session = await sandbox.open(SMALL)
    cgroup = session._link.cgroup
    before = cpu_limits(cgroup)
    result = await session.run("import os\nfor _ in range(5): os.fork()\nwhile True: pass", timeout=0.3)
    after = cpu_limits(cgroup)
    await session.close()
    assert result.status == "timeout"
    assert before == after


def test_hurrying_a_sandbox_that_is_gone_is_harmless(cgroups):
    cgroup = cgroups.create(SMALL)
    cgroup.hurry(True)
    assert cgroup.remove()
    cgroup.hurry(False)
    assert not any(map(os.path.exists, cgroup.folders.values()))


# --- out of memory


# Each process fills local sockets, whose buffers are the kernel's: no process's own memory shows them.
KERNEL_HOG = """
import os, socket, time
for _ in range(5): os.fork()
held = []
for _ in range(60):
    for end in socket.socketpair():
        end.setblocking(False)
        try:
            while True: end.send(bytes(1 << 15))
        except BlockingIOError: held.append(end)
time.sleep(3)
"""


async def test_memory_of_the_kernel_counts_and_ends_the_call_as_oom(sandbox):
    session = await sandbox.open(Limits(wall_seconds=30.0, memory_mib=64, processes=40, scratch_mib=16))
    before = session._link.worker_pid
    result = await session.run(KERNEL_HOG)
    again = await session.run("print('again')")
    after = session._link.worker_pid
    await session.close()
    assert (result.status, result.exit_code) == ("oom", None)
    assert again.stdout == "again\n"
    assert after == before


async def test_program_that_turns_the_kernel_against_the_worker_is_out_of_memory_all_the_same(sandbox):
    session = await sandbox.open(Limits(wall_seconds=30.0, memory_mib=64, processes=40, scratch_mib=16))
    code = f"with open('/proc/self/oom_score_adj', 'w') as file: file.write('0')\n{KERNEL_HOG}"
    result = await session.run(code)
    again = await session.run("print('again')")
    await session.close()
    assert (result.status, result.exit_code) == ("oom", None)
    assert again.stdout == "again\n"


async def test_many_processes_are_stopped_also_where_the_worker_cannot_count(sandbox, tmp_path):
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
    session = await Bwrap(str(refusing)).open(SMALL)
    code = "import os, time\nfor _ in range(4): os.fork()\nx = b'x' * (40 << 20)\ntime.sleep(5)"
    result = await session.run(code)
    again = await session.run("print('again')")
    await session.close()
    assert result.status == "oom"
    assert again.stdout == "again\n"


def test_kill_at_the_sandboxs_own_limit_is_told_once(cgroups):
    cgroup = cgroups.create(Limits(memory_mib=32, scratch_mib=1))
    told = [cgroup.out_of_memory()]
    with start_inside(cgroup, HOG) as process:
        assert process.stdout is not None
        assert process.stdout.read() == ""
    told += [cgroup.out_of_memory(), cgroup.out_of_memory()]
    assert remove_soon(cgroup)
    assert process.wait() == -signal.SIGKILL
    assert told == [None, "limit", None]


def test_kill_is_still_known_when_the_cgroup_is_gone(cgroups):
    cgroup = cgroups.create(Limits(memory_mib=32, scratch_mib=1))
    with start_inside(cgroup, HOG) as process:
        process.wait()
    assert remove_soon(cgroup)
    assert [cgroup.out_of_memory(), cgroup.out_of_memory()] == ["limit", None]


def test_kill_for_want_of_memory_elsewhere_is_not_the_programs_fault(cgroups):
    version = cgroups.controllers["memory"]
    outer = cgroups.create(Limits(memory_mib=32, scratch_mib=1))
    folder = outer.folders["memory"]
    if version == 2:
        Path(folder, "cgroup.subtree_control").write_text("+memory")
    inner = Cgroup()
    inner.make([Hierarchy(version, ("memory",), folder)], new_name(), Limits(memory_mib=1024))
    with start_inside(inner, HOG) as process:
        assert process.wait() == -signal.SIGKILL
    told = inner.out_of_memory()
    assert remove_soon(inner)
    assert remove_soon(outer)
    assert told == "machine"


def test_process_that_ends_by_itself_is_no_kill_for_memory(cgroups):
    cgroup = cgroups.create(Limits())
    with start_inside(cgroup, "os.kill(os.getpid(), 9)") as process:
        assert process.wait() == -signal.SIGKILL
    assert cgroup.out_of_memory() is None
    assert remove_soon(cgroup)


# --- leftovers


def remove_soon(cgroup: Cgroup, seconds: float = 2.0) -> bool:
    """Processes that have been waited for may take a moment to leave."""
    end = time.monotonic() + seconds
    while not (removed := cgroup.remove()) and time.monotonic() < end:
        time.sleep(0.01)
    return removed


async def test_nothing_is_left_after_close(sandbox):
    session = await sandbox.open(SMALL)
    folders = session._link.cgroup.folders.values()
    assert all(map(os.path.isdir, folders))
    call = asyncio.create_task(session.run("import os\nfor _ in range(4): os.fork()\nwhile True: pass"))
    await until_inside(session._link.cgroup, 17)
    await session.close()
    await call
    assert not any(map(os.path.exists, folders))


async def test_nothing_is_left_after_a_crash_of_the_worker(sandbox):
    session = await sandbox.open(SMALL)
    folders = session._link.cgroup.folders.values()
    os.kill(session._link.worker_pid, signal.SIGKILL)
    assert (await session.run("print(1)")).status == "sandbox_died"
    assert not any(map(os.path.exists, folders))
    await session.close()


async def test_nothing_is_left_of_a_sandbox_that_did_not_start(sandbox, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SandboxDied):
        await Bwrap(str(broken)).open(SMALL)
    broken.chmod(0o644)
    with pytest.raises(SandboxDied):
        await Bwrap(str(broken)).open(SMALL)
    assert not cgroups_of(os.getpid())


def cgroups_of(pid: int) -> set[str]:
    places = [os.path.dirname(place.folder) for place in hierarchies(*map(read_self, ("mountinfo", "cgroup")))]
    found = {str(path) for place in places for path in Path(place).rglob(f"testbed-sandbox-*-{pid}-*")}
    return {path for path in found if os.path.isdir(path)}


def read_self(name: str) -> str:
    return Path("/proc/self", name).read_text()


@pytest.fixture
def killed_host(sandbox):
    """Folders of the cgroup of a sandbox whose host was killed, and whose processes are gone."""
    for _ in range(5):
        folders = kill_a_host()
        if all(map(os.path.isdir, folders)):
            break  # else: another program on this machine has opened its first sandbox in this moment, and swept them
    return folders


def kill_a_host() -> list[str]:
    code = """
        import asyncio
        from testbed.sandbox import Bwrap, Limits
        async def main():
            session = await Bwrap().open(Limits())
            print(*session._link.cgroup.folders.values(), flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        folders = host.stdout.readline().split()
        assert all(map(processes_in, folders))
        assert Cgroups.find()  # sweeps: must not touch what belongs to a host that lives
        assert all(map(os.path.isdir, folders))
        host.kill()
    end = time.monotonic() + 5.0
    while any(map(processes_in, folders)) and time.monotonic() < end:
        time.sleep(0.02)
    return folders


async def test_leftovers_of_a_killed_host_are_swept_when_the_next_opens_its_first_sandbox(killed_host):
    assert len(killed_host) == len(CONTROLLERS)
    assert all(map(os.path.isdir, killed_host))
    session = await Bwrap().open(SMALL)
    await session.close()
    assert not any(map(os.path.exists, killed_host))


# --- without


async def test_without_cgroups_a_sandbox_works_and_says_what_is_not_enforced():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    sandbox = Bwrap()
    sandbox._cgroups = Cgroups([], dict.fromkeys(CONTROLLERS, "not here"))
    session = await sandbox.open(SMALL)
    result = await session.run("print(1)")
    cgroup = session._link.cgroup
    await session.close()
    facts = sandbox.capabilities()
    assert (result.status, cgroup) == ("ok", None)
    assert "not limited" in facts["CPU"]
    assert facts["cgroup"] == "none; not memory, pids, cpu: not here"


def test_limits_that_cannot_be_set_leave_nothing(cgroups, tmp_path):
    place = Hierarchy(1, ("pids",), str(tmp_path))
    cgroup = Cgroup()
    with pytest.raises(OSError, match="No such file") as caught:
        cgroup.make([place], "x", SMALL)  # an ordinary folder has no pids.max
    assert caught.value.errno == errno.ENOENT
    assert not os.listdir(tmp_path)
