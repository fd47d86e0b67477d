"""The docker backend on a real engine: what it asks the engine for, and what a program sees of it."""

from __future__ import annotations

import os
import shutil

import pytest
import pytest_asyncio

from helpers.docker_engine import SMALL, facts, output
from testbed.sandbox.bwrap import Bwrap
from testbed.sandbox.docker import Docker, container
from testbed.sandbox.docker_door import INSIDE
from testbed.sandbox.link import INODES
from testbed.sandbox.root import python_root

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(engine):
    """One sandbox for all tests that do it no harm."""
    session = await Docker().open(SMALL)
    yield session
    await session.close()


# --- what the engine is asked for


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("HostConfig.NetworkMode", "none"),
        ("HostConfig.ReadonlyRootfs", True),
        ("HostConfig.CapDrop", ["ALL"]),
        ("HostConfig.CapAdd", None),
        ("HostConfig.SecurityOpt", ["no-new-privileges"]),
        ("HostConfig.Privileged", False),
        ("HostConfig.Binds", None),
        ("HostConfig.Devices", None),
        ("HostConfig.IpcMode", "none"),
        ("HostConfig.PidMode", ""),
        ("HostConfig.LogConfig.Type", "none"),
        ("HostConfig.AutoRemove", True),
        ("HostConfig.NanoCpus", 0),
        ("Config.StdinOnce", True),
        ("Config.Tty", False),
    ],
)
async def test_engine_confines_the_container(engine, session, where, wanted):
    found = engine.api.inspect_container(session._link.name)
    for name in where.split("."):
        found = found[name]
    assert (found or None) == (wanted or None)


async def test_nothing_of_the_machine_is_shown_but_the_door_read_only(engine, session):
    mounts = engine.api.inspect_container(session._link.name)["Mounts"]
    assert [(mount["Destination"], mount["RW"]) for mount in mounts] == [(INSIDE, False)] * engine.shows_folders
    assert not any(os.path.exists(mount["Source"]) for mount in mounts)


async def test_engine_enforces_every_limit(engine, session):
    host = engine.api.inspect_container(session._link.name)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] >= SMALL.memory_mib + SMALL.scratch_mib << 20
    assert SMALL.processes < host["PidsLimit"] < 2 * SMALL.processes
    assert host["CpuQuota"] / host["CpuPeriod"] == SMALL.cpus


async def test_every_live_sandbox_has_a_user_of_its_own_and_none_is_root(session):
    other = await Docker().open(SMALL)
    ask = "import json, os; print(json.dumps([*os.getresuid(), *os.getresgid(), *os.getgroups()]))"
    try:
        here, there = set(await facts(session, ask)), set(await facts(other, ask))
    finally:
        await other.close()
    assert len(here) == len(there) == 1
    assert here != there
    assert 0 not in here | there


async def test_runtime_is_passed_on_to_the_engine():
    assert container(python_root(), SMALL, 5, "runsc")["host_config"]["Runtime"] == "runsc"
    assert "Runtime" not in container(python_root(), SMALL, 5)["host_config"]


# --- what a program sees


async def test_sys_tells_nothing_but_the_own_cgroup(session):
    code = """
    import json, os
    seen = []
    for folder, folders, files in os.walk("/sys"):
        folders[:] = [name for name in folders if f"{folder}/{name}" != "/sys/fs/cgroup"]
        seen += [f"{folder}/{name}" for name in files]
    print(json.dumps(seen))
    """
    assert await facts(session, code) == []


async def test_proc_tells_of_nothing_but_processes(session):
    code = """
    import json, os
    seen = []
    for name in os.listdir("/proc"):
        path = f"/proc/{name}"
        if name.isdecimal() or os.path.islink(path): continue
        try:
            if os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1): seen.append(name)
        except OSError: pass
    print(json.dumps(seen))
    """
    assert await facts(session, code) == []


