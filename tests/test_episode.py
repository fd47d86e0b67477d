from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.budget import Budget
from testbed.episode import WRONG, Episode, Step
from testbed.errors import TransportError, UsageError
from testbed.protocol import NO_ACTION, TOOLS_SPENT, write_answer, write_call
from testbed.tool import AttemptContext, Tool, ToolSet
from testbed.types import Grade, Task, Usage, canonical

TASK = Task("Echo-v0", "Say hi.", "hi")


class Echo(Tool):
    name: str = "echo"
    description: str = "Repeats."

    async def _arun(self, text: str) -> str:
        return text


class Broken(Tool):
    name: str = "broken"
    description: str = "Is unplugged."

    async def _arun(self) -> str:
        raise ConnectionError("unplugged")


def grade(task: Task, answer: str) -> Grade:
    return Grade(answer == task.reference, score=0.5, detail="looked")


def episode(budget: Budget | None = None, tools: ToolSet | None = None) -> Episode:
    return Episode(TASK, grade, tools or ToolSet([Echo()]), budget or Budget(), len, AttemptContext(7))


def say(under_way: Episode, text: str, **usage: Any) -> Step:
    """One turn."""
    under_way.read(text, Usage(**usage))
    return under_way.finish(asyncio.run(under_way.run_tools()))


def roles(under_way: Episode) -> list[str]:
    return [message["role"] for message in under_way.transcript]


def test_begins_with_the_prompt_alone() -> None:
    assert episode().transcript == [{"role": "user", "content": "Say hi."}]
    assert not episode().over


@pytest.mark.parametrize(("answer", "reward"), [("hi", 1.0), ("ho", 0.0), ("", 0.0)])
def test_an_answer_is_graded_and_ends_the_attempt(answer: str, reward: float) -> None:
    under_way = episode()
    observation, got, terminated, truncated, info = say(under_way, write_answer(answer))
    assert (observation["text"], got, terminated, truncated) == ("", reward, True, False)
    assert (info["grade"], info["score"]) == ("looked", 0.5)
    assert (under_way.ended, under_way.answer, under_way.over) == ("answered", answer, True)


def test_nothing_can_be_said_after_the_end() -> None:
    under_way = episode()
    say(under_way, write_answer("hi"))
    with pytest.raises(UsageError, match=r"over; call reset\(\)"):
        under_way.read("more", Usage())


def test_results_are_shown_in_order_and_only_what_is_new() -> None:
    under_way = episode()
    say(under_way, write_call("echo", {"text": "one"}))
    observation, *_ = say(under_way, write_call("echo", {"text": "two"}) + write_call("echo", {"text": "three"}))
    assert observation["text"] == "two\nthree"
    assert roles(under_way) == ["user", "assistant", "tool", "assistant", "tool", "tool"]


def test_a_message_that_does_nothing_is_told_so_once_a_time() -> None:
    under_way = episode()
    observation, _, terminated, truncated, _ = say(under_way, "hm")
    assert (observation["text"], terminated, truncated) == (NO_ACTION, False, False)
    assert under_way.transcript[-1] == {"role": "user", "content": NO_ACTION}


def test_faults_are_counted_by_kind_and_stand_in_the_transcript() -> None:
    under_way = episode()
    say(under_way, write_call("echo", {}) + write_call("nope", {}) + "<tool_call>{</tool_call>")
    *_, info = say(under_way, write_call("echo", {}))
    assert under_way.faults == {"invalid_args": 2, "tool_not_found": 1, "parse_error": 1}
    assert info["faults"] == under_way.faults
    assert [m["fault"] for m in under_way.transcript if m["role"] == "tool"] == [
        "invalid_args",
        "tool_not_found",
        "parse_error",
        "invalid_args",
    ]


def test_a_bare_arm_that_calls_is_refused_metered_and_goes_on() -> None:
    under_way = episode(tools=ToolSet())
    observation, *_ = say(under_way, write_call("python", {"code": "1"}))
    assert "No tools are offered." in observation["text"]
    assert under_way.cost().tool_calls == 1
    assert TOOLS_SPENT not in observation["text"]
    _, reward, *_ = say(under_way, write_answer("hi"))
    assert reward == 1


