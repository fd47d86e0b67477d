"""`testbed board retitle` and `testbed board withdraw`: what may still be done with an entry that was sent."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

_Entry = Annotated[str, typer.Argument(help="Address of its page, for your own entry; or its id, in --store.")]
_StoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="TESTBED_BOARD_STORE", help="SQLite file or SQLAlchemy URL, for whoever runs the board."
    ),
]


def retitle(
    entry: _Entry, title: Annotated[str, typer.Argument(help="The new title.")], store: _StoreOption = "board.sqlite"
) -> None:
    """Give an entry another title.

    An entry of your own is named by the address of its page, and the token is read from TESTBED_TOKEN. Whoever runs the
    board names any entry by its id.
    """
    from testbed.board import entry_changes
    from testbed.board.database import BoardDatabase

    if _is_address(entry):
        _ask(entry, "PUT", "title", json={"title": title})
    else:
        with BoardDatabase.open(store, create=False) as db:
            entry_changes.retitle(db, entry, title)
    print(f"entry {entry} has the title {title.strip()!r}")


def withdraw(entry: _Entry, store: _StoreOption = "board.sqlite") -> None:
    """Withdraw an entry, for good: no page shows anything of it any more but that it was withdrawn.

    An entry of your own is named by the address of its page, and the token is read from TESTBED_TOKEN. Whoever runs the
    board names any entry by its id. Pages tell how many entries an account has withdrawn.
    """
    from testbed.board import entry_changes
    from testbed.board.database import BoardDatabase

    if _is_address(entry):
        _ask(entry, "POST", "withdraw")
    else:
        with BoardDatabase.open(store, create=False) as db:
            entry_changes.withdraw(db, entry)
    print(f"entry {entry} is withdrawn")


def _is_address(entry: str) -> bool:
    return "://" in entry


def _ask(page: str, method: str, what: str, **body: Any) -> None:
    """Sends a request about the entry of a page.

    Raises:
        UsageError: it is no entry's page, there is no token, or the board refuses.
    """
    import httpx

    from testbed.board.link import Link, address_of
    from testbed.errors import UsageError
    from testbed.remote_client import check_encrypted

    base, found, id_ = page.partition("/entries/")
    if not found or not id_.isalnum() or address_of(base) is None:
        raise UsageError(f"{page!r:.200} is no entry's page; it looks like https://example.org/entries/0123….")
    check_encrypted(page)
    token = os.environ.get("TESTBED_TOKEN", "")
    if not token:
        raise UsageError("set TESTBED_TOKEN to a token of the account that sent the entry.")
    with httpx.Client(timeout=60.0) as http:
        Link(http, base, token).ask(method, f"/api/entries/{id_}/{what}", **body)
