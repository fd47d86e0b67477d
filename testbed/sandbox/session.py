"""A session on a worker: calls and files, one at a time, and a new worker when one is lost.

A backend only has to start a worker and hand over a `Link`. Everything here is the same for all of them.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

from testbed.errors import SandboxDied, SandboxFileError, UsageError
from testbed.sandbox.base import Limits, Result, Status
from testbed.sandbox.link import PIECE, BrokenProtocol, Link, receive, send

LATE_SECONDS = 0.02  # beyond a call's timeout, before the worker is helped to end it
GRACE_SECONDS = 3.0  # beyond a call's timeout, for killing, reaping and wiping, before the worker counts as lost
FILE_SECONDS = 10.0  # for one piece of a file to be written or read
PROGRAM_BYTES = 8 << 20  # most of code and stdin together


class _Lost(SandboxDied):
    """The worker went away during a request.

    Args:
        reason: what is known of it.
        out_of_memory: whether the program had reached its limit of memory, and the kernel's choice fell on the worker.
    """

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


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
                except BrokenProtocol as error:
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
        except BrokenProtocol as error:
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
                await send(self._link.writer, {**request, "seq": self._sequence})
                answer = await self._answer(self._link, seconds)
            self._memory = self._link.out_of_memory()
            if answer.get("type") != "result" or answer.get("seq") != self._sequence:
                raise BrokenProtocol(f"an unexpected frame (number {answer.get('seq')!r}, not {self._sequence})")
            if answer.get("clean") is not True:
                await self._drop()  # what the call left in scratch is not worth cleaning up
            return answer
        except (BrokenProtocol, TimeoutError, OSError, EOFError) as error:
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
            return await receive(link.reader, self._limits)
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
        raise BrokenProtocol("a malformed piece of a file")
    try:
        return base64.b64decode(data, validate=True), length
    except ValueError as error:
        raise BrokenProtocol("a malformed piece of a file") from error


def _read_answer(answer: dict[str, Any], seconds: float, limits: Limits, began: float) -> Result:
    """Checks a result frame as strictly as a stranger's."""
    verdict, code = answer.get("verdict"), answer.get("exit_code")
    texts, cuts = (answer.get("stdout"), answer.get("stderr")), (answer.get("stdout_cut"), answer.get("stderr_cut"))
    if not all(isinstance(text, str) and _is_text(text) for text in texts) or not all(
        isinstance(cut, int) and cut >= 0 for cut in cuts
    ):
        raise BrokenProtocol("a malformed result")
    if (verdict == "exited") != isinstance(code, int):
        raise BrokenProtocol("a result without an exit code")
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


def _is_text(value: Any) -> bool:
    """Whether it is text that can be stored and shown: half a surrogate pair cannot, and the worker sends none."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        return False
    return isinstance(value, str)


def _status(verdict: Any, code: Any, cpu_limit: bool, seconds: float, limits: Limits) -> tuple[Status, str]:
    if verdict == "timeout":
        return "timeout", f"stopped after {seconds:g} s"
    if verdict == "oom":
        return "oom", _too_much_memory(limits)
    if verdict != "exited":
        raise BrokenProtocol(f"an unknown verdict {verdict!r}")
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
    if isinstance(error, BrokenProtocol):
        return f"the worker sent {error}."
    return "the worker is gone."
