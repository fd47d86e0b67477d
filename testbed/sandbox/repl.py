"""Runs inside the sandbox: a Python that keeps its state from one call to the next. Only the standard library is there.

It is a child of the worker like any program, and trusted as little. It says itself when a cell is done and whether an
exception ended it: a lie costs the liar its state at worst. All else the worker learns from the kernel. Between calls
every process of it is stopped, so that nothing computes, or grows, in time that nobody gave it.
"""

from __future__ import annotations

import _ast
import contextlib
import os
import signal
import struct
import sys
import time

from testbed.sandbox import child
from testbed.sandbox.boundary import guarded
from testbed.sandbox.buffers import Captures
from testbed.sandbox.memory import Memory
from testbed.sandbox.watch import Process, Watch, signal_everybody, stop_everybody

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

KEPT_SOURCE = 4 << 20  # characters of cells; with all of them, whoever is told much often would run out of memory
INTERRUPT_SECONDS = 0.05  # to react to an interrupt, before everything is killed

_CELL = struct.Struct(">QI")  # number of the call, bytes of source that follow
_DONE = struct.Struct(">Q?")  # number of the call, whether an exception ended it


class Repl:
    """The worker's end of a REPL: starts it, has it run cells, and stops it in between.

    Args:
        control: the host's descriptor; its end is the worker's.
        limits: `memory`, `output` and `file` in bytes, `processes`.
        legacy: what the worker has ready for its children.
    """

    def __init__(self, control: int, limits: dict[str, Any], legacy: child.Legacy) -> None:
        self._control, self._limits = control, limits
        cells, self._cells = os.pipe()
        self._done, done = os.pipe()
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become_repl(limits, legacy, cells, done, out, err)
        for descriptor in (cells, done, out, err):
            os.close(descriptor)
        for descriptor in (self._cells, self._done, self._out, self._err):
            os.set_blocking(descriptor, False)
        self._process = Process(pid)

    def call(
        self,
        number: int,
        source: memoryview,
        seconds: float,
        captures: Captures,
        memory: Memory,
        tell: Callable[[str], None],
    ) -> dict[str, Any]:
        """Runs a cell and says what became of it; `state_lost` means that this REPL has ended and must be dropped.

        Args:
            number: number of the call.
            source: the cell's text.
            seconds: wall-clock time of the call.
            captures: keep the outputs.
            memory: counts the memory.
            tell: called with a verdict that is certain before the processes are stopped or ended; "left" if it is only
                certain that they are to be ended.
        """
        watch = Watch(self._control, self._process, captures.of(self._out, self._err), memory)
        deadline = time.monotonic() + seconds
        signal_everybody(signal.SIGCONT)
        watch.feed(self._cells, [memoryview(_CELL.pack(number, len(source))), source], close=False)
        ended = watch.until_over(deadline, self._done)
        verdict = ended
        if ended in ("timeout", "oom"):
            tell(verdict)
        if ended == "timeout":
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self._process.pid, signal.SIGINT)
            ended = watch.until_over(time.monotonic() + INTERRUPT_SECONDS, self._done)
        raised = self._outcome(number) if ended == "done" else None
        if raised is not None and not stop_everybody():
            raised = None
        # None: it has ended, does not react, does not speak our language, or will not stand still.
        if raised is None and verdict not in ("timeout", "oom"):
            tell("left")
        code_of_exit = self._end() if raised is None else int(raised)
        watch.end()
        if watch.kernel_ended_one():
            verdict = "oom"
        if raised is None:
            self._close()
        return {
            "verdict": "exited" if verdict == "done" else verdict,
            "exit_code": code_of_exit if verdict in ("exited", "done") else None,
            "state_lost": raised is None,
        }

    def end(self) -> None:
        """Ends the REPL and everything that it started."""
        self._end()
        self._close()

    def _outcome(self, number: int) -> bool | None:
        """Whether an exception ended the cell; None for anything that is not a plain answer to this call."""
        with contextlib.suppress(OSError):
            said = os.read(self._done, 2 * _DONE.size)
            if len(said) == _DONE.size and said[-1] in (0, 1):
                answered, raised = _DONE.unpack(said)
                return bool(raised) if answered == number else None
        return None

    def _end(self) -> int:
        return os.waitstatus_to_exitcode(self._process.end_everything())

    def _close(self) -> None:
        for descriptor in (self._cells, self._done, self._out, self._err):
            os.close(descriptor)


