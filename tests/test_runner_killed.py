"""Runs that are ended from outside, and what the store has then."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.runs import SAY_AND_ECHO, same, stored
from testbed.errors import UsageError
from testbed.store import Store

FIXED = """\
name = "killed"
seed = 5
samples = {samples}
[model]
id = "scripted"
policy = "{policy}:gamble"
[[env]]
id = "Say-v0"
tasks = 50
[[arm]]
name = "bare"
[[arm]]
name = "echo"
tools = ["echo"]
"""

STOPPING_EARLY = """\
name = "adaptive"
seed = 5
samples = {{ min = 8, max = 200, stop = "verdict" }}
arm = [
  {{ name = "bare" }},
  {{ name = "yoked", tools = ["echo"], control = "yoked" }},
  {{ name = "echo", tools = ["echo"] }},
]
[measure]
elicitation = 16
[model]
id = "scripted"
policy = "{policy}:mixed"
[[env]]
id = "Say-v0"
tasks = 60
"""

POLICIES = """\
from testbed.protocol import write_answer, write_call
def gamble(request, rng):
    if len(request.messages) < 3:
        return write_call("echo", {"text": str(rng.random())})
    return write_answer(request.messages[0]["content"][4:-1] if rng.random() < .5 else "no")
def mixed(request, rng):
    number = request.messages[0]["content"][4:-1]
    if request.tools and request.messages[-1]["role"] != "tool":
        return write_call("echo", {"text": str(rng.random())})
    chance = (0.0, 0.03, 0.2, 1.0)[int(number) % 4]
    return write_answer(number if rng.random() < chance else "no")
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    (tmp_path / "policy.py").write_text(POLICIES)

    def command(experiment: str, store: str, samples: int = 0) -> list[str]:
        file = tmp_path / "experiment.toml"
        file.write_text(experiment.format(samples=samples, policy=tmp_path / "policy.py"))
        where = ["--store", str(tmp_path / store), "--plugin", str(SAY_AND_ECHO)]
        return [sys.executable, "-m", "testbed", "run", str(file), *where]

    return command


def kill_later(command: list[str], path: Path, run: str, seconds: float) -> bool:
    """Starts a run and kills it so long after it has stored an attempt; whether it still ran then."""
    before = _count(path, run)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and _count(path, run) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


@pytest.mark.parametrize(("kills", "samples"), [(3, 40), pytest.param(20, 150, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_store_ends_equal_to_an_uninterrupted_run(
    tmp_path: Path, command: Callable[..., list[str]], kills: int, samples: int
) -> None:
    rng = random.Random(11)
    subprocess.run(command(FIXED, "whole.sqlite", samples), check=True, capture_output=True)
    again, path = command(FIXED, "killed.sqlite", samples), tmp_path / "killed.sqlite"
    killed_at = [_count(path) for _ in range(kills) if kill_later(again, path, "killed", rng.uniform(0.0, 0.2))]
    assert any(0 < made < 2 * 50 * samples for made in killed_at)
    subprocess.run(command(FIXED, "killed.sqlite", samples), check=True, capture_output=True)
    whole, killed = stored(tmp_path / "whole.sqlite", "killed"), stored(tmp_path / "killed.sqlite", "killed")
    assert len(whole) == 2 * 50 * samples
    assert same(whole, killed)


@pytest.mark.slow
def test_killed_at_random_moments_a_run_that_stops_early_makes_the_same_attempts(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    rng = random.Random(11)
    again, path = command(STOPPING_EARLY, "killed.sqlite"), tmp_path / "killed.sqlite"
    kills = sum(kill_later(again, path, "adaptive", rng.uniform(0.0, 0.5)) for _ in range(8))
    for store in ("killed.sqlite", "whole.sqlite"):
        subprocess.run(command(STOPPING_EARLY, store), check=True, capture_output=True)
    whole, killed = stored(tmp_path / "whole.sqlite", "adaptive"), stored(tmp_path / "killed.sqlite", "adaptive")
    assert kills > 2
    assert 60 * 3 * 8 < len(whole) < 60 * 3 * 200 * 0.75
    assert same(whole, killed)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    process = subprocess.Popen(command(FIXED, "s.sqlite", 2000), stderr=subprocess.PIPE, text=True)
    path = tmp_path / "s.sqlite"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (path.exists() and _count(path) > 100):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Go on with: testbed run" in said
    assert 100 < _count(path) < 2 * 50 * 2000


def _count(path: Path, run: str = "killed") -> int:
    try:
        with Store.open(path, create=False) as store:
            return len(store.finished(run))
    except UsageError:
        return 0  # not created yet
