"""Nats in the report: one table, and in words which of the figures an arm's verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.report.cells import Cell, Row, Table
from testbed.report.nats import ArmNats
from testbed.report.record import Analysis
from testbed.report.words import NONE, figure, interval, number
from testbed.stats import Estimate
from testbed.types import Control


def table(analysis: Analysis) -> Table:
    """Least nats of re-weighting, ln K of the budget, and interaction nats, side by side."""
    level = analysis.settings.level
    columns = (
        f"re-weighting needs [{level}, lower]",
        "ln K",
        f"tools' words, mean [{level}]",
        "median",
        "results read",
        "successes",
    )
    rows = [Row(found.arm, _cells(found)) for found in analysis.nats]
    notes = [*(_about(analysis) if rows else ()), *(line for found in analysis.nats for line in words(analysis, found))]
    return Table("nats", f"Nats, against {analysis.bare}", "arm", columns, tuple(rows), tuple(notes))


def words(analysis: Analysis, found: ArmNats) -> Iterator[str]:
    """What an arm's figures in nats say, as far as their intervals support it."""
    comparison = next(c for c in analysis.comparisons if c.arm == found.arm)
    yield f"{found.arm}: {_ends(found)}{_rests(found) if comparison.claims else ''}{_imagined(analysis, found)}"
    if found.unscored:
        yield f"{found.arm}: {found.unscored:,} of its attempts have no scores yet; testbed nats makes them."


def _about(analysis: Analysis) -> Iterator[str]:
    first = analysis.nats[0]
    yield (
        "Re-weighting needs: kl of the arm's success against the bare arm's, mean over tasks, at least. ln K: what the "
        f"budget of K = {first.attempts:,} attempts pays for; the best of them spends at most ln K - (K-1)/K = "
        f"{first.paid:.2f} of it. Tools' words: -ln of the probability that the model itself would have written all "
        "that its tools said, in successful attempts; its upper limit takes it that no task is worse than the worst "
        "seen."
    )
    others = sorted({found.scorer for found in analysis.nats if not found.own})
    if others:
        yield f"Read by {', '.join(others)}, which is not the model that made the attempts."


def _cells(found: ArmNats) -> tuple[Cell, ...]:
    told = found.told
    low = "[no interval]" if found.needed.low is None else f"[{_down(found.needed.low)}, )"
    return (
        (number(found.needed.value), low),
        (f"{found.budget:.2f}",),
        (number(told.mean.value), interval(told.mean)),
        (NONE if told.median is None else f"{told.median:.2f}",),
        (NONE if found.calls is None else f"{found.calls:.1f}",),
        (f"{told.attempts:,}",),
    )


def _ends(found: ArmNats) -> str:
    """Both ends against the budget, each a sentence."""
    name, k = found.arm, f"{found.attempts:,} attempts"
    if _needs_more(found):
        lower = (
            f"re-weighting {found.bare} would have to spend at least {found.needed.low:.2f} nats a task, and {k} spend "
            f"{found.paid:.2f} at most: to do all that {name} does is out of their reach. "
        )
    elif found.beyond:
        count = f"{found.beyond:,} of {found.tasks:,} tasks"
        lower = f"at {count} re-weighting {found.bare} would have to spend more than {k} do ({found.paid:.2f} nats). "
    else:
        lower = f"that re-weighting {found.bare} within {k} does as much is not excluded by the nats it needs. "
    told = figure(found.told.mean)
    if found.told.mean.value is None:
        return f"{lower}No attempt succeeded, so there are no words that helped. "
    if _words_beyond(found):
        upper = f"Guessing what the tools said takes {told} nats, more than ln K = {found.budget:.2f}. "
    elif _words_within(found):
        upper = (
            f"Even the tools' words are within the budget: guessing them takes {told} nats, less than ln K = "
            f"{found.budget:.2f}, so that {k} which do are expected to succeed as often as one of {name}. "
        )
    else:
        upper = f"Whether {found.attempts:,} attempts could guess what the tools said ({told} nats) is not settled. "
    return lower + upper


def _rests(found: ArmNats) -> str:
    """Which end the verdict rests on; nothing where an interval leaves it open."""
    reach = _needs_more(found) or found.beyond > 0
    if reach and _words_beyond(found):
        return (
            "Its verdict rests on both: on average the budget pays neither for re-weighting what the bare arm does nor "
            "for guessing the tools' words."
        )
    if reach and _words_within(found):
        return (
            "Its verdict rests on how the bare arm acts, and not on the tools' words: attempts that guess them come to "
            "it within the budget, which an imagined arm tests."
        )
    if _words_within(found):
        return "Its verdict rests on the tools' words, and these the budget can guess."
    if _words_beyond(found):
        return "Between these two ends the verdict rests on the attempts themselves."
    return ""


def _imagined(analysis: Analysis, found: ArmNats) -> str:
    """What an arm of the same tools reaches whose model did write their words itself."""
    tools = analysis.arm(found.arm).tools
    arm = next((a for a in analysis.arms if a.control == Control.IMAGINED and a.tools == tools), None)
    if arm is None:
        return ""
    return f" {arm.name}, whose model did write them itself, has a pass@1 of {figure(arm.pass_1)}."


def _needs_more(found: ArmNats) -> bool:
    return found.needed.low is not None and found.needed.low > found.paid


def _words_beyond(found: ArmNats) -> bool:
    low = _limits(found.told.mean)[0]
    return low is not None and low > found.budget


def _words_within(found: ArmNats) -> bool:
    high = _limits(found.told.mean)[1]
    return high is not None and high < found.budget


def _limits(estimate: Estimate) -> tuple[float | None, float | None]:
    return estimate.low, estimate.high


def _down(value: float) -> str:
    return f"{int(value * 100) / 100:.2f}"
