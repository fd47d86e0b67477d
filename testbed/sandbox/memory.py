"""Runs inside the sandbox: how much memory all processes of a call hold. Only the standard library is there.

Sockets hold memory of the kernel's that no figure of a process tells. Each has a bound of its own, and descriptors are
limited; but connections that nobody has taken need none, and keep what was sent on them. So sockets are counted too.

What they share counts in proportion, which the kernel tells only under a lock of the process, and a program can keep
that lock busy. So the worker itself looks at figures that need no lock and say at least as much as there is. Only if
they exceed the limit does a thread count exactly; whatever holds it up does not hold up the worker, and its clock.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import re
import time

# Seconds before each of the further counts that must all exceed the limit; uneven, as a quota of cores has a period.
AGAIN_AFTER = (0.005, 0.015, 0.025, 0.033, 0.047)
PATIENCE = 1.0  # seconds for an exact count, before what is known without it decides

_FIGURES = re.compile(rb"^(VmRSS|RssAnon|RssShmem|VmPTE|VmSwap):\s+(\d+) kB$", re.MULTILINE)
_SHARES = re.compile(rb"^(?:Pss|SwapPss):\s+(\d+) kB$", re.MULTILINE)
_SOCKETS = re.compile(rb"^sockets: used (\d+)$", re.MULTILINE)

_MOST_SAID = 1 << 10  # counts in one call that may have said so: another one begins before the first has been heard


class Memory:
    """Tells when the processes of a call hold more than they may together.

    Between calls, its thread waits and holds nothing: a fork copies no work half done.

    Args:
        limit: most bytes, of all processes together.
        sockets: most sockets, with those that no descriptor leads to.

    Attributes:
        exceeded: a descriptor that can be read once an exact count has exceeded the limit.
    """

    def __init__(self, limit: int, sockets: int) -> None:
        self._limit, self._sockets = limit, sockets
        self.exceeded, self._tell = os.pipe()
        os.set_blocking(self.exceeded, False)
        self._wanted, self._idle = _thread.allocate_lock(), _thread.allocate_lock()
        self._wanted.acquire()
        self._over = False
        self._asked = self._ask_next = self._spent = 0.0
        self._late = 0
        # The kernel says too little by what every core keeps to itself of each counter.
        cores = os.cpu_count() or 1
        self._unsaid = 3 * cores * max(32, 2 * cores) * os.sysconf("SC_PAGE_SIZE")

    def start(self) -> None:
        """Starts the thread."""
        _thread.start_new_thread(self._serve, ())

    def begin(self) -> None:
        """Begins with a call."""
        self._over, self._ask_next, self._late = False, 0.0, 0

    def end(self) -> None:
        """Ends a call, whose processes have ended or stand still: waits until the thread is done."""
        self._over = True
        with self._idle:
            pass
        with contextlib.suppress(BlockingIOError):
            os.read(self.exceeded, _MOST_SAID)

    def is_exceeded(self) -> bool:
        """Looks without waiting and has the thread count if needed; True if an exact count does not come in time.

        Then, memory that processes share through a fork counts for each of them: a program that keeps its maps too
        busy to be counted must not go uncounted. True also if there are too many sockets.
        """
        if _sockets() > self._sockets:
            return True
        most, own = self._look()
        now = time.monotonic()
        if self._idle.locked():
            if now - self._asked > PATIENCE:
                self._late = self._late + 1 if own > self._limit else 0
            return self._late > len(AGAIN_AFTER)
        self._late = 0
        if most > self._limit and now >= self._ask_next:
            self._asked = now
            self._idle.acquire()
            self._wanted.release()
        return False

    def _serve(self) -> None:
        while True:
            self._wanted.acquire()
            self._spent = 0.0
            if self._exceeds():
                os.write(self._tell, b"x")
            self._ask_next = time.monotonic() + 5 * self._spent  # at most a fifth of the time goes into counting
            self._idle.release()

    def _look(self) -> tuple[int, int]:
        """At most how many bytes there are, and how many if what forks share counts for each; without any lock."""
        most = own = 0
        for process in processes():
            _, figures = _living(process)
            if figures:
                private = figures.get(b"VmPTE", 0) + figures.get(b"VmSwap", 0)
                own += private + figures.get(b"RssAnon", 0) + figures.get(b"RssShmem", 0)
                most += private + figures.get(b"VmRSS", 0) + self._unsaid
        return most, own

    def _exceeds(self) -> bool:
        """Counts exactly, and again where a child that is being made may have counted what its parent holds."""
        total = self._timed_count()
        for pause in AGAIN_AFTER:
            if not self._limit < total <= 2 * self._limit:
                break
            time.sleep(pause)
            total = self._timed_count()
        return total > self._limit

    def _timed_count(self) -> int:
        began = time.monotonic()
        total = self._count()
        self._spent += time.monotonic() - began
        return total

    def _count(self) -> int:
        """How many bytes there are, or a number that is certainly too many; 0 once the call is over."""
        total = 0
        for process in processes():
            if self._over:
                return 0
            folder, figures = _living(process)
            total += figures.get(b"VmPTE", 0) + _shares(folder)
            if total > 2 * self._limit:
                break
        return total


def processes() -> list[str]:
    """Numbers of the call's processes; none where /proc is not mounted."""
    try:
        return [name for name in os.listdir("/proc") if name.isdecimal() and name != "1"]
    except FileNotFoundError:
        return []


def threads(process: str) -> list[str]:
    """Numbers of a process's threads; none if it has ended."""
    try:
        return os.listdir(f"/proc/{process}/task")
    except OSError:
        return []


def read_into(path: str, buffer: bytearray) -> int:
    """Reads the beginning of a file of /proc without a copy, as programs choose their names; 0 bytes if it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return os.readv(descriptor, [buffer])
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _living(process: str) -> tuple[str, dict[bytes, int]]:
    """The folder in /proc of a process, or of a thread that has outlived its first one, and its figures in bytes."""
    folder = f"/proc/{process}"
    if figures := _figures(folder):
        return folder, figures
    for thread in threads(process):
        folder = f"/proc/{process}/task/{thread}"
        if figures := _figures(folder):
            return folder, figures
    return folder, {}


def _figures(folder: str) -> dict[bytes, int]:
    buffer = bytearray(4096)
    size = read_into(f"{folder}/status", buffer)
    found = {name: int(kib) << 10 for name, kib in _FIGURES.findall(buffer[buffer.find(b"\n") : size])}
    buffer[:] = bytes(len(buffer))
    return found


def _sockets() -> int:
    """How many there are in the sandbox's network; 0 where that is not shown."""
    buffer = bytearray(64)
    found = _SOCKETS.search(buffer, 0, read_into("/proc/self/net/sockstat", buffer))
    return int(found[1]) if found else 0


def _shares(folder: str) -> int:
    buffer = bytearray(4096)
    size = read_into(f"{folder}/smaps_rollup", buffer)
    return sum(int(kib) << 10 for kib in _SHARES.findall(buffer[:size]))
