"""What the cases with tools of known effect share: how they are run and read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.calibration.case import Check
from testbed.calibration.expect import that
from testbed.models.base import Model
from testbed.models.scripted import Policy, Scripted
from testbed.report.analyse import Analysis
from testbed.stats import Figures, Verdict
from testbed.types import Message

MODEL = "scripted:policy"
ALPHA = 0.05  # of verdicts and intervals, as a report has it


def experiment(
    name: str,
    seed: int,
    env: Mapping[str, Any],
    arms: Sequence[Mapping[str, Any]],
    *,
    samples: int,
    elicitation: int,
    tool: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An experiment as a file would hold it; every arm has the model `MODEL`.

    Args:
        name: of the run.
        seed: of every attempt.
        env: the [[env]] table.
        arms: the [[arm]] tables.
        samples: attempts per task and arm.
        elicitation: attempts B at which reach decides what is accessible.
        tool: the [tool] tables.
        budget: the [budget] table.
    """
    return {
        "name": name,
        "seed": seed,
        "samples": samples,
        "model": {"id": MODEL},
        "env": [dict(env)],
        "arm": [dict(arm) for arm in arms],
        "tool": {key: dict(options) for key, options in (tool or {}).items()},
        "budget": dict(budget or {}),
        "measure": {"operating": 1, "elicitation": elicitation, "alpha": ALPHA, "replicates": 1000},
    }


def ladder_of(tool: str) -> list[dict[str, Any]]:
    """The arms bare, inert, yoked and live of one tool."""
    return [
        {"name": "bare"},
        *({"name": control, "tools": [tool], "control": control} for control in ("inert", "yoked", "live")),
    ]


def playing(policy: Policy) -> dict[str, Model]:
    """The model of `experiment` that follows a policy."""
    return {MODEL: Scripted(policy)}


def figures(analysis: Analysis, arm: str) -> Figures:
    """The comparison of an arm with the bare one."""
    full = next(comparison.full for comparison in analysis.comparisons if comparison.arm == arm)
    assert full is not None
    return full.figures


def said_of(verdicts: Mapping[str, int] | Mapping[Verdict, int]) -> str:
    """Verdicts with their numbers of tasks, those of none left out."""
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items() if count) or "no task"


def all_read(what: str, found: Figures, verdict: Verdict) -> Check:
    """Every task has this verdict, but for one, or one in twenty, that may be undetermined."""
    counts = found.verdicts.counts
    tasks = sum(counts.values())
    open_ = counts[Verdict.UNDETERMINED]
    right = counts[verdict]
    return that(f"{what}: {verdict}", said_of(counts), right + open_ == tasks and open_ <= max(1, tasks // 20))


def error(p: float, draws: int) -> float:
    """Standard error of a rate of known probability."""
    return math.sqrt(p * (1 - p) / draws)


def first_text(messages: Sequence[Message]) -> str:
    """The task's prompt."""
    return next(message["content"] for message in messages if message["role"] == "user")


def results_of(messages: Sequence[Message]) -> list[str]:
    """What the tools returned so far, in order."""
    return [message["content"] for message in messages if message["role"] == "tool"]


def tool_named(tools: Sequence[Mapping[str, Any]]) -> str:
    """The name of the only tool that is offered; "" where none is."""
    return str(tools[0]["function"]["name"]) if tools else ""
