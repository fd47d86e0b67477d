from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from helpers.reversing import Noise, Reverse, play, turn
from testbed.budget import Budget
from testbed.env import Environment, approximate_tokens
from testbed.errors import UnknownName, UsageError
from testbed.protocol import TOOLS_SPENT, write_answer, write_call
from testbed.tool import AttemptContext
from testbed.types import Grade, Task


@pytest.fixture
def env() -> Iterator[Reverse]:
    made = Reverse(tools=[turn, Noise()])
    yield made
    made.close()


CALL = write_call("noise", {})


@pytest.mark.parametrize("tools", [(), (turn, Noise())], ids=["bare", "tools"])
@pytest.mark.parametrize("budget", [None, Budget(tool_calls=1, calls={"noise": 1}, seconds=1000)], ids=["", "budget"])
def test_gymnasium_finds_nothing_wrong(tools: Any, budget: Budget | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.register("third-party/Reverse-v0", entry_point=Reverse)
        try:
            env = gym.make("third-party/Reverse-v0", tools=tools, budget=budget)
            check_env(env.unwrapped)
            env.close()
        finally:
            del gym.registry["third-party/Reverse-v0"]


def test_the_same_seed_gives_the_same_attempt(env: Reverse) -> None:
    texts = [CALL, "hm", write_call("turn", {"text": "abc"}), write_answer("x")]
    first, second = play(env, texts, seed=7), play(env, texts, seed=7)
    assert data_equivalence(first, second)


def test_different_seeds_give_different_tasks_and_streams(env: Reverse) -> None:
    played = [play(env, [CALL], seed=seed) for seed in range(20)]
    assert len({p[0][1]["task"] for p in played}) > 5
    assert len({p[1][0]["text"] for p in played}) == 20


def test_later_attempts_go_on_from_the_first_seed(env: Reverse) -> None:
    def tasks() -> list[str]:
        return [env.reset(seed=3 if n == 0 else None)[1]["task"] for n in range(10)]

    assert tasks() == tasks()


def test_tasks_depend_on_the_options_alone(env: Reverse) -> None:
    assert Reverse(seed=0).tasks == env.tasks
    assert Reverse(seed=1).tasks != env.tasks


def test_the_prompt_is_the_same_with_and_without_tools(env: Reverse) -> None:
    bare = Reverse(budget=Budget(turns=3))
    for index in range(5):
        options = {"task": index}
        assert bare.reset(options=options)[0]["text"] == env.reset(options=options)[0]["text"]


def test_tools_are_told_apart_from_the_prompt(env: Reverse) -> None:
    observation, info = env.reset(seed=0)
    assert [schema["function"]["name"] for schema in info["tools"]] == ["turn", "noise"]
    assert "turn" not in observation["text"]
    assert Reverse().reset(seed=0)[1]["tools"] == []


def test_an_episode_with_a_tool_and_the_right_answer(env: Reverse) -> None:
    observation, _ = env.reset(options={"task": 3})
    task = env.tasks[3]
    word = observation["text"].removeprefix("Reverse the word ").removesuffix(".")
    observation, reward, terminated, truncated, _ = env.step(write_call("turn", {"text": word}))
    assert (observation["text"], reward, terminated, truncated) == (task.reference, 0.0, False, False)
    _, reward, terminated, truncated, info = env.step(write_answer(observation["text"]))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["cost"]["tool_calls"] == 1


def test_observations_are_in_the_space_whatever_happens(env: Reverse) -> None:
    env.action_space.seed(0)
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            assert observation in env.observation_space
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated


def test_remaining_counts_limited_tools_too() -> None:
    env = Reverse(tools=[turn], budget=Budget(turns=4, tool_calls=3, calls={"turn": 2}))
    env.reset(seed=0)
    observation, *_ = env.step(write_call("turn", {"text": "a"}))
    assert observation["remaining"].tolist() == [-1, -1, -1, -1, 2, 3, 1]
    assert observation in env.observation_space
    env.close()


def test_text_holds_only_what_is_new(env: Reverse) -> None:
    env.reset(seed=0)
    first, *_ = env.step(write_call("turn", {"text": "first"}))
    second, *_ = env.step(write_call("turn", {"text": "second"}))
    assert (first["text"], second["text"]) == ("tsrif", "dnoces")


def test_no_clock_in_observation_or_info() -> None:
    env = Reverse(tools=[turn], budget=Budget(seconds=1000, usd=5))
    texts = [write_call("turn", {"text": "a"}), "hm", write_answer("x")]
    first = play(env, texts, seed=1)
    time.sleep(0.02)
    assert data_equivalence(first, play(env, texts, seed=1))
    assert "seconds" not in repr(first)
    env.close()


def test_a_spent_tool_budget_is_said_and_the_attempt_goes_on() -> None:
    env = Reverse(tools=[turn], budget=Budget(tool_calls=1))
    env.reset(seed=0)
    observation, _, terminated, truncated, _ = env.step(write_call("turn", {"text": "a"}))
    assert observation["text"] == f"a\n{TOOLS_SPENT}"
    assert not terminated
    assert not truncated
    env.close()


def test_a_limit_truncates_and_info_says_which() -> None:
    env = Reverse(budget=Budget(turns=2))
    env.reset(seed=0)
    assert env.step("hm")[3] is False
    *_, terminated, truncated, info = env.step("hm")
    assert (terminated, truncated, info["limit"]) == (False, True, "turns")


def test_an_answer_written_beyond_the_token_limit_does_not_count() -> None:
    env = Reverse(budget=Budget(generated_tokens=10))
    env.reset(options={"task": 0})
    answer = write_answer(env.tasks[0].reference)
    _, reward, _, truncated, info = env.step("x" * 100 + answer)
    assert (reward, truncated, info["limit"]) == (0.0, True, "generated_tokens")


@pytest.mark.parametrize("end", ["answer", "limit"])
def test_a_step_after_the_end_is_refused(end: str) -> None:
    env = Reverse(budget=Budget(turns=1))
    env.reset(seed=0)
    env.step(write_answer("x") if end == "answer" else "hm")
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        env.step("more")


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        Reverse().step("x")


@pytest.mark.parametrize("action", [3, None, b"x", ["x"]])
def test_an_action_that_is_no_text_is_refused(action: Any) -> None:
    env = Reverse()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="an action is the text"):
        env.step(action)


