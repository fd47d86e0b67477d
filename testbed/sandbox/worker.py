"""Runs inside the sandbox as PID 1. Only the standard library is there, and this file's neighbours.

It runs no program itself. It locks itself down, says so, and then forks one child per call, or one for all cells of a
REPL, watches it, ends everything that the call left behind, and reports.

Frames on the control descriptors are 4 bytes of length (big-endian) and a JSON object. The host sends `start` once and
then requests, each with a sequence number that the answer repeats. The end of the control stream is the end of the
worker, and PID 1's end is everybody's.
"""

from __future__ import annotations

import base64
import builtins
import errno
import gc
import importlib
import json
import os
import signal
import struct
import sys
import threading
import time
from _sitebuiltins import Quitter  # `exit()` is the site module's, which is not run
from typing import Any, NoReturn

from testbed.sandbox import scratch
from testbed.sandbox.child import Legacy, become_program
from testbed.sandbox.lockdown import lock_down
from testbed.sandbox.repl import Repl
from testbed.sandbox.watch import Capture, Process, Watch

PACKAGES = "/python/packages"  # third-party packages, where the sandbox has any
THREAD_STACK = 1 << 20  # with libc's 8 MiB, 32 threads would be "out of memory"


def main() -> NoReturn:
    """Locks down, reports, and serves calls until the host goes away."""
    host = Host(int(sys.argv[1]), int(sys.argv[2]))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the host may have started us with some blocked
    builtins.exit, builtins.quit = Quitter("exit", ""), Quitter("quit", "")
    threading.stack_size(THREAD_STACK)
    host.send({"type": "hello", "machine": os.uname().machine, "python": sys.version.split()[0]})
    start = host.receive()
    try:
        evidence = lock_down(start)
        _preload(start["preload"])
    except (OSError, ImportError) as error:
        name = errno.errorcode.get(getattr(error, "errno", None) or 0, "")
        host.send({"type": "failed", "error": f"{name} {getattr(error, 'strerror', None) or error}".strip()})
        os._exit(1)
    worker = Worker(host.incoming, start["limits"])
    gc.disable()
    gc.freeze()  # or a collection in a child would copy every page of the worker's objects
    host.send({"type": "ready", **evidence})
    while True:
        frame = host.receive()
        host.send({"type": "result", "seq": frame["seq"], **worker.serve(frame)})


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
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = _above_standard(incoming), _above_standard(outgoing)
        for descriptor in (self.incoming, self.outgoing):
            os.set_inheritable(descriptor, False)

    def send(self, frame: dict[str, Any]) -> None:
        """Writes one frame."""
        body = json.dumps(frame).encode("ascii")
        view = memoryview(struct.pack(">I", len(body)) + body)
        while view:
            try:
                view = view[os.write(self.outgoing, view) :]
            except OSError:
                os._exit(0)

    def receive(self) -> dict[str, Any]:
        """Reads one frame."""
        (length,) = struct.unpack(">I", self._read_exactly(4))
        frame: dict[str, Any] = json.loads(self._read_exactly(length))
        return frame

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
        control: the host's descriptor, whose end is the worker's.
        limits: `memory`, `output` and `file` in bytes, `processes`.
    """

    def __init__(self, control: int, limits: dict[str, Any]) -> None:
        self._control, self._limits = control, limits
        self._repl: Repl | None = None
        self._folders = scratch.Folders()
        self._legacy = Legacy()

    def serve(self, frame: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. `clean` is False where the sandbox must be replaced."""
        operations = {"run": self._run, "repl": self._cell, "put": self._put, "get": self._get, "reset": self._reset}
        try:
            return {"clean": True, **operations[frame["op"]](frame)}
        except (OSError, UnicodeError) as error:  # of put and get: a bad path, or what a program left there
            return {"clean": True, "error": getattr(error, "strerror", None) or str(error)}

    def _run(self, frame: dict[str, Any]) -> dict[str, Any]:
        lost = self._end_repl()
        answer = run(self._control, frame, self._limits, self._legacy)
        return {**answer, "state_lost": lost, "clean": self._folders.wipe()}

    def _cell(self, frame: dict[str, Any]) -> dict[str, Any]:
        if self._repl is None:
            self._repl = Repl(self._control, self._limits, self._legacy)
        answer = self._repl.call(frame["seq"], frame["code"], frame["timeout"])
        if answer["state_lost"]:
            self._repl = None
        return answer

    def _put(self, frame: dict[str, Any]) -> dict[str, Any]:
        scratch.write(frame["path"], base64.b64decode(frame["data"]), frame["offset"] == 0)
        return {}

    def _get(self, frame: dict[str, Any]) -> dict[str, Any]:
        data, length = scratch.read(frame["path"], frame["offset"], frame["size"], self._limits["file"])
        return {"data": base64.b64encode(data).decode("ascii"), "length": length}

    def _reset(self, frame: dict[str, Any]) -> dict[str, Any]:
        return {"state_lost": self._end_repl(), "clean": self._folders.wipe()}

    def _end_repl(self) -> bool:
        repl, self._repl = self._repl, None
        if repl is not None:
            repl.end()
        return repl is not None


def run(control: int, frame: dict[str, Any], limits: dict[str, Any], legacy: Legacy) -> dict[str, Any]:
    """Runs one program in a child of its own and ends every process of it."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    deadline = time.monotonic() + frame["timeout"]
    child = os.fork()
    if child == 0:
        become_program(frame["code"], frame["timeout"], limits, legacy, in_read, out_write, err_write)
    for descriptor in (in_read, out_write, err_write):
        os.close(descriptor)
    for descriptor in (in_write, out_read, err_read):
        os.set_blocking(descriptor, False)
    process = Process(child)
    captures = {out_read: Capture(limits["output"]), err_read: Capture(limits["output"])}
    watch = Watch(control, process, captures, limits["memory"])
    watch.feed(in_write, frame["stdin"].encode("utf-8", "surrogatepass"), close=True)
    verdict = watch.until_over(deadline)
    status = process.end_everything()
    watch.stop_feeding()
    watch.drain()
    stdout, stdout_cut = captures[out_read].finish()
    stderr, stderr_cut = captures[err_read].finish()
    for descriptor in captures:
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(status) if verdict == "exited" else None
    if code is not None and watch.died_of_memory(code):
        verdict, code = "oom", None
    return {
        "verdict": verdict,
        "exit_code": code,
        "cpu_limit": code == -signal.SIGXCPU,
        "stdout": stdout,
        "stderr": stderr,
        "stdout_cut": stdout_cut,
        "stderr_cut": stderr_cut,
    }


if __name__ == "__main__":
    main()
