"""Runs inside the sandbox as PID 1. Only the standard library is there, and this file's neighbours.

It runs no program itself. It locks itself down, says so, and then forks one child per call, or one for all cells of a
REPL, watches it, ends everything that the call left behind, and reports.

Frames on the control descriptors are 4 bytes of length (big-endian) and a JSON object; if it has `parts`, a list of
numbers, as many bytes follow. The host sends `start` once and then requests, each with a sequence number that the
answer repeats. What belongs to a program (its text, input, output and files) travels in parts, and does not stay here,
see `testbed.sandbox.buffers`. The end of the control stream is the end of the worker, and PID 1's end is everybody's.
"""

from __future__ import annotations

import _socket
import _thread
import builtins
import errno
import gc
import importlib
import json
import os
import signal
import struct
import sys
import time
from _sitebuiltins import Quitter  # `exit()` is the site module's, which is not run

from testbed.sandbox import scratch
from testbed.sandbox.buffers import Captures, Payload
from testbed.sandbox.child import OPEN_FILES, Legacy, become_program, cpu_seconds
from testbed.sandbox.lockdown import lock_down
from testbed.sandbox.memory import Memory, processes
from testbed.sandbox.repl import Repl
from testbed.sandbox.watch import Process, Watch

TYPE_CHECKING = False  # the module typing would cost every sandbox a sixth of its start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    _Answer = tuple[dict[str, Any], list[memoryview]]  # what is said of a request, and the parts that follow

PACKAGES = "/python/packages"  # third-party packages, where the sandbox has any
THREAD_STACK = 1 << 20  # with libc's 8 MiB, 32 threads would be "out of memory"


def main() -> NoReturn:
    """What the command line starts; its words are those of `Host`."""
    work(Host(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))


