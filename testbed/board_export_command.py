"""`testbed board export` and `testbed board import`: results in several forms, and whole boards in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.command_options import may_be_new

if TYPE_CHECKING:
    from testbed.board.database import BoardDatabase

FORMS = {".json": "json", ".csv": "csv", ".zip": "archive", ".yaml": "eval-results", ".yml": "eval-results"}
EVERY_EVAL_EVER = "every-eval-ever"
_StoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="TESTBED_BOARD_STORE", help="SQLite file or SQLAlchemy URL that holds the boards and entries."
    ),
]


def export(
    board: Annotated[str, typer.Argument(help="The board's name in addresses.")],
    file: Annotated[Path, typer.Argument(help="File to write: .json, .csv, .yaml, or .zip for the whole board.")],
    form: Annotated[
        str, typer.Option(help="json, csv, eval-results, every-eval-ever or archive; by default the file's ending.")
    ] = "",
    entry: Annotated[str, typer.Option(help="For eval-results and every-eval-ever: only this entry.")] = "",
    dataset: Annotated[
        str, typer.Option(help="For eval-results: id of the dataset on the Hugging Face hub, such as org/name.")
    ] = "",
    task: Annotated[str, typer.Option(help="For eval-results: its task there; by default the board's name.")] = "",
    address: Annotated[str, typer.Option(help="Where the board is served, for links to its pages.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    store: _StoreOption = "board.sqlite",
) -> None:
    """Write a board's results, or the whole board with what was sent to it (.zip), which `import` reads."""
    from testbed.board.archive import write_archive
    from testbed.board.database import BoardDatabase
    from testbed.errors import UnknownName, UsageError

    kind = form or FORMS.get(file.suffix.lower(), file.suffix)
    known = (*dict.fromkeys(FORMS.values()), EVERY_EVAL_EVER)
    if kind not in known:
        raise UnknownName("export form", kind, known, "The file's ending says it, or --form.")
    if file.exists() and not force:
        raise UsageError(f"{file} exists. Give another name, or replace it with --force.")
    with BoardDatabase.open(store, create=False) as db:
        if kind == "archive":
            moved = write_archive(db, board, file)
            left = f"; {moved.left_out} left out: rejected, made against the server, or taken back, which it counts"
            print(f"wrote board {board!r} with {_entries(moved.entries)} to {file}{left if moved.left_out else ''}")
            return
        text, count = _text(db, board, kind, entry, dataset, task, address.rstrip("/"))
    _write(file, text)
    print(f"wrote {_entries(count)} to {file}")


def import_(
    file: Annotated[Path, typer.Argument(help="Archive that `testbed board export BOARD FILE.zip` wrote.")],
    store: _StoreOption = "board.sqlite",
) -> None:
    """Bring a board and its entries from an archive; the server then checks every entry itself."""
    from testbed.board.archive import check_archive, read_archive
    from testbed.board.database import BoardDatabase

    if may_be_new(store):  # nothing is done where an archive is refused
        check_archive(file)
    with BoardDatabase.open(store) as db:
        moved = read_archive(db, file)
    print(f"board {moved.board.slug!r} with {_entries(moved.entries)} is in {store}")
    if moved.entries:
        print(f"What was sent is checked once it is served: testbed board serve --store {store}", file=sys.stderr)


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _text(
    db: BoardDatabase, board: str, kind: str, entry: str, dataset: str, task: str, address: str
) -> tuple[str, int]:
    """What is written, and of how many entries."""
    import json

    from testbed.board import forms, shown
    from testbed.errors import UsageError

    found, results = shown.board_results(db, board)
    if entry:
        results = [one for one in results if one.id == entry]
        if not results:
            raise UsageError(f"board {board!r} has no results of an entry {entry!r:.60}.")
    if kind == "json":
        return forms.as_json(found, results, address, shown.not_shown(db, board)), len(results)
    if kind == "csv":
        return forms.as_csv(found, results, address), len(results)
    if kind == EVERY_EVAL_EVER:
        logs = [log for one in results for log in forms.as_every_eval_ever(found, one, address)]
        return json.dumps(logs, indent=1, ensure_ascii=False), len(results)
    if len(results) != 1 or not dataset:
        raise UsageError("eval-results are of one model's repository: give --entry ID and --dataset ORG/NAME.")
    return forms.as_eval_results(found, results[0], address, dataset, task), 1


def _write(file: Path, text: str) -> None:
    from testbed.errors import unwritable

    try:
        part = file.with_name(f".{file.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise unwritable(file, error.strerror or str(error)) from error
