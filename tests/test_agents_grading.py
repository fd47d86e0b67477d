"""Agents whose answers are graded slowly, in a thread: as in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import some_agents
from helpers.runs import SAY_AND_ECHO, registered
from test_agents import attempts_of
from testbed.agents_env import AttemptOver
from testbed.errors import SandboxDied
from testbed.protocol import write_answer
from testbed.registry import env_class
from testbed.types import Status


def answers_elsewhere(env: Any) -> None:
    def answer() -> None:
        with contextlib.suppress(AttemptOver):
            env.step(write_answer(some_agents.number(env.task_prompt)))

    threading.Thread(target=answer).start()
    time.sleep(0.1)


async def answers_at_the_last_moment(env: Any) -> None:
    await asyncio.sleep(0.3)
    await env.step(write_answer(some_agents.number(env.task_prompt)))


@pytest.fixture(autouse=True)
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        env = env_class("Say-v0")
        grade = env.grade

        def slow(self: Any, task: Any, answer: str) -> Any:
            time.sleep(0.4)
            return grade(self, task, answer)

        monkeypatch.setattr(env, "grades_slowly", True)
        monkeypatch.setattr(env, "grade", slow)
        for agent in (answers_elsewhere, answers_at_the_last_moment):
            monkeypatch.setattr(some_agents, agent.__name__, agent, raising=False)
        yield


@pytest.mark.parametrize(
    ("agent", "seconds"),
    [
        *[(agent, 0.5) for agent in ("plain", "stepping", "awaiting", "answers_elsewhere")],
        ("answers_at_the_last_moment", 0.69),  # less than it and the grader take together, and hardly less
    ],
)
async def test_an_answer_that_came_in_time_is_graded_however_long_that_takes(
    agent: str, seconds: float, tmp_path: Path
) -> None:
    (attempt,) = await attempts_of(agent, tmp_path, tasks=1, budget={"seconds": seconds})
    assert (attempt.ended, attempt.success) == ("answered", True)
    assert attempt.cost.seconds < seconds


@pytest.mark.parametrize("agent", ["plain", "stepping", "awaiting", "answers_elsewhere"])
async def test_a_grader_that_cannot_do_its_part_makes_missing_data(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: Any, task: Any, answer: str) -> Any:
        raise SandboxDied("the worker died")

    monkeypatch.setattr(env_class("Say-v0"), "grade", lost)
    (attempt,) = await attempts_of(agent, tmp_path, tasks=1)
    assert (attempt.status, attempt.ended) == (Status.MISSING, "missing:sandbox_died")
