"""The docker backend on a real engine: what it asks the engine for, what a program sees of it, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.errors import SandboxDied
from testbed.sandbox import docker_door
from testbed.sandbox.base import Limits
from testbed.sandbox.bwrap import Bwrap
from testbed.sandbox.docker import Docker, container
from testbed.sandbox.docker_door import INSIDE, Door
from testbed.sandbox.docker_engine import OWNER, Engine, Owner, connection
from testbed.sandbox.docker_link import Frames
from testbed.sandbox.image import tag
from testbed.sandbox.link import INODES
from testbed.sandbox.probes import remedy
from testbed.sandbox.root import python_root

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8, cpus=0.5)
GONE_SECONDS = 10.0  # two on a quiet machine


@functools.cache
def fault() -> str:
    """Why no engine can be used here; empty if one can."""
    if "TESTBED_NO_ENGINE" in os.environ:
        return os.environ["TESTBED_NO_ENGINE"]
    try:
        Engine(python_root()).connect()
    except SandboxDied as error:
        return f"{error} (scripts/with-engine starts one for a command)"
    return ""


@pytest.fixture(scope="module")
def engine() -> Engine:
    if fault():
        pytest.skip(fault())
    engine = Engine(python_root())
    engine.connect()
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(engine):
    """One sandbox for all tests that do it no harm."""
    session = await Docker().open(SMALL)
    yield session
    await session.close()


async def output(session, code: str) -> str:
    result = await session.run(textwrap.dedent(code))
    assert result.status == "ok", result
    return result.stdout


async def facts(session, code: str):
    return json.loads(await output(session, code))


def containers(engine: Engine, pid: int) -> list[str]:
    """Names of the containers that a process on this machine started."""
    found = engine.api.containers(all=True, filters={"label": OWNER})
    owned = [(one, Owner.read(one["Labels"][OWNER])) for one in found]
    return [one["Names"][0] for one, owner in owned if owner is not None and owner.pid == pid]


async def gone(check: Callable[[], object]) -> bool:
    """Whether what `check` sees goes away in time."""
    end = time.monotonic() + GONE_SECONDS
    while seen := await asyncio.to_thread(check):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return not seen


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


# --- limits


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


async def test_a_program_may_use_the_cpu_time_of_all_cores_that_it_has_and_leaves_no_core(engine):
    code = """
    import json, resource
    print(json.dumps([resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_CORE)]))
    """
    session = await Docker().open(replace(SMALL, cpus=2.0))
    try:
        cpu, core = await facts(session, code)
    finally:
        await session.close()
    seconds = SMALL.wall_seconds * (min(2, engine.cores) if engine.limits_cpu else engine.cores) + 1
    assert cpu == [seconds, seconds + 1]
    assert core == [1, 1]  # at 0, and only there, the kernel would feed one to a `core_pattern` that is a program


async def test_kernel_memory_counts_and_the_engine_knows_who_ran_out_of_it(engine):
    filling = """
    import os, socket
    for _ in range(20):
        if os.fork() == 0: break
    pairs = []
    while True:
        try: pair = socket.socketpair()
        except OSError: break
        pairs.append(pair)
        pair[0].setblocking(False)
        try:
            while True: pair[0].send(bytes(1 << 16))
        except OSError: pass
    import time; time.sleep(60)
    """
    hungry, modest = [await Docker().open(SMALL) for _ in range(2)]
    try:
        links = hungry._link, modest._link
        result = await hungry.run(textwrap.dedent(filling))
        assert result.status != "ok", result
        assert [engine.ran_out_of_memory(link.name) for link in links] == [True, False]
    finally:
        await hungry.close()
        await modest.close()


async def test_a_bomb_is_ended_with_all_cores_and_the_limit_stands_again_afterwards(engine, monkeypatch):
    asked, real = [], Engine.set_cpus

    def set_cpus(self, name, cpus):
        asked.append(cpus)
        real(self, name, cpus)

    monkeypatch.setattr(Engine, "set_cpus", set_cpus)
    session = await Docker().open(replace(SMALL, processes=64))
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"

    def quota() -> int:
        return engine.api.inspect_container(session._link.name)["HostConfig"]["CpuQuota"]

    try:
        before = await asyncio.to_thread(quota)
        for _ in range(3):
            assert (await session.repl(bomb, timeout=0.3)).status == "timeout"
        assert (await session.run("print(1)")).stdout == "1\n"
        if asked:  # a machine may be quick enough without
            assert asked == [None, SMALL.cpus] * (len(asked) // 2)
        assert await gone(lambda: quota() != before)
    finally:
        await session.close()


# --- the stream


async def parts(*chunks: bytes) -> Frames:
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    return Frames(stream)


async def test_output_is_put_together_from_the_engines_parts():
    frames = await parts(b"\1\0\0\0\0\0\0\2ab\1\0\0\0", b"\0\0\0\3cde")
    assert [await frames.readexactly(size) for size in (1, 3, 1)] == [b"a", b"bcd", b"e"]
    with pytest.raises(EOFError):
        await frames.readexactly(1)
    assert frames.ended


async def test_error_output_is_no_frame_and_its_end_is_kept():
    frames = await parts(b"\2\0\0\0\0\0\0\3one\1\0\0\0\0\0\0\1x\2\0\0\0\0\0\0\3two")
    assert await frames.readexactly(1) == b"x"
    await frames.read_rest()
    assert frames.stderr == b"onetwo"


async def test_a_part_of_no_known_kind_breaks_the_stream():
    with pytest.raises(ConnectionError, match="kind 7"):
        await (await parts(b"\7\0\0\0\0\0\0\1x")).readexactly(1)


# --- the door


def door_folders() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("testbed-door-")}


async def test_a_local_engines_worker_comes_in_through_a_door_that_is_gone_then(engine):
    if not engine.shows_folders:
        pytest.skip("the engine is a remote one")
    before = door_folders()
    session = await Docker().open(SMALL)
    assert isinstance(session._link.reader, asyncio.StreamReader)
    assert door_folders() == before
    assert await output(session, f"import os; print(os.listdir({INSIDE!r}))") == "[]\n"
    assert "[Errno" in await output(
        session, f"import os\ntry: os.mkfifo('{INSIDE}/x')\nexcept OSError as error: print(error)"
    )
    await session.close()


class Unseen(Door):
    """A door whose folder the engine does not see."""

    def shown(self, settings):
        shown = super().shown(settings)
        shown["host_config"]["Mounts"][0]["Source"] = "/nowhere/at/all"
        return shown


class Locked(Door):
    """A door that the container's user may not open."""

    def __init__(self):
        super().__init__()
        os.chmod(os.path.join(self.folder, "worker"), 0o600)


