"""Tree search over clones of a game: what the model sees, what is bounded and booked, what is then played."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from helpers.runs import registered
from testbed.env import Environment
from testbed.errors import ContextFull, FaultKind, ToolFault, UsageError
from testbed.experiment_file import parse_experiment
from testbed.game import ScoredGame
from testbed.models.base import Reply, Request
from testbed.models.scripted import Scripted
from testbed.protocol import parse, write_answer, write_call
from testbed.registry import env_class
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Attempt, Grade, Task

WAY = "lrlr"


class Maze:
    """Every step must be the right one; the reward is the share of them that were, or only that of the last."""

    def __init__(self, sparse: bool, log: list[Maze]) -> None:
        self.made, self._sparse, self._log = "", sparse, log
        log.append(self)

    def act(self, text: str) -> str:
        if text not in ("l", "r"):
            raise ToolFault(FaultKind.INVALID_ARGS, "left or right?")
        if self.ended():
            return "over"
        self.made += text
        return "won" if self.reward() == 1 else "lost" if self.ended() else "on"

    def clone(self) -> Self:
        twin = type(self)(self._sparse, self._log)
        twin.made = self.made
        return twin

    def reward(self) -> float:
        right = len(self.made) if WAY.startswith(self.made) else 0
        return float(right == len(WAY)) if self._sparse else right / len(WAY)

    def ended(self) -> bool:
        return not WAY.startswith(self.made) or self.made == WAY

    def standing(self) -> Hashable:
        return self.made


class Mazes(Environment):
    """The answer is the way through; nobody is told it."""

    id = "Mazes-v0"
    log: ClassVar[list[Maze]] = []

    def __init__(self, sparse: bool = True, **common: Any) -> None:
        self.sparse = sparse
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        for n in range(3):
            yield self.task(f"Maze {n}.", WAY)

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.reference)

    def make_game(self, task: Task) -> ScoredGame:
        return Maze(self.sparse, self.log)


class Loop(Maze):
    """Goes round in a circle of two."""

    def reward(self) -> float:
        return 0.0

    def ended(self) -> bool:
        return False

    def standing(self) -> Hashable:
        return len(self.made) % 2


class Loops(Mazes):
    id = "Loops-v0"

    def make_game(self, task: Task) -> ScoredGame:
        return Loop(True, self.log)


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(sys.modules[__name__]):
        yield


def tree(width: int = 14, depth: int = 6, simulations: int = 100, **more: Any) -> dict[str, Any]:
    settings = {"kind": "tree", "width": width, "depth": depth, "simulations": simulations}
    return {"name": "tree", "tools": ["ask"], "budget": {"turns": 500}, "lookahead": settings, **more}


def experiment(*arms: Mapping[str, Any], env: Mapping[str, Any] | None = None, samples: int = 6) -> Any:
    model = {"id": "scripted", "replies": ["unused"], "max_tokens": 32}
    environment = [env or {"id": "Mazes-v0"}]
    return parse_experiment({"name": "t", "samples": samples, "model": model, "env": environment, "arm": list(arms)})


def made(policy: Any, exp: Any, path: Path, *, model: type[Scripted] = Scripted, **options: Any) -> list[Attempt]:
    with Store.open(path) as store:
        asyncio.run(Runner(exp, store, models={"scripted": model(policy)}, **options).run())
        return sorted(store.attempts(exp.name), key=lambda a: a.id)


def steps(messages: Iterable[Mapping[str, Any]]) -> str:
    """The moves of the model in a conversation."""
    calls = [call for m in messages if m["role"] == "assistant" for call in parse(m["content"]).calls]
    return "".join(call.arguments["text"] for call in calls)


def stepper(request: Request, rng: np.random.Generator) -> str:
    """Left or right by chance; answers with what it made once the game is over."""
    if request.messages[-1]["content"] in ("won", "lost"):
        return write_answer(steps(request.messages))
    return write_call("ask", {"text": "lr"[rng.integers(2)]})


def played(attempt: Attempt) -> list[Mapping[str, Any]]:
    """What came after the search."""
    at = next(n for n, m in enumerate(attempt.transcript) if m["content"].startswith("The search ends"))
    return list(attempt.transcript[at + 1 :])


def test_a_way_is_found_on_clones_and_then_made_in_the_game(tmp_path: Path) -> None:
    Mazes.log.clear()
    attempts = made(stepper, experiment(tree(), {"name": "ask", "tools": ["ask"]}), tmp_path / "s.sqlite")
    searched = [a for a in attempts if any("Simulation" in m["content"] for m in a.transcript)]
    assert len(searched) == 18
    assert all(a.success and a.answer == WAY for a in searched)
    assert all(steps(played(a)) == WAY for a in searched)
    assert sum(bool(a.success) for a in attempts) < 18 + 9  # step by step one in sixteen finds it
    assert all(len(game.made) <= len(WAY) for game in Mazes.log)


def test_everything_is_booked_and_kept(tmp_path: Path) -> None:
    for attempt in made(stepper, experiment(tree()), tmp_path / "s.sqlite"):
        texts = [m["content"] for m in attempt.transcript if m["role"] == "assistant"]
        results = [m for m in attempt.transcript if m["role"] == "tool"]
        again = len(WAY)  # moves made in the game were generated in the search
        assert attempt.cost.model_calls == attempt.cost.turns == len(texts) - again
        assert attempt.cost.tool_calls == len(results)
        assert attempt.cost.observed_tokens == len(results)  # every reply is one token
        after = [m["content"] for m in played(attempt) if m["role"] == "assistant"]
        assert attempt.cost.generated_tokens == sum(-(-len(t) // 4) for t in texts) - sum(
            -(-len(t) // 4) for t in after[:again]
        )
        tried = [m for m in attempt.transcript if re.match(r"Position \d+: reward", m["content"])]
        assert len(results) == len(tried) + again


def test_the_model_sees_each_position_as_if_it_had_played_its_way_there(tmp_path: Path) -> None:
    streams: list[int] = []

    def policy(request: Request, rng: np.random.Generator) -> str:
        streams.append(request.stream)
        roles = [m["role"] for m in request.messages]
        assert roles == ["user"] + ["assistant", "tool"] * (len(roles) // 2)
        assert WAY.startswith(steps(request.messages))  # lost ways are not gone on with
        return stepper(request, rng)

    attempts = made(policy, experiment(tree(), samples=3), tmp_path / "s.sqlite")
    assert len(streams) == len(set(streams)) == sum(a.cost.model_calls for a in attempts)


@pytest.mark.parametrize("concurrency", [1, 5])
def test_attempts_do_not_depend_on_what_else_runs(tmp_path: Path, concurrency: int) -> None:
    one = made(stepper, experiment(tree()), tmp_path / "a.sqlite", concurrency=64)
    two = made(stepper, experiment(tree()), tmp_path / "b.sqlite", concurrency=concurrency)
    assert all(a.same_outcome(b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("width", "depth", "simulations"), [(2, 3, 5), (4, 2, 50), (3, 6, 2)])
def test_width_depth_and_simulations_are_bounds(tmp_path: Path, width: int, depth: int, simulations: int) -> None:
    def wanderer(request: Request, rng: np.random.Generator) -> str:
        if any(m["role"] == "system" for m in request.messages):
            raise AssertionError("notes are for readers")
        return write_call("ask", {"text": "lr"[rng.integers(2)]}) if len(request.messages) < 20 else write_answer("x")

    arm = tree(width, depth, simulations)
    for attempt in made(wanderer, experiment(arm, env={"id": "Mazes-v0", "sparse": False}), tmp_path / "s.sqlite"):
        search = attempt.transcript[: len(attempt.transcript) - len(played(attempt))]
        asked = [re.match(r"Simulation (\d+), at position (\d+):", m["content"]) for m in search]
        numbers = [(int(a[1]), int(a[2])) for a in asked if a]
        positions = [position for _, position in numbers]
        assert max(number for number, _ in numbers) <= simulations
        assert max(positions.count(position) for position in set(positions)) <= width
        assert len(steps(played(attempt)[: 2 * depth])) <= depth


def test_positions_of_equal_standing_are_not_searched_twice(tmp_path: Path) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        assert len(request.messages) <= 1 + 2 * 1 + 2  # from the circle's second position no way leads further
        return write_call("ask", {"text": "lr"[rng.integers(2)]}) if len(request.messages) < 4 else write_answer("x")

    for attempt in made(policy, experiment(tree(2, 50, 400), env={"id": "Loops-v0"}), tmp_path / "s.sqlite"):
        assert attempt.cost.model_calls < 12
        assert any("reached before" in m["content"] for m in attempt.transcript)


def test_without_a_win_the_best_position_is_made_and_the_model_goes_on(tmp_path: Path) -> None:
    env = {"id": "Mazes-v0", "sparse": False}
    for attempt in made(stepper, experiment(tree(14, 2, 60), env=env), tmp_path / "s.sqlite"):
        assert steps(played(attempt)).startswith(WAY[:2])  # half of the way is worth a half
        assert attempt.ended == "answered"
    for attempt in made(stepper, experiment(tree(14, 2, 60)), tmp_path / "sparse.sqlite"):
        assert "No move is worth making" in next(
            m["content"] for m in attempt.transcript if m["content"].startswith("The search ends")
        )
        assert attempt.ended == "answered"


class Rambling(Scripted):
    """Its context is full once a message has no move in it."""

    async def generate(self, request: Request) -> Reply:
        reply = await super().generate(request)
        return reply if parse(reply.text).does_something else replace(reply, finish="context")


def test_a_proposal_that_the_context_cuts_leads_nowhere_and_the_search_goes_on(tmp_path: Path) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        return "I go on and on." if rng.random() < 0.2 else stepper(request, rng)

    attempts = made(policy, experiment(tree(), samples=2), tmp_path / "s.sqlite", model=Rambling)
    assert any(m["content"] == "No move." for a in attempts for m in a.transcript)
    assert sum(bool(a.success) for a in attempts) > 3  # of six: some ramble after the search, too


@pytest.mark.parametrize("searches", [False, True])
def test_the_context_is_blamed_for_a_cut_on_the_last_turn_unless_the_search_was_still_on(
    searches: bool, tmp_path: Path
) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        return "I go on and on." if searches or request.position else stepper(request, rng)

    budget = {"turns": 2, "generated_tokens": 8192} if not searches else {"turns": 9, "prompt_tokens": 1}
    exp = experiment({**tree(simulations=1, depth=1), "budget": budget}, samples=2)
    for attempt in made(policy, exp, tmp_path / "s.sqlite", model=Rambling):
        assert attempt.ended == ("limit:prompt_tokens" if searches else "limit:context")


class Forgetful(Scripted):
    """Its context holds a prompt and so many moves with what came of each."""

    moves = 2

    async def generate(self, request: Request) -> Reply:
        if len(request.messages) > 1 + 2 * self.moves:
            raise ContextFull("the conversation is too long.")
        return await super().generate(request)


def test_a_position_that_fills_the_context_is_left_and_the_search_goes_on(tmp_path: Path) -> None:
    exp = experiment(tree(width=20), env={"id": "Mazes-v0", "sparse": False}, samples=2)
    for attempt in made(stepper, exp, tmp_path / "s.sqlite", model=Forgetful):
        told = [m["content"] for m in attempt.transcript if m["role"] == "system"]
        assert any("fills the model's context." in text for text in told)
        (played,) = [text for text in told if text.startswith("The search ends")]
        assert re.search(r"of reward 0\.[1-9]", played)  # as far as could be seen
        assert told.index(played) == len(told) - 2  # once more after the moves were made, which ends the attempt
        assert attempt.ended == "limit:context"


def test_a_prompt_that_fills_the_context_ends_the_attempt_though_it_would_search(tmp_path: Path) -> None:
    class Full(Forgetful):
        moves = -1

    for attempt in made(stepper, experiment(tree(), samples=2), tmp_path / "s.sqlite", model=Full):
        assert (attempt.ended, attempt.cost.model_calls) == ("limit:context", 0)


def test_messages_without_a_move_and_moves_that_no_rule_knows_lead_nowhere(tmp_path: Path) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        if (u := rng.random()) < 0.2:
            return "Let me think."
        if u < 0.4:
            return write_answer(WAY)  # it cannot know it, and the grader is not asked
        return write_call("ask", {"text": "up"}) if u < 0.6 else stepper(request, rng)

    attempts = made(policy, experiment(tree(30, 6, 200)), tmp_path / "s.sqlite")
    notes = [m["content"] for a in attempts for m in a.transcript if m["role"] == "system"]
    assert "No move." in notes
    assert sum(a.faults.get("invalid_args", 0) for a in attempts) > 10
    assert all("up" not in steps(played(a)[: 2 * len(WAY)]) for a in attempts)


@pytest.mark.parametrize(
    "limits",
    [
        {"tool_calls": 5},
        {"calls": {"ask": 5}},
        {"observed_tokens": 5},
        {"turns": 9},
        {"model_calls": 9},
        {"generated_tokens": 120},
    ],
)
def test_what_it_takes_to_make_the_moves_and_to_answer_is_kept(tmp_path: Path, limits: dict[str, Any]) -> None:
    def policy(request: Request, rng: np.random.Generator) -> str:
        searching = request.position == 0
        return write_call("ask", {"text": "lr"[rng.integers(2)]}) if searching else write_answer("x")

    arm = tree(14, 4, 8, budget={"turns": 500, **limits})
    attempts = made(policy, experiment(arm, env={"id": "Mazes-v0", "sparse": False}), tmp_path / "s.sqlite")
    moved = [steps(played(attempt)) for attempt in attempts]
    assert len(set(moved)) > 1  # the limit is felt, but something was found
    for attempt, moves in zip(attempts, moved, strict=True):
        assert attempt.ended == "answered"
        assert WAY.startswith(moves)
        assert attempt.faults == {}


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (tree(tools=[]), r"offers no tool; write tools = \[\"ask\"\]"),
        (tree(tools=["ask", "simulate"]), "one live tool"),
        (tree(control="inert"), r"ask \(inert\)"),
        (tree(control="yoked"), "replays one attempt"),
        (tree(replay="first"), "no one order of calls"),
        (tree(budget={"turns": 40}), "simulations = 100 can never be reached within turns = 40.*above 100"),
        (tree(budget={"turns": 500, "generated_tokens": 50}), r"one message \(32, max_tokens.*generated_tokens = 50"),
        (tree(budget={"turns": 500, "answers": 2}), "answers = 2"),
        (tree(width=1), "width must be a whole number from 2"),
        (tree(depth=0), "depth must be a whole number from 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(arm: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        experiment(arm)
    assert re.search(says, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("env", "tool", "says"),
    [
        ("Mastermind-v0", "ask", "Mastermind-v0 has none; .*FrozenLake-v0.*can be searched"),
        ("Addition-v0", "ask", "makes none"),
        ("FrozenLake-v0", "simulate", "'simulate' only tries moves.*Offer \"ask\""),
        ("FrozenLake-v0", "python", "'python' acts on no game"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_stored(
    tmp_path: Path, env: str, tool: str, says: str
) -> None:
    exp = experiment(tree(tools=[tool]), env={"id": env})
    with pytest.raises(UsageError) as caught:
        asyncio.run(
            Runner(exp, lambda: pytest.fail("the store was opened"), models={"scripted": Scripted(stepper)}).run()
        )
    assert re.search(says, str(caught.value)), str(caught.value)


def test_lakes_say_how_they_stand() -> None:
    env = env_class("FrozenLake-v0")(tasks=1, size=3)
    walk = env.make_game(env.tasks[0])
    assert isinstance(walk, ScoredGame)
    start = walk.standing()
    assert (walk.reward(), walk.ended()) == (0, False)
    for move in env.reference_answer(env.tasks[0]).split():
        assert walk.clone().standing() == walk.standing()
        walk.act(move)
        assert walk.standing() != start
    assert (walk.reward(), walk.ended()) == (1, True)
