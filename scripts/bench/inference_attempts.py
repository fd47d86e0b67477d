"""What `inference.py` has every system make: conversations of mixed length, and what that took."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIMITS = (4, 8, 16, 32, 64)  # tokens of a message
FIRST_TOKEN = 11  # below are the reference model's marks of turns and tags


@dataclass(frozen=True)
class Turn:
    """A message of a given length, and the tokens that the model is shown after it."""

    limit: int
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Attempt:
    """A conversation; no token ends a message, so that every system writes exactly as much."""

    stream: int
    prompt: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass
class Timing:
    """What a system took; `tokens` are those that were asked for."""

    tokens: int = 0
    attempts: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Generated tokens a second."""
        return self.tokens / self.seconds

    @property
    def rate_cpu(self) -> float:
        """Generated tokens a second of processor time of the whole process."""
        return self.tokens / self.cpu

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time inside."""
        seconds, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - seconds
            self.cpu += time.process_time() - cpu

    def add(self, attempt: Attempt) -> None:
        """Counts an attempt as made."""
        self.attempts += 1
        self.tokens += sum(turn.limit for turn in attempt.turns)


def workload(prompts: int, samples: int, vocabulary: int, seed: int = 0) -> list[Attempt]:
    """Attempts of mixed length at tasks of mixed length, 1 to 4 turns each, in mixed order."""
    rng = random.Random(seed)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(rng.randrange(FIRST_TOKEN, vocabulary) for _ in range(size))

    tasks = [tokens(round(30 * 10 ** rng.random())) for _ in range(prompts)]  # 30 to 300
    attempts = []
    for number in range(prompts * samples):
        turns = tuple(Turn(rng.choice(LIMITS), tokens(rng.randint(5, 40))) for _ in range(rng.randint(1, 4)))
        attempts.append(Attempt(1 + number, tasks[number % prompts], turns))
    rng.shuffle(attempts)
    return attempts
