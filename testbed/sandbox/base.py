"""What a sandbox is: the limits of a call, its result, and the roles that every backend plays.

A sandbox runs a program that nobody has read. The trust order is host > worker > child: the host decides the policy,
the worker (our code, inside) applies it, and the child (the program) is believed in nothing but the bytes it writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from testbed.errors import UsageError

Status = Literal["ok", "error", "timeout", "oom", "killed", "sandbox_died"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use. Everything is per call, because nothing of a call outlives it.

    Attributes:
        wall_seconds: longest wall-clock time, > 0.
        memory_mib: most memory, in MiB: of one process (writable private memory) and of all processes of the call
            together.
        processes: most processes and threads at one time.
        scratch_mib: size of the scratch folder, the only place that can be written, in MiB.
        output_kib: most bytes kept of each output stream, in KiB: the first half and the last half; what lies between
            is cut.
        file_mib: largest single file, in MiB.
    """

    wall_seconds: float = 5.0
    memory_mib: int = 256
    processes: int = 64
    scratch_mib: int = 64
    output_kib: int = 64
    file_mib: int = 32

    def __post_init__(self) -> None:
        """Refuses limits under which no program could run.

        Raises:
            UsageError: a limit is not positive and finite, or memory is too small to start a Python program.
        """
        for name in ("wall_seconds", "memory_mib", "processes", "scratch_mib", "output_kib", "file_mib"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"sandbox limit {name} must be above 0 and finite, not {getattr(self, name)!r}.")
        if self.memory_mib < 16:
            raise UsageError(f"sandbox limit memory_mib={self.memory_mib} is too small for Python; use 16 or more.")


@dataclass(frozen=True, slots=True)
class Result:
    r"""What became of one call.

    Attributes:
        status: `ok` (exit code 0), `error` (another exit code, such as 1 for an exception), `timeout` (killed at the
            wall-clock limit), `oom` (killed for using more memory than allowed, all its processes together), `killed`
            (died of a signal), or `sandbox_died` (the worker is gone: infrastructure, not the program's fault).
        exit_code: the exit code; minus the signal number if a signal ended it; None where the sandbox ended it or died.
        stdout: what it printed, as UTF-8 with other bytes as `\xNN`; if cut, a line in the middle says how much is
            missing.
        stderr: the same for the error stream.
        stdout_truncated: bytes cut from stdout; 0 if it is whole.
        stderr_truncated: bytes cut from stderr; 0 if it is whole.
        milliseconds: duration of the call by the host's clock.
        reason: the sandbox's own words on a status other than `ok` and `error`; never taken from the program's output.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    stdout_truncated: int
    stderr_truncated: int
    milliseconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that a self-test tried.

    Attributes:
        name: what was tried, such as "launch" or "network".
        passed: whether the sandbox did what it must.
        detail: what was seen.
        remedy: what to do if it failed; empty if it passed.
    """

    name: str
    passed: bool
    detail: str
    remedy: str = ""


class Session(Protocol):
    """One warm sandbox, used by one attempt. Calls are independent: no state of one is seen by the next."""

    async def run(self, code: str, stdin: str = "", timeout: float | None = None) -> Result:
        """Runs a program like a script and says what became of it.

        Args:
            code: Python source.
            stdin: what the program reads from its standard input.
            timeout: seconds of wall-clock time; the session's limit if None or larger than it.

        Returns:
            The result, whatever the program did; `sandbox_died` if the worker was lost (the next call gets a new one).
        """
        ...

    async def close(self) -> None:
        """Ends the sandbox and everything in it; returns once its processes are gone. Closing twice is harmless."""
        ...


class Sandbox(Protocol):
    """A backend: opens sessions, and can prove that it confines them."""

    @property
    def name(self) -> str:
        """Name of the backend, such as "bwrap"."""
        ...

    @property
    def identity(self) -> str:
        """Versions of backend, policy and Python: what a program can tell apart; part of a tool's identity."""
        ...

    async def open(self, limits: Limits) -> Session:
        """Starts a sandbox.

        Raises:
            SandboxDied: it did not start, or did not prove its confinement.
        """
        ...

    def self_test(self) -> list[Probe]:
        """Launches a real sandbox and attacks it; every probe must pass before anybody relies on it."""
        ...

    def capabilities(self) -> dict[str, str]:
        """What is enforced and how, and what this backend cannot enforce on this machine."""
        ...
