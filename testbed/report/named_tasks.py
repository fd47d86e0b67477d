"""Tasks of a run by what a reader knows of them: some of the prompt, or the beginning of the hash."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from testbed.errors import UsageError
from testbed.report.unseen import visible
from testbed.store import Store
from testbed.types import Task

_HASH, _PROMPT = 12, 60  # characters of each by which a task is told
_READ = 400  # characters of a prompt that are searched for what is nearest
_LIKE = 0.5  # of what was asked for must be in a prompt, in one piece, for it to be near


def tasks_named(store: Store, run: str, text: str) -> list[Task]:
    """The tasks of a run whose hash begins with a text, else those whose prompt contains it.

    Args:
        store: holds the run.
        run: its name.
        text: some of a prompt, or the first characters of a hash.

    Raises:
        UnknownName: there is no such run.
        UsageError: there is no such task; names the nearest, and where all are to be seen.
    """
    tasks = store.tasks(run)
    found = [task for task in tasks if task.hash.startswith(text)] or [task for task in tasks if text in task.prompt]
    if not found:
        raise UsageError(
            f"no task of run {run!r} has {text!r} in its prompt, or at the beginning of its hash. "
            f"{_nearest(text, tasks)} A page of the run has all {len(tasks):,}, in its map of tasks: "
            f"testbed report {run} --html FILE"
        )
    return found


def told(task: Task) -> str:
    """A task on one line, by which the command line finds it again: the beginnings of its hash and of its prompt."""
    prompt = " ".join(task.prompt[: 4 * _PROMPT].split())
    return f"{task.hash[:_HASH]} '{visible(prompt[:_PROMPT])}{'…' if len(prompt) > _PROMPT else ''}'"


def _nearest(text: str, tasks: Sequence[Task]) -> str:
    """In a sentence, the task whose prompt has most of a text in one piece; where none has much of it, the first."""
    matcher = SequenceMatcher(None, b=text.lower(), autojunk=False)

    def shared(task: Task) -> int:
        matcher.set_seq1(task.prompt[:_READ].lower())
        return matcher.find_longest_match().size

    near = max(tasks, key=shared, default=None)
    if near is None:
        return "It has none."
    return f"The nearest: {told(near)}." if shared(near) >= _LIKE * len(text) else f"Its first: {told(tasks[0])}."
