"""A folder of transcripts beside the report's page: a page for each task, pairs of arms side by side, a list per arm.

The pages hold what models and tools wrote, which may be anything: nothing on them runs (no script, and a content
security policy that allows none), and every byte is escaped.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from testbed.errors import UsageError, unwritable
from testbed.report.record import Analysis
from testbed.report.transcript_links import TranscriptLinks, arm_page, pair_page, task_page
from testbed.report.transcript_page import render_side_by_side, render_transcript, transcript_css
from testbed.report.transcript_view import TranscriptView
from testbed.report.unseen import visible
from testbed.report.verdict_map import MappedTask, VerdictMap
from testbed.types import Task, attempt_id

if TYPE_CHECKING:
    import jinja2

    from testbed.store import Outcomes, Run, Store

LISTED = 300  # tasks on one page of an arm's list
MARK = "index.html"  # the file by which a folder of transcripts is known
_OURS = '<meta name="generator" content="testbed transcripts">'


@dataclass(frozen=True)
class _Arm:
    """An arm on a task's page: what is known of the task there, and the attempts that are shown."""

    position: int
    name: str
    solved: str
    verdict: str
    views: tuple[TranscriptView, ...]
    pair: str


def write_transcripts(store: Store, analysis: Analysis, page: str | Path, each: int) -> TranscriptLinks:
    """Writes transcripts into a folder beside the report's page, in place of an earlier one.

    Args:
        store: where the run is.
        analysis: the report.
        page: the report's file; the folder of demo.html is demo_transcripts.
        each: transcripts of each task and arm, at most: the first success and the first failure before others.

    Returns:
        Where they lie, for `testbed.report.page.write_page`.

    Raises:
        UsageError: the folder cannot be written, or is something else.
    """
    page = Path(page)
    folder = page.with_name(f"{page.stem}_transcripts")
    if folder.exists() and not _is_ours(folder):
        raise UsageError(f"{folder} exists and holds no transcripts of a report; move it away or name another page.")
    try:
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            fresh.chmod(0o755)
            for name, text in _pages(store, analysis, page.name, each):
                (fresh / name).write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error.strerror or str(error)) from error
    return TranscriptLinks.beside(folder.name, tuple(arm.name for arm in analysis.arms))


def _is_ours(folder: Path) -> bool:
    try:
        return _OURS in (folder / MARK).read_text(encoding="utf-8")
    except OSError:
        return False


def _pages(store: Store, analysis: Analysis, report: str, each: int) -> Iterator[tuple[str, str]]:
    """Every page: its file name and its text."""
    run, outcomes = store.run(analysis.name), store.outcomes(analysis.name)
    mapped = analysis.map
    assert mapped is not None, "the analysis of a run has a map"
    chosen, reader = choose(outcomes, each), _Reader(store, run, outcomes)
    positions = [[record.name for record in run.arms].index(arm.arm) for arm in mapped.arms]
    frame = {
        "report": quote(os.fsencode(report)),
        "run": analysis.name,
        "css": transcript_css(),
        "generator": _OURS,
        "bare": analysis.bare or "bare",
    }
    yield MARK, _template().render(kind="index", title="Transcripts", arms=_arm_files(mapped), **frame)
    for number, arm in enumerate(mapped.arms):
        parts = range(0, len(mapped.tasks), LISTED)
        for part, start in enumerate(parts):
            rows = [_listed(mapped, number, task) for task in range(start, min(start + LISTED, len(mapped.tasks)))]
            more = [(arm_page(number, other), other == part) for other in range(len(parts))]
            yield (
                arm_page(number, part),
                _template().render(kind="arm", title=f"Arm {arm.arm}", rows=rows, parts=more, **frame),
            )
    bare = next((i for i, arm in enumerate(mapped.arms) if arm.arm == analysis.bare), None)
    for place, task in enumerate(mapped.tasks):
        views = [reader.views(place, position, chosen.get((place, position), ())) for position in positions]
        pairs = {
            i: (views[bare][0], own[0])
            for i, own in enumerate(views)
            if bare is not None and i != bare and own and views[bare]
        }
        for i, (left, right) in pairs.items():
            body = render_side_by_side(left, right, reveal_reference=True)
            title = f"{mapped.arms[bare or 0].arm} beside {mapped.arms[i].arm}"
            back = task_page(task.hash)
            yield (
                pair_page(task.hash, i),
                _template().render(kind="pair", title=title, body=body, back=back, task=task, **frame),
            )
        arms = [
            _Arm(
                i,
                arm.arm,
                _solved(mapped, i, place),
                arm.verdicts[place],
                own,
                pair_page(task.hash, i) if i in pairs else "",
            )
            for i, (arm, own) in enumerate(zip(mapped.arms, views, strict=True))
        ]
        whole = visible(reader.task(place).prompt)
        yield (
            task_page(task.hash),
            _template().render(
                kind="task",
                title=f"Task {task.hash[:16]}",
                task=task,
                prompt=whole,
                arms=arms,
                transcript=_shown,
                **frame,
            ),
        )


