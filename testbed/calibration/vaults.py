"""Vaults whose codes are equally likely, and an oracle that tells so many of their digits: a plug-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from pydantic import BaseModel, Field

from testbed.code_env import MOST_DIGITS, CodeEnvironment, code_of
from testbed.env import Common
from testbed.errors import FaultKind, ToolFault
from testbed.tool import Tool


class Vaults(CodeEnvironment):
    """Which code opens the vault?

    A vault is named DIGITS-TOLD-NUMBER: how many digits its code has, how many of them the oracle tells.

    Args:
        digits: digits of a code, 1 to `MOST_DIGITS`; a list, of as many as `told` has.
        told: digits that the oracle tells, 0 to `digits`; a list.
        vaults: vaults of each kind.
        seed: seed of the codes; the oracle needs the same.
        common: options of every environment.

    Raises:
        UsageError: the two lists differ in length, or a number is out of its range.
    """

    id = "CalibrationVaults-v0"
    card = (
        "Source: generated from a seed, no data. Expected: guessing succeeds with probability 2^-digits, an oracle "
        "that tells m digits multiplies it by 2^m. Contamination: none, codes are pseudo-random."
    )

    def __init__(
        self,
        digits: Sequence[int] = (8,),
        told: Sequence[int] = (4,),
        vaults: int = 4,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(digits, told, vaults, seed, **common)


class Question(BaseModel):
    """Arguments of the oracle."""

    vault: str = Field(description="The vault's name, such as 8-4-0.")


class VaultOracle(Tool):
    """Tells the first digits of a vault's code: as many as the vault's name says.

    Attributes:
        seed: seed of the codes, as the environment's.
        extra: digits that it tells beyond what the name says; 0 unless it is to be caught.
    """

    name: str = "calibration_oracle"
    description: str = "Tells the first digits of a vault's code."
    args_schema: Any = Question
    seed: int = 0
    extra: int = 0

    async def _arun(self, vault: str) -> str:
        parts = vault.split("-")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts) or int(parts[0]) > MOST_DIGITS:
            raise ToolFault(FaultKind.INVALID_ARGS, f"there is no vault {vault!r}")
        digits, told = int(parts[0]), int(parts[1]) + self.extra
        return f"The code begins with {code_of(vault, digits, self.seed)[:told]}."
