"""Best of n within an attempt: what the model sees, who checks, what is booked, and what makes no sense."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import registered
from testbed.env import Environment
from testbed.errors import ContextFull, ModelError, ModelUnavailable, UsageError
from testbed.experiment_file import parse_experiment, read_experiment
from testbed.models.base import Reply, Request
from testbed.models.scripted import Scripted
from testbed.protocol import NO_ACTION, parse, write_answer, write_call
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import AttemptContext, Tool
from testbed.types import Attempt, Grade, Task


class Riddles(Environment):
    """The answer to a riddle is its number, plus one; the public check sees its first digit only."""

    id = "Riddles-v0"

    def make_tasks(self) -> Iterable[Task]:
        for n in range(10, 16):
            yield self.task(f"Riddle {n}?", str(n + 1))

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.reference)

    def public_check(self, task: Task, answer: str) -> bool:
        return answer[:1] == task.prompt.split()[1][0]


class SlowRiddles(Riddles):
    """Its grader takes its time, and not on the event loop."""

    id = "SlowRiddles-v0"
    grades_slowly = True

    def grade(self, task: Task, answer: str) -> Grade:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.02)
        return super().grade(task, answer)


ENDED: list[int] = []  # calls of each conversation that `Tally` served


class Tally(Tool):
    """Counts the calls of one conversation."""

    name: str = "tally"
    description: str = "Counts."
    calls: int = 0

    def for_attempt(self, context: AttemptContext) -> Tool:
        return self.model_copy()

    async def end_attempt(self) -> None:
        ENDED.append(self.calls)

    async def _arun(self) -> str:
        self.calls += 1
        return str(self.calls)


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(sys.modules[__name__]):
        yield


def experiment(*arms: Mapping[str, Any], env: str = "Riddles-v0", samples: int = 4, **more: Any) -> Any:
    model = {"id": "scripted", "replies": ["unused"]}
    data = {"name": "test", "samples": samples, "model": model, "env": [{"id": env}], "arm": list(arms), **more}
    return parse_experiment(data)


def best(n: int = 4, **more: Any) -> dict[str, Any]:
    return {"name": "best", "lookahead": {"kind": "best_of", "n": n, **more}}


class Same(Scripted):
    """Policies that count as one model, so that one goes on where another was interrupted."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "same"}


def right(request: Request) -> str:
    return str(int(request.messages[0]["content"].split()[1][:-1]) + 1)


def gambler(p: float, near: float = 0.0) -> Callable[..., str]:
    """Right with probability p, wrong with the right first digit with probability `near`, else all wrong."""

    def policy(request: Request, rng: np.random.Generator) -> str:
        u = rng.random()
        return write_answer(right(request) if u < p else "1x" if u < p + near else f"no {u:.3f}")

    return policy


def made(policy: Any, exp: Any, path: Path, *, model: type[Scripted] = Scripted, **options: Any) -> list[Attempt]:
    with Store.open(path) as store:
        runner = Runner(exp, store, models={"scripted": model(policy)}, back_off=0.001, **options)
        asyncio.run(runner.run())
        return sorted(store.attempts(exp.name), key=lambda a: a.id)


def answers(attempt: Attempt) -> list[str]:
    return [m["content"] for m in attempt.transcript if m["role"] == "assistant"]


def test_every_candidate_sees_the_task_alone_and_has_a_stream_of_its_own(tmp_path: Path) -> None:
    asked: list[Request] = []

    def policy(request: Request) -> str:
        assert [m["role"] for m in request.messages] == ["user"]
        asked.append(request)
        return write_answer("no")

    made(policy, experiment(best(5), {"name": "bare"}, samples=2), tmp_path / "s.sqlite")
    assert len(asked) == 6 * 2 * (5 + 1)
    assert {request.position for request in asked} == {0}
    assert len({request.stream for request in asked}) == len(asked)  # also none of the bare arm's


