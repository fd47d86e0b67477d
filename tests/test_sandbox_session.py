"""The host's side of a session: it believes no frame that it did not check, and no worker that proved nothing."""

from __future__ import annotations

import asyncio
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


def frame(*parts: bytes, **fields: object) -> bytes:
    body = json.dumps({"parts": [len(part) for part in parts], **fields}).encode()
    return struct.pack(">I", len(body)) + body + b"".join(parts)


HONEST = {
    "type": "result",
    "seq": 1,
    "verdict": "exited",
    "exit_code": 0,
    "stdout_cut": 0,
    "stderr_cut": 0,
    "clean": True,
}
SILENT = (b"", b"", b"", b"")  # beginning and end of each stream


CONFINED = {"type": "ready", "pid": 1, "uid": 5, "seccomp": 2, "no_new_privs": 1, "dumpable": 0, "capabilities": False}


@pytest.mark.parametrize(
    "answer",
    [
        frame(*SILENT, **HONEST | {"seq": 2}),
        frame(*SILENT, **HONEST | {"type": "ready"}),
        frame(b"text", **HONEST),
        frame(*SILENT, **HONEST | {"parts": "many"}),
        frame(*SILENT, **HONEST | {"parts": [-1, 1, 0, 0]}),
        frame(*SILENT, **HONEST | {"parts": [True, False, 0, 0]}),
        frame(*SILENT, **HONEST | {"parts": [1 << 40, 0, 0, 0]}),
        frame(*SILENT, **HONEST | {"stdout_cut": -1}),
        frame(*SILENT, **HONEST | {"exit_code": None}),
        frame(*SILENT, **HONEST | {"verdict": "passed", "exit_code": None}),
        struct.pack(">I", 1 << 31),
        struct.pack(">I", 4) + b"nope",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 50_000) + b"[" * 50_000,
        b"",
    ],
    ids=[
        "number",
        "type",
        "number of parts",
        "list of parts",
        "negative part",
        "boolean part",
        "endless part",
        "cut",
        "exit code",
        "verdict",
        "length",
        "not JSON",
        "no object",
        "too deep",
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
        {"parts": [b"x"], "length": "3"},
        {"parts": [b"x"]},
        {"parts": [], "length": 3},
        {"parts": [b"x", b"y"], "length": 2},
        {"parts": [bytes(PIECE + 1)], "length": 450_000},
    ],
    ids=["text", "no length", "nothing", "two", "too long"],
)
async def test_malformed_piece_of_a_file_kills_the_session(fields):
    worker = await LyingWorker().start(frame(*fields.pop("parts"), type="result", seq=1, clean=True, **fields))
    session = await session_of(worker)
    with pytest.raises(SandboxDied):
        await session.get("file")
    assert worker.killed


async def test_a_file_without_end_is_not_read_beyond_the_limit():
    pieces = [{"seq": number, "length": 1 << 40} for number in range(1, 40)]
    worker = await LyingWorker().start(*(frame(bytes(PIECE), type="result", clean=True, **one) for one in pieces))
    session = await session_of(worker)
    with contextlib.suppress(SandboxFileError, SandboxDied):
        assert len(await session.get("file")) <= (SMALL.file_mib << 20) + PIECE
    assert session._sequence < 40
    await worker.kill()


async def test_a_lost_worker_costs_one_call_and_is_replaced():
    first = await LyingWorker().start()
    second = await LyingWorker().start(frame(b"aga", b"in", b"", b"", **HONEST | {"seq": 2}))
    session = await session_of(first, second)
    await first.die()
    results = [await session.run("print(1)"), await session.run("print(1)")]
    assert [result.status for result in results] == ["sandbox_died", "ok"]
    assert results[1].stdout == "again"
    await session.close()
    assert second.killed


async def test_a_worker_that_is_not_clean_is_replaced_before_the_next_call():
    first = await LyingWorker().start(frame(*SILENT, **HONEST | {"clean": False}))
    second = await LyingWorker().start(frame(*SILENT, **HONEST | {"seq": 2}))
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


