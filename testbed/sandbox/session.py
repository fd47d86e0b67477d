"""The host's side of a worker: frames, checks, and a session that outlives the loss of its worker.

A backend only has to start a worker and hand over a `Link`: the control socket and a way to kill. Everything here is
the same for all of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from testbed.errors import SandboxDied, SandboxFileError, UsageError
from testbed.sandbox.base import Limits, Result, Status
from testbed.sandbox.seccomp import architectures, program

START_SECONDS = 20.0
LATE_SECONDS = 0.02  # beyond a call's timeout, before the worker is helped to end it
GRACE_SECONDS = 3.0  # beyond a call's timeout, for killing, reaping and wiping, before the worker counts as lost
FILE_SECONDS = 10.0  # for one piece of a file to be written or read
PIECE = 1 << 18  # bytes of a file in one frame
PROGRAM_BYTES = 8 << 20  # most of code and stdin together
INODES = 16_384  # files and folders in scratch; an inode costs kernel memory that its size limit does not count


class Reader(Protocol):
    """Where frames come from."""

    async def readexactly(self, size: int, /) -> bytes:
        """Reads that many bytes; raises EOFError or OSError if they do not come."""
        ...


class Link(Protocol):
    """A started worker."""

    @property
    def reader(self) -> Reader:
        """Frames of the worker."""
        ...

    @property
    def writer(self) -> asyncio.StreamWriter:
        """Frames for the worker."""
        ...

    async def kill(self) -> str:
        """Ends the worker and everything in its sandbox, waits until it is gone, and returns its last error output."""
        ...

    def out_of_memory(self) -> Literal["limit", "machine"] | None:
        """Whether the kernel has killed a process of the sandbox for lack of memory since this was last asked.

        Returns:
            "limit" if it was the sandbox's own limit; "machine" if the machine had none left; None if nothing is known.
        """
        ...

    def hurry(self, wanted: bool) -> None:
        """Lifts the limit on the sandbox's CPU time, so that a call that must be over ends soon, or sets it again."""
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


class _Lost(SandboxDied):
    """The worker went away during a request.

    Args:
        reason: what is known of it.
        out_of_memory: whether the program had reached its limit of memory, and the kernel's choice fell on the worker.
    """

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


