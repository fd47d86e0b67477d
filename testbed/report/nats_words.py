"""Nats in the report: one table, and in words which of the figures an arm's verdict rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from testbed.report.cells import Cell, Row, Table
from testbed.report.nats import ArmNats, Words
from testbed.report.record import Analysis
from testbed.report.words import NONE, attempts, figure, interval, number


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
    if not comparison.claims:
        yield f"{found.arm}: its attempts look like copies of one another, so nothing is claimed in nats."
    elif not found.alike:
        apart = f"Its model is not {found.bare}'s, whose attempts ln K counts: nothing is said of guessing."
        yield f"{found.arm}: {_in_a_row([_rests_apart(found), _reweighting(found), apart])}"
    else:
        told = (_rests(found), _reweighting(found), _guessing(found), _imagined(analysis, found))
        yield f"{found.arm}: {_in_a_row(told)}"
    if found.unscored:
        yield (
            f"{found.arm}: {found.unscored:,} of its attempts have no scores; testbed nats makes them, or says why "
            "there can be none."
        )
    if found.missing:
        yield f"{found.arm}: what is said holds however {found.missing:,} missing attempts had ended."


def _in_a_row(sentences: Iterable[str]) -> str:
    """Those that say something; the first goes on after the arm's name, the others begin anew."""
    first, *others = [sentence for sentence in sentences if sentence]
    return " ".join([f"{first[0].lower()}{first[1:]}", *others])


def _about(analysis: Analysis) -> Iterator[str]:
    first = analysis.nats[0]
    yield (
        "Re-weighting needs: kl of the arm's success against the bare arm's, mean over tasks, at least. ln K: what the "
        f"budget of K = {attempts(first.attempts)} pays for; the best of them spends at most ln K - (K-1)/K = "
        f"{first.paid:.2f} of it. Only tools' words are held against ln K, and re-weighting against these "
        f"{first.paid:.2f}. Tools' words: -ln of the probability that the model itself, at temperature 1, would have "
        "written all that its tools said, in successful attempts; its upper limit does not foresee tasks far worse "
        "than all that were seen."
    )
    for found in analysis.nats:
        if not found.own:
            yield f"{found.arm}: read by {found.scorer}, which is not the model that made its attempts."


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


def _reweighting(found: ArmNats) -> str:
    """The lower end against the budget."""
    name, k = found.arm, attempts(found.attempts)
    if found.more:
        return (
            f"Re-weighting {found.bare} would have to spend at least {_down(found.least or 0.0)} nats a task, and "
            f"{k} at most {found.paid:.2f}: to do all that {name} does is out of their reach."
        )
    if found.beyond:
        count = f"{found.beyond:,} of {found.tasks:,} tasks"
        return f"At {count} re-weighting {found.bare} would have to spend more than {k} ({found.paid:.2f} nats)."
    return f"That re-weighting {found.bare} within {k} does as much is not excluded by the nats it needs."


def _guessing(found: ArmNats) -> str:
    """The upper end against the budget."""
    told, k = figure(found.told.mean), attempts(found.attempts)
    if found.told.mean.value is None:
        return "No attempt succeeded, so there are no words that helped."
    if not found.own:
        return f"Guessing what its tools said takes {found.scorer} {told} nats; its own model was not asked."
    if found.words is Words.NONE:
        return "Its successful attempts were shown no results, so that nothing rests on tools' words."
    if found.words is Words.WITHIN:
        return (
            f"Even the tools' words are within the budget: {k} that guess them, which takes {told} nats, are expected "
            f"to succeed as often as one of {found.arm}."
        )
    if found.words is Words.BEYOND:
        return f"Guessing what the tools said takes {told} nats, more than ln K = {found.budget:.2f}."
    return f"Whether {k} could guess what the tools said ({told} nats) is not settled."


def _rests(found: ArmNats) -> str:
    """Which end the verdict rests on; nothing where an interval leaves it open."""
    if not found.own or found.words in (Words.NONE, Words.OPEN):
        return ""
    if found.words is Words.WITHIN:
        if found.more or found.beyond:
            return (
                "Its verdict rests on how the bare arm acts, and not on the tools' words: attempts that guess them "
                "come to it within the budget, which an imagined arm tests."
            )
        return "Nothing in its verdict rests on tools' words beyond what the budget can guess."
    if found.more:
        return (
            "Its verdict rests on both: on average the budget pays neither for re-weighting what the bare arm does nor "
            "for guessing the tools' words."
        )
    if found.beyond:
        return (
            f"At {found.beyond:,} of {found.tasks:,} tasks its verdict rests on re-weighting that the budget does not "
            "pay for; nor does it pay, on average, for guessing the tools' words."
        )
    return (
        "The verdict rests on the attempts themselves, that is on how often each arm was seen to succeed: what "
        "re-weighting needs and what the tools' words take, the two ends, do not decide it."
    )


def _rests_apart(found: ArmNats) -> str:
    """The same where the arm's model is not the bare arm's: of tools' words nothing is known, and two things differ."""
    both = "what of it is the model's doing and what the tools', these nats do not tell."
    if found.more:
        return f"Its verdict rests on re-weighting, which the budget does not pay for; {both}"
    if found.beyond:
        tasks = f"{found.beyond:,} of {found.tasks:,} tasks"
        return f"At {tasks} its verdict rests on re-weighting that the budget does not pay for; {both}"
    return (
        "The verdict rests on the attempts themselves, that is on how often each arm was seen to succeed: what "
        "re-weighting needs does not decide it."
    )


def _imagined(analysis: Analysis, found: ArmNats) -> str:
    """What an arm of the same tools and model reaches whose model did write their words itself."""
    arm = next((a for a in analysis.arms if a.name == found.imagined), None)
    if arm is None:
        return ""
    return f"{arm.name}, whose model did write them itself, has a pass@1 of {figure(arm.pass_1)}."


def _down(value: float) -> str:
    return f"{int(value * 100) / 100:.2f}"
