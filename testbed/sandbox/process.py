"""A worker that is a process of this machine, and how the host ends it for sure; one that bwrap was started for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from testbed.errors import SandboxDied
from testbed.sandbox.cgroup import Cgroup
from testbed.sandbox.link import START_SECONDS, streams_of
from testbed.sandbox.undo import UnlessFinished

DYING_SECONDS = 5.0
_REMOVAL_PAUSES = (0.001, 0.01, 0.05, 0.1, 0.5, 0.0)
_PIDFD_SEND_SIGNAL, _PIDFD_OPEN = 424, 434  # Pythons built on old systems have no os.pidfd_open


class ProcessLink(ABC):
    """What all links to processes have in common, see `testbed.sandbox.link.Link`.

    Args:
        free: called once everything in the sandbox is gone.
        cgroup: for the worker and all that it starts; removed when they are gone.

    Attributes:
        reader: frames of the worker.
        writer: frames for the worker.
        worker_pid: the worker's process as the host sees it; None if there never was one.
        worker_fd: a descriptor of that process.
        cgroup: the sandbox's cgroup, if it has one.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, free: Callable[[], object], cgroup: Cgroup | None) -> None:
        self.worker_pid: int | None = None
        self.worker_fd: int | None = None
        self.cgroup = cgroup
        self._free = free
        self._end: asyncio.Task[str] | None = None

    async def kill(self) -> str:
        """Ends the sandbox and everything in it, waits until it is gone, and returns its last words."""
        if self._end is None:
            self._end = asyncio.ensure_future(self._kill())
        return await asyncio.shield(self._end)

    def out_of_memory(self) -> Literal["limit", "machine"] | None:
        """See `testbed.sandbox.cgroup.Cgroup.out_of_memory`."""
        return self.cgroup.out_of_memory() if self.cgroup else None

    def hurry(self, wanted: bool) -> None:
        """See `testbed.sandbox.cgroup.Cgroup.hurry`."""
        if self.cgroup is not None:
            self.cgroup.hurry(wanted)

    @abstractmethod
    async def _find_worker(self) -> None:
        """Learns which process the worker is, if there is one."""

    @abstractmethod
    async def _until_gone(self) -> None:
        """Waits until the worker, which may be None, has ended with everything in its sandbox."""

    @abstractmethod
    def _last_words(self) -> bytes:
        """What the worker, which has ended, wrote to its standard error."""

    async def _connect(self, control: socket.socket) -> None:
        """Takes up the connection and has the worker confined; if that fails, all of it has been ended."""
        async with UnlessFinished(self.kill):
            self.reader, self.writer = await streams_of(control)
            await self._find_worker()
            if self.cgroup is not None and self.worker_pid is not None:
                # It waits for its start frame, so everything later is inside. The kernel may wait for all cores.
                with contextlib.suppress(ProcessLookupError):  # it has ended; the handshake will tell why
                    await asyncio.to_thread(self.cgroup.add, self.worker_pid)

    async def _kill(self) -> str:
        self.hurry(True)
        if self.worker_fd is not None:
            _libc().syscall(_PIDFD_SEND_SIGNAL, self.worker_fd, int(signal.SIGKILL), None, 0)
        await self._until_gone()
        if self.worker_fd is not None:
            os.close(self.worker_fd)
        await self._remove_cgroup()
        self._free()
        if hasattr(self, "writer"):
            self.writer.transport.abort()  # there is nobody to take what is left to write
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
        return self._last_words().decode("utf-8", "replace").strip()[-500:]

    async def _remove_cgroup(self) -> None:
        if self.cgroup is not None:
            for pause in _REMOVAL_PAUSES:  # a process that has been waited for can still be leaving it
                if self.cgroup.remove():
                    return
                await asyncio.sleep(pause)


class BwrapLink(ProcessLink):
    """A worker that is bwrap's only child; made by `launch`."""

    _process: subprocess.Popen[bytes]
    _info: int

    @classmethod
    async def launch(
        cls, bwrap: list[str], inside: list[str], free: Callable[[], object], cgroup: Cgroup | None = None
    ) -> BwrapLink:
        """Starts bwrap, with one end of a control socket for the worker.

        Args:
            bwrap: bwrap's command line, up to its descriptors.
            inside: the worker's command line; the number of its control descriptor is added, for both directions.
            free: called once everything in the sandbox is gone.
            cgroup: for the worker and all that it starts; removed when they are gone.

        Raises:
            SandboxDied: bwrap cannot be executed.
            OSError: no descriptors are left, or the worker cannot be moved into its cgroup.
        """
        link = cls(free, cgroup)
        here, there = socket.socketpair()
        with contextlib.ExitStack() as undo:  # if interrupted too
            undo.callback(here.close)
            with there:
                link._process, link._info = start_bwrap(bwrap, [*inside, *2 * (str(there.fileno()),)], there.fileno())
            undo.pop_all()
        try:
            await link._connect(here)
        finally:
            os.close(link._info)
        return link

    async def _find_worker(self) -> None:
        self.worker_pid = await read_child_pid(self._info)
        if self.worker_pid is not None:
            self.worker_fd = pidfd(self.worker_pid)

    async def _until_gone(self) -> None:
        # The worker is killed rather than bwrap, so that bwrap reaps it: a host without an init would keep an orphan.
        if self.worker_fd is None:
            self._process.kill()
        await until_ended(self._process)

    def _last_words(self) -> bytes:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            return read_rest(stderr.fileno())


def start_bwrap(bwrap: list[str], inside: list[str], *pass_fds: int) -> tuple[subprocess.Popen[bytes], int]:
    """Starts bwrap.

    Args:
        bwrap: its command line, up to its descriptors.
        inside: the command line of what it starts.
        pass_fds: descriptors to hand on.

    Returns:
        bwrap, and a descriptor for `read_child_pid`.

    Raises:
        SandboxDied: bwrap cannot be executed.
        OSError: no descriptors are left.
    """
    info_read, info_write = os.pipe()
    words = [*bwrap, "--info-fd", str(info_write), "--", *inside]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
            pass_fds=(*pass_fds, info_write),
            start_new_session=True,  # Ctrl-C is for the host, which ends its calls in order
        )
    except OSError as error:
        os.close(info_read)
        raise SandboxDied(f"cannot start {words[0]}: {error}") from error
    finally:
        os.close(info_write)
    return process, info_read


async def read_child_pid(info: int) -> int | None:
    """The process that bwrap has started; None if it ended before."""
    text = b""
    while await readable(info, START_SECONDS):
        part = os.read(info, 4096)
        text += part
        if not part or b"}" in text:
            break
    return int(json.loads(text)["child-pid"]) if b"}" in text else None


async def until_ended(process: subprocess.Popen[bytes]) -> None:
    """Waits until a bwrap whose child has been killed has ended, and sees to it that it does."""
    exit_fd = pidfd(process.pid)
    if exit_fd is not None:
        if not await readable(exit_fd, DYING_SECONDS):
            process.kill()
        os.close(exit_fd)
    process.wait()


async def readable(descriptor: int, seconds: float) -> bool:
    """Waits until a descriptor can be read (a pidfd: until its process has ended); False after `seconds`."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(seconds):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def read_rest(descriptor: int) -> bytes:
    """What lies in a pipe, without waiting for more."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def pidfd(pid: int) -> int | None:
    """A descriptor of a process; None if there is none of that number."""
    descriptor: int = _libc().syscall(_PIDFD_OPEN, pid, 0)
    return descriptor if descriptor >= 0 else None


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
