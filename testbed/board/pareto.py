"""What success costs: the arms that no cheaper arm equals, and those that a cheaper arm is shown to be better than."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.board.arm_rows import ArmRow
from testbed.board.chart_pictures import drawn
from testbed.stats.ranks import Ranks

MOST_DRAWN = 400  # arms besides the front: more are one cloud
AXES = {"tokens": "generated tokens of an attempt, mean", "usd": "USD of an attempt, mean"}


def pareto(candidates: Sequence[ArmRow], ranks: Ranks | None) -> dict[str, Any]:
    """For each axis of cost that is known: the front, its picture, and how many arms are shown to lie behind it.

    Args:
        candidates: the arms that compete.
        ranks: their ranks by reach, which tell pairs apart.
    """
    if ranks is None:
        return {}
    made = {axis: _front(candidates, ranks, axis) for axis in AXES if any(getattr(row, axis) for row in candidates)}
    return {axis: found for axis, found in made.items() if found["front"]}


def _front(candidates: Sequence[ArmRow], ranks: Ranks, axis: str) -> dict[str, Any]:
    known = np.array([i for i, row in enumerate(candidates) if getattr(row, axis)], dtype=np.int64)
    cost = np.array([getattr(candidates[i], axis) for i in known])
    reach = np.array([candidates[i].reach for i in known])
    no_dearer = cost[:, None] <= cost[None, :]
    behind = np.any(no_dearer & ranks.better[np.ix_(known, known)], axis=0)
    on_front: npt.NDArray[np.bool_] = ~_dominated(cost, reach)
    order = [int(i) for i in np.lexsort((-reach, cost)) if on_front[i]]
    return {
        "axis": AXES[axis],
        "front": [_point(candidates[known[i]], axis) for i in order],
        "arms": int(known.size),
        "behind": int(behind.sum()),
        "open": int((~behind & ~on_front).sum()),
        "svg": drawn(_picture([candidates[i] for i in known], on_front, behind, axis)),
    }


def _dominated(cost: npt.NDArray[np.float64], reach: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether some arm costs no more and reaches no less, and is not equal in both."""
    no_dearer, no_worse = cost[:, None] <= cost[None, :], reach[:, None] >= reach[None, :]
    better = (cost[:, None] < cost[None, :]) | (reach[:, None] > reach[None, :])
    found: npt.NDArray[np.bool_] = np.any(no_dearer & no_worse & better, axis=0)
    return found


def _point(row: ArmRow, axis: str) -> dict[str, Any]:
    return {
        "entry": row.entry,
        "position": row.position,
        "name": row.name,
        "model": row.model,
        "tools": list(row.tools),
        "cost": getattr(row, axis),
        "reach": row.reach,
        "operating": row.figures["operating"]["estimate"],
    }


def _picture(
    rows: Sequence[ArmRow], on_front: npt.NDArray[np.bool_], behind: npt.NDArray[np.bool_], axis: str
) -> dict[str, Any]:
    import altair as alt

    kinds = ["on the front", "not told apart from it", "behind it"]
    others = sorted((i for i in range(len(rows)) if not on_front[i]), key=lambda i: -(rows[i].reach or 0.0))
    values = [
        {
            "cost": getattr(rows[i], axis),
            "reach": rows[i].reach,
            "kind": kinds[0] if on_front[i] else kinds[2] if behind[i] else kinds[1],
        }
        for i in (*np.flatnonzero(on_front).tolist(), *others[:MOST_DRAWN])
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("cost:Q", title=AXES[axis], scale=alt.Scale(type="log", nice=False, padding=12)),
        y=alt.Y("reach:Q", title="reach at the operating spend", scale=alt.Scale(domain=[0, 1])),
    )
    colour = alt.Color(
        "kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds, range=["#d55e00", "#0072b2", "#8a8a8a"])
    )
    shape = alt.Shape(
        "kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds, range=["diamond", "circle", "cross"])
    )
    line = base.transform_filter(f"datum.kind == '{kinds[0]}'").mark_line(
        interpolate="step-after", strokeWidth=1.5, color="#d55e00"
    )
    layers = alt.layer(line, base.mark_point(filled=True, size=70, opacity=0.85).encode(color=colour, shape=shape))
    spec: dict[str, Any] = layers.to_dict(validate=False)  # each part was looked at as it was made
    spec["height"] = 320
    return spec
