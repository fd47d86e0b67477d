"""Workers forked by a server, see `testbed.sandbox.forkserver`: a sandbox for a fifth of what a new Python costs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict

from testbed.errors import SandboxDied
from testbed.sandbox.cgroup import Cgroup
from testbed.sandbox.forkserver import ANSWER, READY, REQUEST
from testbed.sandbox.link import START_SECONDS, Evidence
from testbed.sandbox.process import (
    DYING_SECONDS,
    ProcessLink,
    read_child_pid,
    read_rest,
    readable,
    start_bwrap,
    until_ended,
)
from testbed.sandbox.undo import UnlessFinished

#: What a worker must have for itself; of the cgroup's, it sees to it that its host's shows no name.
NAMESPACES = ("ipc", "mnt", "net", "pid", "user", "uts")


class ServerEnded(SandboxDied):
    """A fork server that had worked, or that somebody else was starting, is no more.

    Args:
        reason: what is known of it.
        was_asked: whether it ended over this request, or before it was asked.
    """

    def __init__(self, reason: str, *, was_asked: bool) -> None:
        super().__init__(reason)
        self.was_asked = was_asked


class ForkServer:
    """A fork server in bwrap, started by its first user.

    Args:
        bwrap: bwrap's command line, up to its descriptors.
        inside: the server's command line; the number of its connection is added.

    Attributes:
        users: how many sandboxes want it to live.
        namespaces: its own, by kind.
    """

    def __init__(self, bwrap: list[str], inside: list[str]) -> None:
        self.users = 0
        self.namespaces: dict[str, str] = {}
        self._words = bwrap, inside
        self._is_over = False
        self._process: subprocess.Popen[bytes] | None = None
        self._info = -1
        self._talk: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    @property
    def has_ended(self) -> bool:
        """Whether it did not start, no longer answers, or was killed."""
        if self._talk is None:
            return self._is_over
        try:
            return self._is_over or not self._talk.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def fork(self, scratch: int, control: int, errors: int) -> int:
        """Has it make a worker, and returns a descriptor of that process.

        Args:
            scratch: size of the scratch folder, in bytes.
            control: what will be the worker's control stream, for both directions.
            errors: what will be its standard error.

        Raises:
            ServerEnded: another one is needed.
            SandboxDied: the server does not start, or can make no process.
            OSError: no descriptors are left.
        """
        async with self._turn:
            if self.has_ended:
                raise ServerEnded("the fork server has ended.", was_asked=False)
            talk = self._talk or await self._start()
            self._number += 1
            try:
                socket.send_fds(talk, [REQUEST.pack(self._number, scratch)], [control, errors])
                error, worker = await self._answer(talk)
            except OSError as broken:
                self._is_over = True
                raise ServerEnded(f"the fork server has ended: {broken}", was_asked=True) from broken
        if not worker:  # without an error: it has been sent, but there was no room for it here
            raise SandboxDied(f"a worker cannot be forked: {os.strerror(error or errno.EMFILE)}")
        return worker[0]

    async def end(self) -> str:
        """Ends it, and with it every worker of its making; returns its last words."""
        return await asyncio.shield(asyncio.ensure_future(self._end()))  # also for whoever is cancelled twice

    async def _end(self) -> str:
        self._is_over = True
        talk, process, self._talk, self._process = self._talk, self._process, None, None
        if talk is not None:
            with contextlib.suppress(OSError):
                talk.shutdown(socket.SHUT_RDWR)  # or a copy in a process that the host has forked would hold it open
            talk.close()
        if process is None:
            return ""
        await until_ended(process)
        os.close(self._info)  # not before: bwrap would die of writing to it, and leave a child that waits for ever
        assert process.stderr is not None
        with process.stderr as stderr:
            return read_rest(stderr.fileno()).decode("utf-8", "replace").strip()[-500:]

    async def _start(self) -> socket.socket:
        talk, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._talk = talk
        talk.setblocking(False)  # a server that reads nothing must not stop the event loop
        bwrap, inside = self._words
        async with UnlessFinished(self.end):
            with there:
                self._process, self._info = start_bwrap(bwrap, [*inside, str(there.fileno())], there.fileno())
            pid = await read_child_pid(self._info)
            if await readable(talk.fileno(), START_SECONDS) and talk.recv(len(READY)) == READY and pid:
                self.namespaces = namespaces_of(pid)
                return talk
        raise SandboxDied(f"the fork server did not start: {await self.end()}")

    async def _answer(self, talk: socket.socket) -> tuple[int, list[int]]:
        """The answer to the last request; one to a request that was given up is of a worker that ends by itself."""
        while True:
            if not await readable(talk.fileno(), START_SECONDS):
                raise TimeoutError(f"it has not answered for {START_SECONDS:g} s")
            message, worker, _, _ = socket.recv_fds(talk, ANSWER.size, 1)
            if not message:
                raise ConnectionResetError("it has closed its connection")
            number, error = ANSWER.unpack(message)
            if number == self._number:
                return error, worker
            for descriptor in worker:
                os.close(descriptor)


class ForkServers:
    """The fork server of one event loop: there from its first sandbox to its last.

    Args:
        bwrap: bwrap's command line, up to its descriptors.
        inside: the server's command line, but for the number of its connection.
    """

    def __init__(self, bwrap: list[str], inside: list[str]) -> None:
        self._words = bwrap, inside
        self._server: ForkServer | None = None

    def take(self) -> ForkServer:
        """A server that lives until it is given back."""
        if self._server is None or self._server.has_ended:
            self._server = ForkServer(*self._words)
        self._server.users += 1
        return self._server

    async def give_back(self, server: ForkServer) -> None:
        """Ends it if nobody else wants it."""
        server.users -= 1
        if not server.users:
            if self._server is server:
                self._server = None
            await server.end()


class ForkedLink(ProcessLink):
    """A worker that a fork server made; made by `launch`."""

    _servers: ForkServers
    _server: ForkServer
    _errors: int

    @classmethod
    async def launch(
        cls, servers: ForkServers, scratch: int, free: Callable[[], object], cgroup: Cgroup | None = None
    ) -> ForkedLink:
        """Has a worker made.

        Args:
            servers: who makes it.
            scratch: size of the scratch folder, in bytes.
            free: called once everything in the sandbox is gone.
            cgroup: for the worker and all that it starts; removed when they are gone.

        Raises:
            SandboxDied: it cannot be made.
            OSError: no descriptors are left, or the worker cannot be moved into its cgroup.
        """
        link = cls(free, cgroup)
        link._servers = servers
        await link._connect(await link._fork_somewhere(scratch))
        return link

    async def prove(self, evidence: Evidence) -> None:
        """Makes sure that the worker has all for itself that one of bwrap's own would have; else it has been killed.

        Raises:
            SandboxDied: it has not.
        """
        try:
            own, server, host = namespaces_of(self.worker_pid), self._server.namespaces, namespaces_of("self")
            if self.worker_fd is None or process_of(self.worker_fd) != self.worker_pid:
                raise ProcessLookupError("it has ended")  # and its number may be another's by now
        except OSError as error:
            await self.kill()
            raise SandboxDied(f"the forked worker cannot be looked at: {error}") from error
        lacking = [f"{kind} namespace" for kind in NAMESPACES if own[kind] in (server[kind], host[kind])]
        lacking += [name for name, proven in asdict(evidence).items() if not proven]
        if lacking:
            await self.kill()
            raise SandboxDied(f"the forked worker is not confined; it lacks: {', '.join(lacking)}")

    async def _fork_somewhere(self, scratch: int) -> socket.socket:
        """As `_fork`, by another server if one ends."""
        ended_over_this = 0
        while True:
            try:
                return await self._fork(scratch)
            except ServerEnded as ended:  # if before it was asked: however many may give up on starting one
                ended_over_this += ended.was_asked
                if ended_over_this > 1:
                    raise

    async def _fork(self, scratch: int) -> socket.socket:
        """Has the worker made, and returns the host's end of its control stream."""
        self._server = self._servers.take()
        with contextlib.ExitStack() as undo:
            async with UnlessFinished(functools.partial(self._servers.give_back, self._server)):
                control, there = socket.socketpair()
                undo.callback(control.close)
                with there:
                    self._errors, errors = os.pipe()
                    undo.callback(os.close, self._errors)
                    with open(errors, "wb"):
                        self.worker_fd = await self._server.fork(scratch, there.fileno(), errors)
            undo.pop_all()
        return control

    async def _find_worker(self) -> None:
        assert self.worker_fd is not None
        self.worker_pid = process_of(self.worker_fd)

    async def _until_gone(self) -> None:
        assert self.worker_fd is not None
        await readable(self.worker_fd, DYING_SECONDS)
        await self._servers.give_back(self._server)

    def _last_words(self) -> bytes:
        words = read_rest(self._errors)
        os.close(self._errors)
        return words


def namespaces_of(process: int | str | None) -> dict[str, str]:
    """Names of a process's namespaces, by kind.

    Raises:
        OSError: it has ended, or may not be looked at.
    """
    return {kind: os.readlink(f"/proc/{process}/ns/{kind}") for kind in NAMESPACES}


def process_of(descriptor: int) -> int | None:
    """The process that a descriptor stands for; None if it has ended and is forgotten."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        number = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    return number if number > 0 else None
