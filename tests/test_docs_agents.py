"""The examples of docs/agents.md, as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done

PAGE = (Path(__file__).parents[1] / "docs" / "agents.md").read_text(encoding="utf-8")

HANGS = """\
import asyncio, time

async def never_ends(env):
    while True:
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            pass

async def leaves_a_thread(env):
    await asyncio.to_thread(time.sleep, 1000)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's files."""
    for name, text in zip(("my_agent.py", "my_graph.py"), blocks("python"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "sums.toml").write_text(blocks("toml")[0], encoding="utf-8")
    return tmp_path


def test_the_function_is_run_and_reported(testbed: Callable[..., Done], folder: Path) -> None:
    done = testbed("run", "sums.toml", "--agent", "my_agent.py:solve")
    assert done.code == 0, done.err
    arms = {arm["name"]: arm for arm in testbed("report", "sums", "--json").data["arms"]}
    assert arms["calculator"]["successes"] == arms["calculator"]["attempts"] == 32
    assert 4 < arms["bare"]["successes"] < 28
    assert "agent:my_agent.py:solve; seed 0" in testbed("report", "sums").out
    shown = testbed("show", "sums", "--arm", "calculator").out
    assert "success" in shown


def test_the_maker_is_run_in_a_run_of_another_name(testbed: Callable[..., Done], folder: Path) -> None:
    text = (folder / "sums.toml").read_text(encoding="utf-8").replace('"sums"', '"graph"')
    (folder / "graph.toml").write_text(text, encoding="utf-8")
    done = testbed("run", "graph.toml", "--agent", "my_graph.py:make")
    assert done.code == 0, done.err
    arms = testbed("report", "graph", "--json").data["arms"]
    assert {arm["successes"] for arm in arms} == {0}
    assert {arm["attempts"] for arm in arms} == {32}


def test_what_to_do_next_names_the_agent(testbed: Callable[..., Done], folder: Path) -> None:
    (folder / "down.py").write_text(
        'from testbed.errors import NotRecorded\n\ndef solve(env):\n    raise NotRecorded("lost")\n', encoding="utf-8"
    )
    text = blocks("toml")[0].replace("samples = 4", "samples = 1").replace("tasks = 8", "tasks = 1")
    (folder / "sums.toml").write_text(text, encoding="utf-8")
    done = testbed("run", "sums.toml", "--agent", "down.py:solve")
    assert done.code == 3
    assert "testbed run sums.toml --agent down.py:solve" in done.err


def test_another_agent_does_not_go_on_with_the_run(testbed: Callable[..., Done], folder: Path) -> None:
    assert testbed("run", "sums.toml", "--agent", "my_agent.py:solve").code == 0
    done = testbed("run", "sums.toml", "--agent", "my_graph.py:make")
    assert done.code == 2
    assert "another name" in done.err


@pytest.mark.parametrize("agent", ["never_ends", "leaves_a_thread"])
def test_the_command_ends_whatever_an_agent_leaves_behind(agent: str, folder: Path) -> None:
    (folder / "hangs.py").write_text(HANGS, encoding="utf-8")
    text = blocks("toml")[0].replace("samples = 4", "samples = 1").replace("tasks = 8", "tasks = 1")
    (folder / "sums.toml").write_text(text.replace("seconds = 60", "seconds = 0.2"), encoding="utf-8")
    line = [sys.executable, "-m", "testbed", "run", "sums.toml", "--agent", f"hangs.py:{agent}"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "2 of 2 attempts are stored" in done.stderr) == (0, True), done.stderr
