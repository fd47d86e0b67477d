"""Files that are put into and got from a sandbox's scratch folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest

from testbed.errors import SandboxFileError
from testbed.sandbox import Bwrap, Limits, Session

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = await Bwrap().open(Limits(memory_mib=128, scratch_mib=4, output_kib=1, file_mib=2))
    yield session
    await session.close()


@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 2 << 20])
async def test_a_file_comes_back_as_it_was_put(session: Session, size: int) -> None:
    data = os.urandom(size)
    await session.put("some/folder/file.bin", data)
    assert await session.get("some/folder/file.bin") == data


async def test_a_program_and_a_cell_can_read_what_was_put(session: Session) -> None:
    await session.put("table.csv", b"1,2\n")
    assert (await session.repl("print(open('table.csv').read())")).stdout == "1,2\n\n"
    assert (await session.run("print(open('/tmp/table.csv').read())")).stdout == "1,2\n\n"


async def test_what_a_cell_wrote_can_be_got(session: Session) -> None:
    await session.repl("import os; os.mkdir('out'); open('out/result', 'wb').write(b'\\0\\xff')")
    assert await session.get("out/result") == b"\0\xff"


async def test_putting_replaces_and_never_writes_through_a_link(session: Session) -> None:
    await session.put("target", b"old")
    await session.repl("import os; os.symlink('target', 'link'); os.link('target', 'hard')")
    await session.put("link", b"new")
    await session.put("hard", b"new")
    assert await session.get("target") == b"old"
    assert await session.get("link") == await session.get("hard") == b"new"


@pytest.mark.parametrize("path", ["", ".", "..", "../etc", "/etc/passwd", "/tmp/x", "a/../b", "a//b", "a/", "a\0b"])
async def test_paths_that_are_not_plain_are_refused(session: Session, path: str) -> None:
    with pytest.raises(SandboxFileError, match="plain path"):
        await session.put(path, b"x")
    with pytest.raises(SandboxFileError, match="plain path"):
        await session.get(path)


@pytest.mark.parametrize(
    ("making", "words"),
    [
        ("os.symlink('/proc/self/environ', 'x')", "symbolic links"),
        ("os.symlink('/dev/zero', 'x')", "symbolic links"),
        ("os.mkfifo('x')", "not a regular file"),
        ("os.mkdir('x')", "not a regular file"),
        ("import socket; socket.socket(socket.AF_UNIX).bind('x')", "No such device or address"),
        ("open('x', 'w').truncate(2 << 20) and os.chmod('x', 0)", "Permission denied"),
        ("pass", "No such file"),
    ],
)
async def test_only_a_readable_regular_file_can_be_got(session: Session, making: str, words: str) -> None:
    await session.repl(f"import os\n{making}")
    with pytest.raises(SandboxFileError, match=words):
        await session.get("x")


async def test_links_on_the_way_are_not_followed(session: Session) -> None:
    await session.repl("import os; os.mkdir('real'); open('real/x', 'w').close(); os.symlink('real', 'linked')")
    with pytest.raises(SandboxFileError, match="Not a directory"):
        await session.get("linked/x")
    with pytest.raises(SandboxFileError, match="Not a directory"):
        await session.put("linked/x", b"")


async def test_a_file_above_the_limit_is_neither_put_nor_made(session: Session) -> None:
    """A sparse file counts in full: the limit on a file's size is the kernel's, so there is none to get."""
    result = await session.repl("open('big', 'w').truncate((2 << 20) + 1)")
    assert "File too large" in result.stderr
    with pytest.raises(SandboxFileError, match="more than 2 MiB"):
        await session.put("big", bytes((2 << 20) + 1))


async def test_a_full_folder_is_the_callers_error_and_harms_nothing(session: Session) -> None:
    await session.put("one", bytes(2 << 20))
    await session.put("half", bytes(1 << 20))
    with pytest.raises(SandboxFileError, match="No space left"):
        await session.put("two", bytes(2 << 20))
    assert (await session.repl("1 + 1")).stdout == "2\n"
    assert len(await session.get("one")) == 2 << 20


async def test_asking_for_a_file_does_not_end_the_state(session: Session) -> None:
    await session.repl("x = 1")
    with pytest.raises(SandboxFileError):
        await session.get("missing")
    assert (await session.repl("x")).stdout == "1\n"
