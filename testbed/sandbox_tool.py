"""What the tools that run a model's code in a sandbox have in common: limits, pools, and how results are shown."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.errors import FaultKind, SandboxDied, ToolFault, UsageError
from testbed.tool_base import AttemptContext, Tool

if TYPE_CHECKING:
    from testbed.sandbox import Limits, Result, Sandbox, Session

ERROR_CHARS = 500  # of what an exception says
BEFORE_CHARS = 2_000  # of what the program printed before it failed, from the end
STATE_LOST = "Python was started anew: everything that earlier calls had defined is gone."


Whole = Annotated[int, Field(strict=True)]  # `slots = true` is a slip, not one
Real = Annotated[float, Field(strict=True)]


class Code(BaseModel):
    """Arguments of a tool that runs Python."""

    code: str = Field(description="A Python program. Only what it prints is returned.")


class SandboxTool(Tool):
    """Base of tools that run code in a sandbox.

    An exception, a signal, or too much memory is the model's execution_error, too much time its timeout. A sandbox that
    dies is the infrastructure's fault, and waiting for one is nobody's. No two attempts share a sandbox.

    Attributes:
        timeout: wall seconds a call may take, above 0.
        memory_mib: memory of a call, in MiB, at least 16.
        processes: most processes and threads at one time.
        scratch_mib: size of the folder that can be written, in MiB.
        output_kib: most of each output stream that is kept, in KiB.
        file_mib: largest file, in MiB.
        cpus: cores' worth of CPU time.
        packages: third-party packages that code may import, such as "numpy"; they must be installed beside the testbed.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        slots: most sandboxes at one time, at least 1; attempts beyond wait for one.
    """

    args_schema: Any = Code
    timeout: Real = 5.0
    memory_mib: Whole = 256
    processes: Whole = 64
    scratch_mib: Whole = 64
    output_kib: Whole = 64
    file_mib: Whole = 32
    cpus: Real = 1.0
    packages: tuple[str, ...] = ()
    sandbox: str = "auto"
    slots: Whole = 8

    #: Whether an idle attempt's sandbox may be taken away for an attempt that has none; only if calls leave no trace.
    lends: ClassVar[bool]

    _limits: Limits = PrivateAttr()
    _queues: WeakKeyDictionary[asyncio.AbstractEventLoop, Sandboxes] = PrivateAttr(default_factory=WeakKeyDictionary)
    _attempt: object = PrivateAttr(default_factory=object)
    _off_clock: Callable[[], AbstractContextManager[None]] = PrivateAttr(default=nullcontext)

    @model_validator(mode="after")
    def _prepare(self) -> Self:
        from testbed.sandbox import Limits
        from testbed.sandbox.base import LARGEST

        if self.slots < 1:
            raise UsageError(f"tool {self.name}: slots must be at least 1 sandbox, not {self.slots}.")
        most = LARGEST["wall_seconds"]
        if not 0 < self.timeout <= most:
            raise UsageError(f"tool {self.name}: timeout must be above 0 and at most {most:,.0f}, not {self.timeout}.")
        self._limits = Limits(
            wall_seconds=self.timeout,
            memory_mib=self.memory_mib,
            processes=self.processes,
            scratch_mib=self.scratch_mib,
            output_kib=self.output_kib,
            file_mib=self.file_mib,
            cpus=self.cpus,
        )
        # The sandbox times the program. A limit around the whole call would blame the model for waiting in line.
        self.timeout = math.inf
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What a program can tell apart: backend, its policy, Python and packages, and the limits.

        Raises:
            SandboxUnavailable: no sandbox works here.
        """
        from dataclasses import asdict

        return {"sandbox": backend(self.sandbox, self.packages).identity, **asdict(self._limits)}

    def for_attempt(self, context: AttemptContext) -> Self:
        """A copy with a claim to a sandbox of its own, taken at the first call."""
        mine = self.model_copy()
        mine._attempt, mine._off_clock = object(), context.off_clock
        return mine

    def keeps_state(self) -> bool:
        """Whether calls leave a trace for later ones."""
        return not self.lends

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
        with self._off_clock():
            session = await queue.take(self._attempt)
        sound = False
        try:
            result = await self._execute(session, code.encode("utf-8", "replace").decode())
            sound = result.status != "sandbox_died"
        finally:
            await queue.give(self._attempt, session, sound)
        return self._show(result)

    @abstractmethod
    async def _execute(self, session: Session, code: str) -> Result:
        """Runs the code of one call."""

    @abstractmethod
    def _show(self, result: Result) -> str:
        """What the model is shown of a result; raises what is the model's or the infrastructure's fault."""

    def _queue(self) -> Sandboxes:
        loop = asyncio.get_running_loop()
        if loop not in self._queues:
            made = backend(self.sandbox, self.packages)
            self._queues[loop] = Sandboxes(made, self._limits, self.slots, lends=self.lends)
        return self._queues[loop]


class Sandboxes:
    """The sandboxes of one event loop: an attempt keeps its own between calls.

    Where sandboxes are lent, an attempt loses its idle one to another attempt that has none. Otherwise attempts that
    wait for the model would hold every slot, and a batch of hundreds of attempts would shrink to the number of slots.
    What is taken away is destroyed, never handed on; where nothing survives a call, the attempt cannot tell its next
    sandbox from the last.

    Attributes:
        pool: makes and destroys them.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits, slots: int, *, lends: bool) -> None:
        from testbed.sandbox import Pool

        self.pool = Pool(sandbox, limits, slots)
        self._slots = slots
        self._lends = lends
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
            if self._lends and self._idle and self._busy + len(self._idle) >= self._slots:
                await self.end(next(iter(self._idle)))
            self._waiting += 1
            try:
                session = await self.pool.acquire()
            finally:
                self._waiting -= 1
        self._busy += 1
        return session

    async def give(self, attempt: object, session: Session, sound: bool) -> None:
        """Takes a sandbox back after a call: kept for the attempt if sound and, where it may be lent, nobody waits."""
        self._busy -= 1
        if sound and attempt not in self._idle and not (self._lends and self._waiting):
            self._idle[attempt] = session
        else:
            await self.pool.release(session)

    async def end(self, attempt: object) -> None:
        """Destroys the attempt's sandbox, if it has one."""
        session = self._idle.pop(attempt, None)
        if session is not None:
            await self.pool.release(session)


@cache
def backend(name: str, packages: tuple[str, ...] = ()) -> Sandbox:
    """The sandbox of that name; its self-test runs once per process.

    Raises:
        SandboxUnavailable: it does not confine here, or cannot run.
        UnknownName: there is no such backend.
    """
    from testbed.sandbox import pick

    return pick(name, packages)


def printed(result: Result) -> str:
    """What a program printed, without the line end; raises if it failed.

    Raises:
        ToolFault: the program failed.
        SandboxDied: the sandbox did.
    """
    if result.status == "ok":
        return result.stdout.rstrip("\n")
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
    before = stdout.rstrip("\n")[-BEFORE_CHARS:]
    return f"{complaint}\nIt printed before:\n{before}" if before else complaint
