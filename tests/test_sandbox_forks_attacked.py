"""What a hostile program in one fork can reach of its server or of another fork, and what becomes of forks in need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from helpers.processes import gone
from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits
from testbed.sandbox.fork_link import ForkServer, ServerEnded

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

SMALL = Limits(wall_seconds=5.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


async def output_beside_another(code: str, prepare: str = "") -> str:
    """What a program prints while another sandbox of the same server holds what a cell has made there."""
    sandbox = Bwrap()
    neighbour = await sandbox.open(SMALL)
    if prepare:
        assert (await neighbour.repl(textwrap.dedent(prepare))).status == "ok"
    session = await sandbox.open(SMALL)
    assert session._link._server is neighbour._link._server
    result = await session.run(textwrap.dedent(code))
    assert (await neighbour.repl("print('well')")).stdout == "well\n"
    for one in (neighbour, session):
        await one.close()
    assert result.status == "ok", result
    return result.stdout


async def test_no_descriptor_of_a_namespace_leads_to_the_servers():
    """Each file in /proc/self/ns can be asked for its owner, its parent, and (Linux 6.12) the next of its kind."""
    climb = """
    import fcntl, os, struct
    CALLS = {"owner": 0xB701, "parent": 0xB702, "next mounts": 0x8010B70B, "previous mounts": 0x8010B70C}
    for kind in os.listdir("/proc/self/ns"):
        descriptor = os.open("/proc/self/ns/" + kind, os.O_RDONLY)
        for name, number in CALLS.items():
            try:
                found = fcntl.ioctl(descriptor, number, bytearray(struct.pack("=IIQ", 16, 0, 0)))
            except OSError:
                continue
            leads_to = os.readlink(f"/proc/self/fd/{found}")
            if leads_to != os.readlink("/proc/self/ns/user"):  # what belongs to the program's own is no secret
                print("BREACH", kind, name, leads_to)
    """
    assert await output_beside_another(climb) == ""


async def test_no_number_reaches_a_process_of_the_server_or_of_another_fork():
    hunt = """
    import ctypes, os, signal
    libc = ctypes.CDLL(None)
    mine = {*map(int, os.listdir("/proc/1/task")), os.getpid()}
    for number in range(1, 1 << 16):
        try:
            os.kill(number, 0)
            found = True
        except OSError as error:
            found = error.errno != 3
        if found and number not in mine:
            print("BREACH", number)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in (-1, 0, 1):  # all that there is; the own group; the worker
        try: os.kill(number, signal.SIGTERM)
        except OSError: pass
    for number in range(0, 64):  # descriptors by way of the worker
        if libc.syscall(438, libc.syscall(434, 1, 0), number, 0) >= 0:
            print("BREACH descriptor", number)
    print("done")
    """
    held = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    assert await output_beside_another(hunt, held) == "done\n"


async def test_a_program_finds_nothing_of_the_server_on_its_stack():
    """The object that knows how many sandboxes there are, and their processes, is gone before there is a worker."""
    look = """
    import sys
    frame, seen = sys._getframe(), []
    while frame:
        if "forkserver" in frame.f_code.co_filename:
            seen.append((frame.f_code.co_name, sorted(frame.f_locals)))
        frame = frame.f_back
    print(seen)
    """
    assert await output_beside_another(look) == "[('main', ['control'])]\n"


async def test_each_fork_has_its_own_allowance_of_processes_and_signals():
    use_up = """
    import ctypes, os, signal, time
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    children, queued = 0, 0
    try:
        while True:
            if os.fork() == 0: time.sleep(60)
            children += 1
    except BlockingIOError: pass
    libc = ctypes.CDLL(None)
    while libc.sigqueue(os.getpid(), 40, None) == 0: queued += 1
    print(children, queued)
    """
    sandbox = Bwrap()
    first, second = [await sandbox.open(SMALL) for _ in range(2)]
    used = [(await one.repl(textwrap.dedent(use_up))).stdout for one in (first, second)]
    for one in (first, second):
        await one.close()
    assert used[0] == used[1]
    children, queued = map(int, used[0].split())
    assert children > SMALL.processes // 2
    assert queued > 1000


async def test_no_memory_is_shared_with_the_server():
    """What is mapped as shared stays shared over a fork."""
    session = await Bwrap().open(SMALL)
    parent = parent_of(session._link.worker_pid)
    with open(f"/proc/{parent}/maps") as maps:
        shared = [line for line in maps if line.split()[1].endswith("s")]
    await session.close()
    assert shared == []


# --- who gives up, and what is short


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


async def test_however_many_give_up_on_a_server_that_is_starting_take_it_from_nobody(monkeypatch):
    starts = []
    start = ForkServer._start

    async def given_up_by_the_first_three(server):
        starts.append(server)
        if len(starts) <= 3:
            asyncio.current_task().cancel()
        return await start(server)

    sandbox = Bwrap()
    await (await sandbox.open(SMALL)).close()
    monkeypatch.setattr(ForkServer, "_start", given_up_by_the_first_three)
    opened = await asyncio.gather(*(sandbox.open(SMALL) for _ in range(5)), return_exceptions=True)
    sessions = [one for one in opened if not isinstance(one, BaseException)]
    assert [type(one) for one in opened if one not in sessions] == [asyncio.CancelledError] * 3
    assert [(await session.run("print(1)")).stdout for session in sessions] == ["1\n"] * 2
    for session in sessions:
        await session.close()


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03, 0.06])
async def test_whoever_gives_up_twice_leaves_nothing_behind(pause):
    sandbox = Bwrap()
    await (await sandbox.open(SMALL)).close()
    before, servers = len(os.listdir("/proc/self/fd")), servers_without_a_parent()
    opening = asyncio.create_task(sandbox.open(SMALL))
    await asyncio.sleep(pause)
    for _ in range(3):
        opening.cancel()
        await asyncio.sleep(0)
    with contextlib.suppress(asyncio.CancelledError):
        await (await opening).close()
    end = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) != before and time.monotonic() < end:
        await asyncio.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not sandbox._uids
    while servers_without_a_parent() - servers and time.monotonic() < end:  # others pass by
        await asyncio.sleep(0.02)
    assert servers_without_a_parent() <= servers


def servers_without_a_parent() -> set[str]:
    """What becomes of bubblewrap's child if bubblewrap ends before it lets it go on."""
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if parent_of(int(name)) == 1 and b"sandbox.forkserver" in Path(f"/proc/{name}/cmdline").read_bytes():
                found.add(name)
    return found