def test_when_the_tool_budget_is_spent_the_observation_says_so_and_the_attempt_goes_on() -> None:
    under_way = episode(Budget(tool_calls=2))
    first, *_ = say(under_way, write_call("echo", {"text": "a"}))
    last, _, terminated, truncated, _ = say(under_way, write_call("echo", {"text": "b"}))
    assert first["text"] == "a"
    assert last["text"] == f"b\n{TOOLS_SPENT}"
    assert not terminated
    assert not truncated
    refused, *_ = say(under_way, write_call("echo", {"text": "c"}))
    assert "budget_exhausted" in refused["text"]
    assert say(under_way, write_answer("hi"))[1] == 1


@pytest.mark.parametrize("budget", [Budget(observed_tokens=3), Budget(calls={"echo": 1})])
def test_tokens_of_output_and_calls_by_tool_are_tool_budgets_too(budget: Budget) -> None:
    observation, _, terminated, truncated, _ = say(episode(budget), write_call("echo", {"text": "abcdef"}))
    assert observation["text"].endswith(TOOLS_SPENT)
    assert observation["text"].startswith("abc")
    assert not terminated
    assert not truncated


@pytest.mark.parametrize(
    ("budget", "usage", "limit"),
    [
        (Budget(turns=1), {}, "turns"),
        (Budget(model_calls=1), {}, "model_calls"),
        (Budget(generated_tokens=5), {"generated_tokens": 5}, "generated_tokens"),
        (Budget(prompt_tokens=5), {"prompt_tokens": 6}, "prompt_tokens"),
        (Budget(usd=0.5), {"usd": 0.5}, "usd"),
    ],
)
def test_a_limit_that_runs_out_truncates_and_is_named(budget: Budget, usage: dict[str, Any], limit: str) -> None:
    under_way = episode(budget)
    observation, reward, terminated, truncated, info = say(under_way, "hm", **usage)
    assert (reward, terminated, truncated, info["limit"]) == (0.0, False, True, limit)
    assert under_way.ended == f"limit:{limit}"
    assert NO_ACTION not in observation["text"]  # nobody is there to be told


def test_a_limit_of_seconds_truncates() -> None:
    under_way = episode(Budget(seconds=0.01))
    time.sleep(0.02)
    *_, truncated, info = say(under_way, "hm")
    assert truncated
    assert info["limit"] == "seconds"


@pytest.mark.parametrize(
    ("budget", "usage"),
    [
        (Budget(turns=1), {}),
        (Budget(model_calls=1), {}),
        (Budget(generated_tokens=5), {"generated_tokens": 5}),
        (Budget(prompt_tokens=5), {"prompt_tokens": 5}),
        (Budget(usd=0.5), {"usd": 0.5}),
    ],
)
def test_an_answer_exactly_at_a_limit_counts(budget: Budget, usage: dict[str, Any]) -> None:
    assert say(episode(budget), write_answer("hi"), **usage)[1:4] == (1.0, True, False)


@pytest.mark.parametrize(
    ("budget", "usage", "limit"),
    [
        (Budget(generated_tokens=5), {"generated_tokens": 6}, "generated_tokens"),
        (Budget(prompt_tokens=5), {"prompt_tokens": 6}, "prompt_tokens"),
        (Budget(usd=0.5), {"usd": 0.51}, "usd"),
    ],
)
def test_an_answer_beyond_a_limit_does_not(budget: Budget, usage: dict[str, Any], limit: str) -> None:
    under_way = episode(budget)
    _, reward, terminated, truncated, info = say(under_way, write_answer("hi"), **usage)
    assert (reward, terminated, truncated, info["limit"]) == (0.0, False, True, limit)
    assert under_way.grade is None


def test_an_attempt_that_is_ended_from_outside_is_over_and_says_why() -> None:
    under_way = episode()
    say(under_way, "hm")
    under_way.end("limit:context", "500 tokens do not fit into 400")
    assert under_way.over
    assert under_way.ended == "limit:context"
    assert under_way.transcript[-1] == {"role": "system", "content": "500 tokens do not fit into 400"}
    with pytest.raises(UsageError):
        under_way.read("more", Usage())


