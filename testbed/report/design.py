"""What a run's design says about its attempts: which were fixed in advance, which are still wanted, which are nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from testbed.stats.stopping import UNKNOWN, StoppingRule, blocks_with_replays
from testbed.types import COST_COMPONENTS

if TYPE_CHECKING:
    from testbed.report.arms import Arm
    from testbed.store import Outcomes, Run

IntArray = npt.NDArray[np.int64]


def asked_for(outcomes: Outcomes, rules: Mapping[str, StoppingRule]) -> dict[str, IntArray]:
    """Attempts per task that the stopping rules ask for, given the outcomes so far, by arm; shape (tasks,).

    Args:
        outcomes: the attempts.
        rules: rules of the arms that stop early, by name.
    """
    ruled = {record.hash: n for n, record in enumerate(outcomes.arms) if record.name in rules}
    grids = {n: _grid(outcomes, n, rules[outcomes.arms[n].name].most) for n in ruled.values()}
    rule = {n: rules[outcomes.arms[n].name] for n in grids}
    live = {n: ruled[outcomes.arms[n].spec["yoke"]] for n in grids if outcomes.arms[n].spec.get("yoke") in ruled}
    asked = {n: np.zeros(len(outcomes.tasks), np.int64) for n in grids}
    for n in (n for n in grids if n not in live):
        replays = [other for other, of in live.items() if of == n]
        for task in range(len(outcomes.tasks)):
            pairs = [(rule[other], grids[other][task]) for other in replays]
            own, others = blocks_with_replays(rule[n], grids[n][task], pairs)
            for arm, ends in zip((n, *replays), (own, *others), strict=True):
                asked[arm][task] = ends[-1]
    return {outcomes.arms[n].name: ends for n, ends in asked.items()}


def unfinished(run: Run, outcomes: Outcomes, rules: Mapping[str, StoppingRule]) -> str:
    """Says so where attempts are still wanted; empty where none are, and for imported outcomes."""
    if "imported" in run.experiment:
        return ""
    asked, wanted = asked_for(outcomes, rules), 0
    for position, record in enumerate(outcomes.arms):
        if record.name in asked:
            grid = _grid(outcomes, position, rules[record.name].most)
            open_ = (np.arange(grid.shape[1]) < asked[record.name][:, None]) & (grid == UNKNOWN)
            wanted += int(np.count_nonzero(open_))
        else:
            planned = len(outcomes.tasks) * run.samples.get(record.name, 0)
            wanted += planned - int(np.count_nonzero(outcomes.arm == position))
    if not wanted:
        return ""
    made = len(outcomes.task)
    if not asked:
        return f"The run is not finished: {made:,} of {made + wanted:,} attempts were made."
    return f"The run is not finished: {made:,} attempts were made, and at least {wanted:,} further ones are wanted."


def second_bare(outcomes: Outcomes, arms: Sequence[Arm], bare: Arm | None) -> tuple[Arm | None, str]:
    """Another sample of the bare arm's policy, for the null row, and a warning where one repeats it attempt by attempt.

    That is an arm without tools and search, of the same model and decoding; its budget may differ where none of its
    limits, nor of the bare arm's, ended an attempt.
    """
    if bare is None or not bare.bare:
        return None, ""
    specs = {record.name: record.spec for record in outcomes.arms}
    for arm in arms:
        one, other = specs[bare.name], specs[arm.name]
        if arm is bare or not arm.bare:
            continue
        if any(one.get(key) != other.get(key) for key in ("model", "sampling")):
            continue
        limited = any(code.startswith("limit:") for either in (bare, arm) for code in either.ended)
        if one.get("budget") != other.get("budget") and limited:
            continue
        if _copied(outcomes, bare.name, arm.name):
            return None, (
                f"Arm {arm.name!r} repeats {bare.name!r} attempt by attempt (they share their random streams), so it "
                "is no second sample of it: the null row is made of halves."
            )
        return arm, ""
    return None, ""


def _copied(outcomes: Outcomes, first: str, second: str) -> bool:
    """Whether the attempts that two arms share, by task and sample, all have the same outcome and cost."""
    names = [record.name for record in outcomes.arms]
    timed = [i for i, component in enumerate(COST_COMPONENTS) if component != "seconds"]
    rows = [np.flatnonzero(outcomes.arm == names.index(name)) for name in (first, second)]
    one_key, other_key = (outcomes.task[own].astype(np.int64) << 32 | outcomes.sample[own] for own in rows)
    _, left, right = np.intersect1d(one_key, other_key, assume_unique=True, return_indices=True)
    one, other = rows[0][left], rows[1][right]
    alike = np.array_equal(outcomes.success[one], outcomes.success[other])
    return bool(one.size) and alike and np.array_equal(outcomes.cost[one][:, timed], outcomes.cost[other][:, timed])


def _grid(outcomes: Outcomes, arm: int, most: int) -> npt.NDArray[np.int8]:
    """Outcomes of an arm by task and sample, those made for another run beyond `most` left out."""
    grid = np.full((len(outcomes.tasks), most), UNKNOWN, np.int8)
    rows = np.flatnonzero((outcomes.arm == arm) & (outcomes.sample < most))
    grid[outcomes.task[rows], outcomes.sample[rows]] = outcomes.success[rows]
    return grid