async def handshake(link: Link, limits: Limits, uid: int | None, preload: Sequence[str] = ()) -> Evidence:
    """Sends the policy in and accepts the worker only if it proves that it applied it.

    Args:
        link: a worker that has just been started.
        limits: the session's limits.
        uid: user to become; None if the worker is not root.
        preload: modules that the worker imports once for all calls.

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
            await _send(link.writer, _start_frame(str(machine), limits, uid, preload))
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


def _start_frame(machine: str, limits: Limits, uid: int | None, preload: Sequence[str]) -> dict[str, Any]:
    return {
        "op": "start",
        "uid": uid,
        "filter": program(machine).hex(),
        "preload": list(preload),
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
        self._has_state = False
        self._memory: Literal["limit", "machine"] | None = None  # for want of which the last request was cut short
        self._closed = False

    async def open(self) -> WorkerSession:
        """Starts the worker.

        Raises:
            SandboxDied: it did not start, or is not confined.
        """
        self._link = await self._start()
        return self

    async def run(self, code: str, stdin: str = "", timeout: float | None = None) -> Result:
        """See `testbed.sandbox.base.Session.run`."""
        return await self._execute({"op": "run", "code": code, "stdin": stdin}, timeout)

    async def repl(self, code: str, timeout: float | None = None) -> Result:
        """See `testbed.sandbox.base.Session.repl`."""
        return await self._execute({"op": "repl", "code": code}, timeout)

    async def put(self, path: str, data: bytes) -> None:
        """See `testbed.sandbox.base.Session.put`."""
        if len(data) > self._limits.file_mib << 20:
            raise SandboxFileError(f"{path}: {len(data)} bytes are more than {self._limits.file_mib} MiB.")
        async with self._turn:
            for offset in range(0, len(data) or 1, PIECE):
                piece = base64.b64encode(data[offset : offset + PIECE]).decode("ascii")
                await self._ask_about_file({"op": "put", "path": path, "offset": offset, "data": piece})

    async def get(self, path: str) -> bytes:
        """See `testbed.sandbox.base.Session.get`."""
        parts: list[bytes] = []
        size, length = 0, None
        async with self._turn:
            while length is None or size < length:
                answer = await self._ask_about_file({"op": "get", "path": path, "offset": size, "size": PIECE})
                try:
                    part, length = _read_piece(answer)
                except _BrokenProtocol as error:
                    raise await self._lose(error) from error
                parts.append(part)
                size += len(part)
                if size > self._limits.file_mib << 20 or not part:
                    break  # it shrinks or grows: only a program that is not ours to believe could do that
        return b"".join(parts)

    async def reset(self) -> None:
        """See `testbed.sandbox.base.Session.reset`."""
        async with self._turn:
            await self._ask({"op": "reset"}, FILE_SECONDS)
            self._has_state = False

    async def close(self) -> None:
        """Ends the sandbox and waits until its processes are gone."""
        self._closed = True
        await self._drop()

    async def _execute(self, request: dict[str, Any], timeout: float | None) -> Result:
        seconds = self._limits.wall_seconds if timeout is None else min(timeout, self._limits.wall_seconds)
        if not seconds > 0:
            raise UsageError(f"a call's timeout must be above 0, not {timeout!r}.")
        async with self._turn:
            began = time.perf_counter()
            if self._closed:
                raise SandboxDied("the sandbox session is closed.")
            if len(request["code"]) + len(request.get("stdin", "")) > PROGRAM_BYTES:
                reason = f"program and input are longer than {PROGRAM_BYTES} characters; it was not run"
                return _result("error", began, stderr=reason, reason=reason)
            had_state = self._has_state
            try:
                answer = await self._ask({**request, "timeout": seconds}, seconds)
                result = await self._read(answer, seconds, began)
            except _Lost as loss:
                status: Status = "oom" if loss.out_of_memory else "sandbox_died"
                reason = _too_much_memory(self._limits) if loss.out_of_memory else str(loss)
                return _result(status, began, reason=reason, state_lost=had_state)
            self._has_state = request["op"] == "repl" and not result.state_lost
            return result

    async def _read(self, answer: dict[str, Any], seconds: float, began: float) -> Result:
        """The result in an answer; the kernel's word on memory stands above the worker's."""
        try:
            result = _read_answer(answer, seconds, self._limits, began)
        except _BrokenProtocol as error:
            raise await self._lose(error) from error
        if self._memory == "machine":
            await self._drop()
            raise _Lost("the machine ran out of memory, and the kernel chose the program.")
        if self._memory == "limit" and result.status != "oom":
            return replace(result, status="oom", exit_code=None, reason=_too_much_memory(self._limits))
        return result

    async def _ask_about_file(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = await self._ask(request, FILE_SECONDS)
        if "error" in answer:
            raise SandboxFileError(f"{request['path']}: {answer['error']}")
        return answer

    async def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Sends a request to the worker, a new one if there is none, and returns its answer.

        Raises:
            SandboxDied: the session is closed, or no worker can be started.
            _Lost: the worker went away, or sent what it never sends.
        """
        try:
            if self._closed:
                raise SandboxDied("the sandbox session is closed.")
            if self._link is None:
                self._link = await self._restart()
            if self._closed:  # while it was starting
                await self._drop()
                raise SandboxDied("the sandbox session is closed.")
            self._sequence += 1
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                await _send(self._link.writer, {**request, "seq": self._sequence})
                answer = await self._answer(self._link, seconds)
            self._memory = self._link.out_of_memory()
            if answer.get("type") != "result" or answer.get("seq") != self._sequence:
                raise _BrokenProtocol(f"an unexpected frame (number {answer.get('seq')!r}, not {self._sequence})")
            if answer.get("clean") is not True:
                await self._drop()  # what the call left in scratch is not worth cleaning up
            return answer
        except (_BrokenProtocol, TimeoutError, OSError, EOFError) as error:
            raise await self._lose(error) from error
        except SandboxDied:
            raise
        except BaseException:
            await asyncio.shield(self._drop())  # cancelled: what the worker does now is nobody's business
            raise

    async def _answer(self, link: Link, seconds: float) -> dict[str, Any]:
        """Waits for the worker's answer; to end a bomb takes more than a sandbox's share of a busy machine."""
        helper = asyncio.get_running_loop().call_later(seconds + LATE_SECONDS, link.hurry, True)
        try:
            return await _receive(link.reader, self._limits)
        finally:
            helper.cancel()
            link.hurry(False)

    async def _restart(self) -> Link:
        try:
            return await self._start()
        except SandboxDied as error:
            raise _Lost(str(error)) from error

    async def _lose(self, error: BaseException) -> _Lost:
        """Ends the worker for what went wrong with it, and says what is known."""
        link = self._link
        reason = " ".join(filter(None, (_explain(error), await self._drop())))
        return _Lost(reason, out_of_memory=link is not None and link.out_of_memory() == "limit")

    async def _drop(self) -> str:
        self._has_state = False
        link, self._link = self._link, None
        return await link.kill() if link is not None else ""


