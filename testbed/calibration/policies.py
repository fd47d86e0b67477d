"""Models whose chance of success on each task, bare and with tools, is written in a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.calibration.codes import lock_in, wrong_code
from testbed.errors import ModelUnavailable
from testbed.models.base import Reply, Request, uniforms
from testbed.models.scripted import CHARS_PER_TOKEN, Instant
from testbed.protocol import write_answer, write_call
from testbed.types import Task, Usage

Table = Mapping[str, Sequence[float]]  # label of a stratum → chance of each of its locks
Tokens = Callable[[bool, float], int]  # (whether it will succeed, a uniform number) → tokens of its message


def usual_tokens(success: bool, u: float) -> int:
    """Every message has 16 tokens."""
    return 16


@dataclass(eq=False)
class Tabular(Instant):
    """Answers right with the chance that a table gives the task, drawn from the attempt's own stream.

    It reads and writes the text protocol like any model: where a tool is offered it calls it once, then it answers
    with the code or with one that is wrong in every digit, in as many tokens as it is told to take.

    Attributes:
        name: how the experiment names it; also part of its random stream, unless streams are shared.
        bare: its chances without tools.
        tooled: its chances where tools are offered; as without them where left out.
        tokens: length of its answering message.
        draws: answers it has checked by a perfect verifier before it gives one: best of N.
        repeats: chance that an attempt repeats the outcome that all such attempts at its task have.
        shared: whether two policies draw the same numbers, as models that differ in nothing do.
        reads: whether it answers with what its tool returned, whatever its table says.
        reported: share of its tokens that it owns up to; below 1 it also writes on past its limit.
        breaks: chance that the model is unavailable where the attempt would have failed.
    """

    name: str
    bare: Table
    tooled: Table | None = None
    tokens: Tokens = usual_tokens
    draws: int = 1
    repeats: float = 0.0
    shared: bool = False
    reads: bool = False
    reported: float = 1.0
    breaks: float = 0.0

    def fingerprint(self) -> Mapping[str, str]:
        """Its name: calibration gives different policies different ones."""
        return {"kind": "tabular", "name": self.name}

    async def generate(self, request: Request) -> Reply:
        """A call where a tool waits for one, else the answer."""
        assert request.task is not None
        text, finish = self._write(request, request.task), "stop"
        if self.count(text) > request.max_tokens and self.reported == 1:  # who lies about length keeps to none
            text, finish = text[: CHARS_PER_TOKEN * request.max_tokens], "length"
        prompt = sum([self.count(message["content"]) for message in request.messages])
        return Reply(text, Usage(prompt, int(self.reported * self.count(text))), finish)

    def _write(self, request: Request, task: Task) -> str:
        told = [message["content"] for message in request.messages if message["role"] == "tool"]
        if request.tools and not told:
            return write_call(str(request.tools[0]["function"]["name"]), {"lock": lock_in(task.prompt)})
        code = str(task.reference)
        if self.reads and told:
            return write_answer(told[-1])
        success, u = self._outcome(request, task)
        if not success and uniforms(request.stream ^ _key(self.name), 64, 1)[0] < self.breaks:
            raise ModelUnavailable(f"{self.name} is not there.")
        answer = write_answer(code if success else wrong_code(code))
        return " thinking".ljust(max(0, CHARS_PER_TOKEN * self.tokens(success, u) - len(answer)), ".") + answer

    def _outcome(self, request: Request, task: Task) -> tuple[bool, float]:
        """Whether this attempt succeeds, and a uniform number for its length."""
        table = self.tooled if self.tooled is not None and request.tools else self.bare
        chance = table[str(task.meta["family"])][int(task.meta["number"])]
        salt = 0 if self.shared else _key(self.name)
        u = uniforms(request.stream ^ salt, 0, self.draws + 2)
        if u[-1] < self.repeats:
            return bool(uniforms(_key(task.hash) ^ salt, 0, 1)[0] < chance), float(u[-2])
        return bool((u[: self.draws] < chance).any()), float(u[-2])


@dataclass(eq=False)
class Guesser(Instant):
    """Knows nothing: answers with a random code, and with tools or without is right by luck alone.

    Attributes:
        name: how the experiment names it, and its random stream.
    """

    name: str

    def fingerprint(self) -> Mapping[str, str]:
        """Its name."""
        return {"kind": "guesser", "name": self.name}

    async def generate(self, request: Request) -> Reply:
        """A random code."""
        digits = np.floor(16 * uniforms(request.stream ^ _key(self.name), 0, 8)).astype(int)
        text = write_answer("".join(f"{digit:x}" for digit in digits))
        return Reply(text, Usage(0, self.count(text)))


def _key(name: str) -> int:
    """128-bit key of a policy's or a task's own stream."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
