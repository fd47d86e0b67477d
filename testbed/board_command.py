"""`testbed board`: makes boards, serves them, hands out tokens and sends entries."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from testbed import board_entry_command, board_export_command
from testbed.command_options import DEFAULT_STORE, JsonOption, PluginOption, StoreOption, print_json

HELP = "Leaderboards: make one, serve it, hand out tokens, send an entry."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)
tokens = typer.Typer(help="Tokens of those who send entries.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tokens, name="token")
app.command(epilog="Example: testbed board export sums sums.json    or: testbed board export sums sums.zip")(
    board_export_command.export
)
app.command("import", epilog="Example: testbed board import sums.zip --store elsewhere.sqlite")(
    board_export_command.import_
)
app.command(
    epilog="Example: testbed board retitle https://example.org/entries/172a38b121158a22ca45b98fb54041c4 'Mine'"
)(board_entry_command.retitle)
app.command(epilog="Example: testbed board withdraw https://example.org/entries/172a38b121158a22ca45b98fb54041c4")(
    board_entry_command.withdraw
)

BoardStoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="TESTBED_BOARD_STORE", help="SQLite file or SQLAlchemy URL that holds the boards and entries."
    ),
]
DEFAULT_BOARD_STORE = "board.sqlite"
UNDECIDED = 3  # exit code where the same command, given again, may end otherwise
_PACKAGES = ("argon2", "django_htmx", "fastapi", "httpx", "uvicorn", "websockets")


@app.callback(help=HELP)
def need_packages() -> None:
    """Refuses every command of this group where the packages are missing that only boards need."""
    from importlib.util import find_spec

    from testbed.errors import UsageError

    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UsageError(f"boards need {', '.join(missing)}: pip install 'capability-testbed[board]'.")


@app.command(epilog="Example: testbed board create board.toml --store board.sqlite")
def create(
    file: Annotated[Path, typer.Argument(help="The board's file (TOML).")],
    store: BoardStoreOption = DEFAULT_BOARD_STORE,
    plugin: PluginOption = None,
) -> None:
    """Make a board: from then on its tasks, budget and rules are frozen.

    The secret of a private board is drawn and kept in the store, or taken from TESTBED_BOARD_SECRET.
    """
    from testbed.board import boards
    from testbed.board.database import BoardDatabase
    from testbed.board.expanding import too_few_samples

    board = boards.read_board_file(file, plugin or [])
    with BoardDatabase.open(store) as db:
        known = boards.has(db, board.slug)
        made = boards.create(db, board)
    there = " is there already, unchanged" if known else ""
    print(f"board {made.slug!r} of {store}{there}: {len(made.tasks)} tasks, hash {made.hash}")
    if not known and (few := too_few_samples(made)):
        print(f"note: {few}", file=sys.stderr)


@app.command("list", epilog="Example: testbed board list --store board.sqlite")
def list_(store: BoardStoreOption = DEFAULT_BOARD_STORE, json: JsonOption = False) -> None:
    """List boards, with their tasks and entries."""
    from testbed.board import boards
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(store, create=False) as db:
        counts = boards.count_entries(db)
        rows = [
            {
                "board": board.slug,
                "title": board.title,
                "tasks": len(board.tasks),
                "entries": counts.get(board.slug, 0),
                "private": board.private,
                "hash": board.hash,
            }
            for board in boards.list_(db)
        ]
    _show(rows, ("board", "title", "tasks", "entries", "private"), as_json=json)


@app.command(epilog="Example: testbed board serve --store board.sqlite --port 8000")
def serve(
    store: BoardStoreOption = DEFAULT_BOARD_STORE,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8000,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM), for https; another program may do that in front of it.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Local model to check entries with; may be repeated. By default: reference."),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", help="File, folder or environment: a corpus to check entries with; may be repeated."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="Address at which people reach it, such as https://example.org; it stands in all links."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Serve the boards of a store, check the entries that are sent, and rank them. Ctrl-C ends it."""
    from testbed import registry
    from testbed.board.public import public_address
    from testbed.board.serving import Address
    from testbed.board.serving import serve as run
    from testbed.board.settings import Settings
    from testbed.errors import UsageError

    if public_url is not None and not public_url.strip():  # a variable of the shell that is not set
        raise UsageError("--public-url is empty: write https://example.org, or leave it out.")
    for file in plugin or []:
        registry.load_plugin(file)
    address = public_address(public_url or "")
    settings = Settings(models=tuple(model or Settings.models), corpora=tuple(corpus or ()), public_url=address)
    run(store, settings, Address(host, port, certificate, key))


