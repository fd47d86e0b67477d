"""How a worker in the docker engine speaks with its host: through a door, or on the engine's stream."""

from __future__ import annotations

import asyncio
import os
import tempfile

import pytest

from helpers.docker_engine import SMALL, output
from testbed.sandbox import docker_door
from testbed.sandbox.docker import Docker
from testbed.sandbox.docker_door import INSIDE, Door
from testbed.sandbox.docker_link import Frames

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- the stream


async def parts(*chunks: bytes) -> Frames:
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    return Frames(stream)


async def test_output_is_put_together_from_the_engines_parts():
    frames = await parts(b"\1\0\0\0\0\0\0\2ab\1\0\0\0", b"\0\0\0\3cde")
    assert [await frames.readexactly(size) for size in (1, 3, 1)] == [b"a", b"bcd", b"e"]
    with pytest.raises(EOFError):
        await frames.readexactly(1)
    assert frames.ended


async def test_error_output_is_no_frame_and_its_end_is_kept():
    frames = await parts(b"\2\0\0\0\0\0\0\3one\1\0\0\0\0\0\0\1x\2\0\0\0\0\0\0\3two")
    assert await frames.readexactly(1) == b"x"
    await frames.read_rest()
    assert frames.stderr == b"onetwo"


async def test_a_part_of_no_known_kind_breaks_the_stream():
    with pytest.raises(ConnectionError, match="kind 7"):
        await (await parts(b"\7\0\0\0\0\0\0\1x")).readexactly(1)


# --- the door


def door_folders() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("testbed-door-")}


async def test_a_local_engines_worker_comes_in_through_a_door_that_is_gone_then(engine):
    if not engine.shows_folders:
        pytest.skip("the engine is a remote one")
    before = door_folders()
    session = await Docker().open(SMALL)
    assert isinstance(session._link.reader, asyncio.StreamReader)
    assert door_folders() == before
    assert await output(session, f"import os; print(os.listdir({INSIDE!r}))") == "[]\n"
    assert "[Errno" in await output(
        session, f"import os\ntry: os.mkfifo('{INSIDE}/x')\nexcept OSError as error: print(error)"
    )
    await session.close()


class Unseen(Door):
    """A door whose folder the engine does not see."""

    def shown(self, settings):
        shown = super().shown(settings)
        shown["host_config"]["Mounts"][0]["Source"] = "/nowhere/at/all"
        return shown


class Locked(Door):
    """A door that the container's user may not open."""

    def __init__(self):
        super().__init__()
        os.chmod(os.path.join(self.folder, "worker"), 0o600)


@pytest.mark.parametrize("door", [Unseen, Locked])
async def test_a_worker_that_finds_no_door_speaks_on_the_stream(engine, monkeypatch, door):
    if not engine.shows_folders:
        pytest.skip("the engine is a remote one")
    monkeypatch.setattr("testbed.sandbox.docker_link.Door", door)
    sandbox = Docker()
    await asyncio.to_thread(sandbox._prepare)
    before = door_folders(), len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # the second time without even trying
        session = await sandbox.open(SMALL)
        assert isinstance(session._link.reader, Frames)
        assert await output(session, "print(1)") == "1\n"
        await session.close()
        assert not sandbox._engine.shows_folders
    assert (door_folders(), len(os.listdir("/proc/self/fd"))) == before


async def test_a_door_that_cannot_be_made_is_done_without(engine, monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)  # too long for a socket
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    session = await Docker().open(SMALL)
    assert isinstance(session._link.reader, Frames)
    await session.close()
    assert not os.listdir(long)


async def test_a_sweep_removes_the_doors_that_nobody_came_to_close(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, other = (tmp_path / name for name in ("testbed-door-old", "testbed-door-young", "other"))
    for path in (old, young, other):
        (path / "in").mkdir(parents=True)
    for path in (old, other):
        os.utime(path, (0, 0))
    docker_door.sweep()
    assert sorted(os.listdir(tmp_path)) == ["other", "testbed-door-young"]