@pytest.mark.parametrize("door", [Unseen, Locked])
async def test_a_worker_that_finds_no_door_speaks_on_the_stream(engine, monkeypatch, door):
    if not engine.shows_folders:
        pytest.skip("the engine is a remote one")
    monkeypatch.setattr("testbed.sandbox.docker_link.Door", door)
    sandbox = Docker()
    await asyncio.to_thread(sandbox._prepare)
    before = door_folders(), len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # the second time without even trying
        session = await sandbox.open(SMALL)
        assert isinstance(session._link.reader, Frames)
        assert await output(session, "print(1)") == "1\n"
        await session.close()
        assert not sandbox._engine.shows_folders
    assert (door_folders(), len(os.listdir("/proc/self/fd"))) == before


async def test_a_door_that_cannot_be_made_is_done_without(engine, monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)  # too long for a socket
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    session = await Docker().open(SMALL)
    assert isinstance(session._link.reader, Frames)
    await session.close()
    assert not os.listdir(long)


async def test_a_sweep_removes_the_doors_that_nobody_came_to_close(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, other = (tmp_path / name for name in ("testbed-door-old", "testbed-door-young", "other"))
    for path in (old, young, other):
        (path / "in").mkdir(parents=True)
    for path in (old, other):
        os.utime(path, (0, 0))
    docker_door.sweep()
    assert sorted(os.listdir(tmp_path)) == ["other", "testbed-door-young"]


async def test_large_programs_and_outputs_pass(session):
    result = await session.run("import sys; print(len(sys.stdin.read())); print('é' * 5000)", stdin="x" * 3_000_000)
    assert result.stdout == "3000000\n" + "é" * 5000 + "\n"


# --- the end


async def test_close_leaves_no_container_and_no_descriptor(engine):
    sandbox = Docker()
    await (await sandbox.open(SMALL)).close()
    before = len(os.listdir("/proc/self/fd"))
    session = await sandbox.open(SMALL)
    name = session._link.name
    await session.close()
    await session.close()
    assert f"/{name}" not in containers(engine, os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.1, 0.2])
