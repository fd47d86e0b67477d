"""The built-in environments and tools: one file each in ``envs/`` and ``tools/``, read without being run.

A file that cannot be read or run hurts nobody but those who ask for what it holds: everything else is listed and works.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from testbed.errors import DataError
from testbed.plugins import foreign_code, line_of, named, names_in

ATTRIBUTES: Mapping[str, str] = {"envs": "id", "tools": "name"}  # what names a class of each group
ENV_ID = re.compile(r"[\w:.-]+-v\d+")


@dataclass(frozen=True)
class Shelf:
    """What a folder of built-in files holds.

    Attributes:
        names: what loads each, by name; for a file that cannot be read, what raises the reason.
        unread: by file, why it cannot be read, where not even its names can be told.
    """

    names: Mapping[str, Callable[[], Any]]
    unread: Mapping[str, str]


def read_shelf(group: str) -> Shelf:
    """The names in every file of a group, "envs" or "tools"; no file is run."""
    package = importlib.import_module(f"testbed.{group}")
    names: dict[str, Callable[[], Any]] = {}
    homes: dict[str, Path] = {}
    unread: dict[str, str] = {}
    for file in sorted(Path(package.__path__[0]).glob("[!_.]*.py")):
        try:
            found = _names(group, file)
        except DataError as error:
            guessed = [name for name in _guessed(group, file) if name not in names]
            names.update(dict.fromkeys(guessed, partial(_refuse, str(error))))
            if not guessed:
                unread[str(file)] = str(error)
            continue
        for name, load in found.items():
            twice = f"{name!r} is defined in {homes.get(name)} and in {file}; rename one of them."
            names[name] = partial(_refuse, twice) if name in homes else load
            homes[name] = file
    return Shelf(names, unread)


def _names(group: str, file: Path) -> dict[str, Callable[[], Any]]:
    """What loads each name of a file."""
    found: dict[str, Callable[[], Any]] = {
        name: partial(_load, group, file, cls) for name, cls in names_in(file, ATTRIBUTES[group])
    }
    for name in found:
        if group == "envs" and not ENV_ID.fullmatch(name):
            raise DataError(f"{file}: {name!r} cannot be an environment's id: write NAME-v0.")
    return found


def _guessed(group: str, file: Path) -> Iterator[str]:
    """The names that a file which is not Python seems to define, so that asking for one says what is wrong."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for name in re.findall(rf"""^[ \t]+{ATTRIBUTES[group]}\b[^=\n]*=[ \t]*["']([^"'\n]+)["']""", text, re.MULTILINE):
        if group != "envs" or ENV_ID.fullmatch(name):
            yield name


def _load(group: str, file: Path, cls: str) -> Any:
    """The class, from its module.

    Raises:
        DataError: importing the file failed, or it is of another kind; names the file and the line.
    """
    from langchain_core.tools import BaseTool

    from testbed.env import Environment

    with foreign_code(lambda error: f"{file}:{line_of(error, file)}: {named(error)}"):  # somebody may be writing it
        found = getattr(importlib.import_module(f"testbed.{group}.{file.stem}"), cls)
    wanted = Environment if group == "envs" else BaseTool
    if not (inspect.isclass(found) and issubclass(found, wanted)):
        raise DataError(f"{file}: {cls} has a name like one, but is no {wanted.__name__}.")
    return found


def _refuse(reason: str) -> NoReturn:
    raise DataError(reason)
