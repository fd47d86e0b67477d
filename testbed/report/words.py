"""How figures read in words, and what one must know to read them: the same in the terminal and on the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence

from testbed.report.record import Analysis, Leaks
from testbed.stats import Estimate, Range, SampleEquivalent

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
MOVES = "could move this either way"
LONGEST_PROMPT = 80  # characters of a prompt in a sentence


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
    rounded = _rounded(value, up, digits)
    if rounded == 0 and digits == 2 and abs(value) > 1e-12:  # 0.007 does not read as 0.00, which holds what it excludes
        digits = 3
        rounded = _rounded(value, up, digits)
    return _decimal(rounded, digits, signed=signed)


def _rounded(value: float, up: int, digits: int) -> float:
    scale = 10.0**digits
    return up * math.ceil(up * value * scale - 1e-9) / scale


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """An estimate's interval, such as [0.25, 0.44]; says where there is none."""
    if estimate.value is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return "[no interval]"
    return f"[{_outwards(estimate.low, -1, signed=signed)}, {_outwards(estimate.high, 1, signed=signed)}]"


def at_least(low: float) -> str:
    """A lower limit by itself, rounded away from what it limits."""
    return _outwards(low, -1, signed=False)


def share(part: float) -> str:
    """A share in whole per cent; one that is not none or all does not read as if it were."""
    if 0 < part < 0.005:
        return "< 1%"
    return "> 99%" if 0.995 <= part < 1 else f"{part:.0%}"


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


def in_shell(run: str) -> str:
    """A run's name as an argument of a command; RUN where it has none."""
    return shlex.quote(run) if run else "RUN"


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
        f"tasks: in {leaks.attempts:,} of {leaks.read:,} attempts read ({by_arm}). Either the tool gives the benchmark "
        f"away, or a document says what it is about in the question's own words. The plainest case shows "
        f"{worst.overlap:.0%} of the words of {asked!r}: testbed show {worst.attempt[:12]} (arm {worst.arm!r}). The "
        "tables of arms and gain stand twice, with and without these tasks; all else counts them."
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
    firsts = "; ".join(f"{attempts(n)} of each task in {joined(names)}" for n, names in numbers.items())
    return (
        "Sampling of a task stopped where its verdict was settled. Verdicts are made from all attempts, since they "
        f"hold wherever one stops; every other figure from the first {firsts}, which were fixed in advance: what was "
        "made beyond depends on outcomes, and would bias it."
    )


def _reading(analysis: Analysis) -> str:
    s = analysis.settings
    if not any(c.full for c in analysis.comparisons):
        return (
            f"An arm is read at {attempts(1)}. Gain is what it adds to the bare arm there. "
            f"Intervals are {s.level}, over tasks."
        )
    operating = _range({c.operating for c in analysis.comparisons}, s.operating)
    elicitation = _range({c.elicitation for c in analysis.comparisons if c.elicitation}, s.elicitation)
    one = elicitation == attempts(1)
    return (
        f"An arm is read at {operating}. Gain is what it adds to the bare arm there: elicitation is the part that up "
        f"to {elicitation} of the bare arm {'reaches' if one else 'reach'} too, creation the part that "
        f"{'it does' if one else 'they do'} not, loss what became worse. "
        f"Intervals are {s.level}, over tasks. The estimates of the parts add up to the gain exactly, so that noise "
        "may take one below 0 or above 1; their intervals are about the true parts, which are in between. A task is "
        f"accessible if its reach within {attempts(s.elicitation)}, the chance that at least one of them succeeds, is "
        f"at least {s.rho:g}."
    )


def no_claims(analysis: Analysis) -> str:
    """Names the arms whose figures support no claim."""
    names = [c.arm for c in analysis.comparisons if c.full is not None and not c.claims]
    if not names:
        return ""
    return f"Nothing is claimed for {joined(names)}: repeated attempts look like copies of one another."


def broken_told(broken: Mapping[str, tuple[int, int]]) -> str:
    """Says that attempts which an error of the agent's own ended are no evidence; empty where there are none."""
    if not broken:
        return ""
    told = joined([f"{count:,} of {counted(of, 'attempt')} of {arm}" for arm, (count, of) in broken.items()])
    return (
        f"An error of the agent's own ended {told}. These count as failures in the figures, and what would not hold "
        "however they had ended is not claimed."
    )


def broken_in(analysis: Analysis) -> str:
    """The same of all arms that are compared."""
    return broken_told({arm: found for c in analysis.comparisons for arm, found in c.broken.items()})


def without_missing(analysis: Analysis, instead: str = MOVES) -> str:
    """Names the arms that a figure leaves missing attempts of out, and says what that means for it."""
    lost = [f"{arm.name} {arm.missing:,}" for arm in analysis.arms if arm.missing]
    return f"Missing attempts ({', '.join(lost)}) are left out, and {instead}." if lost else ""


def null_name(analysis: Analysis) -> str:
    """What the null row is called: never as an arm is, so that no table or chart takes one for the other."""
    taken = {" ".join(arm.name.split()).casefold() for arm in analysis.arms}
    name = "null row"
    while any(own.startswith(name) for own in taken):
        name = f"{name} (no arm)"
    return name


def null_note(analysis: Analysis) -> str:
    """What the null row is, with the spends that half of the bare attempts allow."""
    nulls = [c.full.null for c in analysis.comparisons if c.full is not None and c.full.null is not None]
    if not nulls:
        return ""
    spends = sorted({(int(n.operating), int(n.elicitation)) for n in nulls})
    read = "; ".join(f"{attempts(b)}, elicitation up to {k}" for b, k in spends)
    second = next((n.tool for n in nulls if n.tool in {arm.name for arm in analysis.arms}), "")
    samples = (
        f"the bare arm and {second}, a second sample of it" if second else "two random halves of the bare attempts"
    )
    return (
        f"The {null_name(analysis)} compares {samples} (read at {read}): "
        f"it shows what the same figures look like when nothing differs.{_elsewhere(analysis)}"
    )


def _elsewhere(analysis: Analysis) -> str:
    """Says so where the null row is read at another elicitation spend than an arm."""
    apart = [c.arm for c in analysis.comparisons if c.full is not None and c.full.at_null is not None]
    if not apart:
        return ""
    return (
        f" It has fewer attempts than {joined(apart)} and is read at a smaller spend; the table of support has a row "
        "at that one, too."
    )


def _range(used: set[int], asked: int) -> str:
    """The spends that the attempts allow: one number where all comparisons have the same."""
    least, most = (min(used), max(used)) if used else (asked, asked)
    return attempts(most) if least == most else f"{least} to {attempts(most)}"


def attempts(n: float, word: str = "attempt") -> str:
    """So many attempts: 1 attempt, 16 attempts."""
    return counted(int(n), word)


def counted(n: int, word: str) -> str:
    """So many of something: 1 task, 1,000 tasks."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def joined(names: Sequence[str]) -> str:
    """Names in a row: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