async def test_a_server_without_descriptors_refuses_and_keeps_its_workers():
    """Its limit is what the host's was when it began; the host may have raised its own since."""
    sandbox = Bwrap()
    first = await sandbox.open(SMALL)
    server = parent_of(first._link.worker_pid)
    used = [int(name) for name in os.listdir(f"/proc/{server}/fd")]
    most = max(used) + 2
    resource.prlimit(server, resource.RLIMIT_NOFILE, (most, most))
    free = most - len(used)
    opened = await asyncio.gather(*(sandbox.open(SMALL) for _ in range(free + 3)), return_exceptions=True)
    refused = [str(one) for one in opened if isinstance(one, SandboxDied)]
    others = [one for one in opened if not isinstance(one, BaseException)]
    assert len(refused) + len(others) == len(opened)
    assert len(others) >= free - 2
    assert refused
    assert all("Too many open files" in reason for reason in refused)
    assert (await first.run("print('still there')")).stdout == "still there\n"
    await others.pop().close()
    others.append(await sandbox.open(SMALL))
    assert parent_of(others[-1]._link.worker_pid) == server
    for one in (first, *others):
        await one.close()


async def test_a_worker_whose_descriptor_finds_no_room_here_is_gone(monkeypatch):
    sandbox = Bwrap()
    keep = await sandbox.open(SMALL)
    server = parent_of(keep._link.worker_pid)
    receive = keep._link._server._answer

    async def without_room(talk):
        error, worker = await receive(talk)
        for descriptor in worker:
            os.close(descriptor)
        return error, []

    monkeypatch.setattr(keep._link._server, "_answer", without_room)
    with pytest.raises(SandboxDied, match="Too many open files"):
        await sandbox.open(SMALL)
    monkeypatch.undo()
    with open(f"/proc/{server}/task/{server}/children") as file:
        children = set(map(int, file.read().split()))
    assert await gone(children - {keep._link.worker_pid})
    assert (await keep.run("print(1)")).stdout == "1\n"
    await keep.close()


async def test_a_server_ends_although_a_process_that_the_host_has_forked_holds_its_connection():
    session = await Bwrap().open(SMALL)
    server = parent_of(session._link.worker_pid)
    copy = os.fork()
    if copy == 0:
        time.sleep(30)
        os._exit(0)
    try:
        begun = time.monotonic()
        await session.close()
        assert time.monotonic() - begun < 2
        assert await gone({server})
    finally:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)


async def test_a_server_that_stands_still_does_not_stop_the_event_loop():
    session = await Bwrap().open(SMALL)
    link = session._link
    os.kill(parent_of(link.worker_pid), signal.SIGSTOP)
    ended = False
    for _ in range(2000):  # requests that are given up fill the connection
        asking = asyncio.create_task(link._server.fork(1 << 20, 0, 1))
        await asyncio.sleep(0)
        asking.cancel()
        ended = isinstance((await asyncio.gather(asking, return_exceptions=True))[0], ServerEnded)
        if ended:
            break
    os.kill(parent_of(link.worker_pid), signal.SIGCONT)
    assert ended
    assert (await session.run("print(1)")).stdout == "1\n"
    await session.close()


async def test_a_worker_that_has_ended_proves_nothing_by_another_process_of_its_number():
    sandbox = Bwrap()
    session, other = [await sandbox.open(SMALL) for _ in range(2)]
    link = session._link
    os.kill(link.worker_pid, signal.SIGKILL)
    assert await gone({link.worker_pid})
    link.worker_pid = other._link.worker_pid  # which has all namespaces for itself
    with pytest.raises(SandboxDied, match="it has ended"):
        await link.prove(sandbox._evidence)
    for one in (session, other):
        await one.close()


SCARCE = """
import asyncio
from testbed.errors import SandboxDied
from testbed.sandbox import Bwrap, Limits
async def main():
    sandbox, sessions, reasons = Bwrap(), [], set()
    for _ in range(6):
        try:
            sessions.append(await sandbox.open(Limits()))
        except SandboxDied as error:
            reasons.add(str(error))
    kinds = [type(session._link).__name__ for session in sessions]
    well = [(await session.run("print(1)")).status for session in sessions]
    for session in sessions:
        await session.close()
    print([kinds, well, sorted(reasons)])
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kind", "most", "expected"),
    [("pid", 4, ("ForkedLink", 3)), ("net", 3, ("ForkedLink", 2)), ("user", 4, ("ForkedLink", 3))],
)
def test_where_namespaces_are_scarce_every_sandbox_is_whole_or_refused(kind, most, expected):
    """In a user namespace with a limit of its own: as on a machine, or in a container, that allows so many."""
    limit = f'echo {most} > /proc/sys/user/max_{kind}_namespaces && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh", sys.executable, "-c", SCARCE]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"no user namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    kinds, well, reasons = eval(done.stdout)
    assert (kinds[0], len(kinds)) == expected
    assert len(set(kinds)) == 1
    assert set(well) == {"ok"}
    assert reasons
