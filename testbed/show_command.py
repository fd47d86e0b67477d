"""`testbed show`: the transcript of an attempt, two side by side, or the attempts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import hexdigits
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testbed.command_options import DEFAULT_STORE, StoreOption

if TYPE_CHECKING:
    from testbed.report.transcript_view import TranscriptView
    from testbed.store import Store
    from testbed.types import Attempt, Task

MOST_RUNS = 5  # that a mistaken name is told


def show(
    what: Annotated[str, typer.Argument(help="Id of an attempt (its first characters are enough), or name of a run.")],
    other: Annotated[str, typer.Argument(help="Id of another attempt, to see both side by side.")] = "",
    store: StoreOption = DEFAULT_STORE,
    arm: Annotated[str, typer.Option(help="Of a run: only this arm.")] = "",
    task: Annotated[str, typer.Option(help="Of a run: only tasks whose prompt or hash contains this.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Of a run: only attempts that did not succeed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10**9, help="Of a run: most attempts to list.")] = 20,
    against: Annotated[
        str, typer.Option(help="Of a run: beside this arm's attempt at the same --task, the one of --arm.")
    ] = "",
    sample: Annotated[
        int | None, typer.Option(min=0, help="With --against: which attempt; by default the first.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the transcript as one HTML page instead.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show long texts whole on a terminal, too.")] = False,
) -> None:
    """Show the transcript of an attempt, two of them side by side, or list the attempts of a run."""
    from testbed.store import Store

    if other and not set(what) <= set(hexdigits):
        raise _only_the_id(what, other)
    with Store.open(store, create=False) as opened:
        if not opened.has(what):
            if not other and not set(what) <= set(hexdigits.lower()):
                raise _neither(opened, what)
            views = [_view(opened, opened.attempt(id_)) for id_ in ((what, other) if other else (what,))]
        elif other:
            raise _only_the_id(what, other)
        elif against:
            views = _pair(opened, what, (against, arm), task, sample)
        elif html is not None:
            raise _usage("--html writes a transcript: give the id of an attempt, or --task, --arm and --against.")
        else:
            from testbed.report.attempt_list import print_attempts

            print_attempts(opened, what, arm=arm, task=task, failed=failed, limit=limit)
            return
    _show(views, html, full=full)


def _only_the_id(what: str, other: str) -> Exception:
    return _usage(f"{what!r} is no id of an attempt; give only the id: testbed show {other}")


def _neither(store: Store, what: str) -> Exception:
    """That a name is neither an attempt's nor a run's, with the runs that there are, the nearest first."""
    from difflib import SequenceMatcher

    names = [run.name for run in store.runs()]
    names.sort(key=lambda name: SequenceMatcher(None, what, name).ratio(), reverse=True)
    more = f" and {len(names) - MOST_RUNS:,} more (testbed list runs)" if len(names) > MOST_RUNS else ""
    there = f"The runs here: {', '.join(map(repr, names[:MOST_RUNS]))}{more}." if names else "There is no run here."
    return _usage(
        f"{what!r} is no attempt and no run: an attempt's id is 32 characters of 0-9 and a-f, of which the first will "
        f"do. {there}"
    )


def _usage(message: str) -> Exception:
    from testbed.errors import UsageError

    return UsageError(message)


def _view(store: Store, attempt: Attempt) -> TranscriptView:
    arm = store.arm(attempt.arm)
    name, spec = (arm.name, arm.spec) if arm is not None else ("", {})
    return _view_of(attempt, store.task(attempt.task), name, spec)


def _view_of(attempt: Attempt, task: Task, arm: str, spec: Mapping[str, Any]) -> TranscriptView:
    """An attempt with what its model was told before the task."""
    from testbed.report.told_first import told_first
    from testbed.report.transcript_view import TranscriptView

    return replace(TranscriptView.of(attempt, task, arm, spec), given=told_first(spec))


def _pair(store: Store, run: str, arms: tuple[str, str], text: str, sample: int | None) -> list[TranscriptView]:
    """Both arms' attempts at the same task with the same sample index."""
    if not all(arms):
        raise _usage("--against NAME needs --arm NAME: the two arms whose attempts are shown side by side.")
    task = _task(store, run, text)
    specs = {record.name: record.spec for record in store.run(run).arms}
    both = [{one.sample: one for one in store.attempts(run, task.hash, arm)} for arm in arms]
    shared = sorted(set(both[0]) & set(both[1]))
    if not shared:
        raise _usage(f"arms {arms[0]!r} and {arms[1]!r} have no attempt with the same sample index at {task.hash}.")
    n = shared[0] if sample is None else sample
    if n not in shared:
        raise _usage(f"not both arms have sample {n} at {task.hash}; they share {shared[0]} to {shared[-1]}.")
    return [_view_of(some[n], task, arm, specs[arm]) for some, arm in zip(both, arms, strict=True)]


def _task(store: Store, run: str, text: str) -> Task:
    """The one task of a run whose prompt contains a text or whose hash begins with it."""
    from testbed.report.named_tasks import tasks_named, told

    if not text:
        raise _usage("--against needs --task: some of the task's prompt, or the first characters of its hash.")
    found = tasks_named(store, run, text)
    exact = [task for task in found if task.prompt == text]
    if len(exact or found) == 1:
        return (exact or found)[0]
    named = "; ".join(map(told, found[:3]))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    raise _usage(f"{len(found)} tasks have {text!r} in their prompt: {named}{more}. Give more of one, or its hash.")


def _show(views: list[TranscriptView], html: Path | None, *, full: bool) -> None:
    if html is not None:
        from testbed.report.transcript_document import write_document

        write_document(views, html)
        print(f"wrote {html}")
        return
    from testbed.report.transcript import print_side_by_side, print_transcript

    if len(views) == 2:
        print_side_by_side(views[0], views[1], full=full)
    else:
        print_transcript(views[0], full=full)