def test_cost_adds_up_over_the_attempt() -> None:
    under_way = episode()
    say(under_way, write_call("echo", {"text": "abc"}), prompt_tokens=10, generated_tokens=40, usd=0.1)
    say(under_way, write_answer("hi"), prompt_tokens=20, generated_tokens=20)
    cost = under_way.cost()
    assert cost.seconds > 0
    assert {**cost.as_dict(), "seconds": 0} == {
        "generated_tokens": 60,
        "prompt_tokens": 30,
        "observed_tokens": 3,
        "model_calls": 2,
        "tool_calls": 1,
        "turns": 2,
        "seconds": 0,
        "usd": 0.1,
    }


def test_no_clock_in_observation_or_info() -> None:
    def play() -> list[Any]:
        under_way = episode(Budget(seconds=1000, tool_calls=3))
        steps = [say(under_way, text) for text in ("hm", write_call("echo", {"text": "a"}), write_answer("hi"))]
        return [({**o, "remaining": o["remaining"].tolist()}, *rest) for o, *rest in steps]

    first = play()
    time.sleep(0.01)
    assert play() == first
    assert "seconds" not in canonical(first)


def test_transcript_says_what_was_left_after_each_result() -> None:
    under_way = episode(Budget(turns=None, tool_calls=3, calls={"echo": 2}))
    say(under_way, write_call("echo", {"text": "a"}))
    assert under_way.transcript[-1]["remaining"] == {"tool_calls": 2, "calls.echo": 1}


def test_faults_of_the_infrastructure_pass_through() -> None:
    under_way = episode(tools=ToolSet([Broken()]))
    with pytest.raises(TransportError, match="unplugged"):
        say(under_way, write_call("broken", {}))
    assert under_way.faults == {}


@given(st.lists(st.text(st.characters()) | st.just('<tool_call>{"name":"\\ud800"}</tool_call>'), max_size=4))
def test_whatever_a_model_writes_the_transcript_can_be_stored(texts: list[str]) -> None:
    under_way = episode()
    for text in texts:
        if not under_way.over:
            say(under_way, text)
    canonical(under_way.transcript).encode()


# -- several answers


def test_a_wrong_answer_before_the_last_is_told_and_the_attempt_goes_on() -> None:
    under_way = episode(Budget(answers=3))
    observation, reward, terminated, truncated, info = say(under_way, write_answer("ho"))
    assert observation["text"] == f"{WRONG} Answers left: 2."
    assert (reward, terminated, truncated, info["grade"]) == (0.0, False, False, "looked")
    assert (under_way.answer, under_way.answers, under_way.over) == ("ho", 1, False)
    assert say(under_way, write_answer("hi"))[1:4] == (1.0, True, False)
    assert (under_way.ended, under_way.answer, under_way.answers) == ("answered", "hi", 2)
    assert roles(under_way) == ["user", "assistant", "user", "assistant"]


def test_the_last_answer_ends_the_attempt_right_or_wrong() -> None:
    under_way = episode(Budget(answers=2))
    say(under_way, write_answer("ho"))
    observation, reward, terminated, _, _ = say(under_way, write_answer("ha"))
    assert (observation["text"], reward, terminated, under_way.ended) == ("", 0.0, True, "answered")


def test_feedback_is_the_environments_and_is_metered_like_a_tools_output() -> None:
    def near(task: Task, answer: str, grade: Grade) -> str:
        return f"{answer} is near {len(task.reference)}."

    under_way = Episode(TASK, grade, ToolSet([]), Budget(answers=2), len, AttemptContext(7), near)
    observation = say(under_way, write_answer("ho"))[0]
    assert observation["text"] == "ho is near 2. Answers left: 1."
    assert under_way.cost().observed_tokens == len(observation["text"])


def test_a_limit_that_a_wrong_answer_reaches_ends_the_attempt() -> None:
    under_way = episode(Budget(answers=3, turns=1))
    _, reward, terminated, truncated, info = say(under_way, write_answer("ho"))
    assert (reward, terminated, truncated, info["limit"], under_way.ended) == (0.0, False, True, "turns", "limit:turns")
    assert under_way.grade is not None


def test_the_time_of_a_slow_grader_is_not_the_attempts() -> None:
    def slow(task: Task, answer: str) -> Grade:
        time.sleep(0.3)
        return Grade(answer == task.reference)

    under_way = Episode(TASK, slow, ToolSet([]), Budget(answers=2, seconds=0.25), len, AttemptContext(7))
    assert not say(under_way, write_answer("ho"))[3]
    assert say(under_way, write_answer("hi"))[1] == 1.0
    assert under_way.cost().seconds < 0.25
