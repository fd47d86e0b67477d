"""Two attempts beside each other: which steps belong together, and which words of them differ.

difflib pairs the steps, and `testbed.report.differing_words` finds the words.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from testbed.report.differing_words import Effort, Run
from testbed.report.message_blocks import Block
from testbed.report.transcript_view import Step, TranscriptView

MOST_STEPS = 400  # unequal steps of one attempt that are paired with those of another; more are paired by position


@dataclass(frozen=True)
class MarkedBlock:
    """A block of a step with its differences marked.

    Attributes:
        label: as `Block.label`.
        fault: as `Block.fault`.
        runs: its text in stretches.
        only: whether the other side has no such block.
    """

    label: str
    fault: bool
    runs: tuple[Run, ...]
    only: bool = False


@dataclass(frozen=True)
class MarkedStep:
    """A step with its number from 1, and its blocks with their differences marked."""

    number: int
    step: Step
    blocks: tuple[MarkedBlock, ...]


@dataclass(frozen=True)
class Row:
    """Steps that belong together; None where one attempt has no such step.

    Attributes:
        left: the step of the attempt on the left.
        right: that of the other.
        same: whether both say the same; what was left of the limits may differ.
    """

    left: MarkedStep | None
    right: MarkedStep | None
    same: bool


def unmarked(view: TranscriptView) -> tuple[MarkedStep, ...]:
    """One attempt's steps by themselves."""
    return tuple(MarkedStep(step.number, step, tuple(_plain(block) for block in step.blocks)) for step in view.steps)


def side_by_side(left: TranscriptView, right: TranscriptView) -> tuple[Row, ...]:
    """Pairs the steps of two attempts and marks what differs.

    Equal steps are paired first; those between them by who speaks and what they do, then by who speaks.
    """
    effort = Effort()
    return tuple(_row(left.steps, right.steps, i, j, effort) for i, j in _pairs(left.steps, right.steps))


def how_alike(left: TranscriptView, right: TranscriptView, *, same: int, marks: str = "") -> str:
    """What two attempts have in common, in a sentence or two.

    Args:
        left: one attempt.
        right: the other.
        same: steps that say the same.
        marks: how differing words are marked, where that does not show by itself.
    """
    if left.id == right.id:
        return "This is one attempt twice."
    told = "At the same task" if left.task == right.task else "Of different tasks"
    told += (
        f", both sample {left.sample}" if left.sample == right.sample else f", samples {left.sample} and {right.sample}"
    )
    if left.seed != right.seed:
        told += f", with different seeds ({left.seed} and {right.seed}), so that they share no random numbers"
    most = max(len(left.steps), len(right.steps))
    told += f". {same} of {most} step{'' if most == 1 else 's'}{' here' if left.partial else ''} say the same"
    return f"{told}; words that differ are marked{f' {marks}' if marks else ''}."


def names_of(left: TranscriptView, right: TranscriptView) -> tuple[str, str]:
    """What to call both: their arms, or where these are the same, their ids."""
    if left.arm and right.arm and left.arm != right.arm:
        return left.arm, right.arm
    if left.id != right.id:
        return left.id[:12], right.id[:12]
    return "left", "right"


def both_facts(left: TranscriptView, right: TranscriptView, *, reveal_reference: bool) -> list[tuple[str, str, str]]:
    """What is known of both as a whole: a term, with the text of each."""
    ours, theirs = (dict([*view.facts(reveal_reference=reveal_reference), *view.given]) for view in (left, right))
    terms = [*ours, *(term for term in theirs if term not in ours)]
    return [(term, ours.get(term, "none"), theirs.get(term, "none")) for term in terms]


def _pairs(left: Sequence[Step], right: Sequence[Step]) -> Iterator[tuple[int | None, int | None]]:
    yield from _paired(left, right, range(len(left)), range(len(right)), (_content, _kind, _speaker))


def _paired(
    left: Sequence[Step], right: Sequence[Step], ours: range, theirs: range, ways: Sequence[Callable[[Step], Hashable]]
) -> Iterator[tuple[int | None, int | None]]:
    """Pairs steps that are alike in the first way; those between them in the next way, and so on."""
    if not ways or not ours or not theirs:
        yield from ((n, None) for n in ours)
        yield from ((None, n) for n in theirs)
        return
    alike, *rest = ways
    for same, (i, i_end), (j, j_end) in _stretches([alike(left[n]) for n in ours], [alike(right[n]) for n in theirs]):
        if same:
            yield from zip(ours[i:i_end], theirs[j:j_end], strict=True)
        else:
            yield from _paired(left, right, ours[i:i_end], theirs[j:j_end], rest)


def _kind(step: Step) -> Hashable:
    """Who speaks, and whether it answers, calls a tool or does neither."""
    return step.role, step.name, tuple(block.label for block in step.blocks)


def _speaker(step: Step) -> Hashable:
    return step.role, step.name


def _content(step: Step) -> Hashable:
    return step.role, step.name, step.fault, step.blocks


def _stretches(
    left: Sequence[Hashable], right: Sequence[Hashable]
) -> Iterator[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Stretches of two sequences that are equal, or not; long ones are compared position by position."""
    if max(len(left), len(right)) > MOST_STEPS:
        shorter = min(len(left), len(right))
        for n in range(shorter):
            yield left[n] == right[n], (n, n + 1), (n, n + 1)
        yield False, (shorter, len(left)), (shorter, len(right))
        return
    for tag, i, i_end, j, j_end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        yield tag == "equal", (i, i_end), (j, j_end)


def _row(left: Sequence[Step], right: Sequence[Step], i: int | None, j: int | None, effort: Effort) -> Row:
    if i is None or j is None:
        return Row(_alone(left, i), _alone(right, j), same=False)
    ours, theirs = left[i], right[j]
    blocks = _blocks(ours.blocks, theirs.blocks, effort)
    same = _content(ours) == _content(theirs)
    return Row(MarkedStep(ours.number, ours, blocks[0]), MarkedStep(theirs.number, theirs, blocks[1]), same)


def _alone(steps: Sequence[Step], n: int | None) -> MarkedStep | None:
    if n is None:
        return None
    return MarkedStep(steps[n].number, steps[n], tuple(_plain(block, only=True) for block in steps[n].blocks))


def _plain(block: Block, *, only: bool = False) -> MarkedBlock:
    return MarkedBlock(block.label, block.fault, (Run(block.text),), only)


def _blocks(
    left: Sequence[Block], right: Sequence[Block], effort: Effort
) -> tuple[tuple[MarkedBlock, ...], tuple[MarkedBlock, ...]]:
    """Pairs the blocks of two steps by what they are, and marks the words that differ."""
    ours: list[MarkedBlock] = []
    theirs: list[MarkedBlock] = []
    for same, (i, i_end), (j, j_end) in _stretches(
        [(b.label, b.fault) for b in left], [(b.label, b.fault) for b in right]
    ):
        if not same:
            ours += [_plain(block, only=True) for block in left[i:i_end]]
            theirs += [_plain(block, only=True) for block in right[j:j_end]]
            continue
        for one, other in zip(left[i:i_end], right[j:j_end], strict=True):
            runs = effort.marked(one.text, other.text)
            ours.append(MarkedBlock(one.label, one.fault, runs[0]))
            theirs.append(MarkedBlock(other.label, other.fault, runs[1]))
    return tuple(ours), tuple(theirs)
