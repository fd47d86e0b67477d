"""Suites of 25 tasks through the whole analysis of a report: whether its intervals hold what is true, and their width.

The slow form prints the table that docs/measurement.md keeps: pytest -m slow -s tests/test_stats_small_suites.py
"""

from __future__ import annotations

import numpy as np
import pytest

from testbed.report.analyse import analyse
from testbed.store import ArmRecord, Outcomes
from testbed.types import COST_COMPONENTS, Task

KINDS, TASKS, N, BIG = 240, 25, 16, 8  # the report takes half of the attempts for B
PARTS = ("gain", "elicitation_part", "creation", "loss", "bare_pass1", "tool_pass1", "bare_elicitation")
TRUTHS = {"many created": 5, "few created": 4, "elicited": 4, "harmful": 4, "no effect": 4}  # with their seeds


def population(truth: str) -> tuple[np.ndarray, np.ndarray]:
    """Chances of 240 kinds of tasks, bare and with tools."""
    rng = np.random.default_rng(5)
    p = rng.beta(0.3, 2, KINDS) * (rng.random(KINDS) >= 0.3)
    if truth == "many created":
        return p, np.where(rng.random(KINDS) < 0.3, rng.beta(4, 2, KINDS), p)
    if truth == "few created":
        return p, np.where(rng.random(KINDS) < 0.08, 0.8, p)
    if truth == "elicited":
        p = rng.beta(0.6, 2, KINDS)
        odds = p / (1 - p) * np.exp(1.5)
        return p, odds / (1 + odds)
    if truth == "harmful":
        p = np.maximum(p, 0.1)
        return p, np.where(rng.random(KINDS) < 0.3, p * 0.1, p)
    return p, p


def outcomes(success: np.ndarray) -> Outcomes:
    """What a store gives of two arms; success has shape (2, TASKS, N)."""
    arm, task, sample = (index.ravel().astype(np.int32) for index in np.indices(success.shape))
    spec = {"model": {"id": "made up"}, "sampling": {"temperature": 1.0}}
    tool = {"control": "live", "tools": [{"schema": {"function": {"name": "tool"}}}]}
    return Outcomes(
        tasks=tuple(Task("Made-v0", f"task {i}", i) for i in range(TASKS)),
        arms=(
            ArmRecord("0" * 32, "bare", {"control": "absent", "tools": [], **spec}),
            ArmRecord("1" * 32, "tool", {**tool, **spec}),
        ),
        task=task,
        arm=arm,
        sample=sample,
        success=success.ravel().astype(np.int8),
        cost=np.zeros((success.size, len(COST_COMPONENTS))),
        ended=np.full(success.size, "answered"),
        faults=np.zeros(success.size, np.int32),
        redrawn=np.zeros(success.size, np.bool_),
    )


def coverage(truth: str, suites: int) -> dict[str, float]:
    p, q = population(truth)
    y = 1 - (1 - p) ** BIG
    created, lost = np.maximum(0, q - y), np.maximum(0, p - q)
    true = dict(zip(PARTS, (q - p, q - p - created + lost, created, lost, p, q, y), strict=True))
    rng = np.random.default_rng([N, TASKS, TRUTHS[truth]])
    seen: dict[str, list[tuple[bool, float, float]]] = {part: [] for part in PARTS}
    for number in range(suites):
        kind = rng.integers(KINDS, size=TASKS)
        chance = np.array([p[kind], q[kind]])[:, :, None]
        success = np.array([rng.random((TASKS, N)) for _ in range(2)]) < chance
        full = analyse(outcomes(success), replicates=1000, seed=number).comparisons[0].full
        assert full is not None
        assert full.figures.elicitation == BIG
        for part in PARTS:
            found = getattr(full.figures, part)
            held = found.low - 1e-9 <= true[part].mean() <= found.high + 1e-9
            seen[part].append((held, found.high - found.low, found.value))
    print(f"\n{truth}, {suites} suites")
    for part, rows in seen.items():
        held, width, mean = np.mean(rows, axis=0)
        print(f"{part:>17} truth {true[part].mean():+.4f} mean {mean:+.4f} covered {held:.3f} width {width:.2f}")
    return {part: float(np.mean([held for held, _, _ in rows])) for part, rows in seen.items()}


def test_intervals_of_a_report_on_25_tasks_cover() -> None:
    assert min(coverage("many created", 12).values()) >= 0.75


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("truth", TRUTHS)
def test_intervals_of_a_report_on_25_tasks_cover_at_least_94_percent(truth: str) -> None:
    assert min(coverage(truth, 800).values()) >= 0.94