def choose(outcomes: Outcomes, each: int) -> dict[tuple[int, int], list[int]]:
    """Which samples of each task and arm are shown: the first success, the first failure, then in order.

    Args:
        outcomes: of the run.
        each: at most so many.
    """
    order = np.lexsort((outcomes.sample, outcomes.arm, outcomes.task))
    task, arm = outcomes.task[order], outcomes.arm[order]
    sample, success = outcomes.sample[order], outcomes.success[order]
    cell = task.astype(np.int64) * max(1, len(outcomes.arms)) + arm
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    found: dict[tuple[int, int], list[int]] = {}
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), cell.size], strict=True):
        own, won = sample[start:end], success[start:end]
        firsts = [int(own[np.argmax(won == kind)]) for kind in (1, 0) if (won == kind).any()]
        rest = [s for s in own[: each + 2].tolist() if s not in firsts]
        found[int(task[start]), int(arm[start])] = [*firsts, *rest][:each]
    return found


class _Reader:
    """Reads attempts of a run as they are shown."""

    def __init__(self, store: Store, run: Run, outcomes: Outcomes) -> None:
        self._store, self._run, self._tasks = store, run, outcomes.tasks

    def task(self, place: int) -> Task:
        return self._tasks[place]

    def views(self, place: int, arm: int, samples: Sequence[int]) -> tuple[TranscriptView, ...]:
        task, record = self._tasks[place], self._run.arms[arm]
        ids = (attempt_id(task.hash, record.hash, sample, self._run.seed) for sample in samples)
        attempts = (self._store.find(id_) for id_ in ids)
        return tuple(TranscriptView.of(a, task, record.name, record.spec) for a in attempts if a is not None)


def _arm_files(mapped: VerdictMap) -> list[tuple[str, str]]:
    return [(arm.arm, arm_page(number)) for number, arm in enumerate(mapped.arms)]


def _listed(mapped: VerdictMap, arm: int, task: int) -> tuple[MappedTask, str, str, str]:
    """A line of an arm's list: the task, where its transcripts are, what was solved, and the verdict."""
    row = mapped.tasks[task]
    return row, f"{task_page(row.hash)}#arm-{arm + 1}", _solved(mapped, arm, task), mapped.arms[arm].verdicts[task]


def _solved(mapped: VerdictMap, arm: int, task: int) -> str:
    own = mapped.arms[arm]
    lost = f", {own.missing[task]:,} missing" if own.missing[task] else ""
    return f"{own.successes[task]:,} of {own.attempts[task]:,}{lost}"


def _shown(view: TranscriptView) -> Any:
    return render_transcript(view, reveal_reference=True)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((files("testbed.report") / "transcript_pages.html.j2").read_text(encoding="utf-8"))
