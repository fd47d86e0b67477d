"""One process at a run of a store: a second one is told so before it makes anything, and only while the first lives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.command import Done
from testbed import run_alone
from testbed.errors import UsageError
from testbed.run_alone import alone_at

EXPERIMENT = """
name = "slow"
samples = 2
[model]
id = "scripted"
policy = "policy.py:slowly"
[[env]]
id = "Addition-v0"
tasks = 3
[[arm]]
name = "bare"
[[arm]]
name = "calculator"
tools = ["calculator"]
"""
POLICY = """
import time
from pathlib import Path
from testbed.protocol import write_answer
until = time.monotonic() + 60
def slowly(request, rng):
    Path("asked").touch()
    while not Path("go").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return write_answer("4")
"""


@pytest.fixture
def first(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run under way that makes no attempt before there is a file `go`, or a minute has passed."""
    (tmp_path / "policy.py").write_text(POLICY, encoding="utf-8")
    (tmp_path / "slow.toml").write_text(EXPERIMENT, encoding="utf-8")
    command = [sys.executable, "-m", "testbed", "run", "slow.toml", "--concurrency", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "asked").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_while_the_first_lives_and_goes_on_once_it_was_killed(
    testbed: Callable[..., Done], tmp_path: Path, first: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "other_name.sqlite").symlink_to("testbed.sqlite")
    for store in ("testbed.sqlite", "./testbed.sqlite", "other_name.sqlite", f"sqlite:///{tmp_path}/testbed.sqlite"):
        done = testbed("run", "slow.toml", "--store", store)
        assert done.code == 2, done.err
        assert f"process {first.pid} is making run 'slow' in this store" in done.err
        assert "stored" not in done.err
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "go").touch()
    done = testbed("run", "slow.toml")
    assert done.code == 0, done.err
    assert "12 of 12 attempts are stored" in done.err
    assert "in vain" not in done.err


def test_another_run_and_another_store_are_nobodys_matter(tmp_path: Path) -> None:
    stores = [str(tmp_path / "a.sqlite"), str(tmp_path / "b.sqlite"), "postgresql://somewhere/one"]
    runs = [(store, run) for store in stores for run in ("one", "two")]
    with alone_at(*runs[0]), alone_at(*runs[1]), alone_at(*runs[2]), alone_at(*runs[3]), alone_at(*runs[4]):
        with alone_at(*runs[5]):
            pass
        for held in runs[:5]:
            with pytest.raises(UsageError, match=f"process {os.getpid()} is making run"), alone_at(*held):
                pass
    for free in runs:
        with alone_at(*free):
            pass


def test_a_store_whose_folder_is_missing_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    store = str(tmp_path / "nowhere" / "a.sqlite")
    with alone_at(store, "one"), alone_at(store, "one"):
        pass


def test_whoever_took_the_name_and_is_no_run_refuses_nobody(tmp_path: Path) -> None:
    """A name is free for all: one that nobody answers at is no sign of a run."""
    store = str(tmp_path / "a.sqlite")
    name = run_alone._name(store, "one")
    assert name is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(name)
        with alone_at(store, "one"):
            pass
