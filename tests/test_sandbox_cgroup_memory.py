"""Who ran out of memory, as cgroups tell it: a program, the machine, or nobody."""

from __future__ import annotations

import signal
from pathlib import Path

from helpers.cgroups import HOG, SMALL, remove_soon, start_inside
from helpers.sandbox_hosts import bwrap_that_cannot_mount_proc
from testbed.sandbox import Bwrap, Limits
from testbed.sandbox.cgroup import Cgroup
from testbed.sandbox.cgroup_tree import Hierarchy, new_name

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


async def test_memory_of_the_kernel_counts_and_ends_the_call_as_oom(bwrap):
    session = await bwrap.open(Limits(wall_seconds=30.0, memory_mib=64, processes=40, scratch_mib=16))
    before = session._link.worker_pid
    result = await session.run(KERNEL_HOG)
    again = await session.run("print('again')")
    after = session._link.worker_pid
    await session.close()
    assert (result.status, result.exit_code) == ("oom", None)
    assert again.stdout == "again\n"
    assert after == before


async def test_program_that_turns_the_kernel_against_the_worker_is_out_of_memory_all_the_same(bwrap):
    session = await bwrap.open(Limits(wall_seconds=30.0, memory_mib=64, processes=40, scratch_mib=16))
    code = f"with open('/proc/self/oom_score_adj', 'w') as file: file.write('0')\n{KERNEL_HOG}"
    result = await session.run(code)
    again = await session.run("print('again')")
    await session.close()
    assert (result.status, result.exit_code) == ("oom", None)
    assert again.stdout == "again\n"


# Connections that nobody has taken need no descriptor, and keep what was sent on them.
UNTAKEN = """
import socket, time
door = socket.socket(socket.AF_UNIX)
door.bind("\\0door")
door.listen(4096)
try:
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect("\\0door")
            try:
                while True: client.send(bytes(1 << 15))
            except BlockingIOError: pass
except OSError: time.sleep(3)
"""


async def test_connections_that_nobody_takes_are_held_by_the_cgroup_where_the_worker_cannot_count(bwrap, tmp_path):
    sandbox = Bwrap(bwrap_that_cannot_mount_proc(tmp_path))
    session = await sandbox.open(Limits(wall_seconds=30.0, memory_mib=64, processes=8, scratch_mib=16))
    result = await session.run(UNTAKEN)
    again = await session.run("print('again')")
    await session.close()
    assert result.status == "oom"
    assert again.stdout == "again\n"
    assert sandbox.capabilities()["sockets"].endswith("what they keep is limited by cgroup")


async def test_many_processes_are_stopped_also_where_the_worker_cannot_count(bwrap, tmp_path):
    session = await Bwrap(bwrap_that_cannot_mount_proc(tmp_path)).open(SMALL)
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
