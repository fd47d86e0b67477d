"""What cgroups hold sandboxes to: processes, cores, and memory as it was asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from helpers.cgroups import SMALL, processes_in, remove_soon, start_inside, until_inside, value
from testbed.sandbox import Bwrap, Limits
from testbed.sandbox.cgroup import CONTROLLERS, ROOM_MIB, ROOM_PROCESSES, Cgroup, cpu_time


def throttled(cgroup: Cgroup) -> int:
    lines = Path(cgroup.folders["cpu"], "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled "))


def cpu_seconds(pids: set[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [(1.0, (20_000, 20_000)), (2.5, (50_000, 20_000)), (0.05, (1_000, 20_000)), (0.01, (1_000, 100_000))],
)
def test_cpus_become_a_quota_that_the_kernel_takes(cpus, expected):
    assert cpu_time(cpus) == expected


@pytest.mark.parametrize("forks", [True, False])
async def test_worker_and_programs_are_inside_and_what_started_them_is_not(cgroups, forks):
    session = await Bwrap(forks=forks).open(SMALL)
    link = session._link
    call = asyncio.create_task(session.run("import os, time\nos.fork()\ntime.sleep(60)", timeout=60))
    inside = await until_inside(link.cgroup, 3)
    parent = int(Path(f"/proc/{link.worker_pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    await session.close()
    await call
    assert set(inside) == set(CONTROLLERS)
    assert all(len(pids) == 3 and link.worker_pid in pids for pids in inside.values())
    assert not any(parent in pids for pids in inside.values())


async def test_limits_are_those_that_were_asked_for(bwrap):
    session = await bwrap.open(Limits(memory_mib=50, scratch_mib=20, processes=10, cpus=1.5))
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


async def test_limits_hold_for_a_worker_that_replaces_a_lost_one(bwrap):
    session = await bwrap.open(SMALL)
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


async def test_neighbours_of_two_busy_sandboxes_get_their_turn(bwrap):
    limits = Limits(wall_seconds=60, cpus=0.1)  # little, so that it is reached on a busy machine too
    noisy = [await bwrap.open(limits) for _ in range(2)]
    quiet = await bwrap.open(Limits(wall_seconds=60))
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


async def test_limit_on_cpu_time_holds_after_a_call_that_was_stopped(bwrap):
    session = await bwrap.open(SMALL)
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
