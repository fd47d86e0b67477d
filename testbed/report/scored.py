"""A run's outcomes as the arms of an analysis: which attempts count, and for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.bare import bare_among
from testbed.report.arms import Arm
from testbed.report.copies import Drawn, known_independent
from testbed.report.design import asked_for
from testbed.stats import ArmOutcomes
from testbed.stats.stopping import StoppingRule
from testbed.types import AGENT_ERROR, COST_COMPONENTS

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes


def scored_arms(
    outcomes: Outcomes,
    rules: Mapping[str, StoppingRule] | None = None,
    drawn: Mapping[str, Drawn] | None = None,
) -> list[Arm]:
    """Every arm that has a scored attempt.

    Args:
        outcomes: the attempts.
        rules: of arms whose sampling stopped early, by name.
        drawn: how the attempts of arms were drawn, by name; as far as the arms tell where left out.
    """
    rules, drawn = rules or {}, drawn or {}
    asked = asked_for(outcomes, rules)
    hashes = [task.hash for task in outcomes.tasks]
    clusters = {task.hash: task.cluster or task.hash for task in outcomes.tasks}
    found = []
    for position, record in enumerate(outcomes.arms):
        rows = np.flatnonzero(outcomes.arm == position)
        rule, every, beyond = rules.get(record.name), None, 0
        if rule is not None:  # missing attempts that the rule no longer asks for are nobody's loss
            wanted = outcomes.sample[rows] < asked[record.name][outcomes.task[rows]]
            beyond = int(np.count_nonzero((outcomes.success[rows] >= 0) & ~wanted))
            rows = rows[(outcomes.success[rows] >= 0) | wanted]
        success = outcomes.success[rows]
        scored = success >= 0
        if not scored.any():
            continue
        first = rows
        if rule is not None:
            every = ArmOutcomes.from_codes(record.name, hashes, outcomes.task[rows], success)
            first = rows[outcomes.sample[rows] < rule.least]
            if not (outcomes.success[first] >= 0).any():
                continue
        costs = {c: outcomes.cost[first, i] for i, c in enumerate(COST_COMPONENTS)}
        made = outcomes.success[first] >= 0
        recorded = {
            c: np.nan_to_num(values) for c, values in costs.items() if values[made].sum() > 0
        }  # not if any is NaN
        # A search draws from streams of its own, so its attempts have no partners in other arms.
        samples = None if record.spec.get("lookahead") else outcomes.sample[first]
        ended = tally(outcomes.ended[rows])
        unbroken = every_unbroken = None
        if ended.get(AGENT_ERROR):
            held = np.where(outcomes.ended == AGENT_ERROR, np.int8(-1), outcomes.success)
            unbroken = ArmOutcomes.from_codes(
                record.name, hashes, outcomes.task[first], held[first], costs=recorded, samples=samples
            )
            if rule is not None:
                every_unbroken = ArmOutcomes.from_codes(record.name, hashes, outcomes.task[rows], held[rows])
        found.append(
            Arm(
                name=record.name,
                control=str(record.spec.get("control", "")),
                tools=tool_names(record.spec),
                drawn=drawn.get(record.name) or Drawn(known_independent(record.spec)),
                model=record.spec.get("model"),
                offered=record.spec.get("tools") or (),
                outcomes=ArmOutcomes.from_codes(
                    record.name,
                    hashes,
                    outcomes.task[first],
                    outcomes.success[first],
                    costs=recorded,
                    samples=samples,
                ),
                clusters=clusters,
                faults=outcomes.faults[rows][scored],
                ended=ended,
                fixed=rule.least if rule is not None else 0,
                beyond=beyond,
                every=every,
                unbroken=unbroken,
                every_unbroken=every_unbroken,
                lookahead=record.spec.get("lookahead", {}),
                unrecorded=frozenset(c for c, values in costs.items() if np.isnan(values[made]).any()),
            )
        )
    return found


def tally(codes: npt.NDArray[np.str_]) -> dict[str, int]:
    """How often each of a few codes occurs; a pass for each of them is quicker than sorting texts."""
    found: dict[str, int] = {}
    while codes.size:
        same = codes == codes[0]
        found[str(codes[0])] = int(np.count_nonzero(same))
        codes = codes[~same]
    return found


def tool_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an arm's tools from its identity: schemas, or plain names in imported specs."""
    names = []
    for tool in spec.get("tools") or ():
        if isinstance(tool, Mapping):
            tool = tool.get("schema", {}).get("function", {}).get("name", "")
        names.append(str(tool))
    return tuple(sorted(filter(None, names)))


def bare_arm(records: Sequence[ArmRecord], arms: Sequence[Arm], wanted: str) -> Arm | None:
    """The arm that others are compared with, among those with a scored attempt; None if there is none."""
    return bare_among(arms, wanted, " It has no scored attempt yet." if wanted in [r.name for r in records] else "")
