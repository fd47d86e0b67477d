"""Checkpoints in the report: one table, and in words what each figure says and what it does not."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.report.cells import Cell, Row, Table
from testbed.report.checkpoints import Checkpoint
from testbed.report.record import Analysis
from testbed.report.words import NONE, figure, interval, number
from testbed.stats import Estimate

UNSEEN = 0.5  # of the ratio's expectation of 1: below, most of what the base writes was not among the attempts


def table(analysis: Analysis) -> Table:
    """KL of whole attempts, what success needs of it, and what the bare arm's model would have written itself."""
    level = analysis.settings.level
    columns: tuple[str, ...] = (
        f"KL [{level}]",
        f"controlled [{level}]",
        f"success needs [{level}, lower]",
        "successes",
        f"affordable [{level}]",
        "expanded",
    )
    rows = [Row(found.arm, _cells(found)) for found in analysis.checkpoints if not found.wanted]
    notes = [*(_about(analysis) if rows else ()), *(line for found in analysis.checkpoints for line in words(found))]
    title = f"Checkpoints, against the model of {analysis.bare}"
    if not rows:  # no columns: only what gets the figures is told
        columns, rows = (), [Row(found.arm, ()) for found in analysis.checkpoints]
    cautions = [_respelled(found) for found in analysis.checkpoints if _mostly_respelled(found)]
    return Table("checkpoints", title, "arm", columns, tuple(rows), tuple(notes), tuple(cautions))


def words(found: Checkpoint) -> Iterator[str]:
    """What an arm's figures say, or how to get them."""
    if found.wanted:
        yield (
            f"{found.arm}: how far its attempts lie from the model of {found.bare} is known once both models have "
            "scored them:"
        )
        yield from (f"testbed {arguments}" for arguments in found.wanted)  # a line each, to be copied
        return
    yield f"{found.arm}: {_kl(found)}"
    yield f"{found.arm}: {_affordable(found)}"
    if found.contradicted:
        yield (
            f"{found.arm}: {found.contradicted:,} of {found.expanded:,} expanded tasks have a successful attempt whose "
            f"very text {found.bare} writes so often that they are within its reach: these verdicts are wrong."
        )
    if found.respelled and not _mostly_respelled(found):
        yield _respelled(found)
    if found.unscored:
        lack = "lacks" if found.unscored == 1 else "lack"
        yield f"{found.arm}: {found.unscored:,} of its attempts {lack} scores by one of the models or both."


def _mostly_respelled(found: Checkpoint) -> bool:
    """Whether the figures are of other sequences of tokens than were sampled, for the most part."""
    return found.respelled > found.scored / 2


def _respelled(found: Checkpoint) -> str:
    told = (
        f"{found.arm}: {found.respelled:,} of {found.scored:,} attempts were sampled in other tokens than the "
        "tokenizer makes of their text; they are scored in the tokenizer's."
    )
    return f"{told} Its figures here are of texts that it did not sample so." if _mostly_respelled(found) else told


def _about(analysis: Analysis) -> Iterator[str]:
    k = analysis.settings.elicitation
    yield (
        "KL: ln of how much likelier an attempt's whole text, ends of messages included, is to the arm's own model "
        f"than to that of {analysis.bare}, mean over attempts, then tasks; its upper limit does not foresee tasks "
        "far worse than all that were seen. Controlled: the same, less noisy where the two are close. Success needs: "
        f"the least KL, from what the model of {analysis.bare} does under the arm's own tools and budget, of anything "
        "that succeeds as often. Affordable: successful attempts whose very text has "
        f"probability 1/K or more under the model of {analysis.bare}, K = {k:,} "
        f"(ln K = {analysis.checkpoints[0].budget:.2f}). Expanded: tasks whose verdict is expanded, that is "
        f"within reach of the arm and out of reach of {analysis.bare}, by what both did."
    )


def _cells(found: Checkpoint) -> tuple[Cell, ...]:
    needed = found.needed or Estimate(None, None, None)
    low = "[no interval]" if needed.low is None else f"[{int(needed.low * 100) / 100:.2f}, )"
    share = found.affordable
    return (
        _estimate(found.kl.mean if found.kl else None),
        _estimate(found.kl.controlled if found.kl else None),
        (number(needed.value), low),
        (NONE if share is None else f"{share.successes:,}",),
        _estimate(share.share if share else None),
        (NONE if found.expanded is None else f"{found.expanded:,}",),
    )


def _estimate(estimate: Estimate | None) -> Cell:
    return (NONE,) if estimate is None else (number(estimate.value), interval(estimate))


def _kl(found: Checkpoint) -> str:
    kl = found.kl
    if kl is None:
        return f"no KL: {found.no_kl}."
    told = (
        f"its attempts lie {figure(kl.mean)} nats from the model of {found.bare}. That counts every change of wording, "
        f"for better or worse; {_beside(found)}."
    )
    if kl.ratio is None or kl.ratio < UNSEEN:
        most = "" if kl.ratio is None else f", by at most {1 - kl.ratio:.2f}"
        told += (
            " What the other model mostly writes was not among the attempts, so that the controlled figure is mostly "
            f"too low{most}."
        )
    return told


def _beside(found: Checkpoint) -> str:
    if not found.beside:
        return (
            f"what succeeding as often takes of it is not known: no arm has the model of {found.bare} under the system "
            f"text, tools and budget of {found.arm}"
        )
    if found.beside != found.bare:
        return f"the least that {found.beside} would need of it to succeed as often stands beside it"
    return "what succeeding as often takes at least stands beside it"


def _affordable(found: Checkpoint) -> str:
    share = found.affordable
    if share is None:
        return f"no share of affordable attempts: {found.no_share}."
    if not share.successes:
        return "no attempt succeeded, so there is none to be afforded."
    others = f"{found.attempts:,} attempts of {found.bare}"
    if not found.alike:
        others = f"{found.attempts:,} attempts of the model of {found.bare}, made as those of {found.arm} are,"
    told = f"{share.within:,} of {share.successes:,} successful attempts are affordable"
    if share.within:
        chance = f"with probability {share.written:.2f} or more"
        told += f": {others} would have written each of them, by itself, word for word {chance}"
    if share.within == share.successes:
        return f"{told}."
    return (
        f"{told}. That others are not shows no creation: other texts may succeed as well. The verdicts, from what "
        f"{found.bare} did, decide."
    )
