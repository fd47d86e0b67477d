"""Options that several commands take, what they ask of a store before it is opened, and how they print JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str, typer.Option("--store", envvar="TESTBED_STORE", help="SQLite file or SQLAlchemy URL that holds the attempts.")
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="Python file with further environments or tools; may be given several times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
BareOption = Annotated[
    str, typer.Option("--bare", help="Arm that others are compared with; by default the one without tools.")
]
OperatingOption = Annotated[
    int | None, typer.Option("--operating", help="Attempts at which arms are read (b); by default the experiment's.")
]
ElicitationOption = Annotated[
    int | None,
    typer.Option("--elicitation", help="Bare attempts that resampling may spend (B); by default the experiment's."),
]
DEFAULT_STORE = "testbed.sqlite"


def may_be_new(store: str) -> bool:
    """Whether opening a store may make its file."""
    return store.startswith("sqlite") if "://" in store else not Path(store).exists()


def some(n: int, word: str) -> str:
    """So many of something, without the help of `report.words`, which loads scipy: 1 task, 3 successes."""
    return f"{n} {word}" if n == 1 else f"{n} {word}{'es' if word.endswith('s') else 's'}"


def print_json(record: object) -> None:
    """Prints what a command found, for programs."""
    import json

    from testbed.report.plain import plain

    print(json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False))
