"""Runs inside: one prepared Python, of which every sandbox's worker is a fork. Only the standard library is there.

It is started like a worker, on the same read-only root, in namespaces of its own. At the host's word it makes a process
that is PID 1 of a new PID namespace. That one enters new namespaces of every other kind, mounts a /proc and a scratch
folder of its own, and is a worker from then on, which locks itself down, and proves it, like any other.

Nothing comes back from there: the fork server reads the host's messages and waits for its children's ends, no more. So
each worker gets what the server was before the first one, and no program has ever been near it. It holds capabilities,
as a worker does in its first moments, but no program sees it: it lies above each one's PID namespace.

A worker has no more modules and is no deeper in its stack than one that was started for itself: a program could tell,
and one that needs a module which it has not imported, or that recurses as far as it may, would depend on it.

A message of the host's is a request's number, the size of scratch in bytes, and two descriptors: the worker's control
stream and its standard error. The answer is the number, 0 or an error's number, and a descriptor of the worker.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
import select
import signal
import struct
import sys

from testbed.sandbox.lockdown import SCRATCH
from testbed.sandbox.worker import Host, work

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from typing import NoReturn

    _Order = tuple[int, int, int]  # size of scratch, control stream, standard error: what a worker is made from

READY = b"ready"
REQUEST = struct.Struct(">QQ")
ANSWER = struct.Struct(">QI")

_DESCRIPTOR = struct.Struct("=i")
_PIDFD_OPEN = 434  # Pythons built on old systems have no os.pidfd_open
# mount(2), umount2(2), unshare(2)
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_MOVE, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 13, 1 << 14, 1 << 18
_MNT_DETACH = 2
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Serves the host until it goes away. The server's end is everybody's, whose PID namespaces lie below its own."""
    # Or what the host mounts later, in a folder that is shown, could appear in a sandbox.
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mounts of one's own")
    control = _become_worker(*_forked())
    work(Host(control, control))


def _forked() -> _Order:
    """Forks workers until the host goes away; returns in each of them."""
    server = Server(_socket.socket(fileno=int(sys.argv[1])))
    while (order := server.serve()) is None:
        pass
    return order


class Server:
    """Forks workers at the host's word.

    Args:
        host: a connection to it, which keeps messages apart.
    """

    def __init__(self, host: _socket.socket) -> None:
        self._host = host
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._workers: dict[int, int] = {}  # process by the descriptor that tells its end
        self._poll = select.poll()
        self._poll.register(host, select.POLLIN)
        host.send(READY)

    def serve(self) -> _Order | None:
        """Waits for what comes next, a request or workers' ends; returns an order only in the worker that is to be."""
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        for ended in ready - {self._host.fileno()}:  # first, for they make room
            self._poll.unregister(ended)
            os.close(ended)
            os.waitpid(self._workers.pop(ended), 0)
        return self._answer() if self._host.fileno() in ready else None

    def _answer(self) -> _Order | None:
        number, scratch, descriptors = self._request()
        try:
            if len(descriptors) != 2:  # the kernel has left out what there was no room for
                raise OSError(errno.EMFILE, "no descriptors are left")
            worker = self._fork()
            if worker == 0:
                self._host.detach()  # it is closed with all others, and its number may become another's
                return scratch, descriptors[0], descriptors[1]
            told = _socket.SOL_SOCKET, _socket.SCM_RIGHTS, _DESCRIPTOR.pack(self._watch(worker))
        except OSError as error:
            self._host.send(ANSWER.pack(number, error.errno))
        else:
            self._host.sendmsg([ANSWER.pack(number, 0)], [told])
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _request(self) -> tuple[int, int, list[int]]:
        room = _socket.CMSG_SPACE(2 * _DESCRIPTOR.size)
        message, attached, _, _ = self._host.recvmsg(REQUEST.size, room, _socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        descriptors = [number for _, _, numbers in attached for (number,) in _DESCRIPTOR.iter_unpack(numbers)]
        return *REQUEST.unpack(message), descriptors

    def _fork(self) -> int:
        """Forks a PID 1 of a new PID namespace; returns its number, and 0 in itself.

        Raises:
            OSError: no such process can be made now.
        """
        _check(_libc.unshare(_CLONE_NEWPID), "a PID namespace")  # for the next child, not for this process
        worker = -1
        try:
            worker = os.fork()
        finally:
            if worker != 0 and _libc.setns(self._own_namespace, _CLONE_NEWPID) != 0:
                sys.exit("the server's own PID namespace is lost")  # the next worker would join this one's
        return worker

    def _watch(self, worker: int) -> int:
        """A descriptor that tells the worker's end.

        Raises:
            OSError: there is none; the worker has been ended.
        """
        descriptor: int = _libc.syscall(_PIDFD_OPEN, worker, 0)
        if descriptor < 0:
            error = ctypes.get_errno()
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            raise OSError(error, os.strerror(error))
        self._workers[descriptor] = worker
        self._poll.register(descriptor, select.POLLIN)
        return descriptor


def _become_worker(scratch: int, control: int, errors: int) -> int:
    """Leaves everything that is the server's, and returns the control stream."""
    os.dup2(errors, 2)
    os.closerange(3, control)
    os.closerange(control + 1, 1 << 16)
    os.setsid()
    _enter_namespaces(scratch)
    return control


def _enter_namespaces(scratch: int) -> None:
    """Leaves the server's namespaces, but for the user's, which the worker leaves as it locks itself down.

    Raises:
        OSError: one of the steps is refused.
    """
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS), "namespaces")
    # An ordinary user may mount a /proc only where one can be seen. So the new one comes first, and the old one goes.
    place, proc = SCRATCH.encode(), b"/proc"
    _check(_libc.mount(b"proc", place, b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None), "mount proc")
    _check(_libc.umount2(proc, _MNT_DETACH), "unmount proc")
    _check(_libc.mount(place, proc, None, _MS_MOVE, None), "move proc")
    options = f"mode=777,size={scratch}".encode()
    _check(_libc.mount(b"tmpfs", place, b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options), "mount scratch")
    os.chdir(SCRATCH)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