class _Sources:
    """The latest cells, of which tracebacks show lines.

    Args:
        lines: where tracebacks look them up.
    """

    def __init__(self, lines: dict[str, Any]) -> None:
        self._lines = lines
        self._kept: dict[str, int] = {}
        self._size = 0

    def add(self, name: str, source: str) -> None:
        self._lines[name] = (len(source), None, source.splitlines(keepends=True), name)
        self._kept[name] = len(source)
        self._size += len(source)
        while self._size > KEPT_SOURCE:
            oldest = next(iter(self._kept))
            self._size -= self._kept.pop(oldest)
            self._lines.pop(oldest, None)


class _Interrupt:
    """Turns the worker's signal into a KeyboardInterrupt while a cell runs, and into nothing otherwise."""

    armed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


def _become_repl(
    limits: dict[str, Any], legacy: child.Legacy, cells: int, done: int, stdout: int, stderr: int
) -> NoReturn:
    """Never returns: runs cells until it is ended or a cell ends it."""
    exit_code = 1
    try:
        # Here, not at the top: a worker without a REPL needs neither. And before its folder comes first in the path.
        import linecache
        import traceback

        nothing = os.open(os.devnull, os.O_RDONLY)
        child.leave_worker(limits, legacy, (nothing, stdout, stderr), keep=(cells, done))
        sys.argv = [""]
        exit_code = _serve(cells, done, linecache.cache, traceback.print_exception)
    finally:
        os._exit(exit_code)


def _serve(cells: int, done: int, lines: dict[str, Any], show: Callable[..., None]) -> int:
    namespace, sources = child.new_main(), _Sources(lines)
    interrupt, me = _Interrupt(), os.getpid()
    while True:
        number, size = _CELL.unpack(_read_exactly(cells, _CELL.size))
        source = _read_exactly(cells, size).decode("utf-8", "surrogatepass")
        name = f"<cell {number}>"
        sources.add(name, source)
        signal.signal(signal.SIGINT, interrupt)  # again for each cell: one that ignores it should not spoil the next
        try:
            interrupt.armed = True
            raised = _outcome(lambda source=source, name=name: _run_cell(source, name, namespace), show)  # type: ignore[misc]
        except SystemExit as request:
            exit_code = child.exit_code_of(request)
            return child.finish() or exit_code
        except KeyboardInterrupt:  # it came while an exception was being shown
            raised = True
        finally:
            interrupt.armed = False
        child.flush()
        if os.getpid() != me:  # a copy that the cell made, and that has run past its end
            return int(raised)
        os.write(done, _DONE.pack(number, raised))


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _outcome(action: Callable[[], None], show: Callable[..., None]) -> bool:
    """Whether an exception ended a cell; it is shown, with lines of source also from earlier cells."""

    def shown(error: BaseException) -> bool:
        if sys.excepthook is sys.__excepthook__:  # which reads files only
            sys.excepthook = show
        child.show(error)
        return True

    return guarded(action, shown, but=SystemExit) or False


def _run_cell(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Runs a cell like a notebook: if its last statement is an expression, its value is displayed."""
    tree: Any = compile(source, name, "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
    last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], _ast.Expr) else []
    exec(compile(tree, name, "exec", dont_inherit=True), namespace)
    if last:
        exec(compile(_ast.Interactive(last), name, "single", dont_inherit=True), namespace)