def test_the_first_that_is_accepted_is_submitted_and_everything_is_booked_and_kept(tmp_path: Path) -> None:
    for attempt in made(gambler(0.4), experiment(best(4)), tmp_path / "s.sqlite"):
        said = answers(attempt)
        wrong = [text for text in said if text.startswith("<answer>no")]
        assert said[:-1] == wrong[: len(said) - 1]  # nothing right was passed over
        assert attempt.answer == said[-1].removeprefix("<answer>").removesuffix("</answer>")
        assert attempt.success is (said[-1] not in wrong)
        assert attempt.success or len(said) == 4
        assert attempt.ended == "answered"
        assert attempt.cost.model_calls == attempt.cost.turns == len(said)
        assert attempt.cost.generated_tokens == sum(-(-len(text) // 4) for text in said)
        assert attempt.cost.prompt_tokens == 3 * len(said)  # "Riddle 10?" each time
        assert attempt.cost.tool_calls == min(len(said), 3)  # the last one of four is submitted unchecked


def test_a_weak_check_may_accept_what_the_grader_refuses(tmp_path: Path) -> None:
    attempts = made(gambler(0.2, near=0.4), experiment(best(6, check="public")), tmp_path / "s.sqlite")
    fooled = [a for a in attempts if a.answer == "1x"]
    assert fooled
    assert not any(a.success for a in fooled)
    assert all("accepted by the public check" in a.transcript[-1]["content"] for a in fooled if len(answers(a)) < 6)
    assert any(a.success for a in attempts)


@pytest.mark.parametrize("concurrency", [1, 7])
def test_attempts_do_not_depend_on_what_else_runs(tmp_path: Path, concurrency: int) -> None:
    exp = experiment(best(4), {"name": "bare"})
    alone = made(gambler(0.3), exp, tmp_path / "a.sqlite", concurrency=64)
    other = made(gambler(0.3), exp, tmp_path / "b.sqlite", concurrency=concurrency)
    assert len(alone) == len(other) == 6 * 4 * 2
    assert all(one.same_outcome(two) for one, two in zip(alone, other, strict=True))


def test_attempts_begun_again_after_a_fault_or_a_stop_are_the_same(tmp_path: Path) -> None:
    exp, broke = experiment(best(4)), list[int]()
    with Store.open(tmp_path / "a.sqlite") as store:
        asyncio.run(Runner(exp, store, models={"scripted": Same(gambler(0.3))}).run())
        whole = sorted(store.attempts("test"), key=lambda a: a.id)

    def breaking(request: Request, rng: np.random.Generator) -> str:
        if request.stream % 3 == 0 and request.stream not in broke:
            broke.append(request.stream)
            raise ModelUnavailable("gone for a moment")
        return gambler(0.3)(request, rng)

    def interrupted(request: Request, rng: np.random.Generator) -> str:
        if len(broke) > 5:
            raise ZeroDivisionError
        return breaking(request, rng)

    with Store.open(tmp_path / "b.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": Same(interrupted)}, back_off=0.001, concurrency=2)
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            asyncio.run(runner.run())
    with Store.open(tmp_path / "b.sqlite") as store:
        some = len(store.finished("test"))
        asyncio.run(Runner(exp, store, models={"scripted": Same(gambler(0.3))}).run())
        again = sorted(store.attempts("test"), key=lambda a: a.id)
    assert broke
    assert 0 < some < len(again)
    assert [a.transcript for a in whole] == [a.transcript for a in again]


def test_candidates_may_use_tools_and_each_has_its_own(tmp_path: Path) -> None:
    ENDED.clear()

    def policy(request: Request) -> str:
        told = [m["content"] for m in request.messages if m["role"] == "tool"]
        assert told == [str(n) for n in range(1, len(told) + 1)]
        return write_answer("no") if len(told) == 2 else write_call("tally", {})

    arm = {**best(3), "tools": ["tally"], "budget": {"turns": 9}}
    for attempt in made(policy, experiment(arm, samples=1), tmp_path / "s.sqlite"):
        assert attempt.cost.tool_calls == 3 * 2 + 2
        assert attempt.cost.observed_tokens == 6
        assert [m["content"] for m in attempt.transcript if m["role"] == "tool"] == ["1", "2"] * 3
    assert ENDED == [2] * 3 * 6


def test_a_candidate_that_does_not_answer_in_its_share_of_turns_is_given_up(tmp_path: Path) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        asked = len(request.messages) // 2
        return write_answer(right(request)) if asked == 0 and rng.random() < 0.5 else "I do not know."

    for attempt in made(policy, experiment({**best(3), "budget": {"turns": 8}}), tmp_path / "s.sqlite"):
        assert attempt.cost.turns in ((1, 3, 5) if attempt.success else (6,))
        assert attempt.ended == ("answered" if attempt.success else "limit:turns")
        assert attempt.answer == (None if not attempt.success else attempt.answer)


class Rambling(Scripted):
    """Its context is full once a message has no answer in it: the message is cut there, and no other follows it."""

    async def generate(self, request: Request) -> Reply:
        if request.messages[-1]["content"] == NO_ACTION:
            raise ContextFull("the conversation is too long.")
        reply = await super().generate(request)
        return reply if parse(reply.text).answer is not None else replace(reply, finish="context")


@pytest.mark.parametrize("turns", [3, 6])
def test_a_full_context_ends_a_candidate_and_not_the_search(tmp_path: Path, turns: int) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        return write_answer(right(request)) if rng.random() < 0.5 else "I do not know."

    exp = experiment({**best(3), "budget": {"turns": turns}}, samples=8)
    found = made(policy, exp, tmp_path / "s.sqlite", model=Rambling)
    assert {len(answers(attempt)) for attempt in found if attempt.success} == {1, 2, 3}
    failed = [attempt for attempt in found if not attempt.success]
    assert {(len(answers(attempt)), attempt.ended) for attempt in failed} == {(3, "limit:context")}
    if turns == 6:
        told = [m["content"] for m in failed[0].transcript if m["role"] == "system"]
        assert told[0] == "Candidate 1 of 3 filled the model's context."


def test_a_limit_is_blamed_where_a_candidate_that_the_context_cut_was_not_the_last(tmp_path: Path) -> None:
    budget = {"turns": 3, "generated_tokens": 8}  # two messages of four tokens
    exp = experiment({**best(3), "budget": budget}, samples=1)
    for attempt in made(lambda request: "I do not know.", exp, tmp_path / "s.sqlite", model=Rambling):
        assert (attempt.ended, attempt.cost.turns) == ("limit:generated_tokens", 2)


def test_a_limit_ends_the_search_and_nothing_is_submitted_then(tmp_path: Path) -> None:
    arm = {**best(8), "budget": {"generated_tokens": 14, "turns": 16}}
    for attempt in made(lambda request: write_answer("no"), experiment(arm), tmp_path / "s.sqlite"):
        assert attempt.ended == "limit:generated_tokens"
        assert attempt.cost.generated_tokens == 14  # two of five tokens... and the third cut at the limit
        assert attempt.success is False
        assert len(answers(attempt)) == 3


def test_where_no_check_is_left_the_candidate_at_hand_is_submitted(tmp_path: Path) -> None:
    def policy(request: Request) -> str:
        told = any(message["role"] == "tool" for message in request.messages)
        return write_answer("no") if told else write_call("tally", {})

    arm = {**best(3), "tools": ["tally"], "budget": {"tool_calls": 3}}
    for attempt in made(policy, experiment(arm, samples=1), tmp_path / "s.sqlite"):
        assert attempt.cost.tool_calls == 3  # call, check, call
        assert attempt.ended == "answered"
        assert attempt.transcript[-1]["content"] == "Candidate 2 of 3 is submitted unchecked."


def test_slow_checks_work_in_threads_and_their_time_is_the_attempts(tmp_path: Path) -> None:
    exp = experiment(best(3), env="SlowRiddles-v0", samples=1)
    for attempt in made(lambda request: write_answer("no"), exp, tmp_path / "s.sqlite"):
        assert attempt.cost.seconds >= 0.02  # the second of two equal answers is not judged again; nor is the last
    arm = {**best(50), "budget": {"seconds": 0.05, "turns": 50}}
    hasty = made(gambler(0.0), experiment(arm, env="SlowRiddles-v0", samples=1, name="hasty"), tmp_path / "s.sqlite")
    assert {attempt.ended for attempt in hasty} == {"limit:seconds"}


def test_an_answer_whose_check_outlives_the_limit_is_no_success(tmp_path: Path) -> None:
    right = lambda request: write_answer(str(int(request.messages[0]["content"].split()[1][:-1]) + 1))  # noqa: E731
    for name, seconds, ended in (("late", 0.01, "limit:seconds"), ("early", 60.0, "answered")):
        arm = {**best(3), "budget": {"seconds": seconds, "turns": 16}}
        exp = experiment(arm, env="SlowRiddles-v0", samples=1, name=name)
        for attempt in made(right, exp, tmp_path / "s.sqlite"):
            assert (attempt.ended, attempt.success) == (ended, ended == "answered")


def test_the_hash_of_an_arm_covers_its_search_and_is_as_it_was_without_one(tmp_path: Path) -> None:
    arms = [{"name": "bare"}, best(4), {**best(5), "name": "five"}, {**best(4, check="public"), "name": "public"}]
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(experiment(*arms, samples=1), store, models={"scripted": Scripted(gambler(0.5))})
        asyncio.run(runner.run())
    assert len({arm.hash for arm in runner.arms}) == 4
    assert set(runner.arms[0].identity) == {"model", "sampling", "tools", "control", "budget", "protocol"}
    assert runner.arms[1].identity["lookahead"] == {"kind": "best_of", "version": "3", "n": 4, "check": "grader"}


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"lookahead": 8}, "must be a table with a kind.*not 8"),
        ({"lookahead": {"n": 8}}, "must be a table with a kind"),
        ({"lookahead": {"kind": "best", "n": 8}}, "unknown kind of lookahead 'best'.*Did you mean 'best_of'"),
        ({"lookahead": {"kind": "best_of"}}, "needs n"),
        ({"lookahead": {"kind": "tree", "width": 2}}, "needs depth and simulations"),
        ({"lookahead": {"kind": "best_of", "n": 1}}, "n must be a whole number from 2 to 100,000, not 1"),
        ({"lookahead": {"kind": "best_of", "n": True}}, "n must be a whole number"),
        ({"lookahead": {"kind": "best_of", "n": 8, "checks": "public"}}, "Did you mean 'check'"),
        ({"lookahead": {"kind": "best_of", "n": 8, "check": "graders"}}, "Did you mean 'grader'"),
        ({"lookahead": {"kind": "best_of", "n": 17}}, "n = 17 .*turns = 16.*Raise turns to at least 17"),
        ({**best(8), "budget": {"model_calls": 7}}, "model_calls = 7"),
        ({**best(8), "budget": {"tool_calls": 6}}, "tool_calls = 6.*Raise tool_calls to at least 7"),
        ({**best(8), "budget": {"answers": 2}}, "submits one answer.*answers = 2"),
        ({**best(8), "tools": ["tally"], "control": "yoked"}, "a yoked arm replays one attempt"),
        ({**best(8), "tools": ["tally"], "replay": "first"}, "no one order of calls"),
        ({"lookahed": {"kind": "best_of", "n": 8}}, "Did you mean 'lookahead'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(arm: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        experiment({**arm, "name": "best"})
    assert re.search(says, str(caught.value)), str(caught.value)


def test_what_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        'model = "oracle"\n[[env]]\nid = "Riddles-v0"\n[[arm]]\nname = "best"\n'
        '[arm.lookahead]\nkind = "best_of"\ncheck = "public"\nn = 40\n'
    )
    with pytest.raises(UsageError, match=r"x\.toml:9: .*n = 40 candidates can never be reached"):
        read_experiment(file)


def test_an_environment_without_a_public_check_is_refused_and_others_are_named(tmp_path: Path) -> None:
    exp = experiment(best(4, check="public"), env="Addition-v0")
    with pytest.raises(UsageError, match=r"Addition-v0 as it is set up cannot") as caught:
        made(gambler(0.5), exp, tmp_path / "s.sqlite")
    assert "Game24-v0" in str(caught.value)
    assert "Riddles-v0" in str(caught.value)


def test_a_yoked_arm_does_not_replay_a_search() -> None:
    arms = [{**best(4), "tools": ["tally"], "name": "live"}, {"name": "yoked", "tools": ["tally"], "control": "yoked"}]
    with pytest.raises(UsageError, match="needs a live arm to replay"):
        experiment(*arms)
