"""How bubblewrap's sandboxes start and end, also where they or their host are not let."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers.processes import gone, processes_in_namespace_of
from helpers.sandbox_hosts import bwrap_that_cannot_mount_proc, start_host, status_of_a_call_during_ctrl_c
from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits, pick
from testbed.sandbox.cgroup import Cgroup, Cgroups

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)


SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


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


LOCKS = """
import fcntl
file = open("locked", "w+b")
for n in range(1000): fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * n)
print("held", flush=True)
"""


async def test_locks_on_files_which_no_limit_counts_are_gone_with_the_call_and_the_repl():
    def locks() -> int:
        return len(Path("/proc/locks").read_text().splitlines())

    session = await Bwrap().open(SMALL)
    before = locks()
    assert (await session.repl(LOCKS)).stdout == "held\n"
    assert locks() > before + 900
    await session.reset()
    assert locks() < before + 100
    assert (await session.run(LOCKS)).stdout == "held\n"
    assert locks() < before + 100
    await session.close()


async def test_an_honest_program_may_lock_a_database():
    code = """
import sqlite3
one, other = (sqlite3.connect("shop.db", timeout=0, isolation_level=None) for _ in range(2))
one.execute("create table sold (n)")
one.execute("begin immediate")
try:
    other.execute("begin immediate")
except sqlite3.OperationalError as error:
    print(error)
one.execute("insert into sold values (1)")
one.execute("commit")
print(other.execute("select n from sold").fetchall())
"""
    session = await Bwrap().open(SMALL)
    result = await session.run(code)
    await session.close()
    assert result.stdout == "database is locked\n[(1,)]\n", result.stderr


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_nothing_outlives_a_host_that_is_killed(busy):
    with start_host(Bwrap, "session._link.worker_pid", busy=busy) as (process, worker):
        inside = processes_in_namespace_of(int(worker))
        assert len(inside) == (9 if busy else 1)
        process.kill()
    assert await gone(inside, 2.0)


async def test_ctrl_c_of_the_host_does_not_reach_the_sandbox():
    assert await status_of_a_call_during_ctrl_c(Bwrap) == "ok"


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
    sandbox = Bwrap(bwrap_that_cannot_mount_proc(tmp_path))
    session = await sandbox.open(SMALL)
    code = "import os\nif os.fork() == 0:\n  while True: pass\nprint(os.path.exists('/proc'))"
    results = [await session.run(code, timeout=2), await session.run("while True: pass", timeout=0.3)]
    inside = processes_in_namespace_of(session._link.worker_pid)
    await session.close()
    assert [result.status for result in results] == ["ok", "timeout"]
    assert results[0].stdout == "False\n"
    assert len(inside) == 1
    assert "cannot be mounted" in sandbox.capabilities()["memory"]
    assert sandbox.capabilities()["sockets"].startswith("not counted: /proc cannot be mounted")


# --- the self-test


async def test_self_test_passes_and_names_what_it_tried():
    probes = pick("auto").self_test()
    assert {probe.name for probe in probes} == {"launch", "call", "network", "files", "seccomp", "privileges"}
    assert all(probe.passed for probe in probes)


def test_failing_launch_names_cause_and_remedy(tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    (probe,) = Bwrap(str(broken)).self_test()
    assert not probe.passed
    assert "No permissions" in probe.detail
    assert "user namespaces" in probe.remedy
