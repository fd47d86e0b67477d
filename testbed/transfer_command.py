"""`testbed import` and `testbed export`: outcomes of anybody's into a store, and attempts out of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from testbed.command_options import DEFAULT_STORE, StoreOption, may_be_new, some


def import_(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL or JSON file, also gzipped.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run to add the outcomes to.")],
    task: Annotated[str, typer.Option(help="Column that names the task.")],
    success: Annotated[
        str, typer.Option(help="Column of 0/1 or true/false, or a test: outcome=correct, reward>=1, infos[].r.")
    ],
    arm: Annotated[str, typer.Option(help="Column that names the arm, or =NAME for one name for all rows.")],
    sample: Annotated[str, typer.Option(help="Column with the sample index; by default rows are counted.")] = "",
    cluster: Annotated[str, typer.Option(help="Column that names tasks which belong together.")] = "",
    missing: Annotated[
        str, typer.Option(help="Test for attempts that the infrastructure ended, such as status=error.")
    ] = "",
    answer: Annotated[str, typer.Option(help="Column with the answer that was given.")] = "",
    where: Annotated[list[str] | None, typer.Option(help="Only rows with COLUMN=VALUE; may be repeated.")] = None,
    cost: Annotated[list[str] | None, typer.Option(help="COMPONENT=COLUMN, such as tool_calls=n_search.")] = None,
    sampled: Annotated[
        bool,
        typer.Option("--sampled", help="Say that every attempt of these arms was drawn anew, by chance of its own."),
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Import anybody's outcomes, so that `testbed report` can analyse them."""
    from testbed.store import Store
    from testbed.transfer import Columns, check_outcomes, import_outcomes

    columns = Columns.parse(
        task=task,
        success=success,
        arm=arm,
        sample=sample,
        cluster=cluster,
        missing=missing,
        answer=answer,
        where=where or [],
        cost=cost or [],
        sampled=sampled,
    )
    if may_be_new(store):  # nothing is done where a file is refused: a store that was made is there for others, too
        check_outcomes(file, run, columns)
    with Store.open(store) as opened:
        added = import_outcomes(opened, file, run, columns)
    of = f"{some(added.attempts, 'attempt')} at {some(added.tasks, 'task')} in {some(added.arms, 'arm')}"
    before = "" if added.new == added.attempts else f"; {added.attempts - added.new:,} of them were there before"
    print(f"imported {of} into run {run!r} of {store}{before}")
    for n in added.by_arm:
        lost = f", {n.missing} missing" if n.missing else ""
        print(
            f"  {n.name}: {some(n.tasks, 'task')}, {some(n.attempts, 'attempt')}, {some(n.successes, 'success')}{lost}"
        )
    if added.warning:
        print(f"warning: --missing {missing}: {added.warning}", file=sys.stderr)


def export(
    run: Annotated[str, typer.Argument(help="Name of a run in the store.")],
    file: Annotated[Path, typer.Argument(help="File to write; its ending says the format: .parquet, .csv or .jsonl.")],
    store: StoreOption = DEFAULT_STORE,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    transcripts: Annotated[bool, typer.Option(help="Include the transcripts.")] = True,
    scores: Annotated[bool, typer.Option("--scores", help="What `testbed nats` gave each message instead.")] = False,
) -> None:
    """Export a run's attempts, a row each."""
    from testbed.store import Store
    from testbed.transfer import export as write

    with Store.open(store, create=False) as opened:
        rows = write(opened, run, file, force=force, transcripts=transcripts, scores=scores)
    print(f"wrote {some(rows, 'score' if scores else 'attempt')} to {file}")
