"""Environments whose answers are codes that only guessing finds, unless somebody tells some of their digits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Unpack

from testbed.env import Common, Environment
from testbed.errors import UsageError
from testbed.types import Grade, Task

MOST_DIGITS = 60
MOST_VAULTS = 100_000  # of each kind


def code_of(vault: str, digits: int, seed: int) -> str:
    """The code of a vault: binary digits, each of the 2^digits codes equally likely over seeds."""
    key = hashlib.blake2b(f"vault {vault} {seed}".encode(), digest_size=8).digest()
    return format(int.from_bytes(key, "big"), "064b")[:digits]


class CodeEnvironment(Environment):
    """Base of environments that ask for the codes of vaults.

    A vault is named DIGITS-TOLD-NUMBER: how many digits its code has, how many of them may be told.

    Args:
        digits: binary digits of a code, 1 to `MOST_DIGITS`; a list, one kind of vault for each.
        told: digits that may be told, 0 to `digits`; a list of as many.
        vaults: vaults of each kind, 1 to `MOST_VAULTS`.
        seed: seed of the codes.
        common: options of every environment.

    Raises:
        UsageError: the two lists differ in length, or a number is out of its range.
    """

    def __init__(
        self, digits: Sequence[int], told: Sequence[int], vaults: int, seed: int, **common: Unpack[Common]
    ) -> None:
        if len(digits) != len(told) or any(not 0 <= m <= d <= MOST_DIGITS for d, m in zip(digits, told, strict=False)):
            raise UsageError(f"{self.id}: give as many numbers told as digits, each at most as large, 0 to 60.")
        if not 1 <= vaults <= MOST_VAULTS:
            raise UsageError(f"{self.id}: vaults must be from 1 to {MOST_VAULTS:,} of each kind, not {vaults}.")
        self.kinds, self.per_kind, self.task_seed = tuple(zip(digits, told, strict=True)), vaults, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The vaults, kind by kind."""
        for digits, told in self.kinds:
            for number in range(self.per_kind):
                vault = f"{digits}-{told}-{number}"
                meta = {"family": f"{told} of {digits} digits told", "digits": digits, "told": told}
                yield self.task(self.prompt(vault, digits, told), code_of(vault, digits, self.task_seed), meta=meta)

    def prompt(self, vault: str, digits: int, told: int) -> str:
        """What is asked of a vault."""
        return f"Vault {vault} has a code of {digits} binary digits. Which?"

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if every digit is."""
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """One digit wrong, lost or added."""
        right = str(task.reference)
        return (right[:-1] + "10"[int(right[-1])], right[:-1], right + "0", f"{right}.")
