"""Tasks of a run named by some of their prompt: what is not there is refused with what may be meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from helpers.two_runs import LIVE, add, tasks


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the command looks by default."""
    path = tmp_path / "testbed.sqlite"
    add(path, "r", tasks(3), {"bare": [[False]] * 3, "python": [[True]] * 3}, specs={"python": LIVE})
    return path


@pytest.mark.parametrize("pair", [[], ["--arm", "python", "--against", "bare"]])
@pytest.mark.parametrize(
    ("text", "near"),
    [("2 + 3", "The nearest: {2}"), ("1 + 1 ?", "The nearest: {1}"), ("zzzz", "Its first: {0}")],
)
def test_a_task_that_is_not_there_is_refused_with_the_nearest_and_where_all_are(
    store: Path, testbed: Callable[..., Done], pair: list[str], text: str, near: str
) -> None:
    done = testbed("show", "r", "--task", text, *pair)
    assert (done.code, done.out) == (2, "")
    assert f"no task of run 'r' has {text!r} in its prompt" in done.err
    named = [f"{task.hash[:12]} '{task.prompt}'." for task in tasks(3)]
    assert near.format(*named) in done.err
    assert "A page of the run has all 3, in its map of tasks: testbed report r --html FILE" in done.err


def test_a_task_at_which_no_attempt_failed_is_there(store: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("show", "r", "--task", "1 + 1?", "--arm", "python", "--failed")
    assert (done.code, done.err) == (0, "")
    assert "No attempt of run 'r' matches --arm python --task '1 + 1?' --failed." in done.out
