"""The host's side of a session: it believes no frame that it did not check, and no worker that proved nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct

import pytest

from testbed.errors import SandboxDied, SandboxFileError
from testbed.sandbox import Limits
from testbed.sandbox.link import PIECE, handshake
from testbed.sandbox.session import WorkerSession

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


class LyingWorker:
    """Plays the worker's end of the control socket with whatever frames a test wants."""

    def __init__(self) -> None:
        self.killed = False

    async def start(self, *answers: bytes) -> LyingWorker:
        here, self._there = socket.socketpair()
        self._there.setblocking(False)
        self.reader, self.writer = await asyncio.open_connection(sock=here)
        saying = asyncio.get_running_loop().sock_sendall(self._there, b"".join(answers))
        self._saying = asyncio.create_task(saying)
        return self

    async def die(self) -> None:
        self._saying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._saying
        self._there.close()

    def out_of_memory(self) -> None:
        return None

    def hurry(self, wanted: bool) -> None:
        pass

    async def kill(self) -> str:
        self.killed = True
        self.writer.close()
        await self.die()
        return ""


async def session_of(*workers: LyingWorker) -> WorkerSession:
    """A session that starts these workers, one after the other."""
    waiting = iter(workers)

    async def start() -> LyingWorker:
        return next(waiting)

    return await WorkerSession(start, SMALL).open()


def frame(**fields: object) -> bytes:
    body = json.dumps(fields).encode()
    return struct.pack(">I", len(body)) + body


HONEST = {
    "type": "result",
    "seq": 1,
    "verdict": "exited",
    "exit_code": 0,
    "stdout": "",
    "stderr": "",
    "stdout_cut": 0,
    "stderr_cut": 0,
    "clean": True,
}


CONFINED = {"type": "ready", "pid": 1, "uid": 5, "seccomp": 2, "no_new_privs": 1, "dumpable": 0, "capabilities": False}


@pytest.mark.parametrize(
    "answer",
    [
        frame(**HONEST | {"seq": 2}),
        frame(**HONEST | {"type": "ready"}),
        frame(**HONEST | {"stdout": 5}),
        frame(**HONEST | {"stdout_cut": -1}),
        frame(**HONEST | {"exit_code": None}),
        frame(**HONEST | {"verdict": "passed", "exit_code": None}),
        struct.pack(">I", 1 << 31),
        struct.pack(">I", 4) + b"nope",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 100_000) + b"[" * 100_000,
        frame(**HONEST | {"stdout": "\ud800"}),
        b"",
    ],
    ids=[
        "number",
        "type",
        "text",
        "cut",
        "exit code",
        "verdict",
        "length",
        "not JSON",
        "no object",
        "too deep",
        "lone surrogate",
        "end",
    ],
)
async def test_unexpected_frame_kills_the_session(answer):
    worker = await LyingWorker().start(answer)
    session = await session_of(worker)
    if not answer:
        await worker.die()
    result = await session.run("print(1)")
    assert result.status == "sandbox_died"
    assert worker.killed


@pytest.mark.parametrize(
    "wrong",
    [
        {"seccomp": 0},
        {"no_new_privs": 0},
        {"dumpable": 1},
        {"capabilities": True},
        {"uid": 0},
        {"pid": 7},
        {"type": "result"},
        {"uid": None},
    ],
)
async def test_worker_that_is_not_confined_is_refused(wrong):
    worker = await LyingWorker().start(
        frame(type="hello", machine="x86_64", python="3.11.0"), frame(**CONFINED | wrong)
    )
    with pytest.raises(SandboxDied):
        await handshake(worker, SMALL, 5)
    assert worker.killed


async def test_worker_on_an_architecture_without_a_filter_is_refused():
    worker = await LyingWorker().start(frame(type="hello", machine="sparc", python="3.11.0"))
    with pytest.raises(SandboxDied, match="system-call filter"):
        await handshake(worker, SMALL, 5)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": 5, "length": 1},
        {"data": "AAAA", "length": "3"},
        {"data": "not base64", "length": 8},
        {"data": "A" * 600_000, "length": 450_000},
        {"length": 3},
    ],
    ids=["number", "length", "alphabet", "too long", "nothing"],
)
async def test_malformed_piece_of_a_file_kills_the_session(fields):
    worker = await LyingWorker().start(frame(type="result", seq=1, clean=True, **fields))
    session = await session_of(worker)
    with pytest.raises(SandboxDied):
        await session.get("file")
    assert worker.killed


async def test_a_file_without_end_is_not_read_beyond_the_limit():
    piece = base64.b64encode(bytes(PIECE)).decode()
    pieces = [{"seq": number, "data": piece, "length": 1 << 40} for number in range(1, 40)]
    worker = await LyingWorker().start(*(frame(type="result", clean=True, **fields) for fields in pieces))
    session = await session_of(worker)
    with contextlib.suppress(SandboxFileError, SandboxDied):
        assert len(await session.get("file")) <= (SMALL.file_mib << 20) + PIECE
    assert session._sequence < 40
    await worker.kill()


async def test_a_lost_worker_costs_one_call_and_is_replaced():
    first = await LyingWorker().start()
    second = await LyingWorker().start(frame(**HONEST | {"seq": 2, "stdout": "again"}))
    session = await session_of(first, second)
    await first.die()
    results = [await session.run("print(1)"), await session.run("print(1)")]
    assert [result.status for result in results] == ["sandbox_died", "ok"]
    assert results[1].stdout == "again"
    await session.close()
    assert second.killed


async def test_a_worker_that_is_not_clean_is_replaced_before_the_next_call():
    first = await LyingWorker().start(frame(**HONEST | {"clean": False}))
    second = await LyingWorker().start(frame(**HONEST | {"seq": 2}))
    session = await session_of(first, second)
    assert (await session.run("print(1)")).status == "ok"
    assert first.killed
    assert (await session.run("print(1)")).status == "ok"
    await session.close()


async def test_a_worker_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("testbed.sandbox.session.GRACE_SECONDS", 0.2)
    worker = await LyingWorker().start()
    session = await session_of(worker)
    result = await session.run("print(1)", timeout=0.1)
    assert (result.status, result.exit_code) == ("sandbox_died", None)
    assert result.milliseconds < 2000
    assert worker.killed


async def test_a_closed_session_runs_nothing():
    worker = await LyingWorker().start(frame(**HONEST))
    session = await session_of(worker)
    await session.close()
    await session.close()
    assert worker.killed
    with pytest.raises(SandboxDied, match="closed"):
        await session.run("print(1)")