def _read_piece(answer: dict[str, Any]) -> tuple[bytes, int]:
    data, length = answer.get("data"), answer.get("length")
    if not isinstance(data, str) or not isinstance(length, int) or len(data) > 2 * PIECE:
        raise _BrokenProtocol("a malformed piece of a file")
    try:
        return base64.b64decode(data, validate=True), length
    except ValueError as error:
        raise _BrokenProtocol("a malformed piece of a file") from error


def _read_answer(answer: dict[str, Any], seconds: float, limits: Limits, began: float) -> Result:
    """Checks a result frame as strictly as a stranger's."""
    verdict, code = answer.get("verdict"), answer.get("exit_code")
    texts, cuts = (answer.get("stdout"), answer.get("stderr")), (answer.get("stdout_cut"), answer.get("stderr_cut"))
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
        state_lost=answer.get("state_lost") is True,
    )


def _status(verdict: Any, code: Any, cpu_limit: bool, seconds: float, limits: Limits) -> tuple[Status, str]:
    if verdict == "timeout":
        return "timeout", f"stopped after {seconds:g} s"
    if verdict == "oom":
        return "oom", _too_much_memory(limits)
    if verdict != "exited":
        raise _BrokenProtocol(f"an unknown verdict {verdict!r}")
    if cpu_limit:
        return "timeout", f"stopped after more than {seconds:g} s of CPU time in one process"
    if code < 0:
        return "killed", f"ended by signal {-code}"
    return ("ok", "") if code == 0 else ("error", "")


def _too_much_memory(limits: Limits) -> str:
    return f"stopped for using more than {limits.memory_mib} MiB of memory"


def _result(status: Status, began: float, stderr: str = "", reason: str = "", state_lost: bool = False) -> Result:
    return Result(status, None, "", stderr, 0, 0, 1000 * (time.perf_counter() - began), reason, state_lost)


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


async def _receive(reader: Reader, limits: Limits) -> dict[str, Any]:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    # JSON writes a byte as up to 6 characters, an undecodable one (4 characters with its backslash doubled) as 5.
    if length > max(12 * (limits.output_kib << 10), 2 * PIECE) + (64 << 10):
        raise _BrokenProtocol(f"a frame of {length} bytes")
    try:
        frame = json.loads(await reader.readexactly(length))
    except ValueError as error:
        raise _BrokenProtocol(f"a frame that is not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise _BrokenProtocol("a frame that is not an object")
    return frame
