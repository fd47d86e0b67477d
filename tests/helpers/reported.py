"""A run whose names, prompts and transcripts are hostile, in a store, with its report on a page and transcripts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from helpers.stored import put
from testbed.report.analyse import analyse_run
from testbed.report.chart import Chart
from testbed.report.charts import charts
from testbed.report.page import write_page
from testbed.report.record import Analysis
from testbed.report.transcript_links import TranscriptLinks
from testbed.report.transcript_pages import write_transcripts
from testbed.store import ArmRecord, Run, Store
from testbed.types import Attempt, Cost, Message, Status, Task, attempt_id, digest

PLANTED = "<script>window.planted = 1</script></textarea></title><img src=x onerror='window.planted = 1'>"
TURNED = "\u202egnp.exe\u2066 \u05d0\u05d1\u05d2"
ARMS = {"bare": "absent", "</script><img src=x onerror='window.planted = 1'>": "inert", "עברית {{ 7*7 }}": "live"}
TASKS, ATTEMPTS = 30, 24


@dataclass(frozen=True, eq=False)
class Reported:
    """A report that was written."""

    analysis: Analysis
    page: Path
    folder: Path
    links: TranscriptLinks
    store: Path

    @cached_property
    def charts(self) -> tuple[Chart, ...]:
        """The page's charts; making them takes a second."""
        return charts(self.analysis)


def reported(folder: Path, name: str = "hostile & co") -> Reported:
    """Writes the store, the page and the transcripts of a run of that name into a folder."""
    tasks = tuple(
        Task(
            "Sums-v0",
            f"{n} + {n}? {PLANTED if n == 0 else ''}{TURNED if n == 1 else ''}",
            n,
            meta={"family": f"<i>{n % 3}"},
        )
        for n in range(TASKS)
    )
    spec = {"model": {"id": "m"}, "sampling": {"temperature": 1.0}}
    arms = tuple(
        ArmRecord(digest(name), name, {**spec, "control": control, "tools": ["python"] if control != "absent" else []})
        for name, control in ARMS.items()
    )
    measure = {"measure": {"elicitation": 2, "replicates": 200}}
    run = Run(name, measure, 3, arms, "2026-01-01T00:00:00+00:00", dict.fromkeys(ARMS, ATTEMPTS))
    path = folder / "testbed.sqlite"
    with Store.open(path) as store:
        store.add_run(run, tasks)
        asyncio.run(
            put(
                store,
                *(
                    _attempt(task, n, arm, sample)
                    for n, task in enumerate(tasks)
                    for arm in arms
                    for sample in range(ATTEMPTS)
                ),
            )
        )
        analysis = analyse_run(store, run.name)
        page = folder / "report #1.html"
        links = write_transcripts(store, analysis, page, 2)
    write_page(analysis, page, links)
    return Reported(analysis, page, folder / "report #1_transcripts", links, path)


def _attempt(task: Task, number: int, arm: ArmRecord, sample: int) -> Attempt:
    """The live arm solves all; the others the first ten always, the next ten now and then, the rest never."""
    won = arm.spec["control"] == "live" or number < 10 or (number < 20 and sample % 3 == 0)
    said: tuple[Message, ...] = (
        {"role": "user", "content": task.prompt},
        {"role": "assistant", "content": f"{PLANTED} {TURNED}"},
        {"role": "tool", "name": "python", "content": PLANTED},
    )
    return Attempt(
        id=attempt_id(task.hash, arm.hash, sample, 3),
        task=task.hash,
        arm=arm.hash,
        sample=sample,
        seed=3,
        status=Status.COMPLETE,
        ended="answered",
        success=won,
        score=None,
        answer=PLANTED,
        cost=Cost(10 + sample + len(arm.name), 20, 0, 1, 0, 1, 0.25 + sample / 100, 0.001),
        faults={},
        transcript=said,
    )
