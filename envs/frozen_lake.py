"""Gymnasium's Frozen Lake as a text game: a way over the ice that avoids the holes."""

from __future__ import annotations

import copy
import re
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map

from testbed.env import Common, Environment
from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.game import ScoredGame
from testbed.types import Grade, Task

MOVES = ("left", "down", "right", "up")  # in the order of Gymnasium's actions
SIZES = range(3, 13)
MOST_TASKS = 10_000
MOST_MOVES = 500  # of an answer that is still read
OVER = "The walk is over."


class FrozenLake(Environment):
    """A walk over ice from the start to the goal; an answer is the whole plan of moves.

    The ice is not slippery: a plan always leads to the same place. It is right if its last move reaches the goal and
    none before led into a hole; it is tried on a lake of its own, whatever was tried with tools.

    Args:
        size: rows and columns of each lake, 3 to 12.
        ice: share of squares that bear, .5 to .95; those of lakes that cannot be crossed are drawn again.
        map_shown: whether the prompt shows the map; otherwise only its size.
        tasks: lakes, 1 to 10,000, all different.
        seed: seed of the lakes, 0 or above.
        common: options of every environment.

    Raises:
        UsageError: an option is out of its range, or there are hardly so many lakes of this size.
    """

    id: ClassVar[str] = "FrozenLake-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed by gymnasium's toy-text FrozenLake (MIT licence), is_slippery=False. Expected: "
        "with a hidden map, lookahead (`simulate`) and acting step by step (`ask`) create, and bare success falls "
        "steeply with the size; with the map shown the plan is mere computing, so that they elicit and python helps "
        "as well. Several answers (Budget.answers) say where a plan failed, which is interaction. Inert and yoked add "
        "little, but a yoked walk over the same lake tells where some of its holes are. Search and retrieve add "
        "nothing. Contamination: none for the lakes, which are pseudo-random; high for the game."
    )

    def __init__(
        self,
        size: int = 6,
        ice: float = 0.7,
        map_shown: bool = True,
        tasks: int = 200,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        if size not in SIZES:
            raise UsageError(f"{self.id}: size must be from {SIZES[0]} to {SIZES[-1]}, not {size}.")
        if not 0.5 <= ice <= 0.95:
            raise UsageError(f"{self.id}: ice must be from 0.5 to 0.95, not {ice}.")
        if not 1 <= tasks <= MOST_TASKS:
            raise UsageError(f"{self.id}: tasks must be from 1 to {MOST_TASKS:,}, not {tasks}.")
        if seed < 0:
            raise UsageError(f"{self.id}: seed must be from 0 up, not {seed}.")
        self.lake_size, self.ice, self.map_shown = size, ice, map_shown
        self.size, self.task_seed = tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The lakes."""
        n = self.lake_size
        for index, lake in enumerate(self._lakes()):
            drawn = "\n".join(lake)
            shown = f"S is the start, G the goal, F ice, H a hole.\n\n{drawn}\n\n" if self.map_shown else ""
            yield self.task(
                f"Lake {index + 1}: a frozen lake of {n} rows and {n} columns, with holes in the ice. The start is at "
                f"row 1, column 1; the goal at row {n}, column {n}. {shown}Walk from the start to the goal and into no "
                "hole. The moves are left, right, up and down; one that would leave the lake leads nowhere. "
                "Answer with all the moves in order, separated by spaces.",
                {"map": list(lake), "plan": shortest(lake)},
                grader="plan/1",
                meta={"family": f"{n} × {n}"},
            )

    def _lakes(self) -> Iterable[tuple[str, ...]]:
        rng = np.random.default_rng(self.task_seed)
        lakes: dict[tuple[str, ...], None] = {}
        for _ in range(20 * self.size + 100):
            lakes[tuple(generate_random_map(self.lake_size, self.ice, int(rng.integers(2**31))))] = None
            if len(lakes) == self.size:
                return lakes
        raise UsageError(f"{self.id}: found no {self.size} different lakes of size {self.lake_size}; lower tasks.")

    def public_check(self, task: Task, answer: str) -> bool | None:
        """Whether the plan arrives, where the map is shown: whoever has the map can try it out."""
        return _try(task, answer)[0] if self.map_shown else None

    def make_game(self, task: Task) -> ScoredGame:
        """A walk over the lake."""
        return Walk(task.reference["map"])

    def reference_answer(self, task: Task) -> str:
        """A shortest plan."""
        return str(task.reference["plan"])

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether the plan, tried on a lake of its own, ends at the goal."""
        success, said = _try(task, answer)
        return Grade(success, detail=said)

    def feedback(self, task: Task, answer: str, grade: Grade) -> str:
        """Where the plan led."""
        return f"That is wrong. {grade.detail}"

    def near_misses(self, task: Task) -> Iterable[str]:
        """The shortest plan with a move missing, one too many, in the game's own numbers, in prose."""
        plan = self.reference_answer(task)
        moves = plan.split()
        yield from (" ".join(moves[:-1]), " ".join(moves[1:]), f"{plan} {moves[-1]}", f"up {plan} up")
        yield from (" ".join(str(MOVES.index(move)) for move in moves), f"Go {plan}", plan.replace(" ", ""), f"{plan}.")


class Walk:
    """A walk over one lake: Gymnasium's environment, spoken to in words.

    Args:
        lake: rows of S, F, H and G.
    """

    def __init__(self, lake: Iterable[str]) -> None:
        self._env = copy.copy(_at_start(tuple(lake)))
        self.over = self.arrived = False

    def act(self, text: str) -> str:
        """Makes one move and says where it led."""
        move = text.strip().lower()
        if move not in MOVES:
            raise ToolFault(FaultKind.INVALID_ARGS, f"there is no move {text[:50]!r}; the moves are {', '.join(MOVES)}")
        if self.over:
            return OVER
        state, reward, self.over, _, _ = self._env.step(MOVES.index(move))
        self.arrived = reward > 0
        row, column = divmod(int(state), self._env.ncol)
        place = f"row {row + 1}, column {column + 1}"
        if self.arrived:
            return f"You reach the goal at {place}. {OVER}"
        return f"You fall into the hole at {place}. {OVER}" if self.over else f"You are at {place}, on ice."

    def reward(self) -> float:
        """1 at the goal."""
        return float(self.arrived)

    def ended(self) -> bool:
        """Whether it reached the goal or a hole."""
        return self.over

    def standing(self) -> tuple[int, bool]:
        """Where it is, and whether it is over."""
        return int(self._env.s), self.over

    def clone(self) -> Self:
        """A walk that stands at the same place."""
        twin = copy.copy(self)
        twin._env = copy.copy(self._env)
        return twin


@lru_cache(1024)
def _at_start(lake: tuple[str, ...]) -> Any:
    """Gymnasium's environment, never acted on itself: walks are copies that share its map and rules."""
    env = FrozenLakeEnv(desc=list(lake), is_slippery=False)
    env.reset(seed=0)
    return env


def shortest(lake: Iterable[str]) -> str:
    """A shortest plan from the upper left to the lower right.

    Raises:
        ValueError: there is none.
    """
    rules = _at_start(tuple(lake)).P
    plans, waiting = {0: ""}, deque([0])
    while waiting:
        state = waiting.popleft()
        for action, move in enumerate(MOVES):
            (_, after, reward, over), *_ = rules[state][action]
            if reward:
                return f"{plans[state]} {move}".strip()
            if not over and after not in plans:
                plans[after] = f"{plans[state]} {move}"
                waiting.append(after)
    raise ValueError("the goal cannot be reached")


def _try(task: Task, answer: str) -> tuple[bool, str]:
    """Whether a plan ends at the goal, and what to say of it."""
    moves = re.split(r"[\s,]+", answer.strip().lower())
    if len(moves) > MOST_MOVES:
        return False, f"A plan may have at most {MOST_MOVES} moves."
    walk, said = Walk(task.reference["map"]), ""
    for number, move in enumerate(moves, 1):
        if walk.over:
            return False, f"Move {number} comes after the end. {said}"
        try:
            said = f"After move {number}: {walk.act(move)}"
        except ToolFault as fault:
            return False, f"Move {number}: {fault}."
    return walk.arrived, said
