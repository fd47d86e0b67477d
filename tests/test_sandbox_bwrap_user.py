"""Bubblewrap's sandboxes of an ordinary user, who owns more of what they see than root's do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helpers.pictures import PICTURE
from testbed.sandbox import Limits

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)


SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)


@pytest.fixture(scope="module")
def as_an_ordinary_user():
    """Runs Python code that can import the sandbox as a user without rights, and returns what it prints."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else; as a user, every other test is this one")
    nobody, candidates = 65534, (sys.executable, "/usr/bin/python3")
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    usable = (p for p in candidates if os.path.exists(p) and not _exit_code([p, "-c", check], nobody))
    python = next(usable, None)
    if python is None or _exit_code(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], nobody):
        pytest.skip("this machine has no Python 3.11 outside root's home, or no user namespaces for ordinary users")
    package = Path(__file__).resolve().parents[1] / "testbed"
    home = Path("/var/tmp") / f"testbed-{os.getpid()}"

    def call(code: str) -> str:
        done = subprocess.run(
            [python, "-c", textwrap.dedent(code)],
            user=nobody,
            group=nobody,
            extra_groups=[],
            cwd=home,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        shutil.copytree(package / "sandbox", home / "testbed" / "sandbox")
        for module in package.glob("*.py"):
            shutil.copy(module, home / "testbed")
        (home / "testbed" / "__init__.py").write_text("")
        yield call
    finally:
        shutil.rmtree(home)


def test_self_test_passes_for_an_ordinary_user(as_an_ordinary_user):
    code = "from testbed.sandbox import Bwrap; print([p for p in Bwrap().self_test() if not p.passed])"
    assert as_an_ordinary_user(code) == "[]\n"


CALLS_OF_ONE_SESSION = """
import asyncio, json, sys
from testbed.sandbox import Bwrap, Limits
async def main():
    sandbox = Bwrap()
    session = await sandbox.open(Limits(memory_mib=128))
    for code in {codes!r}:
        result = await session.run(code)
        print(result.stdout or result, end="")
    await session.close()
    print(sandbox.capabilities().get("devices"))
asyncio.run(main())
"""


def test_an_ordinary_users_devices_cannot_be_touched_either(as_an_ordinary_user):
    touch = """
import os
for name in ("null", "zero", "full", "random", "urandom"):
    try:
        os.utime("/dev/" + name)
        print("BREACH", name)
    except OSError:
        open("/dev/" + name, "r+b", buffering=0).close()
print("held")
"""
    assert as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[touch])) == "held\nread-only\n"


def test_flags_of_an_ordinary_users_scratch_are_gone_with_the_call(as_an_ordinary_user):
    """The folder is the program's own there, which may set what `lsattr` shows; since Linux 6.6."""
    flags = """
import fcntl, os
folder = os.open("/tmp", os.O_RDONLY)
try:
    before = fcntl.ioctl(folder, 0x80086601, bytes(8))
    fcntl.ioctl(folder, 0x40086602, (0xC0).to_bytes(8, "little"))  # nodump, noatime
    print(before.hex(), fcntl.ioctl(folder, 0x80086601, bytes(8)) != before)
except OSError as error:
    print(error)
"""
    first, second, _ = as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[flags, flags])).splitlines()
    if "ioctl" in first:
        pytest.skip(f"files in memory have no flags here: {first}")
    assert first == second
    assert first.endswith("True")


def test_queued_signals_of_an_ordinary_users_sandbox_are_bounded(as_an_ordinary_user):
    limit = "import resource; print(resource.getrlimit(resource.RLIMIT_SIGPENDING))"
    assert as_an_ordinary_user(CALLS_OF_ONE_SESSION.format(codes=[limit])) == "(1024, 1024)\nread-only\n"


BOTH_KINDS = """
import asyncio, json
from testbed.sandbox import Bwrap, Limits
async def main():
    for forks in (True, False):
        sandbox = Bwrap(forks=forks)
        session = await sandbox.open(Limits(memory_mib=128))
        result = await session.run({picture!r})
        print(json.dumps([type(session._link).__name__, json.loads(result.stdout or json.dumps(result.stderr))]))
        await session.close()
asyncio.run(main())
"""


def test_an_ordinary_users_program_finds_the_same_in_a_fork(as_an_ordinary_user):
    lines = as_an_ordinary_user(BOTH_KINDS.format(picture=PICTURE)).splitlines()
    (kind, forked), (other, alone) = map(json.loads, lines)
    assert (kind, other) == ("ForkedLink", "BwrapLink")
    assert forked.pop("user") == [["me", "me", "1"]] * 2  # of the server's namespace: it does not tell the caller's
    assert alone.pop("user") == [["me", "65534", "1"]] * 2
    for what in alone:
        assert forked[what] == alone[what], what


TWO_AT_ONCE = """
import asyncio
from testbed.sandbox import Bwrap, Limits
USE_UP = {code!r}
async def main():
    sandbox = Bwrap()
    first, second = [await sandbox.open(Limits(memory_mib=128, processes=32)) for _ in range(2)]
    print(first._link._server is second._link._server)
    for session in (first, second):
        print((await session.repl(USE_UP)).stdout, end="")
    for session in (first, second):
        await session.close()
asyncio.run(main())
"""


def test_forks_of_an_ordinary_user_have_their_own_allowance_of_processes(as_an_ordinary_user):
    """They are all the caller's to the machine; each is in a user namespace of its own, which counts for itself."""
    use_up = """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        children += 1
except BlockingIOError: pass
print(children)
"""
    same_server, first, second = as_an_ordinary_user(TWO_AT_ONCE.format(code=use_up)).splitlines()
    assert same_server == "True"
    assert int(first) == int(second) > 16


def _exit_code(command: list[str], user: int) -> int:
    try:
        return subprocess.run(command, user=user, group=user, extra_groups=[], capture_output=True).returncode
    except PermissionError:
        return 1
