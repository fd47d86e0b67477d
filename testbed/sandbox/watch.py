"""Runs inside the sandbox: how the worker looks after a call. Only the standard library is there.

What is said of a call is known from the kernel: wait status, clock, memory maps; never from the program's text.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import time

CHUNK = 1 << 18  # bytes per read
MEMORY_EVERY = 0.025  # seconds between two counts of the call's memory
STOP_SECONDS = 0.5  # for every process to stand still; a busy machine takes its time to stop even honest ones
STILL = (b"T", b"t", b"Z", b"X", b"D")  # states of /proc/PID/stat in which a process computes nothing
STOP_EVERY = 0.0002  # seconds between two looks

_PIDFD_OPEN = 434
_libc = ctypes.CDLL(None, use_errno=True)


class Capture:
    """The first and the last bytes of a stream, and how many there were.

    Args:
        limit: bytes to keep.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def read_from(self, descriptor: int) -> bool:
        """Takes what is there to read; False at the end, or if nothing is there."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        self._total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:][-self._half :]
        if len(self._tail) > 4 * self._half:
            del self._tail[: -self._half]
        return bool(data)

    def finish(self) -> tuple[str, int]:
        """The text, with a line in place of what is missing, and the number of bytes cut."""
        del self._tail[: -self._half]
        cut = self._total - len(self._head) - len(self._tail)
        if not cut:
            return _decode(self._head + self._tail), 0
        return f"{_decode(self._head)}\n[... {cut} bytes cut ...]\n{_decode(self._tail)}", cut


def _decode(data: bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


class Process:
    """The first process of a call or of a REPL: it can be waited for, and be ended with everything that it started.

    Args:
        pid: a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status = 0  # its wait status, once it has been reaped
        self.exit_fd = _libc.syscall(_PIDFD_OPEN, pid, 0)  # Pythons built on old systems have no os.pidfd_open
        if self.exit_fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_open")

    def end_everything(self) -> int:
        """Kills and reaps every process but this one, and returns the wait status of the first.

        One signal to all reaches everybody, also a bomb in mid-fork: the kernel lets no fork finish that a signal came
        before.
        """
        signal_everybody(signal.SIGKILL)
        self.reap(0)
        os.close(self.exit_fd)
        return self.status

    def reap(self, options: int) -> None:
        """Waits for children: those that have ended (os.WNOHANG), or all (0)."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, options))[0]:
                if ended[0] == self.pid:
                    self.status = ended[1]


def stop_everybody() -> bool:
    """Stops every process but this one; False if some go on in spite of it.

    Processes can wake one another for as long as one of them runs, so that one signal may not do. It has done once two
    lists of all processes, one after the other, are the same and everybody in them stands still.
    """
    deadline = time.monotonic() + STOP_SECONDS
    before: list[str] | None = None
    while time.monotonic() < deadline:
        signal_everybody(signal.SIGSTOP)
        now = processes()
        if not all(map(_stands_still, now)):
            before = None
            time.sleep(STOP_EVERY)
        elif now == before:
            return True
        else:
            before = now
    return False


def _stands_still(process: str) -> bool:
    """Stopped, ended, or held by the kernel, which lets it go no further than to being stopped."""
    state, threads = _state(f"/proc/{process}/stat")
    if state == b"Z" and threads > 1:  # only its first thread has ended
        return all(
            _state(f"/proc/{process}/task/{name}/stat")[0] in b"TtZXD" for name in _names(f"/proc/{process}/task")
        )
    return state in b"TtZXD"


def _state(path: str) -> tuple[bytes, int]:
    """State of a process or thread, and how many threads its process has; X (dead) if it is gone."""
    try:
        with open(path, "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return b"X", 0
    return fields[0], int(fields[17])


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def signal_everybody(number: int) -> None:
    """Sends a signal to every process but this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


