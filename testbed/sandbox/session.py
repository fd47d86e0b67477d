"""The host's side of a worker: frames, checks, and a session that outlives the loss of its worker.

A backend only has to start a worker and hand over a `Link`: the control socket and a way to kill. Everything here is
the same for all of them.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.errors import SandboxDied, UsageError
from testbed.sandbox.base import Limits, Result, Status
from testbed.sandbox.seccomp import architectures, program

START_SECONDS = 20.0
GRACE_SECONDS = 3.0  # beyond a call's timeout, for killing, reaping and wiping, before the worker counts as lost
PROGRAM_BYTES = 8 << 20  # most of code and stdin together
INODES = 16_384  # files and folders in scratch; an inode costs kernel memory that its size limit does not count


class Link(Protocol):
    """A started worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def kill(self) -> str:
        """Ends the worker and everything in its sandbox, waits until it is gone, and returns its last error output."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a worker reported of its confinement, after it gave up its privileges and before it ran anything.

    Attributes:
        user_namespace: it is in a user namespace of its own.
        proc: /proc is mounted, so that the memory of a call can be counted.
        proc_only_pids: /proc shows processes only, not the machine.
        inode_limit: the number of files in scratch is limited.
        python: version of the Python inside.
    """

    user_namespace: bool
    proc: bool
    proc_only_pids: bool
    inode_limit: bool
    python: str


class _BrokenProtocol(Exception):
    """The worker sent something that it never sends."""


async def handshake(link: Link, limits: Limits, uid: int | None) -> Evidence:
    """Sends the policy in and accepts the worker only if it proves that it applied it.

    Args:
        link: a worker that has just been started.
        limits: the session's limits.
        uid: user to become; None if the worker is not root.

    Raises:
        SandboxDied: the worker did not start, or is not confined; it has been killed.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            hello = await _receive(link.reader, limits)
            machine = hello.get("machine")
            if hello.get("type") != "hello" or machine not in architectures():
                raise _BrokenProtocol(
                    f"no system-call filter for a worker on {machine!r}; there is one for {', '.join(architectures())}"
                )
            await _send(link.writer, _start_frame(str(machine), limits, uid))
            ready = await _receive(link.reader, limits)
    except TimeoutError:
        raise SandboxDied(
            f"the sandbox did not start within {START_SECONDS:g} s. {await link.kill()}".strip()
        ) from None
    except (_BrokenProtocol, OSError, EOFError) as error:
        words = await link.kill()
        raise SandboxDied(f"the sandbox did not start: {words or error}") from error
    except asyncio.CancelledError:
        await link.kill()
        raise
    missing = _unproven(ready)
    if missing:
        await link.kill()
        raise SandboxDied(f"the sandbox worker is not confined: {missing}")
    return Evidence(
        user_namespace=ready.get("user_namespace") is True,
        proc=ready.get("proc") is True,
        proc_only_pids=ready.get("proc_only_pids") is True,
        inode_limit=ready.get("inode_limit") is True,
        python=str(hello.get("python")),
    )


def _start_frame(machine: str, limits: Limits, uid: int | None) -> dict[str, Any]:
    return {
        "op": "start",
        "uid": uid,
        "filter": program(machine).hex(),
        "scratch": limits.scratch_mib << 20,
        "inodes": INODES,
        "limits": {
            "memory": limits.memory_mib << 20,
            "processes": limits.processes,
            "output": limits.output_kib << 10,
            "file": limits.file_mib << 20,
        },
    }


def _unproven(ready: dict[str, Any]) -> str:
    if ready.get("type") != "ready":
        return str(ready.get("error") or "it did not say so")
    wanted = {"pid": 1, "seccomp": 2, "no_new_privs": 1, "dumpable": 0, "capabilities": False}
    wrong = [
        f"{name} is {ready.get(name)!r}, not {value!r}" for name, value in wanted.items() if ready.get(name) != value
    ]
    if not ready.get("uid"):
        wrong.append("it is still root")
    return "; ".join(wrong)


class WorkerSession:
    """A session on whatever starts workers.

    A lost worker costs the call it was lost in; the next call starts a new one.

    Args:
        start: starts a worker and shakes hands with it.
        limits: limits of every call.
    """

    def __init__(self, start: Callable[[], Awaitable[Link]], limits: Limits) -> None:
        self._start = start
        self._limits = limits
        self._link: Link | None = None
        self._turn = asyncio.Lock()
        self._sequence = 0
        self._closed = False

    async def open(self) -> WorkerSession:
        """Starts the first worker.

        Raises:
            SandboxDied: it did not start.
        """
        self._link = await self._start()
        return self

    async def run(self, code: str, stdin: str = "", timeout: float | None = None) -> Result:
        """See `testbed.sandbox.base.Session.run`.

        Raises:
            SandboxDied: the session is closed.
            UsageError: the timeout is not positive.
        """
        seconds = self._limits.wall_seconds if timeout is None else min(timeout, self._limits.wall_seconds)
        if not seconds > 0:
            raise UsageError(f"a call's timeout must be above 0, not {timeout!r}.")
        async with self._turn:
            if self._closed:
                raise SandboxDied("the sandbox session is closed.")
            began = time.perf_counter()
            if len(code) + len(stdin) > PROGRAM_BYTES:
                reason = f"program and input are longer than {PROGRAM_BYTES} characters; it was not run"
                return _result("error", began, stderr=reason, reason=reason)
            try:
                if self._link is None:
                    self._link = await self._start()
                if self._closed:  # while it was starting
                    await self._drop()
                    raise SandboxDied("the sandbox session is closed.")
                return await self._call(self._link, code, stdin, seconds, began)
            except SandboxDied as error:
                return _result("sandbox_died", began, reason=str(error))
            except (_BrokenProtocol, TimeoutError, OSError, EOFError) as error:
                words = await self._drop()
                return _result("sandbox_died", began, reason=" ".join(filter(None, (_explain(error), words))))
            except BaseException:
                await asyncio.shield(
                    self._drop()
                )  # cancelled in mid-call: what the worker does now is nobody's business
                raise

    async def close(self) -> None:
        """Ends the sandbox and waits until its processes are gone."""
        self._closed = True
        await self._drop()

    async def _call(self, link: Link, code: str, stdin: str, seconds: float, began: float) -> Result:
        self._sequence += 1
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            await _send(
                link.writer, {"op": "run", "seq": self._sequence, "code": code, "stdin": stdin, "timeout": seconds}
            )
            answer = await _receive(link.reader, self._limits)
        result = _read_answer(answer, self._sequence, seconds, self._limits, began)
        if answer.get("clean") is not True:
            await self._drop()  # what the call left in scratch is not worth cleaning up
        return result

    async def _drop(self) -> str:
        link, self._link = self._link, None
        return await link.kill() if link is not None else ""


def _read_answer(answer: dict[str, Any], sequence: int, seconds: float, limits: Limits, began: float) -> Result:
    """Checks a result frame as strictly as a stranger's."""
    verdict, code = answer.get("verdict"), answer.get("exit_code")
    texts, cuts = (answer.get("stdout"), answer.get("stderr")), (answer.get("stdout_cut"), answer.get("stderr_cut"))
    if answer.get("type") != "result" or answer.get("seq") != sequence:
        raise _BrokenProtocol(f"an unexpected frame (number {answer.get('seq')!r}, not {sequence})")
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(cut, int) and cut >= 0 for cut in cuts):
        raise _BrokenProtocol("a malformed result")
    if (verdict == "exited") != isinstance(code, int):
        raise _BrokenProtocol("a result without an exit code")
    status, reason = _status(verdict, code, answer.get("cpu_limit") is True, seconds, limits)
    return Result(
        status=status,
        exit_code=code if status in ("ok", "error", "killed") else None,
        stdout=str(texts[0]),
        stderr=str(texts[1]),
        stdout_truncated=int(cuts[0] or 0),
        stderr_truncated=int(cuts[1] or 0),
        milliseconds=1000 * (time.perf_counter() - began),
        reason=reason,
    )


