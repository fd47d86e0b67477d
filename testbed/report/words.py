"""How figures and findings read in words: the same in the terminal and on the page.

A sentence claims what an interval or a verdict supports and no more: "not reached in n attempts", never "unreachable".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testbed.report.record import Analysis, ArmComparison, Effect, Group, GroupEffect, Leaks
from testbed.stats import Estimate, Range, SampleEquivalent, Verdict

AXES = {
    "attempts": "attempts",
    "generated_tokens": "generated tokens",
    "prompt_tokens": "prompt tokens",
    "observed_tokens": "observed tokens",
    "model_calls": "model calls",
    "tool_calls": "tool calls",
    "turns": "turns",
    "seconds": "seconds",
    "usd": "USD",
}
NONE = "n/a"
LONGEST_PROMPT = 80  # characters of a prompt in a sentence
_VERBS = {
    Effect.CREATED: "creates",
    Effect.EXPANDED: "expands",
    Effect.ELICITED: "elicits",
    Effect.LOST: "loses",
    Effect.NOTHING: "no effect seen on",
    Effect.UNDETERMINED: "undetermined",
}


def number(value: float | None, *, signed: bool = False) -> str:
    """A figure with two decimals, such as 0.35 or +0.35, or more where two would hide that it is not 0, 1 or -1.

    n/a where it is not defined; 0.00 where three decimals would be 0, too.
    """
    return NONE if value is None else _decimal(value, _digits(value), signed=signed)


def _digits(value: float) -> int:
    if 0.0005 <= abs(value) < 0.005:
        return 3
    return next((digits for digits in (2, 3, 4, 5) if abs(1 - abs(value)) >= 0.5 * 10**-digits), 2)


def _decimal(value: float, digits: int, *, signed: bool) -> str:
    if round(value, digits) == 0:
        value = 0.0  # no "-0.00"
    elif abs(value) == 1:
        digits = 2
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _outwards(value: float, up: int, *, signed: bool) -> str:
    """A limit, rounded away from what it limits: an interval in print holds all that it holds."""
    tiny, gap = 1e-12 < abs(value) < 0.0005, 1 - abs(value)
    digits = 3 if tiny else 5 if 0 < gap < 5e-6 else _digits(value)
    scale = 10**digits
    rounded = up * math.ceil(up * value * scale - 1e-9) / scale
    return _decimal(rounded, digits, signed=signed)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """An estimate's interval, such as [0.25, 0.44]; says where there is none."""
    if estimate.value is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return "[no interval]"
    return f"[{_outwards(estimate.low, -1, signed=signed)}, {_outwards(estimate.high, 1, signed=signed)}]"


def figure(estimate: Estimate, *, signed: bool = False) -> str:
    """An estimate with its interval on one line."""
    return f"{number(estimate.value, signed=signed)} {interval(estimate, signed=signed)}".rstrip()


def span(bounds: Range) -> str:
    """Both-way bounds over missing attempts; n/a where the figure is not defined in one of the cases."""
    return f"{bounds.low:.3f} to {bounds.high:.3f}" if bounds.low <= bounds.high else NONE