class Watch:
    """Looks after one call: feeds and reads it, counts its time and memory.

    Args:
        control: the host's descriptor; its end is the worker's.
        process: what runs the program.
        captures: what to read, by descriptor.
        memory: most bytes, of all processes of the call together.
    """

    def __init__(self, control: int, process: Process, captures: dict[int, Capture], memory: int) -> None:
        self._control, self._process, self._captures, self._memory = control, process, captures, memory
        self._target: int | None = None
        self._input = memoryview(b"")
        self._closes_target = False
        self._poll = select.poll()
        self._poll.register(control, 0)  # only its end: the host sends nothing during a call
        self._poll.register(process.exit_fd, select.POLLIN)
        for descriptor in captures:
            self._poll.register(descriptor, select.POLLIN)
        self._next_count = time.monotonic() + MEMORY_EVERY
        self._kills = kills_for_memory()

    def feed(self, target: int, data: bytes, close: bool) -> None:
        """Has ``data`` written to a descriptor as the program reads, and the descriptor closed at the end if wanted."""
        self._target, self._input, self._closes_target = target, memoryview(data), close
        self._poll.register(target, select.POLLOUT)
        self._write()

    def stop_feeding(self) -> None:
        """Drops what has not been read."""
        if self._target is not None:
            self._poll.unregister(self._target)
            if self._closes_target:
                os.close(self._target)
            self._target = None

    def until_over(self, deadline: float, done: int | None = None) -> str:
        """Reads the outputs until the program exits or must be stopped.

        Args:
            deadline: when its time is up, on the monotonic clock.
            done: a descriptor that can be read once the program says it has finished.

        Returns:
            "exited", "done", "timeout" or "oom".
        """
        if done is not None:
            self._poll.register(done, select.POLLIN)
        while (now := time.monotonic()) < deadline:
            if now >= self._next_count and self._memory_exceeded(now, deadline):
                return "oom"
            wait = min(deadline, self._next_count) - time.monotonic()
            ready = [descriptor for descriptor, _ in self._poll.poll(math.ceil(1000 * max(0.0, wait)))]
            if self._control in ready:
                os._exit(0)
            if self._process.exit_fd in ready:
                return "exited"
            if done in ready:
                return "done"
            for descriptor in ready:
                if descriptor == self._target:
                    self._write()
                elif not self._captures[descriptor].read_from(descriptor):
                    self._poll.unregister(descriptor)  # closed by everybody who could write
        return "timeout"

    def died_of_memory(self, exit_code: int) -> bool:
        """Whether the kernel ended the program for the memory of its cgroup, as far as that can be seen from inside."""
        return exit_code == -signal.SIGKILL and kills_for_memory() > self._kills

    def drain(self) -> None:
        """Takes what the outputs still hold, without waiting for more."""
        for descriptor, capture in self._captures.items():
            while capture.read_from(descriptor):
                pass

    def _memory_exceeded(self, now: float, deadline: float) -> bool:
        total = 0
        for process in processes():
            total += memory_of(process)
            if total > self._memory or time.monotonic() > deadline:  # a process can make its maps slow to read
                break
        self._process.reap(os.WNOHANG)  # orphans that have ended would fill the limit on processes
        took = time.monotonic() - now
        self._next_count = now + max(MEMORY_EVERY, 5 * took)  # at most a fifth of the time goes into counting
        return total > self._memory

    def _write(self) -> None:
        try:
            while self._target is not None and self._input:
                self._input = self._input[os.write(self._target, self._input) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # nobody reads any more
            pass
        self.stop_feeding()


def kills_for_memory() -> int:
    """How many processes of the own cgroup the kernel has killed for its memory; 0 where that is not shown."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, "rb") as file:
                return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), 0)
        except OSError:
            continue
    return 0


def processes() -> list[str]:
    """Numbers of the call's processes; none where /proc is not mounted."""
    try:
        return [name for name in os.listdir("/proc") if name.isdecimal() and name != "1"]
    except FileNotFoundError:
        return []


def memory_of(process: str) -> int:
    """Bytes of memory of a process, shared pages in proportion; 0 if it has ended."""
    try:
        with open(f"/proc/{process}/smaps_rollup", "rb") as file:
            lines = [line.split() for line in file if line.startswith((b"Pss:", b"SwapPss:"))]
    except OSError:
        return 0
    return sum(int(line[1]) for line in lines) << 10
