"""Agents whose outcomes are the same at each attempt at a task, for good reasons and for bad ones.

Tasks are "Say N.": of an even N they know the answer, of an odd one they do not.
"""

from __future__ import annotations

from typing import Any

from helpers.some_agents import number

kept: dict[Any, int] = {}  # what an agent remembers from attempt to attempt; tests empty it


def _knows(env: Any) -> bool:
    return int(number(env.task_prompt)) % 2 == 0


def _wrong(env: Any, ways: int = 1000) -> str:
    return f"{number(env.task_prompt)}{env.np_random.integers(ways):03}"


def sure(env: Any) -> str:
    """Drawn anew each time: certain of what it knows, and at a loss in a new way where it does not."""
    env.reset()
    return number(env.task_prompt) if _knows(env) else _wrong(env)


def cached(env: Any) -> str:
    """One answer a task."""
    env.reset()
    return number(env.task_prompt) if _knows(env) else number(env.task_prompt) + "000"


def stamped(env: Any) -> str:
    """One answer a task, with a time in the text around it."""
    env.step(f"At {env.np_random.random():.6f} I think.")
    return f"It is {env.np_random.integers(10**6)} o'clock: <answer>{cached_answer(env)}</answer>"


def cached_answer(env: Any) -> str:
    return number(env.task_prompt) if _knows(env) else number(env.task_prompt) + "000"


def greedy(env: Any) -> str:
    """Always the same words, but for a random number that a tool, were there one, might have given."""
    env.step(f"The tool gave the id {env.np_random.integers(10**9):x}.")
    return cached_answer(env)


def spaced(env: Any) -> str:
    """One answer a task, in letters and spaces that differ."""
    env.reset()
    return cached_answer(env) if _knows(env) else env.np_random.choice(["Not  sure", "not sure", " NOT sure "])


def two(env: Any) -> str:
    """One of two cached answers."""
    env.reset()
    return number(env.task_prompt) if _knows(env) else _wrong(env, 2)


def learning(env: Any) -> str:
    """No attempt like the last one: it rules out what it tried before."""
    env.reset()
    if _knows(env):
        return number(env.task_prompt)
    kept[env.task_prompt] = kept.get(env.task_prompt, 0) + 1
    return f"{number(env.task_prompt)}{kept[env.task_prompt]:03}"
