"""`testbed list`: what can be used, and what was run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed import registry
from testbed.errors import DataError, UnknownName
from testbed.options import required_options


def print_list(what: str, store: str, plugins: Sequence[str]) -> None:
    """Prints one of the lists.

    Raises:
        UnknownName: there is no such list.
        StoreError: runs are asked for and the store cannot be read.
    """
    for plugin in plugins:
        registry.load_plugin(plugin)
    lists: dict[str, Callable[[], Table]] = {
        "envs": lambda: table(("environment", "what it is"), _classes("envs")),
        "tools": lambda: table(("tool", "what it does"), [*_classes("tools"), *_foreign()]),
        "models": lambda: table(("model", "what it is"), _models()),
        "experiments": lambda: table(("experiment", "what it shows"), _experiments()),
        "runs": lambda: _runs(store),
    }
    if what not in lists:
        raise UnknownName("list", what, lists)
    Console(highlight=False).print(lists[what]())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table as all lists have it: its first column whole, the others folded."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for n, name in enumerate(head):
        made.add_column(name, no_wrap=n == 0, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))  # which reads no markup: "[tool.search]" is said as it is
    return made


def _classes(group: str) -> Iterable[tuple[str, str]]:
    """What there is; one that cannot be loaded says why, and does not keep the others from being listed."""
    names, find = {
        "envs": (registry.env_names, registry.env_class),
        "tools": (registry.tool_names, registry.tool_class),
    }[group]
    for name in names():
        try:
            found = find(name)
            needs = f" Needs {', '.join(required_options(found))} in [tool.{name}]." if group == "tools" else ""
            yield name, registry.summary(found) + (needs if required_options(found) else "")
        except DataError as error:
            yield name, f"cannot be used: {error}"
    for file, reason in registry.unread(group).items():
        yield Path(file).name, f"cannot be used: {reason}"


def _foreign() -> Iterable[tuple[str, str]]:
    from testbed.foreign_tools import FORMS

    return FORMS.items()


def _models() -> Iterable[tuple[str, str]]:
    from testbed.models import MODEL_KINDS

    return MODEL_KINDS.items()


def _experiments() -> Iterable[tuple[str, str]]:
    from testbed.experiment_file import read_experiment, shipped

    for name in shipped():
        yield name, str(read_experiment(name).source.get("description", ""))


def _runs(store: str) -> Table:
    from testbed.store import Store

    with Store.open(store, create=False) as opened:
        rows = [(r.name, r.created, str(r.tasks), str(r.arms), str(r.attempts), str(r.missing)) for r in opened.runs()]
    return table(("run", "created", "tasks", "arms", "attempts", "missing"), rows)