def _status(verdict: Any, code: Any, cpu_limit: bool, seconds: float, limits: Limits) -> tuple[Status, str]:
    if verdict == "timeout":
        return "timeout", f"stopped after {seconds:g} s"
    if verdict == "oom":
        return "oom", f"stopped for using more than {limits.memory_mib} MiB of memory"
    if verdict != "exited":
        raise _BrokenProtocol(f"an unknown verdict {verdict!r}")
    if cpu_limit:
        return "timeout", f"stopped after more than {seconds:g} s of CPU time in one process"
    if code < 0:
        return "killed", f"ended by signal {-code}"
    return ("ok", "") if code == 0 else ("error", "")


def _result(status: Status, began: float, stderr: str = "", reason: str = "") -> Result:
    return Result(status, None, "", stderr, 0, 0, 1000 * (time.perf_counter() - began), reason)


def _explain(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the worker did not answer in time."
    if isinstance(error, _BrokenProtocol):
        return f"the worker sent {error}."
    return "the worker is gone."


async def _send(writer: asyncio.StreamWriter, frame: dict[str, Any]) -> None:
    body = json.dumps(frame).encode("ascii")
    writer.write(struct.pack(">I", len(body)) + body)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader, limits: Limits) -> dict[str, Any]:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    # JSON writes a byte as up to 6 characters, an undecodable one (4 characters with its backslash doubled) as 5.
    if length > 12 * (limits.output_kib << 10) + (64 << 10):
        raise _BrokenProtocol(f"a frame of {length} bytes")
    try:
        frame = json.loads(await reader.readexactly(length))
    except ValueError as error:
        raise _BrokenProtocol(f"a frame that is not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise _BrokenProtocol("a frame that is not an object")
    return frame
