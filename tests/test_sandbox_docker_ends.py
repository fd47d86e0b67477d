"""What the docker backend leaves in the engine when sandboxes and their hosts end, one way or another: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from helpers.docker_engine import SMALL, containers, gone
from helpers.sandbox_hosts import start_host, status_of_a_call_during_ctrl_c
from testbed.errors import SandboxDied
from testbed.sandbox.docker import Docker
from testbed.sandbox.docker_attach import attach
from testbed.sandbox.docker_engine import Engine, connection
from testbed.sandbox.docker_link import DockerLink
from testbed.sandbox.docker_owner import OWNER, Owner
from testbed.sandbox.image import tag
from testbed.sandbox.root import python_root

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_close_leaves_no_container_and_no_descriptor(engine):
    sandbox = Docker()
    await (await sandbox.open(SMALL)).close()
    before = len(os.listdir("/proc/self/fd"))
    session = await sandbox.open(SMALL)
    name = session._link.name
    await session.close()
    await session.close()
    assert f"/{name}" not in containers(engine, os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.1, 0.2])
async def test_a_start_that_is_cancelled_leaves_no_container(engine, seconds):
    sandbox = Docker()
    before = containers(engine, os.getpid())
    opening = asyncio.create_task(sandbox.open(SMALL))
    await asyncio.sleep(seconds)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await opening).close()
    assert await gone(lambda: set(containers(engine, os.getpid())) - set(before))
    assert not sandbox._uids


async def test_a_container_that_is_killed_costs_one_call_only(engine):
    session = await Docker().open(SMALL)
    try:
        call = asyncio.create_task(session.run("import time; time.sleep(2)"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.api.kill, session._link.name)
        result = await call
        assert (result.status, result.exit_code) == ("sandbox_died", None)
        assert result.reason
        assert (await session.run("print('again')")).stdout == "again\n"
    finally:
        await session.close()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_nothing_outlives_a_host_that_is_killed(engine, busy):
    with start_host(Docker, "session._link.name", busy=busy) as (process, name):
        inside = (await asyncio.to_thread(engine.api.top, name.strip()))["Processes"]
        process.kill()
    assert len(inside) == (9 if busy else 1)
    assert await gone(lambda: containers(engine, process.pid))
    if connection()[0].startswith("http+unix"):
        assert await gone(lambda: [pid for _, pid, *_ in inside if os.path.exists(f"/proc/{pid}")])


class Stuck(Engine):
    """An engine that takes nothing any more, and does not even remove a container."""

    def __init__(self) -> None:
        self.api = SimpleNamespace(api_version="1.44")

    def remove(self, name: str) -> str:
        return "it does not answer"


async def test_an_engine_that_takes_nothing_any_more_keeps_nobody_from_giving_up():
    here, there = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=here)
    link = DockerLink(Stuck(), "nobody", lambda: None)
    link._writers.append(writer)
    writer.write(bytes(8 << 20))
    with there:
        async with asyncio.timeout(5):
            assert await link.kill() == "it does not answer"


@pytest.mark.parametrize(
    ("says", "why"), [(b"", "no answer within 0.2 s"), (b"HTTP/1.1 409 Conflict\r\n\r\n", "HTTP/1.1 409 Conflict")]
)
async def test_an_engine_that_does_not_hand_over_a_stream_is_not_waited_for(monkeypatch, tmp_path, says, why):
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    monkeypatch.setattr("testbed.sandbox.docker_attach.ANSWER_SECONDS", 0.2)
    engine = Stuck()
    engine.address = f"http+unix://{quote(str(tmp_path / 'engine'), safe='')}", None
    async with asyncio.timeout(5), await asyncio.start_unix_server(serve, tmp_path / "engine"):
        with pytest.raises(SandboxDied, match=why):
            await attach(engine, "nobody")
        await ended.wait()


async def test_a_sweep_removes_what_dead_owners_left_and_nothing_else(engine):
    here = Owner.this_process()
    with subprocess.Popen(["sleep", "60"]) as living:
        owners = {
            "dead": Owner(here.machine, here.pid, here.started - 1),  # its number has been given away again
            "own": here,
            "living": Owner(here.machine, living.pid, int(Path(f"/proc/{living.pid}/stat").read_text().split()[21])),
            "elsewhere": Owner("another boot", here.pid, here.started - 1),
        }
        names = {kind: f"testbed-test-{os.getpid()}-{kind}" for kind in owners}
        try:
            for kind, owner in owners.items():
                engine.api.create_container(tag(python_root()), ["x"], name=names[kind], labels={OWNER: str(owner)})
            swept = engine.sweep()
            left = [kind for kind in owners if f"/{names[kind]}" in _all_names(engine)]
        finally:
            for name in names.values():
                engine.remove(name)
            living.kill()
    assert names["dead"] in swept
    assert left == ["own", "living", "elsewhere"]


def _all_names(engine: Engine) -> list[str]:
    return [name for found in engine.api.containers(all=True) for name in found["Names"]]


@pytest.mark.parametrize("label", ["", "x", "machine/1", "machine/a/b", "machine/-1/2"])
async def test_a_label_that_is_not_ours_names_no_owner(label):
    assert Owner.read(label) is None
    assert Owner.read(str(Owner.this_process())) == Owner.this_process()


async def test_a_process_that_has_ended_is_a_dead_owner():
    here = Owner.this_process()
    with subprocess.Popen(["true"]) as process:
        pass
    assert Owner(here.machine, process.pid, here.started).is_dead(here)
    assert not here.is_dead(here)


async def test_ctrl_c_of_the_host_does_not_reach_the_sandbox(engine):
    assert await status_of_a_call_during_ctrl_c(Docker) == "ok"