def amount(value: float | None) -> str:
    """A cost: three significant digits, thousands separated, n/a where there is no success to divide by."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def equivalent(found: SampleEquivalent) -> tuple[str, str]:
    """The sample-equivalent gain and its interval; "> n" where no number of the bare attempts there are is enough."""

    def one(k: int | None) -> str:
        return f"> {found.censored_at}" if k is None else str(k)

    return one(found.k), f"[{one(found.low)}, {one(found.high)}]" if found.interval else "[no interval]"


def leaks_told(leaks: Leaks | None) -> str:
    """What the guard against leaks found; empty where it found nothing."""
    if leaks is None:
        return ""
    whole, worst = leaks.tasks + leaks.left, leaks.worst
    asked = " ".join(worst.prompt.split())
    asked = asked if len(asked) <= LONGEST_PROMPT else f"{asked[:LONGEST_PROMPT]}…"
    by_arm = ", ".join(f"{arm} {count:,}" for arm, count in leaks.by_arm.items())
    return (
        f"A tool showed the question nearly word by word, together with its answer, at {leaks.tasks:,} of {whole:,} "
        f"tasks: in {leaks.attempts:,} of {leaks.read:,} attempts read ({by_arm}). The plainest is attempt "
        f"{worst.attempt[:12]} of {worst.arm!r} (overlap {worst.overlap:.2f}) at "
        f"{asked!r}. The first tables stand with and without these tasks."
    )


def further(needed: float | None) -> str:
    """Attempts still needed, rounded: it is a projection."""
    if needed is None:
        return "out of sight"
    return f"{needed:,.0f}" if needed < 100 else f"about {float(f'{needed:.2g}'):,.0f}"


def reading(analysis: Analysis) -> str:
    """How to read the figures, in a few sentences; nothing where they speak for themselves."""
    return " ".join(filter(None, (_reading(analysis) if analysis.comparisons else "", stopping(analysis))))


def stopping(analysis: Analysis) -> str:
    """Which figures are of which attempts, where sampling stopped early; else nothing."""
    numbers: dict[int, list[str]] = {}
    for arm in analysis.arms:
        if arm.fixed:
            numbers.setdefault(arm.fixed, []).append(arm.name)
    if not numbers:
        return ""
    firsts = "; ".join(f"{_attempts(n)} of each task in {joined(names)}" for n, names in numbers.items())
    return (
        "Sampling of a task stopped where its verdict was settled. Verdicts are made from all attempts, since they "
        f"hold wherever one stops; every other figure from the first {firsts}, which were fixed in advance: what was "
        "made beyond depends on outcomes, and would bias it."
    )


def _reading(analysis: Analysis) -> str:
    s = analysis.settings
    if not any(c.full for c in analysis.comparisons):
        return (
            f"An arm is read at {_attempts(1)}. Gain is what it adds to the bare arm there. "
            f"Intervals are {s.level}, over tasks."
        )
    operating = _range({c.operating for c in analysis.comparisons}, s.operating)
    elicitation = _range({c.elicitation for c in analysis.comparisons if c.elicitation}, s.elicitation)
    return (
        f"An arm is read at {operating}. Gain is what it adds to the bare arm there: elicitation is the part that up "
        f"to {elicitation} of the bare arm reach too, creation the part that they do not, loss what became worse. "
        f"Intervals are {s.level}, over tasks. Estimates of the parts add up to the gain exactly, and noise may draw "
        "one below 0; intervals of the parts are about what is true, which is never below 0. A task is "
        f"accessible if its reach within {_attempts(s.elicitation)} is at least {s.rho:g}."
    )


_COPIES = (
    "all of it: repeated attempts look like copies of one another, so what resampling would reach is not known, and "
    "nothing is claimed"
)


@dataclass(frozen=True)
class Finding:
    """One kind of thing that an arm did, and to which tasks."""

    effect: Effect
    verb: str
    phrases: tuple[str, ...]


def headline(analysis: Analysis, comparison: ArmComparison) -> str:
    """The whole gain of an arm and its parts, in one sentence."""
    where = f"on {_count(comparison.tasks, 'task')} at {_attempts(comparison.operating)}"
    gain = figure(comparison.gain, signed=True)
    if comparison.full is None:
        return f"gain {gain} {where}; not split into elicitation and creation."
    f = comparison.full.figures
    parts = f"elicitation {figure(f.elicitation_part)} + creation {figure(f.creation)} - loss {figure(f.loss)}"
    level = f" ({analysis.settings.level} intervals)" if comparison.gain.low is not None else ""
    return f"gain {gain} {where} = {parts}{level}."


def findings(analysis: Analysis, comparison: ArmComparison) -> tuple[Finding, ...]:
    """What an arm created, elicited and lost, and where nothing is seen or settled, as the intervals support it."""
    if not comparison.claims:
        return (Finding(Effect.UNDETERMINED, _VERBS[Effect.UNDETERMINED], (_COPIES,)),) if comparison.full else ()
    shown = [(group, effect) for group, effect in _coarsest(analysis, comparison.arm) if effect.elicitation is not None]
    return tuple(
        Finding(kind, verb, phrases)
        for kind, verb in _VERBS.items()
        if (phrases := tuple(_phrase(kind, group, effect) for group, effect in shown if kind in effect.effects))
    )


def no_claims(analysis: Analysis) -> str:
    """Names the arms whose figures support no claim."""
    names = [c.arm for c in analysis.comparisons if c.full is not None and not c.claims]
    if not names:
        return ""
    return f"Nothing is claimed for {joined(names)}: repeated attempts look like copies of one another."


def null_note(analysis: Analysis) -> str:
    """What the null row is, with the spends that half of the bare attempts allow."""
    nulls = [c.full.null for c in analysis.comparisons if c.full is not None and c.full.null is not None]
    if not nulls:
        return ""
    spends = sorted({(int(n.operating), int(n.elicitation)) for n in nulls})
    read = "; ".join(f"{_attempts(b)}, elicitation up to {k}" for b, k in spends)
    second = next((n.tool for n in nulls if n.tool in {arm.name for arm in analysis.arms}), "")
    samples = (
        f"the bare arm and {second}, a second sample of it" if second else "two random halves of the bare attempts"
    )
    return (
        f"The null row compares {samples} (read at {read}): "
        f"it shows what the same figures look like when nothing differs.{_elsewhere(analysis)}"
    )


def _elsewhere(analysis: Analysis) -> str:
    """Says so where the null row is read at another elicitation spend than an arm."""
    apart = [c.arm for c in analysis.comparisons if c.full is not None and c.full.at_null is not None]
    if not apart:
        return ""
    return f" It has fewer attempts than {joined(apart)} and is read at a smaller spend; support has a row at that one."


def _coarsest(analysis: Analysis, arm: str) -> Iterator[tuple[Group, GroupEffect]]:
    """A whole environment where its groups all went the same way, else the groups."""
    for group in analysis.groups:
        whole = _effect(group, arm)
        if whole is None:
            continue
        parent = next((g for g in analysis.groups if not g.within and g.label == group.within), None)
        # Of an environment and its groups, either the whole is shown or the parts are.
        if (_uniform(analysis, group, arm)) if parent is None else not _uniform(analysis, parent, arm):
            yield group, whole


def _uniform(analysis: Analysis, environment: Group, arm: str) -> bool:
    parts = [g for g in analysis.groups if g.within == environment.label]
    kinds = {e.effects for g in (environment, *parts) if (e := _effect(g, arm)) is not None}
    return len(kinds) == 1


def _effect(group: Group, arm: str) -> GroupEffect | None:
    return next((effect for effect in group.effects if effect.arm == arm), None)


def _phrase(kind: Effect, group: Group, effect: GroupEffect) -> str:
    name = f"{group.within}, {group.label}" if group.within else group.label
    size = _count(effect.tasks, "task")
    if kind is Effect.CREATED:
        return f"{name}: {_expanded(effect)}creation {_figure(effect.creation)}{_only_these(effect.creation)}"
    if kind is Effect.EXPANDED:
        return f"{name}: {_expanded(effect)}creation {_figure(effect.creation)}"
    if kind is Effect.ELICITED:
        return f"{name}: {size}, elicitation {_figure(effect.elicitation)}"
    if kind is Effect.LOST:
        return f"{name}: {_lost(effect)}loss {_figure(effect.loss)}{_only_these(effect.loss)}"
    gain = f"gain {figure(effect.gain, signed=True)}"
    open_ = effect.verdicts.get(Verdict.UNDETERMINED, 0)
    if kind is Effect.UNDETERMINED and effect.open_as_missing:
        return f"{name}: {size}, {gain} of the scored attempts; undetermined, as attempts are missing"
    if kind is Effect.UNDETERMINED and effect.gain is not None and (effect.gain.low or 0.0) > 0:
        gain = f"{gain}: a gain, but whether elicited or created is open"
    if kind is Effect.UNDETERMINED and open_:
        return f"{name}: {size}, {gain}; {open_} undetermined, {further(effect.needed)} more attempts needed"
    return f"{name}: {size}, {gain}"


def _expanded(effect: GroupEffect) -> str:
    expanded = effect.verdicts.get(Verdict.EXPANDED, 0)
    if not expanded:
        return f"{_count(effect.tasks, 'task')}, "
    least = _attempts(effect.bare_attempts, "bare attempt")
    if effect.never_bare == expanded:
        return f"{expanded} of {effect.tasks} tasks expanded, not reached in {least} each; "
    rest = f"{expanded - effect.never_bare} solved now and then"
    how = f"{rest} in {least} each"
    if effect.never_bare:
        how = f"{effect.never_bare} not reached in {least} each and {rest}"
    return f"{expanded} of {effect.tasks} tasks expanded, {how}; "


def _lost(effect: GroupEffect) -> str:
    lost = effect.verdicts.get(Verdict.LOST, 0)
    return f"{lost} of {effect.tasks} tasks lost; " if lost else f"{_count(effect.tasks, 'task')}, "


def _only_these(part: Estimate | None) -> str:
    """Says so where the evidence is that of the tasks at hand, and the interval over tasks does not exclude none."""
    settled = part is not None and part.low is not None and part.low > 0
    return "" if settled else " (shown on these tasks; too few for a claim about others)"


def _figure(part: Estimate | None) -> str:
    return NONE if part is None else figure(part)


def _range(used: set[int], asked: int) -> str:
    """The spends that the attempts allow: one number where all comparisons have the same."""
    least, most = (min(used), max(used)) if used else (asked, asked)
    return _attempts(most) if least == most else f"{least} to {_attempts(most)}"


def _attempts(n: float, word: str = "attempt") -> str:
    return _count(int(n), word)


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def joined(names: Sequence[str]) -> str:
    """Names in a row: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
