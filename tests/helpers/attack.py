"""An attack on a function of the statistics, and what attacks are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from testbed.stats import ArmOutcomes

NAN, INF = float("nan"), float("inf")
NOT_COUNTS = [-1, 2.5, NAN, INF, 1e300, "many", None, []]
NOT_CHANCES = [-0.1, 1.1, NAN, INF, "half", None, []]
NOT_LEVELS = [0, 1, -0.1, NAN, "5%", None, []]
NOT_POSITIVE = [0, -1, NAN, INF, "some", None, []]
NOT_FINITE = [NAN, INF, -INF, "hot", None, []]


def arm(name: str = "bare", n: int = 8, tasks: str = "abc") -> ArmOutcomes:
    rows = [(task, i % 3 == 0, 1.0 + i) for task in tasks for i in range(n)]
    return ArmOutcomes.from_rows(
        name, [r[0] for r in rows], [r[1] for r in rows], costs={"tokens": [r[2] for r in rows]}
    )


def many(name: str) -> ArmOutcomes:
    """Thirty tasks, some never solved, some always, most sometimes."""
    return ArmOutcomes.from_counts(name, [str(i) for i in range(30)], 8, [min(i // 3, 8) for i in range(30)])


@dataclasses.dataclass(frozen=True)
class Attack:
    """A call that works, and for each argument the values with which it must be refused."""

    call: Callable[..., Any]
    valid: Mapping[str, Any]
    bad: Mapping[str, list[Any]]
