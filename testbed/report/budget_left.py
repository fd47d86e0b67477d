"""What was left of an attempt's limits after each entry of its transcript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from testbed.budget import LARGEST
from testbed.types import COST_COMPONENTS, Attempt

Left = dict[str, float]
Transcript = Sequence[Mapping[str, Any]]


def left_by_step(attempt: Attempt, budget: Mapping[str, Any]) -> tuple[Left, list[Left]]:
    """What there was of every limit at first, and what was left after each entry.

    A tool's result carries what was left after it. For other entries it is worked out from the limits and what the
    transcript holds, for those components only whose steps add up to what the attempt was charged; after the last
    entry every component is known. What is not known is left out.

    Args:
        attempt: with its transcript.
        budget: its limits by component, those of single tools under "calls"; empty where they are not known.

    Returns:
        What there was at first, and a mapping for each entry.
    """
    said: Transcript = attempt.transcript
    limits = _limits(budget)
    charged: dict[str, float] = {**attempt.cost.as_dict(), **_calls(said)}
    used = [_charges(message) for message in said]
    followed = [name for name in limits if sum(step.get(name, 0) for step in used) == charged.get(name, 0)]
    spent: Counter[str] = Counter()
    left: list[Left] = []
    for message, step in zip(said, used, strict=True):
        spent.update(step)
        worked_out = limits if not spent else {name: max(0.0, limits[name] - spent[name]) for name in followed}
        left.append({**worked_out, **_recorded(message)})
    if sum(step.get("model_calls", 0) for step in used) == attempt.cost.model_calls:
        _add_written(said, left)
    if left and limits:
        last = {name: max(0.0, limit - charged.get(name, 0)) for name, limit in limits.items()}
        left[-1] = {**last, **_recorded(said[-1])}
    return limits, [{name: some[name] for name in (limits or some) if name in some} for some in left]


def is_amount(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be shown: transcripts that others send may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _limits(budget: Mapping[str, Any]) -> Left:
    calls = budget.get("calls")
    of_tools = {f"calls.{tool}": limit for tool, limit in calls.items()} if isinstance(calls, Mapping) else {}
    known = {name: budget.get(name) for name in COST_COMPONENTS if name not in ("seconds", "usd")}
    return {name: limit for name, limit in {**known, **of_tools}.items() if is_amount(limit)}


def _charges(message: Mapping[str, Any]) -> dict[str, int]:
    """What an entry of a transcript shows that it cost."""
    if message.get("role") == "assistant":
        logprobs = message.get("logprobs")
        return {"turns": 1, "model_calls": 1, "generated_tokens": len(logprobs) if isinstance(logprobs, list) else 0}
    if message.get("role") == "tool":
        tokens = message.get("tokens")
        observed = int(tokens) if is_amount(tokens) else 0
        return {"tool_calls": 1, f"calls.{message.get('name', '')}": 1, "observed_tokens": observed}
    return {}


def _calls(said: Transcript) -> dict[str, int]:
    """Calls of each tool: the attempt's cost only has their sum."""
    return Counter(f"calls.{message.get('name', '')}" for message in said if message.get("role") == "tool")


def _add_written(said: Transcript, left: Sequence[Left]) -> None:
    """Tokens that were left to write, for the entries around a tool's result, since only the model's messages use them.

    Only where every call of the model has its message: results that the model imagines are written, too.
    """
    name = "generated_tokens"
    for n in range(len(said) - 2, -1, -1):  # a message of the model leaves what the result after it says
        if said[n + 1].get("role") != "assistant" and name in left[n + 1]:
            left[n].setdefault(name, left[n + 1][name])
    for n in range(1, len(said)):  # a note leaves what there was before it
        if said[n].get("role") != "assistant" and name in left[n - 1]:
            left[n].setdefault(name, left[n - 1][name])


def _recorded(message: Mapping[str, Any]) -> Left:
    found = message.get("remaining")
    if not isinstance(found, Mapping):
        return {}
    return {str(name): left for name, left in found.items() if is_amount(left)}
