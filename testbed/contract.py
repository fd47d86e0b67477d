"""What every environment and tool must do, one property at a time: the contract behind `testbed check`.

A plug-in that keeps it can be measured: attempts repeat, arms differ in their tools alone, and answers are judged
rightly. A property that does not hold is a finding, not an error; whatever a plug-in raises is one too.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from testbed.budget import Budget
from testbed.env import Environment
from testbed.errors import ToolFault
from testbed.game import CloneableGame, ScoredGame
from testbed.protocol import write_answer
from testbed.spaces import Utf8
from testbed.tool import Tool

MOST_TASKS = 200  # tasks that are looked at
LONGEST = 500  # characters of what a plug-in raised
LOOKED_INTO = 5  # tasks whose games are played
SLOWLY = 4  # tasks of an environment whose grader takes its time
CARD = ("Source:", "Expected:", "Contamination:")
WRONG = ("", " ", "\0", "no such answer", "9" * 50_000)
_QUOTED = re.compile(r'"([^"]+)"|(\w+)')  # moves that a prompt names


@dataclass(frozen=True)
class Finding:
    """One property of an environment or tool.

    Attributes:
        what: what must hold.
        problem: why it does not; empty where it does.
    """

    what: str
    problem: str = ""


class Broken(Exception):
    """A property does not hold; the message says why."""


def must(holds: object, problem: str) -> None:
    """Ends the look at a property that does not hold.

    Raises:
        Broken: it does not.
    """
    if not holds:
        raise Broken(problem)


def _warned(holds: Callable[[MakeEnv], None], make: MakeEnv) -> None:
    """A look in which warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holds(make)


def raised_by(look: Callable[[], object]) -> BaseException | None:
    """What somebody else's code raises, also to end the program; None where it does not."""
    try:
        look()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, it is what was found
        return error
    return None


def found(what: str, error: BaseException | None) -> Finding:
    """What became of the look at a property."""
    if error is None or isinstance(error, Broken):
        return Finding(what, str(error or ""))
    return Finding(what, f"{type(error).__name__}: {error}"[:LONGEST])


class Nothing(Tool):
    """A tool to offer where it does not matter which."""

    name: str = "nothing"
    description: str = "Does nothing."

    def _run(self, text: str) -> str:
        return "nothing"


MakeEnv = Callable[..., Environment]


def check_environment(make: MakeEnv) -> Iterator[Finding]:
    """Looks at an environment.

    Args:
        make: makes one; takes the options of `testbed.env.Common`.
    """
    for what, holds in ENVIRONMENT.items():
        made: list[Environment] = []

        def making(made: list[Environment] = made, **options: Any) -> Environment:
            made.append(make(**options))
            return made[-1]

        raised = [raised_by(partial(_warned, holds, making)), *(raised_by(env.close) for env in made)]
        yield found(what, next(filter(None, raised), None))


def _says_what_it_is(make: MakeEnv) -> None:
    cls = type(make())
    must(re.fullmatch(r"[A-Z]\w*-v\d+", cls.id), f"the id {cls.id!r} is not of the form Name-v0")
    must(cls.__doc__ and cls.__doc__ != Environment.__doc__, "the class has no docstring")
    lacking = [part for part in CARD if part not in cls.card]
    must(not lacking, f"the card lacks {', '.join(lacking)}")


def _gymnasium_agrees(make: MakeEnv) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(make(), skip_render_check=True)


def _tasks_are_the_same(make: MakeEnv) -> None:
    one, two = ([task.hash for task in make().tasks] for _ in range(2))
    must(one == two, "two instances list other tasks: draw them from a generator with a seed of its own")
    must(len(one) > 1, "there is one task only")


def _tasks_are_well_formed(make: MakeEnv) -> None:
    env = make()
    for task in env.tasks:
        must(task.environment == env.id, f"a task says it is of {task.environment!r}: make tasks by self.task(…)")
        must(task.prompt.strip(), "a prompt is blank")
        must(task.prompt in Utf8(), f"the prompt {task.prompt[:60]!r} is no text that UTF-8 can hold")
        must(env.reference_answer(task).strip(), f"the reference of {task.prompt[:60]!r} is blank")
        json.dumps(dict(task.meta), allow_nan=False)


def _same_seed_same_attempt(make: MakeEnv) -> None:
    def play(seed: int) -> list[Any]:
        env = make()
        seen: list[Any] = [env.reset(seed=seed), env.step("I think"), env.step(write_answer("42"))]
        played: list[Any] = json.loads(json.dumps(seen, default=lambda array: array.tolist()))
        return played

    def begun(seed: int) -> str:
        return make().reset(seed=seed)[0]["text"]

    must(play(5) == play(5), "two attempts under seed 5 differ")
    must(len({begun(seed) for seed in range(5, 14)}) > 1, "every seed begins the same attempt")


def _some(env: Environment) -> int:
    """How many tasks are graded."""
    return SLOWLY if env.grades_slowly else MOST_TASKS


def _grader_is_right(make: MakeEnv) -> None:
    env = make()
    problems = env.validate(_some(env)).problems
    must(not problems, f"it {'; '.join(problems[:3])}")
    must(any(True for _ in env.near_misses(env.tasks[0])), "near_misses names no wrong answer that looks right")


