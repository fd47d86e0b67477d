"""The m-bit oracle: codes that only guessing finds, and somebody who tells exactly so many of their digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Unpack

from testbed.code_env import CodeEnvironment
from testbed.env import Common
from testbed.game import Game
from testbed.types import Task


class Oracle(CodeEnvironment):
    """Codes of binary digits, of which whoever can ask is told the first m: known information.

    Whatever is asked, and however often, the answer of a task is the same sentence, and says m digits: m bits exactly,
    since every code is equally likely.

    Args:
        digits: binary digits of a code, 1 to 60; a list, one kind of task for each.
        told: digits that are told (m), 0 to `digits`; a list of as many.
        vaults: codes of each kind.
        seed: seed of the codes.
        common: options of every environment.

    Raises:
        UsageError: the two lists differ in length, or a number is out of its range.
    """

    id: ClassVar[str] = "Oracle-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed, no data and no licence. Expected: bare success is p = 2^-digits; m bits of a "
        "tool's output raise it to 2^m p and no further (testbed.stats.energy.success_ceiling), which asking (`ask`) "
        "attains: it creates where 2^m p passes the threshold that p does not. It is information and no interaction: "
        "everybody is told the same, so yoked is as good as live; inert adds nothing. A tool arm's further attempts "
        "learn no further bit. Several answers (Budget.answers) try a code each; python, search and retrieve add "
        "nothing. Contamination: none, codes are pseudo-random."
    )

    def __init__(
        self,
        digits: Sequence[int] = (16,),
        told: Sequence[int] = (8,),
        vaults: int = 40,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(digits, told, vaults, seed, **common)

    def prompt(self, vault: str, digits: int, told: int) -> str:
        """The question, and what whoever asks is told."""
        hint = f"Whoever can ask me anything is told its first {told} digits."
        return f"{super().prompt(vault, digits, told)} {hint} Answer with the digits alone."

    def make_game(self, task: Task) -> Game:
        """Somebody who tells the beginning of the code."""
        return _Teller(str(task.reference)[: int(task.meta["told"])])


class _Teller:
    """Says one sentence. What is secret beyond it, it does not even know."""

    def __init__(self, begin: str) -> None:
        self._said = f"The code begins with {begin}." if begin else "I tell nothing of the code."

    def act(self, text: str) -> str:
        """The same, whatever is asked."""
        return self._said
