"""The life of an environment's tools and loops, vectors of environments, and `gymnasium.make`."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from helpers.reversing import Reverse, play, turn
from testbed.budget import Budget
from testbed.errors import SandboxUnavailable, TransportError, UnknownName
from testbed.protocol import write_answer, write_call
from testbed.tool import AttemptContext, Tool, ToolSet

# -- life of tools and loops


class Service(Tool):
    name: str = "service"
    description: str = "Has a life."
    log: list[str] = []  # noqa: RUF012  pydantic copies it
    fails: str = ""

    def for_attempt(self, context: AttemptContext) -> Tool:
        self.log.append("attempt")
        return self

    async def start(self) -> None:
        if self.fails == "start":
            raise SandboxUnavailable("install it")
        self.log.append("start")

    async def end_attempt(self) -> None:
        self.log.append("end")

    async def aclose(self) -> None:
        self.log.append("close")

    async def _arun(self) -> str:
        if self.fails == "call":
            raise ConnectionError("gone")
        return "ok"


def test_tools_start_with_the_first_call_and_end_with_attempts_and_environment() -> None:
    service = Service()
    env = Reverse(tools=[service])
    env.reset(seed=0)
    assert service.log == []
    env.step(write_call("service", {}))
    env.step(write_call("service", {}))
    env.reset(seed=0)
    env.step(write_call("service", {}))
    env.close()
    env.close()
    assert service.log == ["start", "attempt", "end", "attempt", "end", "close"]


def test_an_environment_can_be_used_again_after_close() -> None:
    env = Reverse(tools=[turn])
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(write_call("turn", {"text": "ab"}))[0]["text"] == "ba"
        env.close()


def test_a_tool_that_cannot_start_says_so_to_the_caller() -> None:
    env = Reverse(tools=[Service(fails="start")])
    env.reset(seed=0)
    with pytest.raises(SandboxUnavailable, match="install it"):
        env.step(write_call("service", {}))
    env.close()


def test_a_broken_tool_is_an_error_to_the_caller_and_the_next_attempt_is_sound() -> None:
    service = Service(fails="call")
    env = Reverse(tools=[service])
    env.reset(seed=0)
    with pytest.raises(TransportError):
        env.step(write_call("service", {}))
    service.fails = ""
    env.reset(seed=0)
    assert env.step(write_call("service", {}))[0]["text"] == "ok"
    env.close()


def test_a_bare_environment_needs_no_thread() -> None:
    before = threading.active_count()
    env = Reverse()
    for seed in range(3):
        play(env, ["hm", write_answer("x")], seed=seed)
    assert threading.active_count() == before


def test_can_be_stepped_while_an_event_loop_runs() -> None:
    async def main() -> str:
        env = Reverse(tools=[turn])
        env.reset(seed=0)
        text = env.step(write_call("turn", {"text": "ab"}))[0]["text"]
        env.close()
        return text

    assert asyncio.run(main()) == "ba"


# -- vector environments and gymnasium.make


def vector_of(kind: Callable[..., Any], **more: Any) -> Any:
    return kind([lambda: Reverse(tools=[turn]) for _ in range(3)], **more)


@pytest.mark.parametrize(("kind", "more"), [(SyncVectorEnv, {}), (AsyncVectorEnv, {"shared_memory": False})])
def test_vector_environments_play_attempts_side_by_side(kind: Any, more: dict[str, Any]) -> None:
    vector = vector_of(kind, **more)
    observations, _ = vector.reset(seed=5)
    single = Reverse()
    expected = [single.reset(seed=5 + n)[0]["text"] for n in range(3)]
    assert list(observations["text"]) == expected
    assert observations["remaining"].shape == (3, 6)
    observations, rewards, *_ = vector.step(tuple(write_call("turn", {"text": f"é{n}"}) for n in range(3)))
    assert list(observations["text"]) == ["0é", "1é", "2é"]
    answers = [word.removeprefix("Reverse the word ").removesuffix(".")[::-1] for word in expected]
    _, rewards, terminations, _, _ = vector.step(tuple(write_answer(a) for a in (answers[0], "wrong", answers[2])))
    assert rewards.tolist() == [1, 0, 1]
    assert terminations.all()
    observations, *_ = vector.step(("", "", ""))  # begins the next attempts
    assert all(text.startswith("Reverse the word") for text in observations["text"])
    vector.close()


def test_errors_in_another_process_arrive_whole() -> None:
    vector = vector_of(AsyncVectorEnv, shared_memory=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium logs the error too
        with pytest.raises(UnknownName, match="Did you mean 'task'"):
            vector.reset(seed=0, options={"tsak": 1})
        vector.close(terminate=True)


def test_a_tool_set_can_be_shared_between_environments() -> None:
    shared = ToolSet([turn])
    one, other = Reverse(tools=shared), Reverse(tools=shared)
    for env in (one, other):
        env.reset(seed=0)
        assert env.step(write_call("turn", {"text": "ab"}))[0]["text"] == "ba"
    one.close()
    assert other.step(write_call("turn", {"text": "cd"}))[0]["text"] == "dc"
    other.close()


MAKE = """
import warnings
warnings.simplefilter("error")
import gymnasium as gym
env = gym.make("testbed:testbed/Addition-v0", digits=2, tasks=3)
observation, info = env.reset(seed=0)
print(observation["text"])
print(env.step("<answer>x</answer>")[1:4])
print(env.spec.id)
env.close()
"""


def test_gymnasium_makes_environments_without_a_prior_import() -> None:
    done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, timeout=60, check=True)
    prompt, step, name = done.stdout.splitlines()
    assert prompt.startswith("What is ")
    assert step == "(0.0, True, False)"
    assert name == "testbed/Addition-v0"


class Locked(Tool):
    name: str = "locked"
    description: str = "Holds a lock."
    lock: Any = None
    made: ClassVar[list[str]] = []

    def _run(self) -> str:
        return str(self.lock.locked())


def test_gymnasium_takes_tools_and_budgets_and_can_copy_its_specification() -> None:
    locked = Locked(lock=threading.Lock())
    env = gym.make("testbed:testbed/Addition-v0", tools=(turn, locked), budget=Budget(tool_calls=1))
    env.reset(seed=0)
    observation, *_ = env.step(write_call("locked", {}))
    assert observation["text"].startswith("False\n")
    assert env.spec is not None
    assert env.spec.kwargs["tools"][1] is locked
    env.close()


def test_bare_environments_can_be_pickled() -> None:
    env = pickle.loads(pickle.dumps(gym.make("testbed:testbed/Addition-v0").unwrapped.spec))
    assert env.id == "testbed/Addition-v0"
