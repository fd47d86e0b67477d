from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.sparse import lil_array
from scipy.sparse.csgraph import shortest_path

from testbed.budget import Budget
from testbed.envs.frozen_lake import MOVES, OVER, Walk, shortest
from testbed.errors import ToolFault, UsageError
from testbed.protocol import write_answer, write_call
from testbed.registry import make_env, make_tool
from testbed.types import Task

CLASSIC = ("SFFF", "FHFH", "FFFH", "HFFG")  # Gymnasium's own map "4x4"
STEPS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def length(lake: tuple[str, ...]) -> float:
    """Fewest moves from corner to corner, by scipy."""
    n = len(lake)
    graph = lil_array((n * n, n * n))
    for r in range(n):
        for c in range(n):
            for dr, dc in STEPS.values():
                inside = 0 <= r + dr < n and 0 <= c + dc < n
                if inside and "H" not in (lake[r][c], lake[r + dr][c + dc]):
                    graph[r * n + c, (r + dr) * n + c + dc] = 1
    return float(shortest_path(graph.tocsr(), unweighted=True, indices=0)[n * n - 1])


@pytest.fixture
def classic() -> tuple[Any, Task]:
    env = make_env("FrozenLake-v0", tasks=1)
    return env, Task(env.id, "Walk.", {"map": list(CLASSIC), "plan": shortest(CLASSIC)})


def test_references_are_shortest() -> None:
    for task in make_env("FrozenLake-v0", tasks=60, ice=0.6).tasks:
        assert len(task.reference["plan"].split()) == length(tuple(task.reference["map"]))
    assert len(shortest(CLASSIC).split()) == 6


def test_a_lake_that_cannot_be_crossed_has_no_plan() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        shortest(("SHF", "HFF", "FFG"))


def test_a_walk_goes_as_gymnasiums_own_environment_does() -> None:
    rng = np.random.default_rng(3)
    own = gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=False)
    for _ in range(200):
        own.reset(seed=0)
        walk, over = Walk(CLASSIC), False
        while not over:
            action = int(rng.integers(4))
            state, reward, over, _, _ = own.step(action)
            said = walk.act(MOVES[action])
            assert f"row {state // 4 + 1}, column {state % 4 + 1}" in said
            assert (walk.over, walk.arrived, OVER in said) == (over, reward == 1, over)
        assert walk.act("left") == OVER
    own.close()


@pytest.mark.parametrize(
    ("plan", "right", "said"),
    [
        ("right right down down down right", True, "You reach the goal at row 4, column 4"),
        ("RIGHT, right,down\ndown down right", True, "You reach the goal"),
        ("up right right left right down down left right down right", True, "You reach the goal"),
        ("right right down down down", False, "You are at row 4, column 3, on ice"),
        ("right down", False, "You fall into the hole at row 2, column 2"),
        ("right down left", False, "Move 3 comes after the end. After move 2: You fall"),
        ("right right down down down right right", False, "Move 7 comes after the end"),
        ("right right jump", False, "Move 3: there is no move 'jump'; the moves are left, down, right, up"),
        ("", False, "Move 1: there is no move"),
        ("left " * 501, False, "at most 500 moves"),
    ],
)
def test_plans_are_tried(classic: tuple[Any, Task], plan: str, right: bool, said: str) -> None:
    env, task = classic
    grade = env.grade(task, plan)
    assert (grade.success, said in grade.detail) == (right, True), grade.detail


def test_plans_begin_at_the_start_wherever_tools_have_walked() -> None:
    env = make_env("FrozenLake-v0", tasks=1, tools=[make_tool("ask")], budget=Budget(turns=100))
    env.reset(options={"task": 0})
    plan = env.reference_answer(env.tasks[0])
    heard = [env.step(write_call("ask", {"text": move}))[0]["text"] for move in plan.split()]
    assert "You reach the goal" in heard[-1]
    assert env.step(write_answer(plan))[1] == 1.0
    env.close()


def test_a_clone_walks_alone() -> None:
    walk = Walk(CLASSIC)
    walk.act("right")
    twin = walk.clone()
    assert "hole at row 2, column 2" in twin.act("down")
    assert (twin.over, walk.over) == (True, False)
    assert "row 1, column 3" in walk.act("right")
    assert Walk(CLASSIC).act("down") == "You are at row 2, column 1, on ice."


def test_a_wrong_plan_is_told_where_it_failed() -> None:
    env = make_env("FrozenLake-v0", tasks=1, budget=Budget(answers=2))
    env.reset(options={"task": 0})
    said = env.step(write_answer("up"))[0]["text"]
    assert said == "That is wrong. After move 1: You are at row 1, column 1, on ice. Answers left: 1."


def test_a_hidden_map_is_not_in_the_prompt_and_its_lakes_are_the_same() -> None:
    shown, hidden = (make_env("FrozenLake-v0", tasks=30, map_shown=shown).tasks for shown in (True, False))
    assert [task.reference for task in shown] == [task.reference for task in hidden]
    assert all("\n".join(task.reference["map"]) in task.prompt for task in shown)
    assert not any(row in task.prompt for task in hidden for row in task.reference["map"])


def test_lakes_are_different_and_a_seed_makes_others() -> None:
    maps = [tuple(task.reference["map"]) for task in make_env("FrozenLake-v0", tasks=100).tasks]
    assert len(set(maps)) == 100
    others = [tuple(task.reference["map"]) for task in make_env("FrozenLake-v0", tasks=100, seed=1).tasks]
    assert not set(maps) & set(others)


@pytest.mark.parametrize("move", ["", "north", "right right", "2", "\0", "ri\u0261ht"])
def test_what_is_no_move_is_refused_and_nothing_moves(move: str) -> None:
    walk = Walk(CLASSIC)
    with pytest.raises(ToolFault, match="there is no move"):
        walk.act(move)
    assert "row 1, column 2" in walk.act(" Right ")


@pytest.mark.parametrize("options", [{"size": 2}, {"size": 13}, {"ice": 0.4}, {"ice": 1.0}, {"tasks": 0}, {"seed": -1}])
def test_options_have_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be from"):
        make_env("FrozenLake-v0", **options)


def test_more_lakes_than_there_are_cannot_be_had() -> None:
    with pytest.raises(UsageError, match="found no 100 different lakes of size 3"):
        make_env("FrozenLake-v0", size=3, tasks=100).tasks  # noqa: B018  made on first use
