"""Runs inside the sandbox: the child that a call is forked into.

Only the standard library is there. The child lets go of everything that is the worker's, takes on the limits of the
call, and behaves like `python main.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import math
import os
import resource
import signal
import sys

from testbed.sandbox.boundary import guarded
from testbed.sandbox.lockdown import SCRATCH, let_memory_be_counted

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

SCRIPT = f"{SCRATCH}/main.py"
QUEUED_SIGNALS = 1024  # their memory is the kernel's, and an ordinary user's sandboxes share their number
OPEN_FILES = 128  # each may be a socket with 0.4 MiB of kernel memory that no limit counts
ADDRESS_SPACE_SLACK = 768 << 20  # libc reserves 64 MiB of addresses per thread arena without using them

_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # where the worker's code lies


class Legacy:
    """What the worker makes once for all its children: every page that a child writes to is copied for it first.

    The streams are not the worker's own, which were made for /dev/null and remember that one can seek in it.
    Descriptors 0, 1 and 2 must be open.
    """

    def __init__(self) -> None:
        kept = [os.dup(descriptor) for descriptor in range(3)]
        read, write = os.pipe()  # what a program's streams are
        for descriptor, end in enumerate((read, write, write)):
            os.dup2(end, descriptor)
        self.streams = {
            "stdin": open(0, encoding="utf-8", errors="surrogateescape", closefd=False),  # noqa: SIM115
            "stdout": open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False),  # noqa: SIM115
            "stderr": open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False),  # noqa: SIM115
        }
        for descriptor, own in enumerate(kept):
            os.dup2(own, descriptor)
        for descriptor in (*kept, read, write):
            os.close(descriptor)
        # Held here, the worker's modules are only forgotten in a child, and not taken apart one by one.
        self.modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "testbed"}


def become_program(
    code: memoryview, seconds: float, limits: dict[str, Any], legacy: Legacy, stdin: int, stdout: int, stderr: int
) -> NoReturn:
    """Never returns, whatever happens: runs the program and exits with its code.

    Args:
        code: Python source, as UTF-8.
        seconds: wall-clock time of the call, for the limit on CPU time.
        limits: `memory` and `file` in bytes, `processes`, `cores`.
        legacy: what the worker has ready for its children.
        stdin: descriptor to read from.
        stdout: descriptor to print to.
        stderr: descriptor for errors.
    """
    exit_code = 1
    try:
        # The soft limit's SIGXCPU tells a program that burnt its time from one that was killed; the hard limit's
        # SIGKILL follows if it ignores that.
        cpu = cpu_seconds(seconds, limits)
        _limit(resource.RLIMIT_CPU, cpu, cpu + 1)
        leave_worker(limits, legacy, (stdin, stdout, stderr))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exit_code = _execute(bytes(code).decode("utf-8", "surrogatepass"))
    finally:
        os._exit(exit_code)


def cpu_seconds(seconds: float, limits: dict[str, Any]) -> int:
    """Most CPU time of one process of a call, in whole seconds: more than it can get in the call's wall-clock time.

    Args:
        seconds: wall-clock time of the call.
        limits: `cores`, which the threads of one process can keep busy at once.
    """
    cores: float = limits["cores"]
    return math.ceil(seconds * cores) + 1


def leave_worker(
    limits: dict[str, Any], legacy: Legacy, streams: tuple[int, int, int], keep: tuple[int, ...] = ()
) -> None:
    """Lets go of the worker's descriptors and modules and takes on the limits: the first thing a forked child does.

    Args:
        limits: `memory` and `file` in bytes, `processes`.
        legacy: what the worker has ready for its children.
        streams: descriptors that become standard input, output and error.
        keep: other descriptors that stay open.
    """
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    first = 3
    for descriptor in sorted(keep):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1 << 16)  # the control descriptor among them
    _limit_resources(limits)
    let_memory_be_counted()
    _be_first_to_die()
    _forget_worker(legacy)
    gc.enable()


def _limit_resources(limits: dict[str, Any]) -> None:
    memory = limits["memory"]
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_AS, memory + ADDRESS_SPACE_SLACK)
    _limit(resource.RLIMIT_NPROC, limits["processes"] + 2)  # the worker's threads count too
    _limit(resource.RLIMIT_FSIZE, limits["file"])
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_SIGPENDING, QUEUED_SIGNALS)


def _be_first_to_die() -> None:
    """If the sandbox runs out of memory, the kernel should end a program, not the worker."""
    with contextlib.suppress(OSError):  # /proc may not be mounted
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(descriptor, b"1000")
        finally:
            os.close(descriptor)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(kind)[1]
    if ceiling == resource.RLIM_INFINITY:
        ceiling = 1 << 62
    resource.setrlimit(kind, (min(soft, ceiling), min(soft if hard is None else hard, ceiling)))


def _forget_worker(legacy: Legacy) -> None:
    """Makes the process look like a fresh interpreter with scratch as its folder."""
    os.chdir(SCRATCH)
    for name in legacy.modules:
        del sys.modules[name]
    sys.path[:] = [SCRATCH, *(entry for entry in sys.path if entry != _HOME)]
    sys.argv = [SCRIPT]
    for name, stream in legacy.streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _execute(code: str) -> int:
    """Runs the program as `__main__` and returns its exit code."""
    namespace = new_main(__file__=SCRIPT)
    exit_code = outcome(lambda: _exec_script(code, namespace))
    return finish() or exit_code


def new_main(**attributes: Any) -> dict[str, Any]:
    """Makes a fresh `__main__` and returns its namespace."""
    main = type(sys)("__main__")
    main.__dict__.update(__builtins__=sys.modules["builtins"], **attributes)
    sys.modules["__main__"] = main
    return main.__dict__


def finish() -> int:
    """Does what the interpreter does at its end, waiting for threads included; returns 1 if that fails, else 0."""
    exit_code = outcome(_run_exit_functions)
    flush()
    return exit_code


def flush() -> None:
    """Writes out what the program has printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the program may have closed it, or put anything in its place
            stream.flush()


def _exec_script(code: str, namespace: dict[str, Any]) -> None:
    with open(SCRIPT, "wb") as file:  # tracebacks and `inspect` read the lines there
        file.write(code.encode("utf-8", "surrogatepass"))
    exec(compile(code, SCRIPT, "exec", dont_inherit=True), namespace)


def _run_exit_functions() -> None:
    threading: Any = sys.modules.get("threading")  # if not the program's doing, it has no threads to wait for
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()


def outcome(action: Callable[[], None]) -> int:
    """Exit code of a part of the program; an exception is shown as the interpreter would show it."""

    def shown(error: BaseException) -> int:
        show(error)
        return 1

    try:
        return guarded(action, shown, but=SystemExit) or 0
    except SystemExit as request:
        return exit_code_of(request)


def _is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(_HOME)


def exit_code_of(request: SystemExit) -> int:
    """What the interpreter makes of `sys.exit(anything)`."""
    if request.code is None or isinstance(request.code, int):
        return (request.code or 0) & 0xFF
    print(request.code, file=sys.stderr)
    return 1


def show(error: BaseException) -> None:
    """Shows an exception as the interpreter would, without the frames that are ours."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    error.__traceback__ = last = trace
    while last is not None and last.tb_next is not None:
        if _is_ours(last.tb_next):  # the handler that interrupted the program
            last.tb_next = None
        last = last.tb_next
    told = type(error), error, trace
    guarded(lambda: sys.excepthook(*told), lambda _: sys.__excepthook__(*told))  # the hook is the program's own
