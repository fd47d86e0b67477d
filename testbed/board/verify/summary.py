"""What the whole of an entry's attempts shows that no single one does, and what could not be checked, in words."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import pdtrc

from testbed.board.verify.arm_pass import ALIKE_BY_CHANCE, LONG, RARE, ArmPass
from testbed.board.verify.findings import Findings, listed
from testbed.board.verify.models import KnownModel
from testbed.board.verify.one_pass import MOST_MISSING


def summarise(arms: Sequence[ArmPass], known: KnownModel, tasks: int, unjudged: int, findings: Findings) -> None:
    """Tells of all attempts together.

    Args:
        arms: of the entry, after the pass over their attempts.
        known: what is known of their model.
        tasks: how many the board has.
        unjudged: how many of them the guard against leaks cannot judge.
        findings: where it goes.
    """
    for arm in arms:
        _missing(arm, tasks, findings)
        _copies(arm, known, findings)
        _tools(arm, findings)
        if unjudged and arm.called and arm.remaker.why_not:
            findings.unchecked(
                "leaks",
                f"the questions of {unjudged:,} tasks are too short to find them in tool results of {_name(arm)}.",
            )
        _limits(arm, known, findings)
    if known.count is None or not known.spells:
        findings.unchecked(
            "counts", "generated tokens are as is said, within what the texts allow: the model's tokenizer is not here."
        )
    if known.prompt is None:
        findings.unchecked("counts", "prompt tokens are as is said, within what the texts allow.")
    if arms[0].arm.model.get("kind") == "agent":
        findings.unchecked("counts", "how often an agent asks its models is as is said.")
    if findings.state != "rejected":
        total = sum(tasks * arm.arm.claimed.samples for arm in arms)
        findings.ok("answers", f"all {total:,} attempts were gone through and graded again.")
        findings.ok("counts", "turns, calls, faults and limits were counted again from the transcripts.")


def _name(arm: ArmPass) -> str:
    return f"arm {arm.arm.name!r}"


def _missing(arm: ArmPass, tasks: int, findings: Findings) -> None:
    total = tasks * arm.arm.claimed.samples
    said = f"{arm.missing:,} of {total:,} attempts of {_name(arm)} are missing"
    if arm.missing > MOST_MISSING * total:
        findings.wrong(
            "missing",
            f"{said}, more than {MOST_MISSING:.0%}: failures that were left out would look like that. Run the "
            "experiment again to make them.",
        )
    elif arm.missing:
        findings.unchecked("missing", f"{said}; figures have bounds for them.")


def _copies(arm: ArmPass, known: KnownModel, findings: Findings) -> None:
    expected = ALIKE_BY_CHANCE * arm.pairs
    if arm.alike and float(pdtrc(len(arm.alike) - 1, expected)) < RARE:
        findings.wrong(
            "copies",
            f"{len(arm.alike):,} attempts of {_name(arm)} are copies of others, to the nanosecond of their time: "
            f"{listed(arm.alike)}. By chance there would be {expected:.2g}.",
        )
    if arm.repeated and known.model is None and arm.arm.sampling.temperature > 0:
        findings.unchecked(
            "copies",
            f"{arm.repeated:,} attempts of {_name(arm)} repeat {LONG} characters or more word for word; whether the "
            "model repeats itself or was copied cannot be told here.",
        )


def _tools(arm: ArmPass, findings: Findings) -> None:
    if not arm.arm.tools:
        return
    if arm.remaker.why_not:
        findings.unchecked("tools", f"tool results of {_name(arm)} were not made again: {arm.remaker.why_not}.")
    elif arm.called:
        if not arm.remade:
            findings.unchecked(
                "tools",
                f"of {arm.called:,} attempts of {_name(arm)} with tool results none was drawn to have them made again.",
            )
            return
        open_ = f", but for {arm.unsettled:,} of which nobody can tell" if arm.unsettled else ""
        findings.ok(
            "tools",
            f"tool results of {arm.remade:,} of {arm.called:,} attempts of {_name(arm)} were made again, and are the "
            f"same{open_}.",
        )
        if arm.unsettled:
            findings.unchecked(
                "tools",
                f"tool results of {arm.unsettled:,} of {arm.remade:,} attempts of {_name(arm)} that were made again "
                "cannot be compared: time or memory ran out, there or here, or the tool answers otherwise each time.",
            )
    else:
        findings.ok("tools", f"no attempt of {_name(arm)} called a tool.")


def _limits(arm: ArmPass, known: KnownModel, findings: Findings) -> None:
    replayer = arm.replayer
    if replayer.short and known.model is None:
        findings.unchecked(
            "counts",
            f"{len(replayer.short):,} attempts of {_name(arm)} claim fewer tokens than the tokenizer makes of their "
            "texts, as models may spell them.",
        )
    if replayer.full and known.model is None:
        findings.unchecked(
            "counts",
            f"{replayer.full:,} attempts of {_name(arm)} ended since their model took no longer conversation, as is "
            "said.",
        )
    if replayer.clocked:
        findings.unchecked(
            "counts", f"{replayer.clocked:,} attempts of {_name(arm)} were ended by a clock or a price, as is said."
        )
