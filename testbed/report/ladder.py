"""The ladder bare → inert → imagined → yoked → live: what each adds to the one before.

Offering tools, what the model itself can say in their place, their information, and choosing the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from testbed.experiment import Measure
from testbed.report.alike import same_model, same_tools
from testbed.report.arms import Arm, gain_if_missing, mean
from testbed.report.record import Rung
from testbed.stats import reach_at_k
from testbed.types import Control

_ORDER = (Control.INERT, Control.IMAGINED, Control.YOKED, Control.LIVE)
_MEANING = {
    (Control.ABSENT, Control.INERT): "scaffold",
    (Control.INERT, Control.YOKED): "information",
    (Control.YOKED, Control.LIVE): "interaction",
    (Control.INERT, Control.LIVE): "information and interaction",
    (Control.ABSENT, Control.YOKED): "scaffold and information",
    (Control.ABSENT, Control.IMAGINED): "scaffold and self-simulation",
    (Control.INERT, Control.IMAGINED): "self-simulation",
    (Control.IMAGINED, Control.YOKED): "information",
    (Control.IMAGINED, Control.LIVE): "information and interaction",
}


def ladder(arms: Sequence[Arm], bare: Arm | None, settings: Measure) -> tuple[Rung, ...]:
    """The steps of every tool set that has a live arm and an inert, imagined or yoked one, all of one model.

    The first step is from the bare arm, or from another one without tools where that is of another model.
    """
    if bare is None:
        return ()
    lowest = [bare, *(arm for arm in arms if arm.bare and arm is not bare)]
    rungs: list[Rung] = []
    for live in arms:
        if live.control != Control.LIVE or not live.tools or live.lookahead:
            continue
        alike = [a for a in arms if a.control in _ORDER and not a.lookahead and _belong_together(a, live)]
        own = {a.control: a for a in alike if a.control != Control.LIVE} | {live.control: live}
        if len(own) < 2:
            continue
        steps = [(Control.ABSENT, arm) for arm in lowest if same_model(arm, live)][:1]
        steps += [(control, own[control]) for control in _ORDER if control in own]
        for (below, lower), (above, upper) in pairwise(steps):
            rung = _rung(lower, upper, _MEANING[below, above], settings)
            if rung is not None:
                rungs.append(rung)
    return tuple(rungs)


def _belong_together(one: Arm, other: Arm) -> bool:
    return same_model(one, other) and same_tools(one, other)


def _rung(lower: Arm, upper: Arm, meaning: str, settings: Measure) -> Rung | None:
    present = set(upper.scored.tasks)
    common = [task for task in lower.scored.tasks if task in present]
    if not common:
        return None
    before, after = lower.on(common), upper.on(common)
    k = min(settings.operating, int(before.n.min()), int(after.n.min()))
    difference = reach_at_k(after.n, after.c, k) - reach_at_k(before.n, before.c, k)
    step = mean(difference, lower.labels(common), settings, least=-1, greatest=1)
    bounds = gain_if_missing(lower, upper, None, k)
    return Rung(upper.tools, lower.name, upper.name, meaning, len(common), step, bounds)