async def test_own_cgroup_is_the_root_of_all_that_is_seen(session):
    lines = (await output(session, "print(open('/proc/self/cgroup').read())")).split()
    assert {line.rpartition(":")[2] for line in lines} == {"/"}


async def test_nothing_of_the_engines_resolver_hosts_or_host_name_is_seen(session):
    seen = await facts(session, "import json, os; print(json.dumps([os.listdir('/etc'), os.uname().nodename]))")
    assert seen == [[], "sandbox"]


async def test_no_terminal_and_no_message_queue_can_be_made(session):
    code = """
    import json, os
    made = []
    try: os.openpty(); made.append("terminal")
    except OSError: pass
    for folder in ("/dev/mqueue", "/dev/pts", "/dev"):
        try: open(folder + "/x", "w"); made.append(folder)
        except OSError: pass
    print(json.dumps(made))
    """
    assert await facts(session, code) == []


async def test_only_scratch_and_shared_memory_can_be_written(session):
    code = """
    import json, os
    wrote = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if not (folder == "/" and name == "proc")]
        try: os.close(os.open(folder + "/planted", os.O_CREAT | os.O_WRONLY)); wrote.append(folder)
        except OSError: pass
    print(json.dumps(wrote))
    """
    assert sorted(await facts(session, code)) == ["/dev/shm", "/tmp"]


async def test_scratch_is_sized_and_allows_neither_devices_nor_setuid(session):
    code = """
    import json, os
    found = os.statvfs("/tmp")
    print(json.dumps([found.f_blocks * found.f_frsize, found.f_files, found.f_flag & (os.ST_NODEV | os.ST_NOSUID)]))
    """
    assert await facts(session, code) == [SMALL.scratch_mib << 20, INODES, os.ST_NODEV | os.ST_NOSUID]


async def test_shared_memory_is_sized_and_serves_semaphores(session):
    code = """
    import multiprocessing, os
    print(multiprocessing.Lock().acquire(timeout=1))
    try:
        with open("/dev/shm/big", "wb") as file:
            while True: file.write(bytes(1 << 20))
    except OSError as error: print(error.strerror, os.stat("/dev/shm/big").st_size <= 16 << 20)
    os.unlink("/dev/shm/big")
    """
    assert await output(session, code) in ("True\nNo space left on device True\n", "True\nFile too large True\n")


async def test_environment_is_ours_alone(session):
    names = await facts(session, "import json, os; print(json.dumps(sorted(os.environ)))")
    assert set(names) - {"HOSTNAME"} == set(python_root().environment)


async def test_both_backends_show_the_same_python(session):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    code = """
    import hashlib, os
    seen = hashlib.sha256()
    for folder, folders, files in os.walk("/python"):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            path = f"{folder}/{name}"
            if not os.path.exists(path):  # Debian's sitecustomize.py is a link into /etc
                seen.update(f"{path} {os.readlink(path)}".encode())
                continue
            seen.update(f"{path} {os.stat(path).st_mode & 0o111 > 0}".encode() + open(path, "rb").read())
        seen.update(folder.encode())
    print(seen.hexdigest())
    """
    other = await Bwrap().open(SMALL)
    try:
        assert await output(other, code) == await output(session, code)
    finally:
        await other.close()


# --- limits and streams


async def test_cores_are_shared_out(session):
    code = """
    import os, resource, time
    end = time.monotonic() + 1.5
    children = [os.fork() for _ in range(2)]
    while time.monotonic() < end: pass
    if 0 in children: os._exit(0)
    for child in children: os.waitpid(child, 0)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(one.ru_utime + one.ru_stime for one in used) / 1.5)
    """
    assert float(await output(session, code)) < 1.4 * SMALL.cpus


async def test_large_programs_and_outputs_pass(session):
    result = await session.run("import sys; print(len(sys.stdin.read())); print('é' * 5000)", stdin="x" * 3_000_000)
    assert result.stdout == "3000000\n" + "é" * 5000 + "\n"
