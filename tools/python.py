"""Python in a sandbox: every call is a program of its own, and no two attempts share a sandbox."""

from __future__ import annotations

import asyncio
import math
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.errors import FaultKind, SandboxDied, ToolFault, UsageError
from testbed.tool import NO_OUTPUT, AttemptContext, Tool

if TYPE_CHECKING:
    from testbed.sandbox import Limits, Result, Sandbox, Session

ERROR_CHARS = 500  # of what an exception says
BEFORE_CHARS = 2_000  # of what the program printed before it failed, from the end


class Code(BaseModel):
    """Arguments of the tool."""

    code: str = Field(description="A Python program. Only what it prints is returned.")


class Python(Tool):
    """Runs a program and returns what it prints.

    Programs have script semantics: nothing survives a call, and one that prints nothing returns "(no output)". An
    exception, a signal, or too much memory is the model's execution_error, too much time its timeout. A sandbox that
    dies is the infrastructure's fault, and waiting for one is nobody's.

    Attributes:
        timeout: wall seconds a program may take, above 0.
        memory_mib: memory a program may take, in MiB, at least 16.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.backends`.
        slots: most sandboxes at one time, at least 1; attempts beyond wait for one.
    """

    name: str = "python"
    description: str = "Runs a Python program and returns what it prints. Nothing is kept from one call to the next."
    args_schema: Any = Code
    timeout: float = 5.0
    memory_mib: int = 256
    sandbox: str = "auto"
    slots: int = 8

    _limits: Limits = PrivateAttr()
    _queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Sandboxes] = PrivateAttr(default_factory=WeakKeyDictionary)
    _attempt: object = PrivateAttr(default_factory=object)

    @model_validator(mode="after")
    def _prepare(self) -> Python:
        from testbed.sandbox import Limits

        if self.slots < 1:
            raise UsageError(f"tool {self.name}: slots must be at least 1 sandbox, not {self.slots}.")
        self._limits = Limits(wall_seconds=self.timeout, memory_mib=self.memory_mib)
        # The sandbox times the program. A limit around the whole call would blame the model for waiting in line.
        self.timeout = math.inf
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What a program can tell apart: backend, its policy, Python's version, and the limits.

        Raises:
            SandboxUnavailable: no sandbox works here.
        """
        return {
            "sandbox": backend(self.sandbox).identity,
            "seconds": self._limits.wall_seconds,
            "memory_mib": self._limits.memory_mib,
        }

    def for_attempt(self, context: AttemptContext) -> Python:
        """A copy with a claim to a sandbox of its own, taken at the first call."""
        mine = self.model_copy()
        mine._attempt = object()
        return mine

    async def end_attempt(self) -> None:
        """Destroys the attempt's sandbox."""
        await self._queue().end(self._attempt)

    async def start(self) -> None:
        """Proves that the sandbox confines, and starts warming some.

        Raises:
            SandboxUnavailable: none does; the message says why and what to do.
        """
        await self._queue().pool.start()

    async def aclose(self) -> None:
        """Destroys every sandbox of this event loop."""
        queue = self._queues.pop(asyncio.get_running_loop(), None)
        if queue is not None:
            await queue.pool.close()

    async def _arun(self, code: str) -> str:
        queue = self._queue()
        session = await queue.take(self._attempt)
        sound = False
        try:
            result = await session.run(code.encode("utf-8", "replace").decode())
            sound = result.status != "sandbox_died"
        finally:
            await queue.give(self._attempt, session, sound)
        return read(result)

    def _queue(self) -> _Sandboxes:
        loop = asyncio.get_running_loop()
        if loop not in self._queues:
            self._queues[loop] = _Sandboxes(backend(self.sandbox), self._limits, self.slots)
        return self._queues[loop]


class _Sandboxes:
    """The sandboxes of one event loop: an attempt keeps its own between calls, unless another attempt has none.

    Without that exception, attempts that wait for the model would hold every slot, and a batch of hundreds of
    attempts would shrink to the number of slots. What is taken away is destroyed, never handed on; as nothing
    survives a call, the attempt cannot tell its next sandbox from the last.

    Attributes:
        pool: makes and destroys them.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits, slots: int) -> None:
        from testbed.sandbox import Pool

        self.pool = Pool(sandbox, limits, slots)
        self._slots = slots
        self._idle: dict[object, Session] = {}  # by attempt, longest idle first
        self._busy = 0
        self._waiting = 0

    async def take(self, attempt: object) -> Session:
        """The attempt's sandbox, or a fresh one.

        Raises:
            SandboxDied: none could be started.
        """
        session = self._idle.pop(attempt, None)
        if session is None:
            if self._idle and self._busy + len(self._idle) >= self._slots:
                await self.end(next(iter(self._idle)))
            self._waiting += 1
            try:
                session = await self.pool.acquire()
            finally:
                self._waiting -= 1
        self._busy += 1
        return session

    async def give(self, attempt: object, session: Session, sound: bool) -> None:
        """Takes a sandbox back after a call: kept for the attempt if it is sound and nobody waits."""
        self._busy -= 1
        if sound and not self._waiting and attempt not in self._idle:
            self._idle[attempt] = session
        else:
            await self.pool.release(session)

    async def end(self, attempt: object) -> None:
        """Destroys the attempt's sandbox, if it has one."""
        session = self._idle.pop(attempt, None)
        if session is not None:
            await self.pool.release(session)


@cache
def backend(name: str) -> Sandbox:
    """The sandbox of that name; its self-test runs once per process.

    Raises:
        SandboxUnavailable: it does not confine here, or cannot run.
        UnknownName: there is no such backend.
    """
    from testbed.sandbox import pick

    return pick(name)


def read(result: Result) -> str:
    """What the model is shown of a result.

    Raises:
        ToolFault: the program failed.
        SandboxDied: the sandbox did.
    """
    if result.status == "ok":
        return result.stdout.rstrip("\n") or NO_OUTPUT
    if result.status == "sandbox_died":
        raise SandboxDied(result.reason)
    if result.status == "timeout":
        raise ToolFault(FaultKind.TIMEOUT, _with_output(result.reason, result.stdout))
    raise ToolFault(FaultKind.EXECUTION_ERROR, _with_output(_complaint(result), result.stdout))


def _complaint(result: Result) -> str:
    if result.status != "error":
        return result.reason
    # A traceback indents everything but its heading and the exception at its end.
    lines = result.stderr.splitlines()
    end = max((number for number, line in enumerate(lines, 1) if line.startswith((" ", "\t"))), default=0)
    return "\n".join(lines[end:]).strip()[:ERROR_CHARS] or f"exit code {result.exit_code}"


def _with_output(complaint: str, stdout: str) -> str:
    printed = stdout.rstrip("\n")[-BEFORE_CHARS:]
    return f"{complaint}\nIt printed before:\n{printed}" if printed else complaint