@pytest.mark.parametrize("verdict", ["timeout", "oom"])
@pytest.mark.parametrize("loss", ["silence", "end"])
async def test_a_worker_lost_while_it_ends_a_program_does_not_undo_the_verdict(monkeypatch, verdict, loss):
    monkeypatch.setattr("testbed.sandbox.session.GRACE_SECONDS", 0.2)
    worker = await LyingWorker().start(frame(type="verdict", seq=1, verdict=verdict))
    session = await session_of(worker)
    call = asyncio.create_task(session.repl("print(1)", timeout=0.1))
    if loss == "end":
        await asyncio.sleep(0.05)
        await worker.die()
    result = await call
    assert (result.status, result.exit_code) == (verdict, None)
    assert worker.killed


@pytest.mark.parametrize(("loss", "status"), [("silence", "timeout"), ("end", "sandbox_died")])
async def test_a_program_that_leaves_what_takes_too_long_to_end_gets_no_second_try_for_it(monkeypatch, loss, status):
    monkeypatch.setattr("testbed.sandbox.session.GRACE_SECONDS", 0.2)
    worker = await LyingWorker().start(frame(type="verdict", seq=1, verdict="left"))
    session = await session_of(worker)
    call = asyncio.create_task(session.run("print(1)", timeout=0.1))
    if loss == "end":
        await asyncio.sleep(0.05)
        await worker.die()
    result = await call
    assert (result.status, result.exit_code) == (status, None)
    assert ("what it left was not gone after 0.3 s" in result.reason) == (loss == "silence")


async def test_a_program_that_left_something_is_known_by_its_own_end_once_that_is_over():
    worker = await LyingWorker().start(frame(type="verdict", seq=1, verdict="left"), frame(*SILENT, **HONEST))
    session = await session_of(worker)
    assert (await session.run("print(1)")).status == "ok"
    await session.close()


@pytest.mark.parametrize(
    "fields", [{"seq": 2, "verdict": "timeout"}, {"seq": 1, "verdict": "exited"}, {"seq": 1, "verdict": [1]}]
)
async def test_a_verdict_of_another_call_or_of_another_kind_is_none(monkeypatch, fields):
    monkeypatch.setattr("testbed.sandbox.session.GRACE_SECONDS", 0.2)
    worker = await LyingWorker().start(frame(type="verdict", **fields))
    session = await session_of(worker)
    assert (await session.run("print(1)", timeout=0.1)).status == "sandbox_died"
    assert worker.killed


async def test_a_verdict_counts_for_one_call_only(monkeypatch):
    monkeypatch.setattr("testbed.sandbox.session.GRACE_SECONDS", 0.2)
    told = frame(type="verdict", seq=1, verdict="timeout")
    worker = await LyingWorker().start(told, frame(*SILENT, **HONEST | {"verdict": "timeout", "exit_code": None}))
    session = await session_of(worker)
    results = [await session.run("print(1)", timeout=0.1) for _ in range(2)]
    assert [result.status for result in results] == ["timeout", "sandbox_died"]


async def test_cut_output_has_a_line_in_place_of_what_is_missing():
    parts = (b"begin\xff", b"\xfeend", b"\xc3", b"\xa9")
    worker = await LyingWorker().start(frame(*parts, **HONEST | {"stdout_cut": 7}))
    session = await session_of(worker)
    result = await session.run("print(1)")
    assert result.stdout == "begin\\xff\n[... 7 bytes cut ...]\n\\xfeend"
    assert (result.stderr, result.stdout_truncated) == ("é", 7)
    await session.close()


async def test_a_closed_session_runs_nothing():
    worker = await LyingWorker().start(frame(*SILENT, **HONEST))
    session = await session_of(worker)
    await session.close()
    await session.close()
    assert worker.killed
    with pytest.raises(SandboxDied, match="closed"):
        await session.run("print(1)")
