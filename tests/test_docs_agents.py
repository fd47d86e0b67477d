"""The examples of docs/agents.md, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done

PAGE = (Path(__file__).parents[1] / "docs" / "agents.md").read_text(encoding="utf-8")


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