async def test_a_start_that_is_cancelled_leaves_no_container(engine, seconds):
    sandbox = Docker()
    before = containers(engine, os.getpid())
    opening = asyncio.create_task(sandbox.open(SMALL))
    await asyncio.sleep(seconds)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await opening).close()
    assert await gone(lambda: set(containers(engine, os.getpid())) - set(before))
    assert not sandbox._uids


async def test_a_container_that_is_killed_costs_one_call_only(engine):
    session = await Docker().open(SMALL)
    try:
        call = asyncio.create_task(session.run("import time; time.sleep(2)"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.api.kill, session._link.name)
        result = await call
        assert (result.status, result.exit_code) == ("sandbox_died", None)
        assert result.reason
        assert (await session.run("print('again')")).stdout == "again\n"
    finally:
        await session.close()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_nothing_outlives_a_host_that_is_killed(engine, busy):
    host = f"""
    import asyncio
    from testbed.sandbox.base import Limits
    from testbed.sandbox.docker import Docker
    async def main():
        session = await Docker().open(Limits(wall_seconds=60))
        bomb = "import os\\nfor _ in range(3): os.fork()\\nwhile True: pass"
        call = asyncio.create_task(session.run(bomb)) if {busy} else None
        await asyncio.sleep(.5)
        print(session._link.name, flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(host)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = (await asyncio.to_thread(process.stdout.readline)).strip()
        inside = (await asyncio.to_thread(engine.api.top, name))["Processes"]
        process.kill()
    assert len(inside) == (9 if busy else 1)
    assert await gone(lambda: containers(engine, process.pid))
    if connection()[0].startswith("http+unix"):
        assert await gone(lambda: [pid for _, pid, *_ in inside if os.path.exists(f"/proc/{pid}")])


async def test_a_sweep_removes_what_dead_owners_left_and_nothing_else(engine):
    here = Owner.this_process()
    with subprocess.Popen(["sleep", "60"]) as living:
        owners = {
            "dead": Owner(here.machine, here.pid, here.started - 1),  # its number has been given away again
            "own": here,
            "living": Owner(here.machine, living.pid, int(Path(f"/proc/{living.pid}/stat").read_text().split()[21])),
            "elsewhere": Owner("another boot", here.pid, here.started - 1),
        }
        names = {kind: f"testbed-test-{os.getpid()}-{kind}" for kind in owners}
        try:
            for kind, owner in owners.items():
                engine.api.create_container(tag(python_root()), ["x"], name=names[kind], labels={OWNER: str(owner)})
            swept = engine.sweep()
            left = [kind for kind in owners if f"/{names[kind]}" in _all_names(engine)]
        finally:
            for name in names.values():
                engine.remove(name)
            living.kill()
    assert names["dead"] in swept
    assert left == ["own", "living", "elsewhere"]


def _all_names(engine: Engine) -> list[str]:
    return [name for found in engine.api.containers(all=True) for name in found["Names"]]


@pytest.mark.parametrize("label", ["", "x", "machine/1", "machine/a/b", "machine/-1/2"])
async def test_a_label_that_is_not_ours_names_no_owner(label):
    assert Owner.read(label) is None
    assert Owner.read(str(Owner.this_process())) == Owner.this_process()


async def test_a_process_that_has_ended_is_a_dead_owner():
    here = Owner.this_process()
    with subprocess.Popen(["true"]) as process:
        pass
    assert Owner(here.machine, process.pid, here.started).is_dead(here)
    assert not here.is_dead(here)


# --- the engine


async def test_image_that_somebody_removed_is_imported_again(engine):
    sandbox = Docker(packages=("packaging",))
    for _ in range(2):
        session = await sandbox.open(SMALL)
        try:
            assert await output(session, "import packaging.version as v; print(v.Version('1.10') > v.Version('1.9'))")
        finally:
            await session.close()
        engine.api.remove_image(tag(python_root(("packaging",))), force=True)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries a connection to the engine's socket."""
    path = connection_to_engine().removeprefix("http+unix://")
    inner_reader, inner_writer = await asyncio.open_unix_connection(path)

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))


