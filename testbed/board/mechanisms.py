"""What a set of tools added, over all the models that were given it: gain, elicitation, creation and loss."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.board.arm_rows import ArmRow
from testbed.board.boards import Board
from testbed.board.chart_pictures import drawn
from testbed.report.plain import plain
from testbed.report.unseen import visible
from testbed.stats import Decomposition, cluster_bootstrap, decompose_cross_fitted
from testbed.stats.parts import part_columns, part_estimates

FloatArray = npt.NDArray[np.float64]
MOST_LISTED = 200  # arms of one mechanism that are listed and drawn; more would not be read
MOST_NAMED = 40  # arms whose names stand beside the plot
LABEL = 30  # characters of such a name
_PARTS = tuple(f.name for f in fields(Decomposition) if f.name not in ("settled", "cross_fitted"))


def mechanisms(rows: Sequence[ArmRow], board: Board) -> list[dict[str, Any]]:
    """Every set of tools, under its control, that some entry compares with a bare arm; most models first.

    The mean of a mechanism is over models, each with the mean of its arms, so that a model that was submitted a hundred
    times counts once; its limits are for other tasks of the same kind and these models.
    """
    bare = {row.entry: row for row in rows if row.bare}
    groups: dict[tuple[tuple[str, ...], str], list[ArmRow]] = defaultdict(list)
    for row in rows:
        if not row.bare and row.gain is not None and row.entry in bare and row.tools:
            groups[row.tools, row.control].append(row)
    made = [_mechanism(tools, control, own, bare, board) for (tools, control), own in groups.items()]
    return sorted(made, key=lambda m: (m["control"] != "live", -m["models"], -len(m["arms"]), m["tools"]))


def _mechanism(
    tools: tuple[str, ...], control: str, own: Sequence[ArmRow], bare: dict[str, ArmRow], board: Board
) -> dict[str, Any]:
    # Re-sampling finds nothing new among copies, so that all they gain would look created.
    counted = [row for row in own if row.figures["claims"]]
    pairs = [(bare[row.entry], row) for row in counted]
    spends = spends_of(pairs, board.measure.operating, board.measure.elicitation) if pairs else None
    listed = sorted(own, key=lambda row: -(row.gain or 0.0))[:MOST_LISTED]
    found = {
        "tools": list(tools),
        "control": control,
        "models": len({row.model for row in own}),
        "entries": len({row.entry for row in own}),
        "arms": [_listed(row) for row in listed],
        "left_out": len(own) - len(listed),
        "unclaimed": len(own) - len(counted),
        "above": sum((_gain(row)["low"] or 0) > 0 for row in own),
        "below": sum((_gain(row)["high"] or 0) < 0 for row in own),
        "spends": spends,
        "mean": None,
    }
    if spends is not None:
        found["mean"] = _mean(pairs, [row.model for row in counted], spends, board)
    found["svg"] = drawn(_forest(found, board.measure.level))
    return found


def spends_of(pairs: Sequence[tuple[ArmRow, ArmRow]], operating: int, elicitation: int) -> list[int] | None:
    """Operating and elicitation spend that leave every pair an attempt to choose with at most tasks, or None."""
    first = min(int(np.median(before.n)) for before, _ in pairs)
    second = min(int(np.median(after.n)) for _, after in pairs)
    if first < 2 or second < 2:
        return None
    b = min(operating, first - 1, second - 1)
    return [b, max(b, min(elicitation, first // 2))]


def _mean(
    pairs: Sequence[tuple[ArmRow, ArmRow]], models: Sequence[str], spends: Sequence[int], board: Board
) -> dict[str, Any]:
    """The parts of the gain, mean over models and tasks, with their limits."""
    b, big = spends
    n0, c0 = (np.stack([getattr(before, name) for before, _ in pairs]) for name in "nc")
    n1, c1 = (np.stack([getattr(after, name) for _, after in pairs]) for name in "nc")
    readable = (n0 > big) & (n1 > b)
    parts = decompose_cross_fitted(n0[readable], c0[readable], n1[readable], c1[readable], operating=b, elicitation=big)
    weights = _equal_models(models)
    tasks = np.flatnonzero(readable.any(axis=0))

    def over_models(values: FloatArray) -> FloatArray:
        table = np.zeros(readable.shape)
        table[readable] = values
        mean: FloatArray = (weights @ table)[tasks] / (weights @ readable)[tasks]
        return mean

    averaged = Decomposition(
        **{name: over_models(getattr(parts, name)) for name in _PARTS},
        settled=np.ones(tasks.size, np.bool_),
        cross_fitted=True,
    )
    columns = part_columns(averaged)
    table, least, greatest = (np.stack(part, axis=-1) for part in zip(*columns.values(), strict=True))
    labels = [board.tasks[i].cluster or board.tasks[i].hash for i in tasks.tolist()]
    measure = board.measure
    found = cluster_bootstrap(
        table, least=least, greatest=greatest, clusters=labels, replicates=measure.replicates, seed=measure.seed
    ).intervals(measure.alpha)
    estimates = part_estimates({name: found[i] for i, name in enumerate(columns)})
    return {name: plain(estimate) for name, estimate in estimates.items()} | {"tasks": int(tasks.size)}


def _equal_models(models: Sequence[str]) -> FloatArray:
    """Weights of arms under which every model weighs the same."""
    counts = {model: models.count(model) for model in set(models)}
    return np.array([1 / counts[model] for model in models])


def _gain(row: ArmRow) -> dict[str, float | None]:
    """Its gain with its limits."""
    found: dict[str, float | None] = row.figures["gain"]
    return found


def _listed(row: ArmRow) -> dict[str, Any]:
    kept = ("gain", "elicitation_part", "creation", "loss")
    return {
        "entry": row.entry,
        "position": row.position,
        "name": row.name,
        "model": row.model,
        "claims": bool(row.figures["claims"]),
        **{name: row.figures[name] for name in kept},
    }


def _forest(found: dict[str, Any], level: str) -> dict[str, Any]:
    """A forest plot: each arm's gain with its limits, and the mean over models."""
    import altair as alt

    rows = [(f"{arm['model']}: {arm['name']}", "one arm", arm["gain"]) for arm in found["arms"]]
    if found["mean"]:
        rows.append(("mean over models", "mean", found["mean"]["gain"]))
    values = [{"place": i, "label": label, "kind": kind, **gain} for i, (label, kind, gain) in enumerate(rows)]
    # They stand in an expression with their escapes, which `drawn` does not see through.
    labels = [visible(label) for label, *_ in rows]
    names = json.dumps([label if len(label) <= LABEL else f"{label[:LABEL]}…" for label in labels])
    axis = alt.Axis(labelExpr=f"{names}[datum.value]", ticks=False, labelLimit=220) if len(rows) <= MOST_NAMED else None
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("place:O", title=None, axis=axis),
        x=alt.X("value:Q", title=f"gain over the entry's bare arm, {level} interval", axis=alt.Axis(tickCount=7)),
    )
    colours = alt.Scale(domain=["one arm", "mean"], range=["#0072b2", "#d55e00"])
    colour = alt.Color("kind:N", scale=colours, legend=None)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=["one arm", "mean"], range=["circle", "diamond"]), legend=None)
    layers = alt.layer(
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x="low:Q", x2="high:Q", color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(color=colour, shape=shape),
        alt.Chart(alt.InlineData(values=[{}])).mark_rule(strokeDash=[2, 2]).encode(x=alt.datum(0)),
    )
    spec: dict[str, Any] = layers.to_dict()
    spec["height"] = {"step": 22 if len(rows) <= MOST_NAMED else 6}
    return spec
