"""`testbed nats`: how likely is what stored attempts say to a model that reads them?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.causes import but_for_numbers

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.scoring import ArmScored, Scoring

MISSING = 3  # exit code where the same command, given again, may score what has no scores yet
REFRESH = 0.25  # seconds between looks, on a terminal
LINE_EVERY = 15.0  # seconds between lines, elsewhere


def nats(
    run: Annotated[str, typer.Argument(help="Name of a run in the store; see `testbed list runs`.")],
    store: Annotated[
        str, typer.Option("--store", envvar="TESTBED_STORE", help="SQLite file or SQLAlchemy URL that holds the run.")
    ] = "testbed.sqlite",
    arm: Annotated[str, typer.Option(help="Only this arm; by default all.")] = "",
    by: Annotated[
        str, typer.Option(help="Model that scores, such as hf:PATH or reference; by default each arm's own.")
    ] = "",
) -> None:
    """Score a run's transcripts: the nats of every message to a model that reads it; goes on where it was stopped."""
    import asyncio

    from rich.console import Console

    from testbed.scoring import Scoring
    from testbed.store import Store

    console = Console(stderr=True)
    with Store.open(store, create=False) as opened:
        scored = asyncio.run(_watched(Scoring(opened, run, arm=arm, by=by), console))
    for line in parts(scored):
        print(line)
    where = "" if store == "testbed.sqlite" else f" --store {store}"
    if any(each.unread for each in scored):
        again = shlex.join(["testbed", "nats", run, *(["--arm", arm] if arm else []), *(["--by", by] if by else [])])
        console.print(
            "Not every attempt could be read now; all scores that were made are kept. Mend the cause, then go on with: "
            f"{again}{where}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(MISSING)
    console.print(f"See them beside the verdicts: testbed report {run}{where}", highlight=False, soft_wrap=True)


async def _watched(scoring: Scoring, console: Console) -> Sequence[ArmScored]:
    """Scores while a bar or lines show how far it is."""
    import asyncio
    import contextlib

    watching = asyncio.create_task(_bar(scoring, console) if console.is_terminal else _lines(scoring, console))
    try:
        return await scoring.run()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _bar(scoring: Scoring, console: Console) -> None:
    import asyncio

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        row = bar.add_task("preparing", total=None)
        while True:
            total, done = _counts(scoring)
            if total:
                bar.update(row, total=total, completed=done, description=_told(scoring))
            bar.refresh()
            await asyncio.sleep(REFRESH)


async def _lines(scoring: Scoring, console: Console) -> None:
    import asyncio

    while True:
        await asyncio.sleep(LINE_EVERY)
        console.print(_told(scoring), highlight=False, soft_wrap=True)


def _counts(scoring: Scoring) -> tuple[int, int]:
    return sum(each.total for each in scoring.arms), sum(each.done for each in scoring.arms)


def _told(scoring: Scoring) -> str:
    return "scored " + ", ".join(f"{each.arm} {each.done:,}/{each.total:,}" for each in scoring.arms if each.total)


def parts(scored: Sequence[ArmScored]) -> Iterator[str]:
    """What is told of each arm: what has scores by whom, and what has none and why."""
    for each in scored:
        if each.refused:
            yield f"{each.arm}: left out: {each.refused}"
            continue
        assert each.scorer is not None
        yield (
            f"{each.arm}: {each.done:,} of {each.total:,} attempts have scores by {each.scorer.name}, "
            f"{each.done - each.before:,} of them new"
        )
        if each.endless:
            remedy = "; with tokenizer = … in [model] it may" if each.scorer.name.startswith("chat:") else ""
            yield (
                f"{each.arm}: in {each.endless:,} of these what the model wrote counts without the ends of messages: "
                f"{each.scorer.name} does not tell how likely they are{remedy}"
            )
        for why, count in but_for_numbers(each.left_out).most_common():
            yield f"{each.arm}: {count:,} left out: {why}"
