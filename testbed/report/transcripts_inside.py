"""Transcripts inside the report's page: some attempts of every arm, within a stated size.

A page is mailed and moved by itself, so what its points lead to should be in it. What does not fit stays in the store:
`testbed show` prints any attempt, and `testbed report --transcripts N` writes a folder of pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from testbed.report.message_blocks import Block
from testbed.report.record import Analysis
from testbed.report.transcript_page import render_transcript
from testbed.report.transcript_view import Step, TranscriptView
from testbed.report.verdict_map import MappedArm, VerdictMap
from testbed.stats import Verdict
from testbed.types import Task, attempt_id

if TYPE_CHECKING:
    from markupsafe import Markup

    from testbed.store import Store

ROOM = 1_500_000  # bytes of the page that transcripts may take
LONGEST = 30_000  # characters of one; of a longer one, the beginnings of its texts stand there
MOST_READ = 2_000  # attempts that are read from the store
MOST_TEXT = 50_000_000  # characters in them, likewise
UNRECORDED = 50  # attempts without a transcript after which no more are looked for: imported outcomes have none
BEGINNING = 1_000  # characters of a text of a longer one
MOST_STEPS = 40
TELLING = (Verdict.EXPANDED, Verdict.LOST)  # tasks that a reader asks for first


@dataclass(frozen=True)
class Cell:
    """Some attempts of an arm at a task.

    Attributes:
        task: place of the task in the map.
        anchor: id of its element.
        title: the verdict, successes and attempts, and the beginning of the prompt.
        transcripts: a success before a failure.
    """

    task: int
    anchor: str
    title: str
    transcripts: tuple[Markup, ...]


@dataclass(frozen=True)
class ArmInside:
    """An arm's transcripts.

    Attributes:
        name: the arm's.
        place: among the arms of the map.
        anchor: id of its element.
        cells: in the order of the map.
    """

    name: str
    place: int
    anchor: str
    cells: tuple[Cell, ...]

    @property
    def attempts(self) -> int:
        """How many attempts are shown."""
        return sum(len(cell.transcripts) for cell in self.cells)


@dataclass(frozen=True)
class TranscriptsInside:
    """Transcripts that stand in the page.

    Attributes:
        arms: the arms that have some, in the order of the report.
        whole: whether every task and arm with an attempt has some.
    """

    arms: tuple[ArmInside, ...]
    whole: bool

    def arm(self, name: str) -> str:
        """Where an arm's transcripts are; empty for an arm without."""
        return next((f"#{arm.anchor}" for arm in self.arms if arm.name == name), "")

    @property
    def attempts(self) -> int:
        """How many attempts are shown."""
        return sum(arm.attempts for arm in self.arms)


def transcripts_inside(store: Store, analysis: Analysis, room: int = ROOM) -> TranscriptsInside | None:
    """Reads the attempts that a page shows: a success of each arm at each task, then a failure, as far as they fit.

    Tasks that an arm expanded or lost come first, then the others, from every group in turn.

    Args:
        store: where the run is.
        analysis: the report.
        room: bytes of HTML that they may take.

    Returns:
        None where the run has no transcripts.
    """
    mapped = analysis.map
    if mapped is None:
        return None
    shown: dict[tuple[int, int], list[Markup]] = {}
    for task, number, view in _views(store, analysis, mapped):
        html = render_transcript(_shortened(view), reveal_reference=False, level=4)
        size = len(html.encode("utf-8"))
        if size > 2 * LONGEST:
            continue  # markup can make short texts long
        if size > room:
            break
        room -= size
        shown.setdefault((number, task), []).append(html)
    if not shown:
        return None
    arms = []
    for number, arm in enumerate(mapped.arms):
        tasks = sorted(task for own, task in shown if own == number)
        cells = (
            Cell(task, anchor(task, number), _title(mapped, arm, task), tuple(shown[number, task])) for task in tasks
        )
        if tasks:
            arms.append(ArmInside(arm.arm, number, f"transcripts-{number + 1}", tuple(cells)))
    made = sum(int((arm.attempts > 0).sum()) for arm in mapped.arms)
    return TranscriptsInside(tuple(arms), len(shown) == made)


