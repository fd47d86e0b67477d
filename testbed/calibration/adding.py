"""An adding machine that errs with a known probability: a plug-in."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr

from testbed.tool import AttemptContext, Tool


class Summands(BaseModel):
    """Arguments of the machine."""

    left: int
    right: int


class AddingMachine(Tool):
    """Adds two numbers, and errs by one to nine with a known probability.

    Attributes:
        wrong: probability of a wrong sum, in [0, 1].
    """

    name: str = "calibration_adder"
    description: str = "Adds two whole numbers."
    args_schema: Any = Summands
    wrong: float = Field(default=0.0, ge=0, le=1)

    _rng: np.random.Generator = PrivateAttr(default_factory=lambda: np.random.default_rng(0))

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy that errs by the attempt's own stream."""
        mine = self.model_copy()
        mine._rng = np.random.default_rng([context.key, 1])  # not the numbers that the policy draws
        return mine

    async def _arun(self, left: int, right: int) -> str:
        error = int(self._rng.integers(1, 10)) if self._rng.random() < self.wrong else 0
        return str(left + right + error)
