"""The attempts of a run in the terminal, a line each."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.errors import UnknownName
from testbed.report.named_tasks import tasks_named
from testbed.report.unseen import visible
from testbed.store import Store
from testbed.types import Attempt

_LONGEST_CELL = 200  # characters of one that may be much longer: marks above a letter take no column of their own


def print_attempts(store: Store, run: str, *, arm: str, task: str, failed: bool, limit: int) -> None:
    """Lists attempts of a run.

    Args:
        store: holds the run.
        run: its name.
        arm: only attempts of this arm; of all if empty.
        task: only at tasks whose prompt contains this or whose hash begins with it; at all if empty.
        failed: only attempts that did not succeed.
        limit: most lines.

    Raises:
        UnknownName: there is no such run, or it has no such arm.
        UsageError: it has no such task.
    """
    arms = {a.hash: a.name for a in store.run(run).arms}
    if arm and arm not in arms.values():
        raise UnknownName("arm", arm, arms.values())
    prompts = defaultdict(lambda: "(not in the store)", ((t.hash, t.prompt) for t in store.tasks(run)))
    chosen = (
        a
        for a in store.attempts(run, texts=False)
        if (not arm or arms[a.arm] == arm)
        and (not task or task in prompts[a.task] or a.task.startswith(task))
        and not (failed and a.success)
    )
    listed = list(islice(chosen, limit))
    if not listed:
        if task:
            tasks_named(store, run, task)  # that there is no such task is an error; that nobody failed at it is none
        asked = [f"--arm {arm}" if arm else "", f"--task {task!r}" if task else "", "--failed" if failed else ""]
        print(f"No attempt of run {run!r} matches {' '.join(filter(None, asked)) or 'that: it has none yet'}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, cut in (("attempt", 0), ("arm", 1), ("n", 0), ("outcome", 0), ("answer", 1), ("task", 1)):
        table.add_column(name, no_wrap=not cut)  # where there is no room, these are cut and the others stay whole
    for a in listed:
        before, after = (a.id[:12], arms[a.arm], str(a.sample), _outcome(a)), prompts[a.task]
        table.add_row(*map(_cell, before), _answer(a), _cell(after))
    Console(highlight=False).print(table)


def _answer(attempt: Attempt) -> Text:
    """An attempt's answer on one line; where nothing would be seen of it, why."""
    if attempt.answer is not None and attempt.answer.strip():
        return _cell(attempt.answer)
    # Of imported outcomes it is not known what was answered.
    why = "empty" if attempt.answer is not None else "not recorded" if attempt.ended == "answered" else "none"
    return Text(f"({why})", "italic dim", no_wrap=True, overflow="ellipsis")


def _cell(text: str) -> Text:
    """A text on one line, of a long one the beginning."""
    beginning = text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
    return Text(visible(beginning.replace("\n", " ")), no_wrap=True, overflow="ellipsis")


def _outcome(attempt: Attempt) -> str:
    return "missing" if attempt.success is None else "success" if attempt.success else "failure"