def work(host: Host) -> NoReturn:
    """Locks down, reports, and serves calls until the host goes away."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the host may have started us with some blocked
    builtins.exit, builtins.quit = Quitter("exit", ""), Quitter("quit", "")
    _thread.stack_size(THREAD_STACK)
    host.send({"type": "hello", "machine": os.uname().machine, "python": sys.version.split()[0]})
    start, _ = host.receive()
    memory = Memory(start["limits"]["memory"], OPEN_FILES * start["limits"]["processes"])
    try:
        evidence = lock_down(start, memory.start)
        _preload(start["preload"])
    except (OSError, ImportError) as error:
        name = errno.errorcode.get(getattr(error, "errno", None) or 0, "")
        host.send({"type": "failed", "error": f"{name} {getattr(error, 'strerror', None) or error}".strip()})
        os._exit(1)
    worker = Worker(host, start["limits"], memory)
    gc.disable()
    gc.freeze()  # or a collection in a child would copy every page of the worker's objects
    host.send({"type": "ready", **evidence})
    while True:
        worker.serve(*host.receive())


def _preload(modules: list[str]) -> None:
    """Imports packages once, for every child to inherit."""
    if os.path.isdir(PACKAGES):
        sys.path.append(PACKAGES)
    for name in modules:
        importlib.import_module(name)


class Host:
    """The control stream: frames to and from the host. The worker ends when it does.

    Args:
        incoming: descriptor to read from.
        outgoing: descriptor to write to; may be the same. Standard streams are moved away, and lead nowhere afterwards.
        door: path of a socket to prefer, if it can be reached.
    """

    def __init__(self, incoming: int, outgoing: int, door: str = "") -> None:
        self.incoming, self.outgoing = _above_standard(incoming), _above_standard(outgoing)
        socket = _through(door)
        if socket is not None:
            os.close(self.incoming)
            os.close(self.outgoing)
            self.incoming = self.outgoing = socket
        for descriptor in (self.incoming, self.outgoing):
            os.set_inheritable(descriptor, False)

    def send(self, frame: dict[str, Any], parts: Iterable[memoryview] = ()) -> None:
        """Writes one frame."""
        parts = list(parts)
        if parts:
            frame = {**frame, "parts": [len(part) for part in parts]}
        body = json.dumps(frame).encode("ascii")
        views = [memoryview(struct.pack(">I", len(body)) + body), *filter(len, parts)]
        while views:
            try:
                written = os.writev(self.outgoing, views)
            except OSError:
                os._exit(0)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views:
                views[0] = views[0][written:]

    def receive(self) -> tuple[dict[str, Any], Payload]:
        """Reads one frame."""
        (length,) = struct.unpack(">I", self._read_exactly(4))
        frame: dict[str, Any] = json.loads(self._read_exactly(length))
        payload = Payload(frame.pop("parts", []))
        try:
            whole = payload.receive(self.incoming)
        except OSError:
            whole = False
        if not whole:
            os._exit(0)
        return frame, payload

    def _read_exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(self.incoming, size)
            except OSError:
                part = b""
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _through(door: str) -> int | None:
    """A descriptor of a connection; None if there is nobody."""
    if not door:
        return None
    connection = _socket.socket(_socket.AF_UNIX)  # what `socket` is made of: a third of a MiB less
    try:
        connection.connect(door)
    except OSError:
        connection.close()
        return None
    return connection.detach()


def _above_standard(descriptor: int) -> int:
    if descriptor > 2:
        return descriptor
    copy = os.dup(descriptor)  # 0, 1 and 2 are all in use: the copy lies above
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor)
    os.close(nothing)
    return copy


class Worker:
    """Serves the host's requests.

    Args:
        host: its requests, and its end, which is the worker's.
        limits: `memory`, `output` and `file` in bytes, `processes`.
        memory: counts the memory of calls.
    """

    def __init__(self, host: Host, limits: dict[str, Any], memory: Memory) -> None:
        self._host, self._limits, self._memory = host, limits, memory
        self._repl: Repl | None = None
        self._folders = scratch.Folders()
        self._legacy = Legacy()
        self._captures = Captures(limits["output"])

    def serve(self, frame: dict[str, Any], payload: Payload) -> None:
        """Answers a request. `clean` is False where the sandbox must be replaced."""
        operations = {"run": self._run, "repl": self._cell, "put": self._put, "get": self._get, "reset": self._reset}
        answer: dict[str, Any] = {"type": "result", "seq": frame["seq"], "clean": True}
        parts: list[memoryview] = []
        try:
            more, parts = operations[frame["op"]](frame, payload)
            answer |= more
        except (OSError, UnicodeError) as error:  # of put and get: a bad path, or what a program left there
            answer["error"] = getattr(error, "strerror", None) or str(error)
        self._host.send(answer, parts)
        payload.forget()
        self._captures.forget()

    def _run(self, frame: dict[str, Any], payload: Payload) -> _Answer:
        lost = self._end_repl()
        answer = self._run_program(frame, payload)
        return {**answer, "state_lost": lost, "clean": self._folders.wipe()}, self._captures.parts()

    def _cell(self, frame: dict[str, Any], payload: Payload) -> _Answer:
        if self._repl is None:
            self._repl = Repl(self._host.incoming, self._limits, self._legacy)
        seconds, tell = frame["timeout"], self._teller(frame)
        answer = self._repl.call(frame["seq"], payload.part(0), seconds, self._captures, self._memory, tell)
        if answer["state_lost"]:
            self._repl = None
        return {**answer, **self._captures.cuts()}, self._captures.parts()

    def _put(self, frame: dict[str, Any], payload: Payload) -> _Answer:
        scratch.write(frame["path"], payload.part(0), frame["offset"] == 0)
        return {}, []

    def _get(self, frame: dict[str, Any], payload: Payload) -> _Answer:
        room = Payload([frame["size"]]).part(0)
        size, length = scratch.read(frame["path"], frame["offset"], room, self._limits["file"])
        return {"length": length}, [room[:size]]

    def _reset(self, frame: dict[str, Any], payload: Payload) -> _Answer:
        return {"state_lost": self._end_repl(), "clean": self._folders.wipe()}, []

    def _end_repl(self) -> bool:
        repl, self._repl = self._repl, None
        if repl is not None:
            repl.end()
        return repl is not None

    def _teller(self, frame: dict[str, Any]) -> Callable[[str], None]:
        """Tells the host a verdict while the program is still being ended, in case that this takes too long.

        It is "left" for a program that has ended by itself, and left processes that have not.
        """
        return lambda verdict: self._host.send({"type": "verdict", "seq": frame["seq"], "verdict": verdict})

    def _run_program(self, frame: dict[str, Any], payload: Payload) -> dict[str, Any]:
        """Runs one program in a child of its own and ends every process of it."""
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        deadline = time.monotonic() + frame["timeout"]
        child = os.fork()
        if child == 0:
            seconds = frame["timeout"]
            become_program(payload.part(0), seconds, self._limits, self._legacy, in_read, out_write, err_write)
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
        for descriptor in (in_write, out_read, err_read):
            os.set_blocking(descriptor, False)
        process = Process(child)
        watch = Watch(self._host.incoming, process, self._captures.of(out_read, err_read), self._memory)
        watch.feed(in_write, [payload.part(1)], close=True)
        verdict = watch.until_over(deadline)
        if verdict != "exited":
            self._teller(frame)(verdict)
        elif len(processes()) > 1:
            self._teller(frame)("left")
        status = process.end_everything()
        watch.end()
        for descriptor in (out_read, err_read):
            os.close(descriptor)
        if watch.kernel_ended_one():
            verdict = "oom"
        code_of_exit = os.waitstatus_to_exitcode(status) if verdict == "exited" else None
        # The signal alone proves nothing: a program can send it to itself.
        used_up = code_of_exit == -signal.SIGXCPU and process.cpu_seconds >= cpu_seconds(frame["timeout"], self._limits)
        return {"verdict": verdict, "exit_code": code_of_exit, "cpu_limit": used_up, **self._captures.cuts()}
