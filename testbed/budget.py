"""Limits on every component of cost, and the meter that holds an attempt to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import UnknownName, UsageError
from testbed.types import COST_COMPONENTS, Cost, Usage

# Components that the model may see in `remaining`: no clock, so that observations repeat.
VISIBLE = tuple(c for c in COST_COMPONENTS if c not in ("seconds", "usd"))
UNLIMITED = -1.0


@dataclass(frozen=True)
class Budget:
    """Limits per attempt; None is no limit.

    Attributes:
        generated_tokens: most tokens the model may write; a call is cut at exactly that token.
        prompt_tokens: most tokens it may be given over all its calls.
        observed_tokens: most tokens of tool output; the output that would pass it is cut.
        model_calls: most times it is asked.
        tool_calls: most tool calls; further ones are refused and the model is told to answer.
        turns: most messages of the model that are read.
        seconds: most wall seconds.
        usd: most money.
        calls: most calls of one tool, by its name.

    Raises:
        UsageError: a limit is not a positive number.
    """

    generated_tokens: int | None = None
    prompt_tokens: int | None = None
    observed_tokens: int | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    turns: int | None = 16
    seconds: float | None = None
    usd: float | None = None
    calls: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for component in COST_COMPONENTS:
            self._check(component, getattr(self, component), whole=component not in ("seconds", "usd"))
        for tool, limit in self.calls.items():
            self._check(f"calls.{tool}", limit, whole=True)

    @staticmethod
    def _check(name: str, limit: Any, *, whole: bool) -> None:
        if limit is None:
            return
        number = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit)
        if not number or limit <= 0 or (whole and limit != int(limit)):
            kind = "a positive whole number" if whole else "a positive number"
            raise UsageError(f"budget: {name} must be {kind}, not {limit!r}; leave it out for no limit.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Budget:
        """A budget from an experiment file's table.

        Raises:
            UnknownName: a key is no component of cost.
            UsageError: a limit is not a positive number.
        """
        known = (*COST_COMPONENTS, "calls")
        for key in values:
            if key not in known:
                raise UnknownName("budget component", key, known)
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The limits that are set, for hashing and display."""
        return {k: v for k, v in asdict(self).items() if v not in (None, {})}


class Meter:
    """Adds up what one attempt uses and says what is left.

    Args:
        budget: the limits.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.amounts: dict[str, int | float] = dict.fromkeys(COST_COMPONENTS, 0)
        self.calls: dict[str, int] = {}
        self._limits = [(c, limit) for c in COST_COMPONENTS if (limit := getattr(budget, c)) is not None]

    @property
    def cost(self) -> Cost:
        """What was used so far."""
        return Cost(**self.amounts)  # type: ignore[arg-type]

    def charge_model(self, usage: Usage) -> None:
        """Books one call of the model and the message it wrote."""
        amounts = self.amounts
        amounts["prompt_tokens"] += usage.prompt_tokens
        amounts["generated_tokens"] += usage.generated_tokens
        amounts["usd"] += usage.usd
        amounts["model_calls"] += 1
        amounts["turns"] += 1

    def charge_call(self, tool: str) -> None:
        """Books one tool call, faulty or not."""
        self.amounts["tool_calls"] += 1
        self.calls[tool] = self.calls.get(tool, 0) + 1

    def charge_observed(self, tokens: int) -> None:
        """Books tool output shown to the model."""
        self.amounts["observed_tokens"] += tokens

    def clock(self, seconds: float) -> None:
        """Sets the wall time of the attempt."""
        self.amounts["seconds"] = seconds

    def left(self, component: str) -> float:
        """What is left of one component; infinite without a limit."""
        limit = getattr(self.budget, component)
        return math.inf if limit is None else limit - self.amounts[component]

    def calls_left(self, tool: str) -> float:
        """How many more calls of `tool` the budget allows."""
        own = self.budget.calls.get(tool)
        return min(self.left("tool_calls"), math.inf if own is None else own - self.calls.get(tool, 0))

    def exhausted(self) -> str | None:
        """The first limit that ends the attempt, or None; a spent tool budget does not: the model may answer."""
        for component, limit in self._limits:
            if component in ("tool_calls", "observed_tokens"):
                continue
            if self.amounts[component] >= limit:
                return component
        return None

    def remaining(self) -> npt.NDArray[np.float64]:
        """What is left of the `VISIBLE` components, shape (6,); `UNLIMITED` (−1) where there is no limit."""
        values = [self.left(c) for c in VISIBLE]
        return np.array([UNLIMITED if math.isinf(v) else max(0.0, v) for v in values])

    def remaining_dict(self) -> dict[str, float]:
        """What is left of the visible components that are limited."""
        return {c: max(0, limit - self.amounts[c]) for c, limit in self._limits if c in VISIBLE}
