"""What is left of a sandbox's cgroups when it, its worker or its host has ended: nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from helpers.cgroups import SMALL, processes_in, until_inside
from helpers.processes import talking
from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap
from testbed.sandbox.cgroup import CONTROLLERS, Cgroup, Cgroups
from testbed.sandbox.cgroup_tree import Hierarchy, hierarchies


async def test_nothing_is_left_after_close(bwrap):
    session = await bwrap.open(SMALL)
    folders = session._link.cgroup.folders.values()
    assert all(map(os.path.isdir, folders))
    call = asyncio.create_task(session.run("import os\nfor _ in range(4): os.fork()\nwhile True: pass"))
    await until_inside(session._link.cgroup, 17)
    await session.close()
    await call
    assert not any(map(os.path.exists, folders))


async def test_nothing_is_left_after_a_crash_of_the_worker(bwrap):
    session = await bwrap.open(SMALL)
    folders = session._link.cgroup.folders.values()
    os.kill(session._link.worker_pid, signal.SIGKILL)
    assert (await session.run("print(1)")).status == "sandbox_died"
    assert not any(map(os.path.exists, folders))
    await session.close()


async def test_nothing_is_left_of_a_sandbox_that_did_not_start(bwrap, tmp_path):
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
def killed_host(bwrap):
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
    with talking([sys.executable, "-c", textwrap.dedent(code)]) as (host, line):
        folders = line.split()
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


def test_limits_that_cannot_be_set_leave_nothing(cgroups, tmp_path):
    place = Hierarchy(1, ("pids",), str(tmp_path))
    cgroup = Cgroup()
    with pytest.raises(OSError, match="No such file") as caught:
        cgroup.make([place], "x", SMALL)  # an ordinary folder has no pids.max
    assert caught.value.errno == errno.ENOENT
    assert not os.listdir(tmp_path)
