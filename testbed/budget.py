"""Limits on every component of cost, and the meter that holds an attempt to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import UnknownName, UsageError
from testbed.types import COST_COMPONENTS, Cost, Usage

# Components that the model may see in `remaining`: no clock, so that observations repeat.
VISIBLE = tuple(c for c in COST_COMPONENTS if c not in ("seconds", "usd"))
UNLIMITED = -1.0
LARGEST = 10**15  # every whole number up to here is exact in a float, as observations hold it


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
        seconds: most wall seconds, without waits for a place that others have.
        usd: most money.
        calls: most calls of one tool, by its name.
        answers: most answers that are graded; after a wrong one before the last, the model is told the environment's
            feedback and goes on. No component of cost: what it spends is tokens and turns.

    Raises:
        UsageError: a limit is not a positive number, or `calls` is not a table.
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
    answers: int = 1

    def __post_init__(self) -> None:
        # Kept as plain int and float, so that 3 and 3.0 are one budget and have one hash.
        for component in COST_COMPONENTS:
            limit = getattr(self, component)
            if limit is not None:
                object.__setattr__(self, component, _limit(component, limit, whole=component not in ("seconds", "usd")))
        if not isinstance(self.calls, Mapping):
            raise UsageError(
                f"budget: calls must be a table of limits by tool, such as {{search = 3}}, not {self.calls!r}."
            )
        calls = {str(tool): int(_limit(f"calls.{tool}", limit, whole=True)) for tool, limit in self.calls.items()}
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "answers", _limit("answers", self.answers, whole=True))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Budget:
        """A budget from an experiment file's table.

        Raises:
            UnknownName: a key is no component of cost.
            UsageError: a limit is not a positive number.
        """
        known = (*COST_COMPONENTS, "calls", "answers")
        for key in values:
            if key not in known:
                raise UnknownName("budget component", key, known, hint=f"The limits are {', '.join(known)}.")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The limits that are set, for hashing and display."""
        return {k: v for k, v in asdict(self).items() if v not in (None, {}) and (k, v) != ("answers", 1)}


def _limit(name: str, limit: Any, *, whole: bool) -> int | float:
    number = isinstance(limit, Real) and not isinstance(limit, bool)
    if not number or not 0 < limit <= LARGEST or (whole and limit != int(limit)):  # NaN is in no range
        kind = "a positive whole number" if whole else "a positive number"
        raise UsageError(f"budget: {name} must be {kind}, not {limit!r:.40}; leave it out for no limit.")
    return int(limit) if whole else float(limit)


class Meter:
    """Adds up what one attempt uses and says what is left.

    Args:
        budget: the limits.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.amounts: dict[str, int | float] = dict.fromkeys(COST_COMPONENTS, 0)
        self.calls: dict[str, int] = {}
        limits = [(c, getattr(budget, c)) for c in COST_COMPONENTS]
        self._visible = [(c, limit) for c, limit in limits if c in VISIBLE]
        self._ending = [(c, x) for c, x in limits if x is not None and c not in ("tool_calls", "observed_tokens")]
        self._of_tools = sorted(budget.calls.items())

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

    def charge_imagined(self, usage: Usage) -> None:
        """Books a tool's result that the model wrote itself: asked and written, but no turn, since nobody read it."""
        self.charge_model(usage)
        self.amounts["turns"] -= 1

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
        for component, limit in self._ending:
            if self.amounts[component] >= limit:
                return component
        return None

    def exceeded(self) -> str | None:
        """The first limit that was passed, not just reached: what the model wrote beyond it does not count."""
        for component, limit in self._ending:
            if self.amounts[component] > limit:
                return component
        return None

    def remaining(self) -> npt.NDArray[np.float64]:
        """What is left of the `VISIBLE` components, then of the calls of each tool that has a limit, by name.

        Shape (6 + len(budget.calls),); `UNLIMITED` (−1) where there is no limit.
        """
        amounts, calls = self.amounts, self.calls
        values = [UNLIMITED if limit is None else max(0.0, limit - amounts[c]) for c, limit in self._visible]
        values += [max(0.0, limit - calls.get(tool, 0)) for tool, limit in self._of_tools]
        return np.array(values)

    def remaining_dict(self) -> dict[str, float]:
        """What is left of the visible components that are limited; calls of one tool as "calls.TOOL"."""
        left = {c: max(0, limit - self.amounts[c]) for c, limit in self._visible if limit is not None}
        for tool, limit in self._of_tools:
            left[f"calls.{tool}"] = max(0, limit - self.calls.get(tool, 0))
        return left
