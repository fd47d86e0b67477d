"""Outcomes of runs that were never made, as a store would give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from testbed.report.record import Analysis, GroupEffect
from testbed.store import ArmRecord, Outcomes
from testbed.types import COST_COMPONENTS, Task

TOOLS = {"bare": (), "inert": ("python", "search"), "yoked": ("python", "search"), "all": ("python", "search")}
CONTROLS = {"bare": "absent", "inert": "inert", "yoked": "yoked"}


def record(name: str, **spec: object) -> ArmRecord:
    tools = [{"schema": {"function": {"name": tool}}} for tool in TOOLS.get(name, (name,))]
    control = CONTROLS.get(name, "live")
    whole = {"control": control, "tools": tools, "model": {"id": "m"}, "sampling": {"temperature": 1.0}, **spec}
    return ArmRecord(f"hash of {name}", name, whole)


def tasks_of(groups: Sequence[tuple[str, str, int]]) -> tuple[Task, ...]:
    return tuple(
        Task(environment, f"{environment} {family} {i}", i, meta={"family": family} if family else {})
        for environment, family, size in groups
        for i in range(size)
    )


def outcomes(
    tasks: Sequence[Task],
    counts: Mapping[str, Sequence[tuple[int, int]]],
    *,
    records: Mapping[str, ArmRecord] | None = None,
    missing: Mapping[str, int] | None = None,
    cost: Mapping[str, Mapping[str, float]] | None = None,
    faults: Mapping[str, int] | None = None,
) -> Outcomes:
    """Outcomes with (attempts, successes) per task and arm; successes are spread over the attempts."""
    rows: list[tuple[int, int, int, int]] = []
    for position, (arm, per_task) in enumerate(counts.items()):
        for task, (n, c) in enumerate(per_task):
            solved = set(np.linspace(0, n - 1, c).round().astype(int).tolist()) if c else set()
            rows += [(task, position, i, int(i in solved)) for i in range(n)]
        rows += [(0, position, per_task[0][0] + i, -1) for i in range((missing or {}).get(arm, 0))]
    task, arm_, sample, success = (np.array(column) for column in zip(*rows, strict=True))
    amounts = np.zeros((len(rows), len(COST_COMPONENTS)))
    wrong = np.zeros(len(rows), np.int32)
    for position, name in enumerate(counts):
        for component, amount in (cost or {}).get(name, {}).items():
            amounts[arm_ == position, COST_COMPONENTS.index(component)] = amount
        wrong[np.flatnonzero(arm_ == position)[: (faults or {}).get(name, 0)]] = 1
    return Outcomes(
        tasks=tuple(tasks),
        arms=tuple((records or {}).get(name, record(name)) for name in counts),
        task=task.astype(np.int32),
        arm=arm_.astype(np.int32),
        sample=sample.astype(np.int32),
        success=success.astype(np.int8),
        cost=amounts,
        ended=np.where(success < 0, "missing:sandbox_died", "answered"),
        faults=wrong,
        redrawn=np.zeros(len(rows), np.bool_),
    )


ARITHMETIC = (("Multiplication-v0", "4 digits", 20), ("Addition-v0", "2 digits", 20), ("Facts-v0", "document", 20))


def demo() -> Outcomes:
    """Python creates long products and elicits sums, search creates facts and breaks sums, inert changes nothing."""
    zero, low, half, high = [(256, 0)] * 20, [(256, 64)] * 20, [(16, 4)] * 20, [(16, 16)] * 20
    none = [(16, 0)] * 20
    return outcomes(
        tasks_of(ARITHMETIC),
        {
            "bare": [*zero, *low, *zero],
            "inert": [*none, *half, *none],
            "python": [*high, *high, *none],
            "search": [*none, *none, *high],
        },
    )


def effect(analysis: Analysis, label: str, arm: str) -> GroupEffect:
    group = next(g for g in analysis.groups if g.label == label)
    return next(e for e in group.effects if e.arm == arm)