def _oracle_succeeds(make: MakeEnv) -> None:
    env = make()
    for task in env.tasks[: _some(env)]:
        env.reset(options={"task": task})
        _, reward, terminated, truncated, info = env.step(write_answer(env.reference_answer(task)))
        must((reward, terminated, truncated) == (1.0, True, False), f"the reference fails at {task.prompt[:60]!r}")
        must(info["score"] in (None, 1.0), f"success has the score {info['score']} at {task.prompt[:60]!r}")


def _wrong_answers_fail(make: MakeEnv) -> None:
    env, text = make(), Utf8(seed=0)
    tasks = env.tasks[: _some(env)]
    for task in tasks:
        for answer in WRONG:
            must(not env.grade(task, answer).success, f"{answer[:20]!r} is right at {task.prompt[:60]!r}")
    lucky = float(np.mean([env.grade(task, text.sample()).success for task in tasks]))
    must(lucky < 0.02, f"random texts are right {lucky:.0%} of the time")


def _other_answers_fail(make: MakeEnv) -> None:
    env = make()
    tasks = env.tasks[: _some(env)]
    answers = [env.reference_answer(task) for task in tasks]
    pairs = zip(tasks, answers[1:] + answers[:1], strict=True)
    right = float(np.mean([env.grade(task, answer).success for task, answer in pairs]))
    must(right < 0.5, f"the next task's answer is right {right:.0%} of the time")


def _public_check_is_no_stricter(make: MakeEnv) -> None:
    env = make()
    for task in env.tasks[: _some(env)]:
        accepted = env.public_check(task, env.reference_answer(task))
        must(accepted in (None, True), f"public_check refuses the reference at {task.prompt[:60]!r}")


def _games_are_fair(make: MakeEnv) -> None:
    env = make()
    for task in env.tasks[:LOOKED_INTO]:
        if (game := env.make_game(task)) is None:
            continue
        pieces = (piece for pair in _QUOTED.findall(task.prompt) for piece in pair if piece)
        moves = [*WRONG, *dict.fromkeys(pieces), env.reference_answer(task)]
        if isinstance(game, CloneableGame):
            _played(game.clone(), moves)
        same = _played(game, moves) == _played(env.make_game(task), moves)
        must(same, f"a game of {task.prompt[:60]!r} depends on more than its task and its moves, or a clone is not one")


def _played(game: Any, moves: Sequence[str]) -> list[str]:
    """What a game says to each move."""
    said = []
    for move in moves:
        try:
            said.append(game.act(move))
        except ToolFault as fault:
            said.append(f"{fault.kind}: {fault}")
        must(isinstance(said[-1], str), f"a game answers {move[:20]!r} with {said[-1]!r:.60}, which is no text")
        if isinstance(game, ScoredGame):
            must(0 <= game.reward() <= 1, f"a game's reward is {game.reward()}, not from 0 to 1")
    return said


def _grading_repeats(make: MakeEnv) -> None:
    env = make()
    for task in env.tasks[: min(20, _some(env))]:
        for answer in (env.reference_answer(task), "42"):
            must(env.grade(task, answer) == env.grade(task, answer), f"{answer[:40]!r} is judged in two ways")


def _prompt_is_the_same(make: MakeEnv) -> None:
    bare, offering = make(), make(tools=[Nothing()])
    for n, task in enumerate(bare.tasks[:20]):
        shown = [env.reset(options={"task": n})[0]["text"] for env in (bare, offering)]
        must(shown == [task.prompt] * 2, "the prompt depends on the tools")


def _limits_are_named(make: MakeEnv) -> None:
    env = make(budget=Budget(turns=2))
    env.reset(seed=0)
    env.step("hm")
    _, reward, terminated, truncated, info = env.step("hm")
    ended = (reward, terminated, truncated, info.get("limit"))
    must(ended == (0.0, False, True, "turns"), f"two turns end with {ended}")


def _works_in_a_vector(make: MakeEnv) -> None:
    from gymnasium.vector import SyncVectorEnv

    vector = SyncVectorEnv([make] * 3)
    vector.reset(seed=1)
    _, rewards, terminated, _, _ = vector.step((write_answer("no such answer"), "hm", ""))
    must(not rewards.any() and terminated.tolist() == [True, False, False], "three at once do not take their steps")


ENVIRONMENT: Mapping[str, Callable[[MakeEnv], None]] = {
    "it says what it is: id, docstring, card": _says_what_it_is,
    "Gymnasium's checker agrees": _gymnasium_agrees,
    "its tasks are the same in every instance": _tasks_are_the_same,
    "its tasks are well formed": _tasks_are_well_formed,
    "the same seed gives the same attempt": _same_seed_same_attempt,
    "its grader accepts references and refuses near misses": _grader_is_right,
    "the reference answer succeeds": _oracle_succeeds,
    "empty and random answers fail": _wrong_answers_fail,
    "answers of other tasks mostly fail": _other_answers_fail,
    "grading repeats itself": _grading_repeats,
    "its public check is no stricter than its grader": _public_check_is_no_stricter,
    "its games depend on their moves alone, and clones are apart": _games_are_fair,
    "the prompt is the same whatever is offered": _prompt_is_the_same,
    "limits end an attempt and are named": _limits_are_named,
    "it works in a vector": _works_in_a_vector,
}
