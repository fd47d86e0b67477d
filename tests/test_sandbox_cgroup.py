"""Cgroups of sandboxes: where they can be made, and what is said where they cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from helpers.cgroups import SMALL, processes_in, remove_soon, start_inside
from testbed.sandbox import Bwrap, Limits
from testbed.sandbox.cgroup import CONTROLLERS, Cgroups
from testbed.sandbox.cgroup_tree import hierarchies

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
