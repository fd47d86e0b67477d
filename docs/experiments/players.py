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


def stepper(request: Request, rng: np.random.Generator) -> str:
    """Goes step by step where it can, mostly on a shortest way, and answers with the steps that it made.

    Once the walk is over it answers with a way around the hole; without steps it guesses a way.
    """
    size = int(re.search(r"of (\d+) rows", prompt_of(request))[1])  # type: ignore[index]
    at, holes, made = (0, 0), set[tuple[int, int]](), list[str]()
    steps = "ask" in offered(request)
    for move, reply in said(request.messages):
        found = re.search(r"row (\d+), column (\d+)", reply)
        if found is None:
            steps = False
            continue
        at = int(found[1]) - 1, int(found[2]) - 1
        made.append(move)
        if "goal" in reply:
            return write_answer(" ".join(made))
        if "hole" in reply:
            holes.add(at)
            steps = False
    if not steps:
        return write_answer(" ".join(_way(rng, size, holes)))
    move = str(rng.choice(list(MOVES))) if rng.random() < 0.2 else _way(rng, size, holes, at)[0]
    return write_call("ask", {"text": move})


def _way(
    rng: np.random.Generator, size: int, holes: set[tuple[int, int]], start: tuple[int, int] = (0, 0)
) -> list[str]:
    """A shortest way to the last corner."""
    goal, came = (size - 1, size - 1), {start: ("", start)}
    waiting = deque([start])
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
    while at != start and at in came:
        move, at = came[at]
        plan.append(move)
    return plan[::-1] or ["down"]


# -- the m-bit oracle --------------------------------------------------------------------------------------------------


def listener(request: Request, rng: np.random.Generator) -> str:
    """Asks once, if it can, and guesses the digits that it was not told."""
    digits = int(re.search(r"code of (\d+) binary", prompt_of(request))[1])  # type: ignore[index]
    replies = [reply for _, reply in said(request.messages)]
    if "ask" in offered(request) and not replies:
        return write_call("ask", {"text": "How does the code begin?"})
    told = re.search(r"begins with ([01]+)", replies[-1]) if replies else None
    begin = told[1] if told else ""
    return write_answer(begin + "".join(str(digit) for digit in rng.integers(2, size=digits - len(begin))))


# -- the calculator ----------------------------------------------------------------------------------------------------


def reckoner(request: Request, rng: np.random.Generator) -> str:
    """Asks the calculator, if it can; else squares and multiplies in writing, and slips once in ten times."""
    base, exponent, modulus = map(int, re.findall(r"\d+", prompt_of(request))[:3])
    replies = [reply for _, reply in said(request.messages)]
    if replies:
        return write_answer(replies[-1])
    if "calculator" in offered(request):
        return write_call("calculator", {"expression": f"{base} ** {exponent} % {modulus}"})
    value, steps = base, []
    slip = int(rng.integers(2, exponent.bit_length())) if rng.random() < 0.1 else 0
    for place, bit in enumerate(f"{exponent:b}"[1:], 1):
        for factor in (value, base) if bit == "1" else (value,):
            product = (value * factor + (place == slip)) % modulus
            steps.append(f"{value} * {factor} is {product}")
            value = product
    return f"{'; '.join(steps)}. {write_answer(str(value))}"


# -- game of 24 --------------------------------------------------------------------------------------------------------


def puzzler(request: Request, rng: np.random.Generator) -> str:
    """Joins numbers at random into whole ones; only of the last two it sees whether they make 24."""
    numbers = re.search(r"numbers ([\d ]+)\.", prompt_of(request))[1].split()  # type: ignore[index]
    parts = [(int(number), number) for number in numbers]
    while len(parts) > 1:
        parts = [parts[i] for i in rng.permutation(len(parts))]
        (a, left), (b, right) = parts.pop(), parts.pop()
        joined = [(a + b, f"({left} + {right})"), (a - b, f"({left} - {right})"), (a * b, f"({left} * {right})")]
        joined += [(a // b, f"({left} / {right})")] if b and a % b == 0 else []
        right_ones = [] if parts else [one for one in joined if one[0] == 24]
        parts.append((right_ones or joined)[rng.integers(len(right_ones or joined))])
    return write_answer(parts[0][1])