@app.command(epilog="Example: testbed board submit mine --board https://example.org/boards/sums")
def submit(
    run: Annotated[str, typer.Argument(help="Name of the run to send.")],
    board: Annotated[str, typer.Option("--board", help="Address of the board's page.")],
    store: StoreOption = DEFAULT_STORE,
    title: Annotated[str, typer.Option(help="Title of the entry; the run's name by default.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the verdict; 0 to send only.")] = 3600.0,
    json: JsonOption = False,
) -> None:
    """Send a run to a board as an entry, and wait for what is found when it is checked.

    The token is read from TESTBED_TOKEN. A run that does not fit the board is refused before anything is sent; a
    submission that was cut goes on when the same command is given again. Ends with 1 where the entry is
    rejected, or was taken back before: a withdrawn entry, or a replaced one, stays one; with 3 where the verdict did
    not come in time.
    """
    from dataclasses import asdict

    from testbed.board.submit import submit as send
    from testbed.errors import UsageError
    from testbed.store import Store

    token = os.environ.get("TESTBED_TOKEN", "")
    if not token:
        raise UsageError("set TESTBED_TOKEN to a token of scope submit, which whoever runs the board gives you.")
    with Store.open(store, create=False) as opened:
        sent = send(opened, run, board, token, title=title, wait=wait, say=lambda text: print(text, file=sys.stderr))
    if json:
        print_json(asdict(sent))
    else:
        print(sent.told())
    if sent.state == "waiting" and wait:
        raise typer.Exit(UNDECIDED)
    if not sent.accepted:
        raise typer.Exit(1)


@app.command(epilog="Example: testbed board recheck 172a38b121158a22ca45b98fb54041c4")
def recheck(
    entry: Annotated[str, typer.Argument(help="The entry's id.")], store: BoardStoreOption = DEFAULT_BOARD_STORE
) -> None:
    """Have an entry checked again that was rejected because the server could not, once the cause is mended."""
    from testbed.board.database import BoardDatabase
    from testbed.board.service import check_again

    with BoardDatabase.open(store, create=False) as db:
        check_again(db, entry)
    print(f"entry {entry} waits to be checked again")


@tokens.command("create", epilog="Example: testbed board token create ann --scope submit --days 90")
def create_token(
    account: Annotated[str, typer.Argument(help="Whose token: small letters, digits, '.', '_' and '-'.")],
    scope: Annotated[list[str], typer.Option("--scope", help="read, submit or admin; may be given several times.")],
    days: Annotated[float | None, typer.Option(help="Days after which it expires; by default it does not.")] = None,
    store: BoardStoreOption = DEFAULT_BOARD_STORE,
) -> None:
    """Make a token and print it. It is shown this once: the store keeps no more than a hash of it."""
    from testbed.board import accounts
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(store) as db:
        token = accounts.create_token(db, account, scope, days)
    print(f"token of {account!r}, shown this once; whoever uses it sets TESTBED_TOKEN:", file=sys.stderr)
    print(token)


@tokens.command("list", epilog="Example: testbed board token list")
def list_tokens(store: BoardStoreOption = DEFAULT_BOARD_STORE, json: JsonOption = False) -> None:
    """List tokens by their ids; what is secret of them is nowhere."""
    from dataclasses import asdict

    from testbed.board import accounts
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(store, create=False) as db:
        rows = [asdict(token) for token in accounts.list_tokens(db)]
    _show(rows, ("id", "account", "scopes", "created", "expires", "revoked"), as_json=json)


@tokens.command("revoke", epilog="Example: testbed board token revoke 5ec7792be4c2")
def revoke_token(
    id: Annotated[str, typer.Argument(help="The token's id: the part between its two first '_'.")],
    store: BoardStoreOption = DEFAULT_BOARD_STORE,
) -> None:
    """Revoke a token, at once and for good, also at servers that run."""
    from testbed.board import accounts
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(store, create=False) as db:
        revoked = accounts.revoke_token(db, id)
    print(f"token {revoked} is revoked")


@app.command(epilog="Example: testbed board audit --action token.create")
def audit(
    store: BoardStoreOption = DEFAULT_BOARD_STORE,
    account: Annotated[str | None, typer.Option(help="Only what this account did; '' for the server itself.")] = None,
    action: Annotated[str, typer.Option(help="Only this action, such as token.create.")] = "",
    subject: Annotated[
        str, typer.Option(help="Only what was done to this: an entry's, a token's or a board's id.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most notes to print.")] = 100,
    json: JsonOption = False,
) -> None:
    """Print who did what and when, newest first."""
    from json import dumps

    from testbed.board import audit as log
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(store, create=False) as db:
        rows = [found._asdict() for found in log.read(db, account=account, action=action, subject=subject, limit=limit)]
    if json:
        print_json(rows)
    for row in [] if json else rows:
        # As JSON, what other people wrote holds nothing that a terminal would obey.
        print(row["at"], row["account"] or "server", row["action"], row["subject"], dumps(row["detail"]))


def _show(rows: list[dict[str, object]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Prints rows as JSON or as a table."""
    from rich.console import Console
    from rich.markup import escape

    from testbed.listing import table

    if as_json:
        print_json(rows)
        return
    cells = [[escape(_cell(row[column])) for column in columns] for row in rows]
    Console(highlight=False).print(table(columns, cells))


def _cell(value: object) -> str:
    """A value in a table: a moment to the minute, a list as words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:16].replace("T", " ") if re.match(r"\d{4}-\d\d-\d\dT\d\d:", text) else text
