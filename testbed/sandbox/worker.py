"""Runs inside the sandbox as PID 1. Only the standard library is there, and this file's two neighbours.

It runs no program itself. It locks itself down, says so, and then forks one child per call, watches it, ends everything
that the call left behind, and reports. What it reports about a call it knows from the kernel: wait status, clock,
memory maps; never from the program's text.

Frames on the control descriptor are 4 bytes of length (big-endian) and a JSON object. The host sends `start` once and
then `run`s, each with a sequence number that the answer repeats. The end of the control stream is the end of the
worker, and PID 1's end is everybody's.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import gc
import json
import math
import os
import select
import signal
import stat
import struct
import sys
import threading
import time
from _sitebuiltins import Quitter  # `exit()` is the site module's, which is not run
from typing import Any, NoReturn

from testbed.sandbox.child import become_program
from testbed.sandbox.lockdown import SCRATCH, lock_down

CHUNK = 1 << 18  # bytes per read
MEMORY_EVERY = 0.025  # seconds between two counts of the call's memory
WIPE_SECONDS = 0.5
THREAD_STACK = 1 << 20  # with libc's 8 MiB, 32 threads would be "out of memory"

_PIDFD_OPEN = 434
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Locks down, reports, and serves calls until the host goes away."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the host may have started us with some blocked
    builtins.exit, builtins.quit = Quitter("exit", ""), Quitter("quit", "")
    threading.stack_size(THREAD_STACK)
    send(control, {"type": "hello", "machine": os.uname().machine, "python": sys.version.split()[0]})
    start = receive(control)
    try:
        evidence = lock_down(start)
    except OSError as error:
        send(control, {"type": "failed", "error": f"{errno.errorcode.get(error.errno or 0, '')} {error.strerror}"})
        os._exit(1)
    gc.disable()
    gc.freeze()  # or a collection in a child would copy every page of the worker's objects
    send(control, {"type": "ready", **evidence})
    while True:
        frame = receive(control)
        send(control, {"type": "result", "seq": frame["seq"], **run(control, frame, start["limits"])})


def send(control: int, frame: dict[str, Any]) -> None:
    """Writes one frame; the worker ends if the host is gone."""
    body = json.dumps(frame).encode("ascii")
    view = memoryview(struct.pack(">I", len(body)) + body)
    while view:
        try:
            view = view[os.write(control, view) :]
        except OSError:
            os._exit(0)


def receive(control: int) -> dict[str, Any]:
    """Reads one frame; the worker ends if the host is gone."""
    (length,) = struct.unpack(">I", _read_exactly(control, 4))
    frame: dict[str, Any] = json.loads(_read_exactly(control, length))
    return frame


def _read_exactly(control: int, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.read(control, size)
        except OSError:
            part = b""
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


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


def run(control: int, frame: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Runs one program in a child of its own and leaves nothing of it behind."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    deadline = time.monotonic() + frame["timeout"]
    child = os.fork()
    if child == 0:
        become_program(frame["code"], frame["timeout"], limits, in_read, out_write, err_write)
    for descriptor in (in_read, out_write, err_write):
        os.close(descriptor)
    for descriptor in (in_write, out_read, err_read):
        os.set_blocking(descriptor, False)
    watch = Watch(control, child, deadline, limits)
    watch.feed(in_write, frame["stdin"].encode("utf-8", "surrogatepass"))
    captures = {out_read: Capture(limits["output"]), err_read: Capture(limits["output"])}
    verdict = watch.until_over(captures)
    status = watch.end_everything()
    for descriptor, capture in captures.items():
        while capture.read_from(descriptor):
            pass
        os.close(descriptor)
    stdout, stdout_cut = captures[out_read].finish()
    stderr, stderr_cut = captures[err_read].finish()
    code = os.waitstatus_to_exitcode(status) if verdict == "exited" else None
    return {
        "verdict": verdict,
        "exit_code": code,
        "cpu_limit": code == -signal.SIGXCPU,
        "stdout": stdout,
        "stderr": stderr,
        "stdout_cut": stdout_cut,
        "stderr_cut": stderr_cut,
        "clean": wipe_scratch(),
    }


class Watch:
    """Looks after one call: feeds and reads it, counts its time and memory, and ends it.

    Args:
        control: the host's descriptor; its end is the worker's.
        child: process of the program.
        deadline: when its time is up, on the monotonic clock.
        limits: `memory` in bytes, of all processes of the call together.
    """

    def __init__(self, control: int, child: int, deadline: float, limits: dict[str, Any]) -> None:
        self._control, self._child, self._deadline, self._memory = control, child, deadline, limits["memory"]
        self._exit_fd = _libc.syscall(_PIDFD_OPEN, child, 0)  # Pythons built on old systems have no os.pidfd_open
        if self._exit_fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_open")
        self._status = 0  # the child's wait status, once it has been reaped
        self._stdin: int | None = None
        self._input = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(control, 0)  # only its end: the host sends nothing during a call
        self._poll.register(self._exit_fd, select.POLLIN)

    def feed(self, stdin: int, data: bytes) -> None:
        """Has `data` written to the program's standard input as it reads."""
        self._stdin, self._input = stdin, memoryview(data)
        self._poll.register(stdin, select.POLLOUT)
        self._write()

    def until_over(self, captures: dict[int, Capture]) -> str:
        """Reads the outputs until the program exits or must be stopped: "exited", "timeout" or "oom"."""
        for descriptor in captures:
            self._poll.register(descriptor, select.POLLIN)
        next_count = time.monotonic() + MEMORY_EVERY
        while (now := time.monotonic()) < self._deadline:
            if now >= next_count:
                if self._memory_exceeded():
                    return "oom"
                self._reap(os.WNOHANG)  # orphans that have ended would fill the limit on processes
                took = time.monotonic() - now
                next_count = now + max(MEMORY_EVERY, 5 * took)  # at most a fifth of the time goes into counting
            wait = min(self._deadline, next_count) - time.monotonic()
            for descriptor, _ in self._poll.poll(math.ceil(1000 * max(0.0, wait))):
                if descriptor == self._control:
                    os._exit(0)
                elif descriptor == self._exit_fd:
                    return "exited"
                elif descriptor == self._stdin:
                    self._write()
                elif not captures[descriptor].read_from(descriptor):
                    self._poll.unregister(descriptor)  # closed by everybody who could write
        return "timeout"

    def end_everything(self) -> int:
        """Kills and reaps every process but this one, and returns the wait status of the program's first.

        One signal to all reaches everybody, also a bomb in mid-fork: the kernel lets no fork finish that a signal came
        before.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        self._reap(0)
        os.close(self._exit_fd)
        self._close_stdin()
        return self._status

    def _memory_exceeded(self) -> bool:
        total = 0
        for process in processes():
            total += memory_of(process)
            if total > self._memory or time.monotonic() > self._deadline:  # a process can make its maps slow to read
                break
        return bool(total > self._memory)

    def _reap(self, options: int) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, options))[0]:
                if ended[0] == self._child:
                    self._status = ended[1]

    def _write(self) -> None:
        try:
            while self._stdin is not None and self._input:
                self._input = self._input[os.write(self._stdin, self._input) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # nobody reads any more
            pass
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            self._poll.unregister(self._stdin)
            os.close(self._stdin)
            self._stdin = None


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


def wipe_scratch() -> bool:
    """Empties the scratch folder; False if that takes too long or fails, and the sandbox must be replaced.

    Folders are flattened level by level instead of descended into: no depth, mode or length of path can stop it.
    """
    deadline = time.monotonic() + WIPE_SECONDS
    moved = 0
    try:
        if not os.access(SCRATCH, os.R_OK | os.W_OK | os.X_OK):
            os.chmod(SCRATCH, 0o700)
        while names := os.listdir(SCRATCH):
            for name in names:
                path = f"{SCRATCH}/{name}"
                if not _is_folder(path):
                    os.unlink(path)
                    continue
                os.chmod(path, 0o700)
                for inner in os.listdir(path):
                    below = f"{path}/{inner}"
                    if _is_folder(below):
                        os.chmod(below, 0o700)
                        moved += 1
                        os.rename(below, f"{SCRATCH}/.wipe-{moved}-{time.monotonic_ns()}")
                    else:
                        os.unlink(below)
                os.rmdir(path)
                if time.monotonic() > deadline:
                    return False
    except OSError:
        return False
    return True


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


if __name__ == "__main__":
    main()
