"""Other people's files and packages: what they define, how they are loaded, and where they fail."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed.errors import DataError
from testbed.types import digest


def execute(path: Path) -> ModuleType:
    """The module that a Python file defines.

    Raises:
        DataError: it is no Python file, or running it raised; names the line.
    """
    # Two plug-ins may have the same file name in different folders.
    name = f"testbed_plugin_{path.stem}_{digest(str(path.resolve()))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"plug-in {str(path)!r} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look up annotations there
    with ExitStack() as undo, foreign_code(lambda error: f"plug-in {path}:{line_of(error, path)}: {named(error)}"):
        undo.callback(sys.modules.pop, name)
        # Not through the loader: its bytecode cache does not notice a change within a second that keeps the size.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
        undo.pop_all()
    return module


@contextmanager
def foreign_code(says: Callable[[BaseException], str]) -> Iterator[None]:
    """Runs what others wrote: whatever it raises, also to end the program, becomes an error that names it.

    Raises:
        DataError: with what `says` makes of what was raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # nobody knows what it raises; this is the one place to catch it
        raise DataError(says(error)) from error


def named(error: BaseException) -> str:
    """An exception's kind and what it says."""
    return f"{type(error).__name__}: {error}"


def defined(module: ModuleType) -> Iterable[tuple[str, str, Any]]:
    """(group, name, class or tool) of what a module defines itself, names inherited from another class apart.

    Raises:
        DataError: a class with a name of its own lacks a method, such as `grade`, and no other class derives from it.
    """
    from langchain_core.tools import BaseTool

    from testbed.env import Environment

    for value in list(vars(module).values()):
        if isinstance(value, BaseTool):
            yield "tools", value.name, value
        elif not inspect.isclass(value) or value.__module__ != module.__name__:
            continue
        elif issubclass(value, Environment) and isinstance(vars(value).get("id"), str):
            yield from _whole("envs", value.id, value, module)
        elif issubclass(value, BaseTool) and "name" in inspect.get_annotations(value):
            default = value.model_fields["name"].default
            if isinstance(default, str):
                yield from _whole("tools", default, value, module)


def _whole(group: str, name: str, thing: type, module: ModuleType) -> Iterable[tuple[str, str, Any]]:
    """The class, if nothing is missing in it; nothing where it is only what others in its module derive from."""
    lacking = sorted(getattr(thing, "__abstractmethods__", ()))
    if not lacking:
        yield group, name, thing
    elif not any(inspect.isclass(v) and v is not thing and issubclass(v, thing) for v in vars(module).values()):
        kind = "environment" if group == "envs" else "tool"
        own = [key for key in vars(thing) if not key.startswith("__")]
        near = difflib.get_close_matches(lacking[0], own, n=1)
        meant = f" It has {near[0]!r}: is that meant?" if near else ""
        raise DataError(f"{kind} {name!r} (class {thing.__name__}) lacks the method {' and '.join(lacking)}.{meant}")


def names_in(file: Path, attribute: str) -> Iterable[tuple[str, str]]:
    """(value, class name) of each class that sets `attribute` to a string, read from the source.

    Raises:
        DataError: the file cannot be read, or is not Python; names the line.
    """
    try:
        body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # not UTF-8, a null byte, nested too deeply
        raise DataError(f"{file}:{getattr(error, 'lineno', None) or 1}: not a Python file ({error}).") from None
    for node in body:
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
            value = getattr(line, "value", None)
            named = isinstance(target, ast.Name) and target.id == attribute
            if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value, node.name


def load_entry_point(group: str, point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        DataError: it cannot be imported, or is of another kind.
    """
    from langchain_core.tools import BaseTool

    from testbed.env import Environment

    where = f"entry point {point.name!r} = {point.value!r} in group testbed.{group}"
    with foreign_code(lambda error: f"{where} cannot be loaded ({named(error)}); repair or uninstall it."):
        thing = point.load()
    wanted = Environment if group == "envs" else BaseTool
    if not (isinstance(thing, BaseTool) and group == "tools") and not (
        inspect.isclass(thing) and issubclass(thing, wanted)
    ):
        raise DataError(f"{where} is no {wanted.__name__}: {thing!r:.80}.")
    return thing


def line_of(error: BaseException, path: Path) -> int:
    """The last line of a file that was running when an error was raised."""
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        return error.lineno
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (frames[-1] if frames else None) or 1
