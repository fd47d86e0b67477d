"""How the worker counts memory: what is exact, what only looks, and that a count which is held up holds up nobody."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from helpers.processes import talking
from testbed.sandbox import memory
from testbed.sandbox.memory import Memory

MIB = 1 << 20
MANY = 1 << 20  # sockets
HOLDS_80_MIB = "kept = bytearray(b'x') * (80 << 20)\nprint('holds', flush=True)\ninput()"
BEHIND_A_DEAD_MAIN_THREAD = """
import ctypes, os, threading
def hold():
    kept = bytearray(b'x') * (80 << 20)
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z":
        pass
    print('holds', flush=True)
    input()
threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


@pytest.fixture(params=[HOLDS_80_MIB, BEHIND_A_DEAD_MAIN_THREAD], ids=["usual", "dead main thread"])
def holder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A process that holds 80 MiB, the only one that is counted."""
    with talking([sys.executable, "-S", "-c", request.param], stdin=subprocess.PIPE) as (process, line):
        assert line == "holds\n"
        monkeypatch.setattr(memory, "processes", lambda: [str(process.pid)])
        yield str(process.pid)


def looks_until(counter: Memory, seconds: float) -> tuple[bool, bool, float]:
    """Looks as the worker does; whether the thread said "exceeded", whether the look did, and the longest look."""
    longest, end = 0.0, time.monotonic() + seconds
    counter.begin()
    while time.monotonic() < end:
        began = time.monotonic()
        late = counter.is_exceeded()
        longest = max(longest, time.monotonic() - began)
        told = select_readable(counter.exceeded)
        if late or told:
            return told, late, longest
        time.sleep(0.01)
    return False, False, longest


def test_a_count_that_follows_the_one_that_was_heard_leaves_nothing_behind() -> None:
    counter = Memory(MIB, MANY)
    counter.start()
    for _ in range(3):  # as counts do that end between two looks
        os.write(counter._tell, b"x")
    counter.end()
    assert not select_readable(counter.exceeded)


def select_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


@pytest.mark.parametrize(("limit", "expected"), [(60, True), (30, True), (300, False)])
def test_what_a_process_holds_is_counted_once_it_exceeds_the_limit(holder: str, limit: int, expected: bool) -> None:
    counter = Memory(limit * MIB, MANY)
    counter.start()
    told, late, _ = looks_until(counter, 10.0 if expected else 0.5)
    counter.end()
    assert (told, late) == (expected, False)
    assert not select_readable(counter.exceeded), "the next call would begin with this one's excess"


@pytest.mark.parametrize(("limit", "expected"), [(60, True), (300, False)])
def test_a_count_that_is_held_up_holds_up_nobody_and_is_done_without(
    holder: str, limit: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Event()
    monkeypatch.setattr(memory, "_shares", lambda folder: lock.wait(30) and 0)
    monkeypatch.setattr(memory, "PATIENCE", 0.2)
    counter = Memory(limit * MIB, MANY)
    counter._unsaid = 400 * MIB  # so that it seems necessary to count
    counter.start()
    told, late, longest = looks_until(counter, 10.0 if expected else 1.0)
    lock.set()
    counter.end()
    assert (told, late) == (False, expected)
    assert longest < 5


@pytest.mark.parametrize("seldom", [2, 6])
def test_memory_that_is_there_for_a_moment_only_is_none(
    holder: str, seldom: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def double(folder: str) -> int:  # as while a child of vfork has not executed yet
        counts.append(folder)
        return 90 * MIB if len(counts) % seldom else 45 * MIB

    monkeypatch.setattr(memory, "_shares", double)
    counter = Memory(60 * MIB, MANY)
    counter.start()
    told, late, _ = looks_until(counter, 1.0)
    counter.end()
    assert len(counts) >= seldom
    assert (told, late) == (False, False)


def test_end_of_a_call_waits_for_the_count_and_forgets_it(holder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(folder: str) -> int:
        time.sleep(0.3)
        return 80 * MIB

    monkeypatch.setattr(memory, "_shares", slow)
    counter = Memory(60 * MIB, MANY)
    counter.start()
    counter.begin()
    counter.is_exceeded()
    counter.end()
    assert not counter._idle.locked()
    assert not select_readable(counter.exceeded)


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "pass"]) as process:
        process.wait()
        assert memory._living(str(process.pid))[1] == {}
        assert memory._shares(f"/proc/{process.pid}") == 0


def test_sockets_count_also_those_that_no_descriptor_leads_to() -> None:
    before = memory._sockets()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind("")  # to a name of the kernel's choice
            listener.listen(64)
            for _ in range(50):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(listener.getsockname())
        seen = memory._sockets()
        assert seen > before + 800  # two for each connection; others may end meanwhile
        assert Memory(1 << 50, seen - 200).is_exceeded()
        assert not Memory(1 << 50, seen + 200).is_exceeded()
