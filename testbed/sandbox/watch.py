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

from testbed.sandbox.buffers import Capture
from testbed.sandbox.memory import Memory, processes, read_into, threads

MEMORY_EVERY = 0.025  # seconds between two counts of the call's memory
STOP_SECONDS = 0.5  # for every process to stand still; a busy machine takes its time to stop even honest ones
STOP_EVERY = 0.0002  # seconds between two looks

_PIDFD_OPEN = 434
_PF_EXITING = 4  # of the flags in /proc/PID/stat
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """The first process of a call or of a REPL: it can be waited for, and be ended with everything that it started.

    Args:
        pid: a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status = 0  # its wait status, once it has been reaped
        self.cpu_seconds = 0.0  # that it and the children that it waited for have used, once it has been reaped
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
            while (ended := os.wait4(-1, options))[0]:
                if ended[0] == self.pid:
                    self.status, used = ended[1], ended[2]
                    self.cpu_seconds = used.ru_utime + used.ru_stime


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
    """Whether all its threads do; they may outlive the first one, and compute while it is held by the kernel."""
    return all(_is_still(f"/proc/{process}/task/{thread}/stat") for thread in threads(process))


def _is_still(path: str) -> bool:
    """Whether a thread is stopped, has ended, or is held by the kernel, which lets it go no further than to its stop.

    One that is held on its way to its end is not still: with its end, the kernel may yet send its parent a signal.
    """
    buffer = bytearray(1024)
    size = read_into(path, buffer)
    if not size:
        return True
    state, *fields = buffer[buffer.rfind(b") ", 0, size) + 2 : size].split()
    return state in b"TtZX" or (state == b"D" and not int(fields[5]) & _PF_EXITING)


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
        memory: counts what all processes of the call hold together.
    """

    def __init__(self, control: int, process: Process, captures: dict[int, Capture], memory: Memory) -> None:
        self._control, self._process, self._captures, self._memory = control, process, captures, memory
        self._target: int | None = None
        self._input: list[memoryview] = []
        self._closes_target = False
        self._poll = select.poll()
        self._poll.register(control, 0)  # only its end: the host sends nothing during a call
        self._poll.register(process.exit_fd, select.POLLIN)
        for descriptor in captures:
            self._poll.register(descriptor, select.POLLIN)
        self._poll.register(memory.exceeded, select.POLLIN)
        self._next_count = time.monotonic() + MEMORY_EVERY
        self._kills = kills_for_memory()
        memory.begin()

    def feed(self, target: int, data: list[memoryview], close: bool) -> None:
        """Has ``data`` written to a descriptor as the program reads, and the descriptor closed at the end if wanted."""
        self._target, self._input, self._closes_target = target, [part for part in data if part], close
        self._poll.register(target, select.POLLOUT)
        self._write()

    def stop_feeding(self) -> None:
        """Drops what has not been read."""
        if self._target is not None:
            self._poll.unregister(self._target)
            if self._closes_target:
                os.close(self._target)
            self._target, self._input = None, []

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
            if now >= self._next_count and self._memory_exceeded(now):
                return "oom"
            wait = min(deadline, self._next_count) - time.monotonic()
            ready = [descriptor for descriptor, _ in self._poll.poll(math.ceil(1000 * max(0.0, wait)))]
            if self._control in ready:
                os._exit(0)
            if self._process.exit_fd in ready:
                return "exited"
            if done in ready:
                return "done"
            if self._memory.exceeded in ready:
                return "oom"
            for descriptor in ready:
                if descriptor == self._target:
                    self._write()
                elif not self._captures[descriptor].read_from(descriptor):
                    self._poll.unregister(descriptor)  # closed by everybody who could write
        return "timeout"

    def end(self) -> None:
        """Takes what the outputs still hold, without waiting for more, once everybody has ended or stands still."""
        self._memory.end()
        self.stop_feeding()
        for descriptor, capture in self._captures.items():
            while capture.read_from(descriptor):
                pass

    def kernel_ended_one(self) -> bool:
        """Whether the kernel ended a process for the memory of its cgroup, as far as that can be seen from inside."""
        return kills_for_memory() > self._kills

    def _memory_exceeded(self, now: float) -> bool:
        exceeded = self._memory.is_exceeded()
        self._process.reap(os.WNOHANG)  # orphans that have ended would fill the limit on processes
        took = time.monotonic() - now
        self._next_count = now + max(MEMORY_EVERY, 5 * took)  # at most a fifth of the time goes into counting
        return exceeded

    def _write(self) -> None:
        try:
            while self._target is not None and self._input:
                self._input[0] = self._input[0][os.write(self._target, self._input[0]) :]
                if not self._input[0]:
                    del self._input[0]
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
