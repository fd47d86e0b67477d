"""Policies that really play, for the `scripted` model: they read what a model reads, and nothing else.

Each plays with whatever its arm offers; without anything it guesses.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator

import numpy as np

from testbed.models.base import Request
from testbed.protocol import parse, write_answer, write_call
from testbed.types import Message

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def prompt_of(request: Request) -> str:
    """What the task says."""
    return str(request.messages[0]["content"])


def offered(request: Request) -> set[str]:
    """Names of the tools that the arm offers."""
    return {tool["function"]["name"] for tool in request.tools}


def said(messages: Iterable[Message]) -> Iterator[tuple[str, str]]:
    """Each question or answer of the model with what came back, in order."""
    asked = ""
    for message in messages:
        if message["role"] == "assistant":
            action = parse(message["content"])
            asked = action.answer or " ".join(str(value) for call in action.calls for value in call.arguments.values())
        elif asked:
            yield asked, message["content"]
            asked = ""


# -- twenty questions --------------------------------------------------------------------------------------------------


def questioner(request: Request, rng: np.random.Generator) -> str:
    """Halves what is left, roughly, by "greater" or "less" at random; then says what it is.

    Since the two are as likely, a yes to somebody else's question tells nothing.
    """
    low, high = 1, int(re.search(r"from 1 to (\d+)", prompt_of(request))[1])  # type: ignore[index]
    silent = "ask" not in offered(request)
    for question, reply in said(request.messages):
        low, high, understood = _narrowed(low, high, question, reply)
        silent = silent or not understood
    if low >= high or silent:
        return write_answer(str(rng.integers(low, max(low, high) + 1)))
    quarter = (high - low) // 4
    pivot = int(rng.integers(low + quarter, high - quarter))  # the upper part begins behind it
    return write_call(
        "ask", {"text": f"is it greater than {pivot}?" if rng.random() < 0.5 else f"is it less than {pivot + 1}?"}
    )


def _narrowed(low: int, high: int, question: str, reply: str) -> tuple[int, int, bool]:
    """What is left after a reply, and whether it was one."""
    asked = re.fullmatch(r"is it (greater|less) than (\d+)\?", question)
    if asked is None or reply not in ("Yes.", "No."):
        return low, high, False
    number, above = int(asked[2]), (asked[1] == "greater") is (reply == "Yes.")
    first_above = number + 1 if asked[1] == "greater" else number
    return (max(low, first_above), high, True) if above else (low, min(high, first_above - 1), True)


# -- mastermind --------------------------------------------------------------------------------------------------------


def codebreaker(request: Request, rng: np.random.Generator) -> str:
    """Guesses a code that fits all that was said so far, by tool where it can, else by answering."""
    length = int(re.search(r"code of (\d+) letters", prompt_of(request))[1])  # type: ignore[index]
    letters = re.search(r"each one of ([A-Z ]+);", prompt_of(request))[1].split()  # type: ignore[index]
    known: list[tuple[str, tuple[int, int]]] = []
    silent = "ask" not in offered(request)
    for guess, reply in said(request.messages):
        numbers = re.search(r"right place: (\d+)\D+elsewhere: (\d+)", reply)
        if numbers is None:
            silent = True
        elif int(numbers[1]) == length:
            return write_answer(guess)
        else:
            known.append((guess, (int(numbers[1]), int(numbers[2]))))
    guess = _fitting(rng, letters, length, known)
    return write_answer(guess) if silent else write_call("ask", {"text": guess})


def _fitting(
    rng: np.random.Generator, letters: list[str], length: int, known: list[tuple[str, tuple[int, int]]]
) -> str:
    """A random code that would have been judged as the guesses were; any code if none is."""
    code = ""
    for number in rng.permutation(len(letters) ** length):
        code = "".join(letters[number // len(letters) ** place % len(letters)] for place in range(length))
        if all(_pegs(code, guess) == pegs for guess, pegs in known):
            return code
    return code


def _pegs(code: str, guess: str) -> tuple[int, int]:
    right = sum(a == b for a, b in zip(code, guess, strict=False))
    return right, sum(min(n, guess.count(letter)) for letter, n in Counter(code).items()) - right


# -- frozen lake -------------------------------------------------------------------------------------------------------


def walker(request: Request, rng: np.random.Generator) -> str:
    """Plans a shortest way around the holes that it knows of, among the shortest at random, and tries it if it can."""
    size = int(re.search(r"of (\d+) rows", prompt_of(request))[1])  # type: ignore[index]
    holes: set[tuple[int, int]] = set()
    tries = "simulate" in offered(request)
    for asked, reply in said(request.messages):
        if "You reach the goal" in reply:
            return write_answer(" ".join(re.findall(r"left|down|right|up", asked)))
        found = re.search(r"hole at row (\d+), column (\d+)", reply)
        if found is None:
            tries = False
        else:
            holes.add((int(found[1]) - 1, int(found[2]) - 1))
    plan = _way(rng, size, holes)
    return write_call("simulate", {"moves": plan}) if tries else write_answer(" ".join(plan))


def _way(rng: np.random.Generator, size: int, holes: set[tuple[int, int]]) -> list[str]:
    """A shortest way from corner to corner."""
    goal, came = (size - 1, size - 1), {(0, 0): ("", (0, 0))}
    waiting = deque([(0, 0)])
    while waiting and goal not in came:
        at = waiting.popleft()
        for index in rng.permutation(len(MOVES)):
            move = list(MOVES)[index]
            to = at[0] + MOVES[move][0], at[1] + MOVES[move][1]
            if to not in came and to not in holes and min(to) >= 0 and max(to) < size:
                came[to] = move, at
                waiting.append(to)
    plan: list[str] = []
    at = goal
    while at != (0, 0) and at in came:
        move, at = came[at]
        plan.append(move)
    return plan[::-1] or ["down"]
