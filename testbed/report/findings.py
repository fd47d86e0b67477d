"""What each arm did, in words: its whole gain, and what the intervals and verdicts support for which tasks.

A sentence claims what an interval or a verdict supports and no more: "not reached in n attempts", never "unreachable".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from testbed.report.record import Analysis, ArmComparison, Effect, Group, GroupEffect
from testbed.report.words import NONE, attempts, broken_told, counted, figure, further
from testbed.stats import Estimate, Verdict

_VERBS = {
    Effect.CREATED: "creates",
    Effect.EXPANDED: "brings within reach, by creation or elicitation",
    Effect.ELICITED: "elicits",
    Effect.LOST: "loses",
    Effect.NOTHING: "no sign of an effect on",
    Effect.UNDETERMINED: "undetermined",
}
_COPIES = (
    "all of it: repeated attempts look like copies of one another, so what resampling would reach is not known, and "
    "nothing is claimed"
)


_TOO_FEW = "nothing seen, and too few tasks to tell, on"


@dataclass(frozen=True)
class Finding:
    """One kind of thing that an arm did, and to which tasks."""

    effect: Effect
    verb: str
    phrases: tuple[str, ...]


def headline(analysis: Analysis, comparison: ArmComparison) -> str:
    """The whole gain of an arm and its parts, in one sentence."""
    where = f"on {counted(comparison.tasks, 'task')} at {attempts(comparison.operating)}"
    gain = f"gain {figure(comparison.gain, signed=True)}"
    doubt = f"{broken_told(comparison.broken)} " if comparison.broken else ""
    if doubt:  # stands first: figures read as claims
        gain = f"{doubt}G{gain[1:]}"
    if comparison.full is None:
        return f"{gain} {where}; not split into elicitation and creation."
    f = comparison.full.figures
    parts = f"elicitation {figure(f.elicitation_part)} + creation {figure(f.creation)} - loss {figure(f.loss)}"
    level = f" ({analysis.settings.level} intervals)" if comparison.gain.low is not None else ""
    return f"{gain} {where} = {parts}{level}.{_creation_beyond(analysis, comparison)}"


def _creation_beyond(analysis: Analysis, comparison: ArmComparison) -> str:
    """Beyond how many bare attempts the creation is one, and what is left of it beyond the most that there are."""
    if not comparison.elicitation or comparison.full is None:
        return ""
    bare, asked = comparison.bare, f"{attempts(comparison.elicitation)} of {comparison.bare}"
    told = f" Creation is what up to {asked} {'does' if comparison.elicitation == 1 else 'do'} not reach"
    curve = comparison.full.creation_by_spend
    if curve is None or not curve.spends or curve.spends[-1] <= comparison.elicitation:
        return f"{told}."
    return f"{told}; {attempts(curve.spends[-1])} of {bare} leave {figure(curve.creation[-1])} of it."


def unflagged(analysis: Analysis, comparison: ArmComparison) -> str:
    """The same without the tasks that the guard against leaks flagged; empty where it flagged none."""
    leaks = analysis.leaks
    if leaks is None:
        return ""
    left = next((c for c in leaks.comparisons if c.arm == comparison.arm), None)
    without = f"Without the {counted(leaks.tasks, 'flagged task')}, which all that follows counts too"
    if left is None or not left.tasks:
        return f"{without}, nothing is left to compare."
    return f"{without}: {headline(analysis, left)}"


def findings(analysis: Analysis, comparison: ArmComparison) -> tuple[Finding, ...]:
    """What an arm created, elicited and lost, and where nothing is seen or settled, as the intervals support it."""
    if not comparison.claims:
        return (Finding(Effect.UNDETERMINED, _VERBS[Effect.UNDETERMINED], (_COPIES,)),) if comparison.full else ()
    shown = [(name, effect) for name, effect in _named(analysis, comparison.arm) if effect.elicitation is not None]
    suite = _suite(analysis, comparison)
    told = {kind: [*suite.get(kind, ())] for kind in _VERBS}
    hidden: list[str] = []
    for name, effect in shown:
        for kind in effect.effects:
            (hidden if effect.too_few else told[kind]).append(_phrase(kind, name, effect))
    found = [Finding(kind, _verb(kind, comparison), tuple(phrases)) for kind, phrases in told.items() if phrases]
    return (*found, Finding(Effect.UNDETERMINED, _TOO_FEW, tuple(hidden))) if hidden else tuple(found)


def _verb(kind: Effect, comparison: ArmComparison) -> str:
    """What the arm does; creation is always creation beyond so many attempts."""
    beyond = comparison.elicitation if kind is Effect.CREATED else None
    return f"{_VERBS[kind]}, beyond {attempts(beyond, 'bare attempt')}" if beyond else _VERBS[kind]


def _suite(analysis: Analysis, comparison: ArmComparison) -> dict[Effect, tuple[str, ...]]:
    """What intervals over the tasks of several environments together support.

    None where attempts are missing: these intervals do not say what would hold however those had ended.
    """
    full = comparison.full
    if full is None or full.missing is not None or sum(not group.within for group in analysis.groups) < 2:
        return {}
    f = full.figures
    parts = {
        Effect.CREATED: ("creation", f.creation),
        Effect.ELICITED: ("elicitation", f.elicitation_part),
        Effect.LOST: ("loss", f.loss),
    }
    return {
        kind: (f"over all {counted(comparison.tasks, 'task')}: {name} {figure(part)}",)
        for kind, (name, part) in parts.items()
        if part.low is not None and part.low > 0
    }


def _named(analysis: Analysis, arm: str) -> Iterator[tuple[str, GroupEffect]]:
    """Every environment, followed by its groups where not all went the same way, as the table of groups has them."""
    for group in analysis.groups:
        effect = _effect(group, arm)
        if effect is None:
            continue
        if not group.within:
            yield group.label if _uniform(analysis, group, arm) else f"{group.label} as a whole", effect
            continue
        parent = next(g for g in analysis.groups if not g.within and g.label == group.within)
        if not _uniform(analysis, parent, arm):
            yield f"{group.within}, {group.label}", effect


def _uniform(analysis: Analysis, environment: Group, arm: str) -> bool:
    parts = [g for g in analysis.groups if g.within == environment.label]
    kinds = {e.effects for g in (environment, *parts) if (e := _effect(g, arm)) is not None}
    return len(kinds) == 1


def _effect(group: Group, arm: str) -> GroupEffect | None:
    return next((effect for effect in group.effects if effect.arm == arm), None)


def _phrase(kind: Effect, name: str, effect: GroupEffect) -> str:
    size = counted(effect.tasks, "task")
    if kind is Effect.CREATED:
        return f"{name}: {_expanded(effect)}creation {_figure(effect.creation)}{_only_these(effect.creation)}"
    if kind is Effect.EXPANDED:
        return f"{name}: {_expanded(effect)}creation {_figure(effect.creation)}"
    if kind is Effect.ELICITED:
        return f"{name}: {size}, elicitation {_figure(effect.elicitation)}"
    if kind is Effect.LOST:
        return f"{name}: {_lost(effect)}loss {_figure(effect.loss)}{_only_these(effect.loss)}"
    gain = f"gain {figure(effect.gain, signed=True)}"
    if kind is Effect.UNDETERMINED and effect.broken:
        errors = f"the agent's own errors ended {attempts(effect.broken)} at them"
        return f"{name}: {size}, {gain}; undetermined, as {errors}"
    if kind is Effect.UNDETERMINED and effect.open_as_missing:
        return f"{name}: {size}, {gain} of the scored attempts; undetermined, as attempts are missing"
    if kind is Effect.UNDETERMINED and effect.gain is not None and (effect.gain.low or 0.0) > 0:
        gain = f"{gain}: a gain, but whether elicited or created is open"
    return f"{name}: {size}, {gain}{_unsettled(effect) if kind is Effect.UNDETERMINED else ''}"


def _unsettled(effect: GroupEffect) -> str:
    count = effect.verdicts.get(Verdict.UNDETERMINED, 0)
    if not count:
        return ""
    open_ = f"; besides, {count} tasks have no verdict yet" if count > 1 else "; besides, 1 task has no verdict yet"
    if effect.needed is None:
        return f"{open_}, and how many more attempts would settle that is out of sight"
    return f"{open_}, which {further(effect.needed)} more attempts would settle"


def _expanded(effect: GroupEffect) -> str:
    expanded = effect.verdicts.get(Verdict.EXPANDED, 0)
    if not expanded:
        return f"{counted(effect.tasks, 'task')}, "
    least = attempts(effect.bare_attempts, "bare attempt")
    if effect.never_bare == expanded:
        return f"{expanded} of {effect.tasks} tasks expanded, not reached in {least} each; "
    rest = f"{expanded - effect.never_bare} solved now and then"
    how = f"{rest} in {least} each"
    if effect.never_bare:
        how = f"{effect.never_bare} not reached in {least} each and {rest}"
    return f"{expanded} of {effect.tasks} tasks expanded, {how}; "


def _lost(effect: GroupEffect) -> str:
    lost = effect.verdicts.get(Verdict.LOST, 0)
    return f"{lost} of {effect.tasks} tasks lost; " if lost else f"{counted(effect.tasks, 'task')}, "


def _only_these(part: Estimate | None) -> str:
    """Says so where the evidence is that of the tasks at hand, and the interval over tasks does not exclude none."""
    settled = part is not None and part.low is not None and part.low > 0
    return "" if settled else " (shown on these tasks; too few for a claim about others)"


def _figure(part: Estimate | None) -> str:
    return NONE if part is None else figure(part)
