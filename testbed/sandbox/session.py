"""A session on a worker: calls and files, one at a time, and a new worker when one is lost.

A backend only has to start a worker and hand over a `Link`. Everything here is the same for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from testbed.errors import SandboxDied, SandboxFileError, UsageError
from testbed.sandbox.answers import Verdict, how_it_ended, read_answer, read_piece, read_verdict, too_much_memory
from testbed.sandbox.base import Limits, Result, Status
from testbed.sandbox.link import PIECE, BrokenProtocol, Link, receive, send
from testbed.sandbox.undo import UnlessFinished

LATE_SECONDS = 0.02  # beyond a call's timeout, before the worker is helped to end it
GRACE_SECONDS = 3.0  # beyond a call's timeout, for killing, reaping and wiping, before the worker counts as lost
FILE_SECONDS = 10.0  # for one piece of a file to be written or read
PROGRAM_BYTES = 8 << 20  # most of code and stdin together


class _Lost(SandboxDied):
    """The worker went away during a request.

    Args:
        reason: what is known of it.
        verdict: what had become of the program before, if that is known: "oom" also where the program had reached its
            limit of memory, and the kernel's choice fell on the worker; "left" if ending what it left took too long.
    """

    def __init__(self, reason: str, verdict: Verdict | None = None) -> None:
        super().__init__(reason)
        self.verdict = verdict


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
        self._verdict: Verdict | None = None  # that the worker has told of the last request before its answer
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
        return await self._execute("run", (code, stdin), timeout)

    async def repl(self, code: str, timeout: float | None = None) -> Result:
        """See `testbed.sandbox.base.Session.repl`."""
        return await self._execute("repl", (code,), timeout)

    async def put(self, path: str, data: bytes) -> None:
        """See `testbed.sandbox.base.Session.put`."""
        if len(data) > self._limits.file_mib << 20:
            raise SandboxFileError(f"{path}: {len(data)} bytes are more than {self._limits.file_mib} MiB.")
        async with self._turn:
            for offset in range(0, len(data) or 1, PIECE):
                piece = data[offset : offset + PIECE]
                await self._ask_about_file({"op": "put", "path": path, "offset": offset}, piece)

    async def get(self, path: str) -> bytes:
        """See `testbed.sandbox.base.Session.get`."""
        parts: list[bytes] = []
        size, length = 0, None
        async with self._turn:
            while length is None or size < length:
                answer = await self._ask_about_file({"op": "get", "path": path, "offset": size, "size": PIECE})
                try:
                    part, length = read_piece(answer)
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

    async def _execute(self, op: str, texts: tuple[str, ...], timeout: float | None) -> Result:
        seconds = self._limits.wall_seconds if timeout is None else min(timeout, self._limits.wall_seconds)
        if not seconds > 0:
            raise UsageError(f"a call's timeout must be above 0, not {timeout!r}.")
        async with self._turn:
            began = time.perf_counter()
            if self._closed:
                raise SandboxDied("the sandbox session is closed.")
            if sum(map(len, texts)) > PROGRAM_BYTES:
                reason = f"program and input are longer than {PROGRAM_BYTES} characters; it was not run"
                return _result("error", reason, began, stderr=reason)
            had_state = self._has_state
            parts = [text.encode("utf-8", "surrogatepass") for text in texts]
            try:
                answer = await self._ask({"op": op, "timeout": seconds}, seconds, parts)
                result = await self._read(answer, seconds, began)
            except _Lost as loss:
                lost = had_state or (op == "repl" and loss.verdict is not None)
                return _result(*_status_of(loss, seconds, self._limits), began, state_lost=lost)
            self._has_state = op == "repl" and not result.state_lost
            return result

    async def _read(self, answer: dict[str, Any], seconds: float, began: float) -> Result:
        """The result in an answer; the kernel's word on memory stands above the worker's."""
        try:
            result = read_answer(answer, seconds, self._limits, began)
        except BrokenProtocol as error:
            raise await self._lose(error) from error
        if self._memory == "machine":
            await self._drop()
            raise _Lost("the machine ran out of memory, and the kernel chose the program.")
        if self._memory == "limit" and result.status != "oom":
            return replace(result, status="oom", exit_code=None, reason=too_much_memory(self._limits))
        return result

    async def _ask_about_file(self, request: dict[str, Any], *parts: bytes) -> dict[str, Any]:
        answer = await self._ask(request, FILE_SECONDS, parts)
        if "error" in answer:
            raise SandboxFileError(f"{request['path']}: {answer['error']}")
        return answer

    async def _ask(self, request: dict[str, Any], seconds: float, parts: Sequence[bytes] = ()) -> dict[str, Any]:
        """Sends a request to the worker, a new one if there is none, and returns its answer.

        Raises:
            SandboxDied: the session is closed, or no worker can be started.
            _Lost: the worker went away, or sent what it never sends.
        """
        # What the worker goes on to do for somebody who is cancelled is nobody's business.
        async with UnlessFinished(lambda: asyncio.shield(self._drop())):
            try:
                return await self._exchange(request, seconds, parts)
            except (BrokenProtocol, TimeoutError, OSError, EOFError) as error:
                raise await self._lose(error) from error

    async def _exchange(self, request: dict[str, Any], seconds: float, parts: Sequence[bytes]) -> dict[str, Any]:
        if self._closed:
            raise SandboxDied("the sandbox session is closed.")
        if self._link is None:
            self._link = await self._restart()
        if self._closed:  # while it was starting
            await self._drop()
            raise SandboxDied("the sandbox session is closed.")
        self._sequence += 1
        self._verdict = None
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            await send(self._link.writer, {**request, "seq": self._sequence}, parts)
            answer = await self._answer(self._link, seconds)
        self._memory = self._link.out_of_memory()
        if answer.get("type") != "result" or answer.get("seq") != self._sequence:
            raise BrokenProtocol(f"an unexpected frame (number {answer.get('seq')!r}, not {self._sequence})")
        if answer.get("clean") is not True:
            await self._drop()  # what the call left in scratch is not worth cleaning up
        return answer

    async def _answer(self, link: Link, seconds: float) -> dict[str, Any]:
        """Waits for the worker's answer; to end a bomb takes more than a sandbox's share of a busy machine.

        A verdict may come before it. Should the worker be lost after that, for whatever reason, then while it ended
        processes of a program whose time or memory had been used up: that is no accident to be tried again. Nor is it
        if a program ends by itself, and what it has left takes longer to end than the call may. Without a verdict,
        nobody knows whether the machine or the program was at fault, and the program is not blamed.
        """
        helper = asyncio.get_running_loop().call_later(seconds + LATE_SECONDS, link.hurry, True)
        try:
            answer = await receive(link.reader, self._limits)
            if answer.get("type") == "verdict" and answer.get("seq") == self._sequence:
                self._verdict = read_verdict(answer.get("verdict"))
                answer = await receive(link.reader, self._limits)
            return answer
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
        out_of_memory = link is not None and link.out_of_memory() == "limit"
        known = None if isinstance(error, BrokenProtocol) else self._verdict
        if known == "left" and not isinstance(error, TimeoutError):
            known = None
        return _Lost(reason, "oom" if out_of_memory else known)

    async def _drop(self) -> str:
        self._has_state = False
        link, self._link = self._link, None
        return await link.kill() if link is not None else ""


def _status_of(loss: _Lost, seconds: float, limits: Limits) -> tuple[Status, str]:
    if loss.verdict is None:
        return "sandbox_died", str(loss)
    if loss.verdict == "left":
        return "timeout", f"ended, but what it left was not gone after {seconds + GRACE_SECONDS:g} s"
    return how_it_ended(loss.verdict, None, False, seconds, limits)


def _result(status: Status, reason: str, began: float, stderr: str = "", state_lost: bool = False) -> Result:
    return Result(status, None, "", stderr, 0, 0, 1000 * (time.perf_counter() - began), reason, state_lost)


def _explain(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the worker did not answer in time."
    if isinstance(error, BrokenProtocol):
        return f"the worker sent {error}."
    return "the worker is gone."