def test_reset_takes_a_task_by_index_hash_or_itself(env: Reverse) -> None:
    task = env.tasks[4]
    for wanted in (4, np.int64(4), task.hash, task):
        assert env.reset(options={"task": wanted})[1]["task"] == task.hash


@pytest.mark.parametrize("wanted", [-1, 20, "feed", True, 1.0, [3], Task("Other-v0", "p", "r")])
def test_reset_refuses_tasks_that_do_not_exist(env: Reverse, wanted: Any) -> None:
    with pytest.raises(UsageError, match=r"Reverse-v0 has no task .*an index below 20, or a hash"):
        env.reset(options={"task": wanted})


def test_reset_refuses_unknown_options_with_the_nearest(env: Reverse) -> None:
    with pytest.raises(UnknownName, match=r"unknown reset option 'tsak'\. Did you mean 'task'\?"):
        env.reset(options={"tsak": 3})


def test_a_context_can_be_given() -> None:
    env = Reverse(tools=[Noise()])
    shown = [env.step(CALL)[0]["text"] for key in (1, 1, 2) if env.reset(options={"context": AttemptContext(key)})]
    assert shown[0] == shown[1] != shown[2]
    env.close()


def test_render_shows_the_transcript_in_ansi_mode_alone(env: Reverse) -> None:
    shown = Reverse(tools=[turn], render_mode="ansi")
    assert shown.render() is None
    shown.reset(options={"task": 0})
    shown.step(write_call("turn", {"text": "abc"}))
    text = shown.render()
    assert text is not None
    assert text.splitlines()[0] == f"[user] {shown.tasks[0].prompt}"
    assert text.splitlines()[-1] == "[tool] cba"
    env.reset(seed=0)
    assert env.render() is None
    shown.close()


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(UnknownName, match="render mode 'human'"):
        Reverse(render_mode="human")


def test_a_budget_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"budget must be a testbed\.budget\.Budget"):
        Reverse(budget={"turns": 3})  # type: ignore[arg-type]


# -- writing one


def test_an_environment_that_implements_nothing_cannot_be_made() -> None:
    class Empty(Environment):
        id = "Empty-v0"

    with pytest.raises(TypeError, match="abstract"):
        Empty()  # type: ignore[abstract]


def test_an_environment_without_an_id_is_refused() -> None:
    class Nameless(Environment):
        def make_tasks(self) -> Iterable[Task]:
            return ()

        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(False)

    with pytest.raises(UsageError, match="Nameless has no id"):
        Nameless()


def test_no_tasks_and_double_tasks_are_refused() -> None:
    class Twice(Reverse):
        def make_tasks(self) -> Iterable[Task]:
            return [self.task("p", "r"), self.task("p", "r")]

    with pytest.raises(UsageError, match="has no tasks"):
        Reverse(tasks=0).reset()
    with pytest.raises(UsageError, match="lists the task 'p' twice; ask for fewer tasks, or for each once"):
        Twice().reset()


def test_validate_accepts_a_sound_grader_and_counts() -> None:
    assert Reverse().validate().problems == ()
    assert Reverse().validate(limit=3).checked == 3


def test_validate_finds_a_grader_that_is_too_strict_or_too_kind() -> None:
    class Strict(Reverse):
        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(False)

    class Kind(Reverse):
        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(task.reference in answer)

    class Lax(Reverse):
        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(answer in task.reference)

    assert "refuses the reference" in Strict(tasks=1).validate().problems[0]
    assert "accepts" in Kind(tasks=1).validate().problems[0]
    assert Lax(tasks=1).validate().problems[0].startswith("accepts ''")


def test_validate_finds_a_grader_that_chokes_on_what_models_write() -> None:
    class Choking(Reverse):
        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(answer == task.reference or (answer.isdigit() and int(answer) == 0))

    with pytest.raises(ValueError, match="digit"):
        Choking(tasks=1).validate()


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("漢字", 2), ("\ud800", 1)])
def test_without_a_model_four_bytes_are_a_token(text: str, tokens: int) -> None:
    assert approximate_tokens(text) == tokens
