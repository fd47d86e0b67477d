"""Bubblewrap's sandboxes as forks of one Python: as those with a bubblewrap each, and apart from one another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from helpers.pictures import PICTURE
from helpers.processes import gone, processes_in_namespace_of, programs_of, talking
from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits, Pool, fork_link
from testbed.sandbox.fork_link import ForkedLink, namespaces_of
from testbed.sandbox.process import BwrapLink

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


async def test_a_program_finds_the_same_in_a_fork_as_with_a_bubblewrap_of_its_own():
    pictures = []
    for sandbox, kind in ((Bwrap(), ForkedLink), (Bwrap(forks=False), BwrapLink)):
        session = await sandbox.open(SMALL)
        assert isinstance(session._link, kind)
        result = await session.run(PICTURE)
        assert result.status == "ok", result.stderr
        pictures.append(json.loads(result.stdout))
        await session.close()
    forked, alone = pictures
    alone["mounts"] = [row for row in alone["mounts"] if not row[1].startswith("/proc/")]  # what bwrap covers for root
    for what in alone:
        assert forked[what] == alone[what], what


async def test_every_sandbox_has_namespaces_of_its_own():
    sandbox = Bwrap()
    sessions = [await sandbox.open(SMALL) for _ in range(3)]
    found = [namespaces_of(session._link.worker_pid) for session in sessions]
    found += [namespaces_of("self"), sessions[0]._link._server.namespaces]
    for session in sessions:
        await session.close()
    for kind in fork_link.NAMESPACES:
        own = [namespaces[kind] for namespaces in found]
        if kind == "user" and os.geteuid() == 0:
            own = own[:-1]  # root's bubblewrap makes none: the server is in the host's, as each bubblewrap was
        assert len(set(own)) == len(own), kind


async def test_nothing_goes_from_one_fork_to_another():
    """Files, local sockets, variables, and what the fork server could have drawn by chance for all of them."""
    sandbox = Bwrap()
    first = await sandbox.open(SMALL)
    leave = """
    import random, socket, sys, tempfile, uuid
    sys.modules["json"].planted = True
    open("/tmp/planted", "w").close()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\\0planted"); listening.listen()
    drawn = random.random(), uuid.uuid4().hex, tempfile.mktemp()
    print(drawn)
    """
    look = """
    import json, os, random, socket, tempfile, uuid
    processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    print(os.listdir("/tmp"), hasattr(json, "planted"), processes == ["1", str(os.getpid())])
    try:
        socket.socket(socket.AF_UNIX).connect("\\0planted"); print("BREACH")
    except ConnectionRefusedError:
        pass
    print((random.random(), uuid.uuid4().hex, tempfile.mktemp()))
    """
    left = await first.repl(textwrap.dedent(leave))
    second = await sandbox.open(SMALL)
    assert second._link._server is first._link._server
    seen = await second.repl(textwrap.dedent(look))
    for session in (first, second):
        await session.close()
    facts, drawn = seen.stdout.splitlines()
    assert facts == "[] False True"
    assert not set(eval(drawn)) & set(eval(left.stdout))


async def test_no_program_sees_the_server():
    session = await Bwrap().open(SMALL)
    look = """
    import os
    lines = dict(line.split(":", 1) for line in open("/proc/1/status"))
    first = min(int(name) for name in os.listdir("/proc") if name.isdecimal())
    print(lines["PPid"].strip(), lines["NSpid"].strip(), first)
    for kind in ("ns/pid", "ns/mnt", "fd", "cwd", "root"):
        try: print("BREACH", os.readlink("/proc/1/" + kind))
        except OSError: pass
    """
    result = await session.run(textwrap.dedent(look))
    await session.close()
    assert result.stdout == "0 1 1\n"


# --- how the server lives and ends


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def test_one_server_makes_all_sandboxes_of_a_pool_and_ends_with_the_last():
    before = len(os.listdir("/proc/self/fd"))
    pool = Pool(Bwrap(), SMALL, size=3)
    sessions = [await pool.acquire() for _ in range(3)]
    servers = {session._link._server for session in sessions}
    processes = {parent_of(session._link.worker_pid) for session in sessions}
    processes |= {parent_of(server) for server in processes}  # bubblewrap
    assert len(servers) == 1
    assert len(processes) == 2
    for session in sessions[:2]:
        await pool.release(session)
    fresh = await pool.acquire()
    assert fresh._link._server in servers
    await pool.close()
    assert await gone(processes)
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # those of the event loop's threads


async def test_many_sandboxes_may_be_opened_at_once_and_given_up_on():
    sandbox = Bwrap()
    keep = await sandbox.open(SMALL)
    server = parent_of(keep._link.worker_pid)
    for pause in (0.0, 0.002, 0.004, 0.008, 0.016):
        opening = [asyncio.create_task(sandbox.open(SMALL)) for _ in range(4)]
        await asyncio.sleep(pause)
        for task in opening[::2]:
            task.cancel()
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(opened, BaseException):
                assert (await opened.run("print(1)")).stdout == "1\n"
                await opened.close()
    again = await sandbox.open(SMALL)  # the answers that nobody took have been read by now
    await again.close()
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    assert await gone({int(child) for child in children} - {keep._link.worker_pid})
    assert len(sandbox._uids) in (0, 1)
    await keep.close()


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02, 0.06])
async def test_whoever_gives_up_on_a_server_that_is_starting_takes_it_from_nobody(pause):
    sandbox = Bwrap()
    await (await sandbox.open(SMALL)).close()
    before = len(os.listdir("/proc/self/fd"))
    first, second = (asyncio.create_task(sandbox.open(SMALL)) for _ in range(2))
    await asyncio.sleep(pause)
    first.cancel()
    session = await second
    assert isinstance(session._link, ForkedLink)
    assert (await session.run("print(1)")).stdout == "1\n"
    await session.close()
    with contextlib.suppress(asyncio.CancelledError):
        await (await first).close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_server_that_is_killed_costs_the_calls_under_way_and_no_more():
    sandbox = Bwrap()
    session, other = [await sandbox.open(SMALL) for _ in range(2)]
    inside = processes_in_namespace_of(session._link.worker_pid) | {other._link.worker_pid}
    call = asyncio.create_task(session.run("import time; time.sleep(2)"))
    inside |= await programs_of(session._link.worker_pid)
    os.kill(parent_of(session._link.worker_pid), signal.SIGKILL)
    assert (await call).status == "sandbox_died"
    assert await gone(inside)
    assert (await session.run("print('again')")).stdout == "again\n"
    assert [(await other.run("print('again')")).status for _ in range(2)] == ["sandbox_died", "ok"]
    assert session._link._server is other._link._server
    for one in (session, other):
        await one.close()


async def test_a_server_serves_the_event_loop_of_its_own_thread_only():
    """bubblewrap ends with the thread that started it, and with it whatever it made."""
    sandbox, opened, done = Bwrap(), threading.Event(), threading.Event()

    def elsewhere() -> None:
        async def hold() -> None:
            session = await sandbox.open(SMALL)
            opened.set()
            await asyncio.to_thread(done.wait)
            await session.close()

        asyncio.run(hold())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(opened.wait)
    session = await sandbox.open(SMALL)
    done.set()
    thread.join()
    assert (await session.run("print('still there')")).stdout == "still there\n"
    await session.close()


def test_the_server_does_not_outlive_a_host_that_is_killed():
    host = """
    import asyncio
    from pathlib import Path
    from testbed.sandbox import Bwrap, Limits
    async def main():
        session = await Bwrap().open(Limits())
        parent = Path(f"/proc/{session._link.worker_pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        print(parent, session._link._server._process.pid, flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
    """
    with talking([sys.executable, "-c", textwrap.dedent(host)]) as (process, pids):
        servers = {int(pid) for pid in pids.split()}
        process.kill()
    assert len(servers) == 2
    assert asyncio.run(gone(servers))


# --- where forks do not work


def bwrap_that_starts_no_server(folder: Path) -> str:
    refusing = folder / "bwrap"
    refusing.write_text(
        f"""#!/bin/sh
        case "$*" in *"sandbox.forkserver import"*) echo "no server today" >&2; exit 1;; esac
        exec {shutil.which("bwrap")} "$@"
        """
    )
    refusing.chmod(0o755)
    return str(refusing)


async def test_where_no_server_starts_every_sandbox_has_a_bubblewrap_of_its_own(tmp_path):
    sandbox = Bwrap(bwrap_that_starts_no_server(tmp_path))
    sessions = [await sandbox.open(SMALL) for _ in range(2)]
    kinds = {type(session._link) for session in sessions}
    outputs = [(await session.run("print(1)")).stdout for session in sessions]
    for session in sessions:
        await session.close()
    assert kinds == {BwrapLink}
    assert outputs == ["1\n", "1\n"]
    assert "no server today" in sandbox.capabilities()["start"]


@pytest.mark.parametrize("kind", fork_link.NAMESPACES)
async def test_a_fork_that_shares_a_namespace_is_refused(monkeypatch, kind):
    inside: set[int] = set()

    def as_if_shared(process):
        found = namespaces_of(process)
        if process != "self":
            inside.add(process)
        return found | {kind: "the same"}

    monkeypatch.setattr(fork_link, "namespaces_of", as_if_shared)
    sandbox = Bwrap()
    session = await sandbox.open(SMALL)
    assert isinstance(session._link, BwrapLink)
    assert f"{kind} namespace" in sandbox.capabilities()["start"]
    await session.close()
    assert await gone(inside)
    sandbox._forks = True  # where forks have worked before, it is an error
    with pytest.raises(SandboxDied, match=f"lacks: {kind} namespace"):
        await sandbox.open(SMALL)


async def test_a_fork_that_can_prove_less_than_everything_is_refused(monkeypatch):
    monkeypatch.setattr(fork_link, "asdict", lambda evidence: {"proc_only_pids": False})
    sandbox = Bwrap()
    session = await sandbox.open(SMALL)
    await session.close()
    assert "lacks: proc_only_pids" in sandbox.capabilities()["start"]
