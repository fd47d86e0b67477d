"""A started bwrap and the worker in it: how the host talks to it, and how it ends it for sure."""

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
from collections.abc import Callable
from typing import Literal

from testbed.errors import SandboxDied
from testbed.sandbox.cgroup import Cgroup
from testbed.sandbox.link import START_SECONDS

_DYING_SECONDS = 5.0
_REMOVAL_PAUSES = (0.001, 0.01, 0.05, 0.1, 0.5, 0.0)
_PIDFD_SEND_SIGNAL, _PIDFD_OPEN = 424, 434  # Pythons built on old systems have no os.pidfd_open


class BwrapLink:
    """A worker in bwrap, see `testbed.sandbox.link.Link`; made by `launch`.

    Attributes:
        reader: frames of the worker.
        writer: frames for the worker.
        worker_pid: the worker's process as the host sees it; None if bwrap ended before there was one.
        cgroup: the sandbox's cgroup, if it has one.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, process: subprocess.Popen[bytes], free: Callable[[], object], cgroup: Cgroup | None) -> None:
        self.worker_pid: int | None = None
        self.cgroup = cgroup
        self._process = process
        self._worker_fd: int | None = None
        self._free = free
        self._end: asyncio.Task[str] | None = None

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
        here, there = socket.socketpair()
        info_read, info_write = os.pipe()
        words = [*bwrap, "--info-fd", str(info_write), "--", *inside, *2 * (str(there.fileno()),)]
        try:
            with there:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={},
                    pass_fds=(there.fileno(), info_write),
                    start_new_session=True,  # Ctrl-C is for the host, which ends its calls in order
                )
        except OSError as error:
            here.close()
            os.close(info_read)
            raise SandboxDied(f"cannot start {words[0]}: {error}") from error
        finally:
            os.close(info_write)
        link = cls(process, free, cgroup)
        await link._connect(here, info_read)
        return link

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

    async def _connect(self, control: socket.socket, info: int) -> None:
        try:
            self.reader, self.writer = await asyncio.open_connection(sock=control)
            self.worker_pid = await _read_child_pid(info)
            if self.worker_pid is not None:
                self._worker_fd = _pidfd(self.worker_pid)
                await self._confine(self.worker_pid)
        except BaseException:  # cancelled too; raised again
            if not hasattr(self, "writer"):  # else the writer closes it; its number must not be used again before
                control.close()
            await self.kill()
            raise
        finally:
            os.close(info)

    async def _confine(self, worker: int) -> None:
        """Moves the worker into its cgroup: it waits for its start frame, so everything later is inside."""
        if self.cgroup is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended; the handshake will tell why
                await asyncio.to_thread(self.cgroup.add, worker)  # the kernel may wait for all cores

    async def _kill(self) -> str:
        self.hurry(True)
        # The worker is killed rather than bwrap, so that bwrap reaps it: a host without an init would keep an orphan.
        if self._worker_fd is not None:
            _libc().syscall(_PIDFD_SEND_SIGNAL, self._worker_fd, int(signal.SIGKILL), None, 0)
            os.close(self._worker_fd)
        else:
            self._process.kill()
        exit_fd = _pidfd(self._process.pid)
        if exit_fd is not None:
            if not await _readable(exit_fd, _DYING_SECONDS):
                self._process.kill()
            os.close(exit_fd)
        self._process.wait()
        await self._remove_cgroup()
        self._free()
        if hasattr(self, "writer"):
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            os.set_blocking(stderr.fileno(), False)
            return (stderr.read() or b"").decode("utf-8", "replace").strip()[-500:]

    async def _remove_cgroup(self) -> None:
        if self.cgroup is not None:
            for pause in _REMOVAL_PAUSES:  # a process that has been waited for can still be leaving it
                if self.cgroup.remove():
                    return
                await asyncio.sleep(pause)


async def _read_child_pid(info: int) -> int | None:
    text = b""
    while await _readable(info, START_SECONDS):
        part = os.read(info, 4096)
        text += part
        if not part or b"}" in text:
            break
    return int(json.loads(text)["child-pid"]) if b"}" in text else None


async def _readable(descriptor: int, seconds: float) -> bool:
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


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _pidfd(pid: int) -> int | None:
    descriptor: int = _libc().syscall(_PIDFD_OPEN, pid, 0)
    return descriptor if descriptor >= 0 else None
