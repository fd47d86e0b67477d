"""Runs a program so that nothing of it outlives its host: a script of its own, of the standard library only.

Usage: warden.py HOST UNSET COMMAND…, as a child of the process HOST; UNSET is a variable that COMMAND must not see, or
"". The program gets this process's stdin, stdout and stderr. Whatever it starts, in whatever session, is this process's
too once its own parent is gone (prctl(2), PR_SET_CHILD_SUBREAPER). When the program ends, when the host is gone,
however it ended, or on SIGQUIT, all of that is killed. SIGTERM is passed on to the program's process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PDEATHSIG, CHILD_SUBREAPER = 1, 36  # operations of prctl(2)
PATIENCE = 5.0  # seconds for killed processes to go
POLL = 0.2  # seconds between looks at the host, on kernels without pidfd_open(2)


def main(host: int, unset: str, command: list[str]) -> int:
    """The program's exit status, or 128 plus the number of the signal that ended it."""
    prctl = ctypes.CDLL(None).prctl
    prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: told.append(number))
    alive = _watch(host)
    environment = {name: value for name, value in os.environ.items() if name != unset}
    try:
        program = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            # Where this process is killed itself, the program goes too. There is one thread: nothing can be locked.
            preexec_fn=lambda: prctl(PDEATHSIG, int(signal.SIGKILL), 0, 0, 0),
        )
    except (OSError, ValueError) as error:
        print(f"{command[0]!r} cannot be started: {error}", file=sys.stderr)
        return 127
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the program's end must close them
        os.dup2(nowhere, stream)
    while program.poll() is None and os.getppid() == host and signal.SIGQUIT not in told:
        if signal.SIGTERM in told:
            told.remove(signal.SIGTERM)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(program.pid, signal.SIGTERM)
        _others_reaped(program)
        select.select([wake] if alive is None else [wake, alive], [], [], POLL if alive is None else None)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4_096)
    _kill_all()
    status = program.returncode
    return 137 if status is None else status if status >= 0 else 128 - status


def _watch(pid: int) -> int | None:
    """A descriptor that can be read when the process has ended; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _others_reaped(program: subprocess.Popen[bytes]) -> None:
    """Takes note of ended orphans, which fell to this process, and leaves the program to `Popen`."""
    for pid in _children().get(os.getpid(), []):
        if pid != program.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _kill_all() -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        children = _children()
        doomed = list(children.get(os.getpid(), []))
        for pid in doomed:  # grows as it is read: children of children
            doomed += children.get(pid, [])
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # neither children nor orphans are left
        time.sleep(0.005)


def _children() -> dict[int, list[int]]:
    """Process ids by parent."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                found.setdefault(parent, []).append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
