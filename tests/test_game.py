"""What tools act on: who gets a game, whose it is, and what `ask` and `simulate` make of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.tools import BaseTool

from testbed.env import Environment
from testbed.errors import FaultKind, ModelUnavailable, ToolFault, UsageError
from testbed.experiment_file import parse_experiment
from testbed.game import CloneableGame, Game
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.registry import make_env, make_tool
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import AttemptContext, Tool, ToolSet
from testbed.types import Attempt, Grade, Task


class Counting:
    """Counts how often it was acted on."""

    def __init__(self) -> None:
        self.count = 0

    def act(self, text: str) -> str:
        if text == "break":
            raise ToolFault(FaultKind.INVALID_ARGS, "nothing is broken here")
        self.count += 1
        return f"{text} {self.count}"


class Cloned(Counting):
    def clone(self) -> Cloned:
        twin = Cloned()
        twin.count = self.count
        return twin


class Games(Environment):
    """Tasks with a game; task 1 has none."""

    id = "Games-v0"
    made: list[Task]

    def make_tasks(self) -> Iterable[Task]:
        for n in range(3):
            yield self.task(f"Count {n}.", "3")

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.reference)

    def make_game(self, task: Task) -> Game | None:
        self.made = [*getattr(self, "made", []), task]
        return None if task.prompt == "Count 1." else self.game()

    def game(self) -> Game:
        return Cloned()


class Stuck(Counting):
    """Never answers a question in time."""

    over = threading.Event()  # nobody waits for its answers any more
    answered: ClassVar[list[str]] = []

    def act(self, text: str) -> str:
        self.over.wait(60)
        self.answered.append(text)
        return "late"


class Slow(Games):
    id = "Slow-v0"

    def game(self) -> Game:
        return Stuck()


class Secret(Games):
    """Games that cannot be cloned."""

    id = "Secret-v0"

    def game(self) -> Game:
        return Counting()


class Peek(Tool):
    """Needs no game, and says whether it was given one."""

    name: str = "peek"
    description: str = "Says whether there is a game."
    seen: list[Any]

    def for_attempt(self, context: AttemptContext) -> Tool:
        self.seen.append(context.game)
        return self

    async def _arun(self) -> str:
        return "looked"


@pytest.fixture
def playing() -> Iterator[Any]:
    made: list[Environment] = []

    def playing(*tools: BaseTool, env: type[Games] = Games, task: int = 0, control: str = "") -> Any:
        from testbed.types import Control
        from testbed.wrappers import under_control

        offered = under_control(tools, Control(control)) if control else tools
        made.append(env(tools=ToolSet(offered)))
        made[-1].reset(options={"task": task})
        return made[-1]

    yield playing
    for env in made:
        env.close()


def told(env: Environment, tool: str, **arguments: Any) -> str:
    return env.step(write_call(tool, arguments))[0]["text"]


def test_protocols_tell_games_that_can_be_cloned_from_those_that_cannot() -> None:
    assert isinstance(Counting(), Game)
    assert isinstance(Cloned(), CloneableGame)
    assert not isinstance(Counting(), CloneableGame)
    assert not isinstance("a text", Game)


def test_a_game_goes_on_from_call_to_call_and_begins_anew_with_each_attempt(playing: Any) -> None:
    env = playing(make_tool("ask"))
    assert [told(env, "ask", text="go") for _ in range(3)] == ["go 1", "go 2", "go 3"]
    env.reset(options={"task": 0})
    assert told(env, "ask", text="go") == "go 1"


def test_the_tools_of_an_attempt_share_its_game(playing: Any) -> None:
    second = make_tool("ask")
    second.name = "ask_too"
    env = playing(make_tool("ask"), second)
    assert [told(env, name, text="x") for name in ("ask", "ask_too", "ask")] == ["x 1", "x 2", "x 3"]


def test_what_is_simulated_did_not_happen(playing: Any) -> None:
    env = playing(make_tool("ask"), make_tool("simulate"))
    assert told(env, "ask", text="a") == "a 1"
    assert told(env, "simulate", moves=["b", "c"]) == "1. b: b 2\n2. c: c 3"
    assert told(env, "simulate", moves=["d"]) == "1. d: d 2"
    assert told(env, "ask", text="e") == "e 2"


def test_a_move_that_the_rules_do_not_know_is_the_models_fault_and_changes_nothing(playing: Any) -> None:
    env = playing(make_tool("ask"), make_tool("simulate"))
    assert told(env, "ask", text="break") == "error: invalid_args: nothing is broken here"
    simulated = told(env, "simulate", moves=["a", "break", "c"])
    assert simulated == "error: invalid_args: move 2: nothing is broken here"
    assert env.step(write_call("ask", {"text": "go"}))[4]["faults"] == {"invalid_args": 2}
    assert told(env, "ask", text="go") == "go 2"


@pytest.mark.parametrize("moves", [[], [""], ["a"] * 101, ["a" * 201], "left", [1]])
def test_simulations_have_a_length(playing: Any, moves: Any) -> None:
    env = playing(make_tool("simulate"))
    assert told(env, "simulate", moves=moves).startswith("error: invalid_args: moves")


@pytest.mark.parametrize("text", ["", "x" * 1001])
def test_questions_have_a_length(playing: Any, text: str) -> None:
    assert told(playing(make_tool("ask")), "ask", text=text).startswith("error: invalid_args: text")


def test_a_game_that_hangs_is_cut_off(playing: Any) -> None:
    assert told(playing(make_tool("ask", timeout=0.1), env=Slow), "ask", text="go").startswith("error: timeout: ask")
    assert not Stuck.answered
    Stuck.over.set()


def test_no_game_is_made_where_no_tool_acts_on_one(playing: Any) -> None:
    peek = Peek(seen=[])
    env = playing(peek)
    assert told(env, "peek") == "looked"
    assert peek.seen == [None]
    assert not hasattr(env, "made")


@pytest.mark.parametrize("control", ["inert", "yoked"])
def test_controls_get_no_game(playing: Any, control: str) -> None:
    peek = Peek(seen=[])
    env = playing(make_tool("ask"), peek, control=control)
    assert "go" not in told(env, "ask", text="go")
    assert env.episode.context.game is None
    assert not hasattr(env, "made")


def test_inert_tools_say_nothing_in_the_usual_shape(playing: Any) -> None:
    env = playing(make_tool("ask"), make_tool("simulate"), control="inert")
    assert told(env, "ask", text="go") == "No reply."
    assert told(env, "simulate", moves=["a", "b"]) == "1. a: unforeseen\n2. b: unforeseen"


def test_an_environment_without_games_is_named_with_the_tool() -> None:
    env = make_env("Addition-v0", tools=("ask",))
    with pytest.raises(UsageError, match=r"tool 'ask' acts on a game, and Addition-v0 makes none"):
        env.reset(seed=0)


def test_a_task_without_a_game_is_refused(playing: Any) -> None:
    with pytest.raises(UsageError, match=r"tool 'ask' acts on a game, and Games-v0 makes none"):
        playing(make_tool("ask"), task=1)


def test_looking_ahead_in_a_game_with_a_secret_is_refused(playing: Any) -> None:
    assert told(playing(make_tool("ask"), env=Secret), "ask", text="go") == "go 1"
    with pytest.raises(UsageError, match=r"'simulate' cannot act on the game of Secret-v0: it cannot be cloned"):
        playing(make_tool("ask"), make_tool("simulate"), env=Secret)


async def test_a_tool_without_a_game_says_so_at_the_first_call() -> None:
    from testbed.budget import Budget, Meter
    from testbed.types import ToolCall

    box = ToolSet([make_tool("ask")]).open(Meter(Budget()), len)
    with pytest.raises(UsageError, match=r"'ask' acts on a game, and none came"):
        await box.call(ToolCall("ask", {"text": "go"}))


def test_a_context_does_not_print_its_game() -> None:
    assert "Counting" not in repr(AttemptContext(1, game=Counting()))


# -- in experiments ----------------------------------------------------------------------------------------------------


def lakes(arms: list[dict[str, Any]], env: str = "FrozenLake-v0", **more: Any) -> Any:
    return parse_experiment(
        {
            "name": "games",
            "samples": 4,
            "model": {"id": "scripted", "replies": ["unused"]},
            "env": [{"id": env, **more}],
            "arm": arms,
        }
    )


async def run(policy: Any, experiment: Any, path: Path, **options: Any) -> list[Attempt]:
    with Store.open(path) as store:
        runner = Runner(experiment, store, models={"scripted": Scripted(policy)}, **options)
        await runner.run()
        return list(store.attempts(experiment.name))


async def test_attempts_under_way_together_have_games_of_their_own(tmp_path: Path) -> None:
    def policy(request: Request) -> str:
        turns = len(request.messages)
        return write_call("ask", {"text": "right" if turns == 1 else "left"}) if turns < 5 else write_answer("up")

    attempts = await run(policy, lakes([{"name": "ask", "tools": ["ask"]}], tasks=6, ice=0.95), tmp_path / "s.sqlite")
    assert len(attempts) == 24
    for task in {attempt.task for attempt in attempts}:
        heard = {tuple(m["content"] for m in a.transcript if m["role"] == "tool") for a in attempts if a.task == task}
        assert len(heard) == 1  # as if each attempt had been alone
        first, *_ = heard
        assert first[0].startswith(("You are at row 1, column 2", "You fall into the hole at row 1, column 2"))


async def test_an_attempt_that_is_tried_again_begins_a_new_game(tmp_path: Path) -> None:
    failed: set[int] = set()

    def policy(request: Request) -> str:
        if len(request.messages) == 5 and request.stream not in failed:
            failed.add(request.stream)
            raise ModelUnavailable("busy")
        return write_call("ask", {"text": "is it even"}) if len(request.messages) < 9 else write_answer("0")

    arms = [{"name": "ask", "tools": ["ask"]}]
    experiment = lakes(arms, env="TwentyQuestions-v0", questions=3, tasks=2)
    attempts = await run(policy, experiment, tmp_path / "s.sqlite", back_off=0.01)
    for attempt in attempts:
        heard = [message["content"] for message in attempt.transcript if message["role"] == "tool"]
        assert [reply in ("Yes.", "No.") for reply in heard] == [True, True, True, False]
    assert len(failed) == len(attempts) == 8


async def test_an_arm_that_lacks_a_game_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    def unwanted() -> Store:
        raise AssertionError("the store was opened")

    experiment = lakes([{"name": "bare"}, {"name": "ask", "tools": ["ask"]}], env="Multiplication-v0")
    with pytest.raises(UsageError, match=r"'ask' acts on a game, and Multiplication-v0 makes none"):
        await Runner(experiment, unwanted).run()
    inert = lakes([{"name": "inert", "tools": ["ask"], "control": "inert"}], env="Multiplication-v0", tasks=2)
    attempts = await run(lambda _: write_answer("0"), inert, tmp_path / "s.sqlite")
    assert len(attempts) == 8  # a placebo needs none
