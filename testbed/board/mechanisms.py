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
from testbed.report.chart_labels import cut
from testbed.report.plain import plain
from testbed.report.unseen import visible
from testbed.stats import Decomposition, cluster_bootstrap, decompose_cross_fitted
from testbed.stats.parts import part_columns, part_estimates

FloatArray = npt.NDArray[np.float64]
MOST_MECHANISMS = 100  # sets of tools that are listed, those with most models: each takes a bootstrap
MOST_DRAWN = 24  # of these that have a picture beside their table
MOST_LISTED = 200  # arms of one mechanism that are listed and drawn; more would not be read
MOST_NAMED = 40  # arms whose names stand beside the plot
LABEL = 220  # pixels of such a name
Groups = dict[tuple[tuple[str, ...], str], list[ArmRow]]  # arms by their tools and how these behave
_PARTS = tuple(f.name for f in fields(Decomposition) if f.name not in ("settled", "cross_fitted"))


def mechanisms(rows: Sequence[ArmRow], board: Board) -> list[dict[str, Any]]:
    """Every set of tools, under its control, that some entry compares with a bare arm; most models first.

    The mean of a mechanism is over models, each with the mean of its arms, so that a model that was submitted a hundred
    times counts once; its limits are for other tasks of the same kind and these models. Whoever enters can name as many
    sets of tools as there are arms: `MOST_MECHANISMS` of them are worked out.
    """
    bare = {row.entry: row for row in rows if row.bare}
    groups = groups_of(rows)
    listed = sorted(groups, key=lambda key: (key[1] != "live", -_models(groups[key]), -len(groups[key]), key[0]))
    return [
        _mechanism(tools, control, groups[tools, control], bare, board, picture=place < MOST_DRAWN)
        for place, (tools, control) in enumerate(listed[:MOST_MECHANISMS])
    ]


def groups_of(rows: Sequence[ArmRow]) -> Groups:
    """The arms of each set of tools, under its control, whose entries compare them with a bare arm."""
    with_bare = {row.entry for row in rows if row.bare}
    groups: Groups = defaultdict(list)
    for row in rows:
        if not row.bare and row.gain is not None and row.entry in with_bare and row.tools:
            groups[row.tools, row.control].append(row)
    return groups


def _models(rows: Sequence[ArmRow]) -> int:
    return len({row.model for row in rows})


def _mechanism(
    tools: tuple[str, ...],
    control: str,
    own: Sequence[ArmRow],
    bare: dict[str, ArmRow],
    board: Board,
    *,
    picture: bool,
) -> dict[str, Any]:
    # Re-sampling finds nothing new among copies, so that all they gain would look created.
    counted = [row for row in own if row.figures["claims"]]
    pairs = [(bare[row.entry], row) for row in counted]
    spends = spends_of(pairs, board.measure.operating, board.measure.elicitation) if pairs else None
    listed = sorted(own, key=lambda row: -(row.gain or 0.0))[:MOST_LISTED]
    found = {
        "tools": list(tools),
        "control": control,
        "models": _models(own),
        "entries": len({row.entry for row in own}),
        "arms": [_listed(row) for row in listed],
        "left_out": len(own) - len(listed),
        "unclaimed": len(own) - len(counted),
        "above": sum((_gain(row)["low"] or 0) > 0 for row in own),
        "below": sum((_gain(row)["high"] or 0) < 0 for row in own),
        "spends": spends,
        "mean": None,
        "missing": None,
    }
    if spends is not None:
        models = [row.model for row in counted]
        found["mean"] = _mean(pairs, models, spends, board)
        found["missing"] = _missing(pairs, models, spends[0])
    found["svg"] = drawn(_forest(found, board.measure.level)) if picture else ""
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


def _missing(pairs: Sequence[tuple[ArmRow, ArmRow]], models: Sequence[str], k: int) -> dict[str, float] | None:
    """How many attempts are missing, and between which limits the mean gain lies however they ended; None without any.

    Which of them are missing may hang on how they went, and an author's own machines decide that.
    """
    missing = sum(int(np.maximum(row.figures["samples"] - row.n, 0).sum()) for pair in pairs for row in pair)
    if not missing:
        return None
    weights = _equal_models(models) / _equal_models(models).sum()
    before, after = ([row.reach_limits(k) for row in side] for side in zip(*pairs, strict=True))
    low = sum(w * (a[0] - b[1]).mean() for w, a, b in zip(weights, after, before, strict=True))
    high = sum(w * (a[1] - b[0]).mean() for w, a, b in zip(weights, after, before, strict=True))
    return {"attempts": missing, "low": float(low), "high": float(high)}


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
    names = json.dumps([cut(label, LABEL) for label in labels])
    axis = alt.Axis(labelExpr=f"{names}[datum.value]", ticks=False, labelLimit=0) if len(rows) <= MOST_NAMED else None
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
        alt.Chart(alt.InlineData(values=[{}])).mark_rule(strokeDash=[2, 2]).encode(alt.XDatum(0)),
    )
    spec: dict[str, Any] = layers.to_dict(validate=False)  # each part was looked at as it was made
    spec["height"] = {"step": 22 if len(rows) <= MOST_NAMED else 6}
    return spec
