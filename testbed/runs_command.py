"""`testbed runs`: gives a run of a store another name, or takes it out."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from testbed.command_options import DEFAULT_STORE, StoreOption, some

app = typer.Typer(help="Rename or delete runs; `testbed list runs` lists them.", no_args_is_help=True)

_OF_EXPERIMENTS = re.compile(r"[\w.-]{1,100}")  # names that an experiment file may have
RunArgument = Annotated[str, typer.Argument(help="Name of a run in the store.")]


@app.command(epilog="Example: testbed runs rename first sums_2026")
def rename(
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="The name it gets.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Give a run another name; its experiment file goes on with it under that name only."""
    from testbed.errors import UsageError
    from testbed.store import Store

    with Store.open(store, create=False) as opened:
        if "imported" not in opened.run(run).experiment and not _OF_EXPERIMENTS.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name of an experiment, and its file could not go on with the run: give 1–100 letters, "
                "digits, '.', '_' or '-'."
            )
        opened.edits.rename(run, name)
    print(f"run {run!r} is now {name!r}")


@app.command(epilog="Example: testbed runs delete first --yes")
def delete(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Delete, and do not only say what would go.")] = False,
) -> None:
    """Delete a run with those of its attempts that no other run has; what runs share stays."""
    from testbed.store import Store

    with Store.open(store, create=False) as opened:
        if not yes:
            kept = opened.edits.own_attempts(run)
            print(f"{some(kept, 'attempt')} of run {run!r} are in no other run and would be gone; --yes deletes them.")
            raise typer.Exit(2)
        gone = opened.edits.delete(run)
    print(f"deleted run {run!r} and {some(gone, 'attempt')} that no other run has")
