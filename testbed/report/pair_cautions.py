"""What a reader must know before believing a comparison of two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from testbed.report.cautions import few_clusters, listing, mistaken, too_few_for_verdicts
from testbed.report.copies import repeats_told
from testbed.report.words import attempts, counted
from testbed.report.words import joined as in_a_row

if TYPE_CHECKING:
    from testbed.report.compare_record import RunComparison
    from testbed.report.sides import Side

_NO_FACTOR = ("seed", "attempts")  # what differs by chance or in number alone is no factor of the arms


def cautions(
    found: RunComparison, left: Side, right: Side, clusters: Sequence[str], *, joined: bool, same_store: bool
) -> Iterator[str]:
    """Every warning there is, in the order in which they matter.

    Args:
        found: the comparison.
        left: side A.
        right: side B.
        clusters: of each task that is compared.
        joined: whether the runs put tasks into clusters differently.
        same_store: whether both runs are in one store.
    """
    yield from _of_tasks(found)
    yield from _of_arms(found, left, right)
    yield from _of_attempts(found, left, right, same_store=same_store)
    waiting = dict.fromkeys((side.run.name, side.unfinished) for side in (left, right) if side.unfinished)
    yield from (f"{run!r}: {text}" for run, text in waiting)
    if left.measure != right.measure:
        yield "The two experiments have different [measure] tables; here both runs are read by that of A."
    if joined:
        yield (
            "The runs put tasks into clusters differently: here two tasks are in one cluster where they are so in "
            "either run, which makes intervals wider, if anything."
        )
    yield from few_clusters(clusters)
    if (full := found.verdicts.full) is not None:
        bare, other = (right, left) if found.reference == right.letter else (left, right)
        for side, repeats in ((bare, full.bare_repeats), (other, full.tool_repeats)):
            if side.arm.drawn.stated:
                yield from repeats_told(side.letter, side.arm.drawn, repeats)
    if found.only_pass_1:
        yield (
            "Repeated attempts look like copies of one another, so that only pass@1 says anything: what several "
            "attempts reach is not known, and no figure of it is shown."
        )
    elif found.reference:
        if not (left if found.reference == left.letter else right).bare:
            yield (
                f"The gain is over {found.reference}, which is not bare: wherever a table or a sentence says bare, it "
                f"means {found.reference}."
            )
        imported = any(side.record.spec.get("imported") for side in (left, right))
        yield from too_few_for_verdicts([found.verdicts], hint=not imported)
        yield from found.verdicts.notes
    elif 0 < found.verdicts.tasks < found.tasks:
        have = "task has" if found.verdicts.tasks == 1 else "tasks have"
        yield f"Only {found.verdicts.tasks:,} {have} enough attempts to say what is within reach."


def _of_tasks(found: RunComparison) -> Iterator[str]:
    if found.alike:
        told = "; ".join(alike.told() for alike in found.alike)
        yield f"Left out, because an answer that is right in one run may be wrong in the other: {told}."
    more = [
        f"{side.run!r} has {counted(n, 'task')} more"
        for side, n in ((found.left, found.only_left), (found.right, found.only_right))
        if n
    ]
    if more:
        yield f"Compared on the {counted(found.common, 'task')} that both runs have; {in_a_row(more)}."
    if found.tasks < found.common:
        yield (
            f"{found.common - found.tasks:,} of the {counted(found.common, 'common task')} are left out, since no "
            "attempt of one side or both has an outcome there: if these are harder or easier than the others, what "
            "follows does not hold for them."
        )


def _of_arms(found: RunComparison, left: Side, right: Side) -> Iterator[str]:
    topics = [difference.topic for difference in found.differs if difference.topic not in _NO_FACTOR]
    if found.left.hash == found.right.hash:
        yield (
            "Both sides are the same configuration: whatever differs between them is chance, and the figures show how "
            "much of it there is."
        )
    factors = list(topics)
    if "tools" in factors and "control" in factors and not all(side.arm.tools for side in (left, right)):
        factors.remove("control")  # where one side has no tools, it cannot have them under the other's control either
    if len(factors) > 1:
        yield f"More than one thing differs ({in_a_row(factors)}): a difference cannot be put down to one of them."
    if "budget" in topics:
        yield "The budgets differ: an arm that may spend more may reach more for that alone."
    if "protocol" in topics:
        yield "The protocols differ: answers and calls were read by other rules."
    if found.left.seed != found.right.seed:
        yield (
            f"The seeds differ ({found.left.seed} and {found.right.seed}): attempts share no random numbers, which "
            "leaves every estimate as it is and may make its interval wider."
        )


def _of_attempts(found: RunComparison, left: Side, right: Side, *, same_store: bool) -> Iterator[str]:
    shared = found.shared
    if shared is not None and shared.attempts:
        if same_store:
            yield (
                f"Both runs share {counted(shared.attempts, 'attempt')}: made once, counted on both sides, and so with "
                "a difference of exactly 0."
            )
        else:
            yield (
                f"{counted(shared.attempts, 'attempt')} {'was' if shared.attempts == 1 else 'were'} made twice, once "
                f"for each run, with the same task, arm, sample index and seed; {shared.otherwise:,} of them ended "
                "differently."
            )
    missing = [
        f"{side.letter} {side.missing:,} of {side.missing + side.attempts:,}"
        for side in (found.left, found.right)
        if side.missing
    ]
    if missing:
        yield f"The infrastructure ended attempts of {in_a_row(missing)}. They are left out of every figure."
    for side in (left, right):
        whose = f"{side.letter} (all of arm {side.record.name!r} of run {side.run.name!r})"
        scored = int((side.outcomes.success >= 0).sum())
        yield from mistaken(whose, side.arm.ended, scored, listing(side.run.name, side.record.name))
    fixed = [
        f"the first {attempts(side.fixed)} of each task in {side.letter}"
        for side in (found.left, found.right)
        if side.fixed
    ]
    if fixed:
        yield (
            "Sampling of a task stopped where its verdict was settled. What is within reach is told from all attempts, "
            f"since that holds wherever one stops; every other figure is from {in_a_row(fixed)}, which were fixed in "
            "advance: what was made beyond depends on outcomes, and would bias it."
        )
