"""What a sandbox is: the limits of a call, its result, and the roles that every backend plays.

A sandbox runs a program that nobody has read. The trust order is host > worker > child: the host decides the policy,
the worker (our code, inside) applies it, and the child (the program) is believed in nothing but the bytes it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from testbed.errors import UsageError

Status = Literal["ok", "error", "timeout", "oom", "killed", "sandbox_died"]

#: Largest value of each limit: beyond lies a slip of the pen, or what some kernel's or engine's field cannot hold; for
#: output, what the worker keeps without reaching the memory limit of its own sandbox.
LARGEST = {
    "wall_seconds": 86_400.0,
    "memory_mib": 1 << 22,
    "processes": 1 << 15,
    "scratch_mib": 1 << 22,
    "output_kib": 1 << 12,
    "file_mib": 1 << 22,
    "cpus": 1024.0,
}
LEAST_CPUS = 0.05  # with less, the worker itself cannot start in time


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use; a REPL's calls share what its processes hold and what lies in scratch.

    Attributes:
        wall_seconds: longest wall-clock time, > 0.
        memory_mib: most memory, in MiB: of one process (writable private memory) and of all processes of the call
            together.
        processes: most processes and threads at one time.
        scratch_mib: size of the scratch folder, the only place that can be written, in MiB.
        output_kib: most bytes kept of each output stream, in KiB: the first half and the last half; what lies between
            is cut.
        file_mib: largest single file, in MiB.
        cpus: cores' worth of CPU time, of all processes of the sandbox together; see `Sandbox.capabilities` on whether
            it is enforced.
    """

    wall_seconds: float = 5.0
    memory_mib: int = 256
    processes: int = 64
    scratch_mib: int = 64
    output_kib: int = 64
    file_mib: int = 32
    cpus: float = 1.0

    def __post_init__(self) -> None:
        """Refuses limits under which no program could run, and ones that nothing could enforce.

        Raises:
            UsageError: a limit is not above 0, is larger than `LARGEST`, or not whole where it must be; or memory or
                cores are too few to start Python.
        """
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if isinstance(largest, int) and type(value) is not int:
                raise UsageError(f"sandbox limit {name} must be a whole number, not {value!r}.")
            if not 0 < value <= largest:
                raise UsageError(f"sandbox limit {name} must be above 0 and at most {largest:,.0f}, not {value!r}.")
        if self.memory_mib < 16:
            raise UsageError(f"sandbox limit memory_mib={self.memory_mib} is too small for Python; use 16 or more.")
        if self.cpus < LEAST_CPUS:
            raise UsageError(f"sandbox limit cpus={self.cpus!r} is too small for Python; use {LEAST_CPUS} or more.")


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
        state_lost: whether there was a REPL, and this call was its end: its variables, processes, or all of it.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    stdout_truncated: int
    stderr_truncated: int
    milliseconds: float
    reason: str = ""
    state_lost: bool = False


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
    """One warm sandbox, used by one attempt.

    A program (`run`) sees nothing of an earlier one and leaves nothing behind. Cells (`repl`) share one Python, and the
    files of the scratch folder; a program in between ends that Python and empties the folder.
    """

    async def run(self, code: str, stdin: str = "", timeout: float | None = None) -> Result:
        """Runs a program like a script and says what became of it.

        Args:
            code: Python source.
            stdin: what the program reads from its standard input.
            timeout: seconds of wall-clock time; the session's limit if None or larger than it.

        Returns:
            The result, whatever the program did; `sandbox_died` if the worker was lost (the next call gets a new one).

        Raises:
            SandboxDied: the session is closed.
            UsageError: the timeout is not above 0.
        """
        ...

    async def repl(self, code: str, timeout: float | None = None) -> Result:
        """Runs a cell in the session's own Python, which keeps its state; the last expression's value is displayed.

        An exception ends the cell with exit code 1 and loses nothing. A cell that is out of time is interrupted, and
        loses the state only if it does not react. Processes and threads stand still between cells.

        Args:
            code: Python source.
            timeout: seconds of wall-clock time; the session's limit if None or larger than it.

        Returns:
            The result; `state_lost` tells whether the next cell begins anew.

        Raises:
            SandboxDied: the session is closed.
            UsageError: the timeout is not above 0.
        """
        ...

    async def put(self, path: str, data: bytes) -> None:
        """Writes a file into the scratch folder, replacing what is there; folders are made as needed.

        Args:
            path: relative to the scratch folder, without "..".
            data: its contents, at most the limit on a file.

        Raises:
            SandboxFileError: it cannot be written: a bad path, a link on the way, no room left.
            SandboxDied: the worker was lost, or the session is closed.
        """
        ...

    async def get(self, path: str) -> bytes:
        """Reads a regular file of the scratch folder; the names, links and kinds of file there are not trusted.

        Args:
            path: relative to the scratch folder, without "..".

        Raises:
            SandboxFileError: there is no such file, it is a link or a device, or larger than the limit on a file.
            SandboxDied: the worker was lost, or the session is closed.
        """
        ...

    async def reset(self) -> None:
        """Ends the REPL and empties the scratch folder.

        Raises:
            SandboxDied: the worker was lost, or the session is closed.
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