@functools.cache
def connection_to_engine() -> str:
    """The engine's address before a test changes it."""
    return connection()[0]


@contextlib.asynccontextmanager
async def forwarder(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on the loopback that leads to the engine."""
    if not connection_to_engine().startswith("http+unix"):
        pytest.skip("the engine is a remote one already")
    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_an_engine_behind_tcp_works(engine, monkeypatch):
    async with forwarder() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        session = await Docker().open(SMALL)
        result = await session.run("import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000)
        await session.close()
    assert result.stdout == "1000000\n"
    assert not await asyncio.to_thread(containers, engine, os.getpid()) or session._link is None


async def test_an_engine_behind_tls_works_and_both_sides_prove_who_they_are(engine, monkeypatch, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    async with forwarder(context) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the SDK would prefer them to the engine's authority
            monkeypatch.delenv(name, raising=False)
        session = await Docker().open(SMALL)
        result = await session.run("import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000)
        await session.close()
        certify(tmp_path)  # somebody else's
        with pytest.raises(SandboxDied, match="no docker engine can be used"):
            await Docker().open(SMALL)
    assert result.stdout == "1000000\n"


def certify(folder: Path) -> None:
    """Makes a certificate for the loopback that is its own authority: ca.pem, cert.pem and key.pem."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")


# --- choosing


async def test_self_test_passes_and_the_capabilities_say_what_holds(engine):
    sandbox = Docker()
    probes = await asyncio.to_thread(sandbox.self_test)
    assert {probe.name for probe in probes} == {"launch", "call", "network", "files", "seccomp", "privileges"}
    assert [probe for probe in probes if not probe.passed] == []
    told = sandbox.capabilities()
    assert engine.info["ServerVersion"] in told["engine"]
    assert told["devices"] == "read-only"
    assert ("cgroup" in told["memory"]) == engine.limits_memory
    assert ("cgroup" in told["processes"]) == engine.limits_processes


async def test_identity_names_the_runtime_and_the_same_root_as_bubblewraps():
    assert Docker().identity.split()[-1] == Bwrap().identity.split()[-1]
    assert len({Docker().identity, Docker("runsc").identity, Docker(packages=("packaging",)).identity}) == 3
    assert Docker("runsc").name == "docker:runsc"


async def test_an_engine_that_lacks_the_runtime_is_named_with_the_remedy(engine):
    (probe,) = await asyncio.to_thread(Docker("no-such-runtime").self_test)
    assert not probe.passed
    assert "no-such-runtime" in probe.detail
    assert "register" in probe.remedy


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "gopher://x"])
async def test_an_engine_that_does_not_answer_is_named_with_the_remedy(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    (probe,) = await asyncio.to_thread(Docker().self_test)
    assert host in probe.detail
    assert "DOCKER_HOST" in probe.remedy


async def test_a_missing_sdk_is_named_with_the_remedy():
    code = """
    import sys; sys.modules["docker"] = None
    from testbed.sandbox.docker import Docker
    (probe,) = Docker().self_test(); print(probe.detail, "|", probe.remedy)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    detail, _, cure = done.stdout.partition("|")
    assert "not installed" in detail
    assert "capability-testbed[docker]" in cure


async def test_a_socket_that_may_not_be_used_is_named_with_the_remedy():
    assert "group docker" in remedy("no docker engine can be used at http+unix:///x: [Errno 13] Permission denied")


async def test_ctrl_c_of_the_host_does_not_reach_the_sandbox(engine):
    host = """
    import asyncio, signal
    from testbed.sandbox.base import Limits
    from testbed.sandbox.docker import Docker
    async def main():
        session = await Docker().open(Limits())
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
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert await asyncio.to_thread(process.stdout.readline) == "ok\n"