def anchor(task: int, arm: int) -> str:
    """The id of the element with an arm's attempts at a task, by their places in the map."""
    return f"cell-{task + 1}-{arm + 1}"


def _views(store: Store, analysis: Analysis, mapped: VerdictMap) -> Iterator[tuple[int, int, TranscriptView]]:
    """Attempts in the order in which they are wanted: place of the task, of the arm, and the attempt."""
    run = store.run(analysis.name)
    records = {record.name: record for record in run.arms}
    tasks: dict[str, Task] = {}
    unrecorded = text = 0
    for task, arm, sample in islice(_wanted(mapped), MOST_READ):
        if unrecorded == UNRECORDED or text > MOST_TEXT:
            return
        record, row = records[mapped.arms[arm].arm], mapped.tasks[task]
        attempt = store.find(attempt_id(row.hash, record.hash, sample, run.seed))
        if attempt is None or not attempt.transcript:
            unrecorded += 1
            continue
        if row.hash not in tasks:
            tasks[row.hash] = store.task(row.hash)
        view = TranscriptView.of(attempt, tasks[row.hash], record.name, record.spec)
        text += _length(view)
        yield task, arm, view


def _wanted(mapped: VerdictMap) -> Iterator[tuple[int, int, int]]:
    """Place of the task, of the arm, and the sample: one attempt of every cell before a second of any."""
    order = _order(mapped)
    for task in order:
        for number, arm in enumerate(mapped.arms):
            first = arm.success[task] if arm.success[task] >= 0 else arm.failure[task]
            if first >= 0:
                yield task, number, int(first)
    for task in order:
        for number, arm in enumerate(mapped.arms):
            if arm.success[task] >= 0 and arm.failure[task] >= 0:
                yield task, number, int(arm.failure[task])


def _order(mapped: VerdictMap) -> list[int]:
    """Places of tasks: those that tell of a difference first, and of every group in turn."""
    seen: Counter[tuple[bool, str, str]] = Counter()
    keys = []
    for place, task in enumerate(mapped.tasks):
        plain = not any(arm.verdicts[place] in TELLING for arm in mapped.arms)
        group = (plain, task.environment, task.group)
        keys.append((plain, seen[group], place))
        seen[group] += 1
    return [place for _, _, place in sorted(keys)]


def _title(mapped: VerdictMap, arm: MappedArm, task: int) -> str:
    counted = f"{arm.successes[task]:,} of {arm.attempts[task]:,} solved"
    row = mapped.tasks[task]
    return ", ".join(filter(None, (counted, arm.verdicts[task]))) + f": {row.prompt or row.hash}"


def _length(view: TranscriptView) -> int:
    """Characters of what was said."""
    return len(view.answer or "") + sum(len(block.label) + len(block.text) for s in view.steps for block in s.blocks)


def _shortened(view: TranscriptView) -> TranscriptView:
    """Of a long one the beginnings of its texts, of its first steps; how much is left out stands there."""
    if _length(view) <= LONGEST and len(view.steps) <= MOST_STEPS:
        return view
    steps = [replace(step, blocks=tuple(_cut_block(block) for block in step.blocks)) for step in view.steps]
    more = len(steps) - MOST_STEPS
    if more > 0:
        left = Block("", f"{more:,} more step{'' if more == 1 else 's'}: testbed show {view.id[:12]}")
        steps = [*steps[:MOST_STEPS], Step(MOST_STEPS + 1, "", "left out", "", None, None, (left,), {})]
    return replace(view, steps=tuple(steps), answer=None if view.answer is None else _cut(view.answer))


def _cut_block(block: Block) -> Block:
    return replace(block, label=_cut(block.label), text=_cut(block.text))


def _cut(text: str) -> str:
    more = len(text) - BEGINNING
    return text if more <= 0 else f"{text[:BEGINNING]}\n… {more:,} more characters"
