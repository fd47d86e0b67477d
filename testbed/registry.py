"""Environments and tools by name: the one door for the built-in ones, for plug-in files and for installed packages.

Built-in names are read from the source files without importing them (`ast`), so that listing costs milliseconds and no
file has to be announced anywhere: dropping ``envs/my_env.py`` in is enough. Third parties use a plug-in file
(`load_plugin`, ``--plugin``) or an entry point in the group ``testbed.envs`` or ``testbed.tools``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from testbed.builtin import ENV_ID, Shelf, read_shelf
from testbed.corpus_named import make_corpus
from testbed.errors import DataError, UnknownName, UsageError, nearest_path
from testbed.gymnasium_hook import NAMESPACE, register_with_gymnasium
from testbed.options import check_options, construct, option_names, required_options
from testbed.plugins import defined, execute, load_entry_point
from testbed.types import Control, digest

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from testbed.env import Environment

__all__ = [
    "FOREIGN",
    "NAMESPACE",
    "check_options",
    "env_class",
    "env_names",
    "load_plugin",
    "make_corpus",
    "make_env",
    "make_tool",
    "make_tools",
    "option_names",
    "register_module",
    "register_with_gymnasium",
    "summary",
    "tool_class",
    "tool_names",
    "unread",
]

FOREIGN = ("mcp:", "langchain:")  # beginnings of names that `testbed.foreign_tools` knows what to do with
_plugins: dict[str, dict[str, Any]] = {"envs": {}, "tools": {}}
_owners: dict[tuple[str, str], str] = {}  # by group and name: the file that defines it
_loaded: dict[str, tuple[str, list[str]]] = {}  # by file: hash of its content and the names it defines


def env_names() -> tuple[str, ...]:
    """Ids of all environments, sorted."""
    return tuple(sorted(_table("envs")))


def tool_names() -> tuple[str, ...]:
    """Names of all tools, sorted."""
    return tuple(sorted(_table("tools")))


def unread(group: str) -> Mapping[str, str]:
    """Built-in files of a group ("envs" or "tools") that cannot be read, with the reason."""
    return _builtin(group).unread


def env_class(name: str) -> type[Environment]:
    """The class of an environment, by id with or without "testbed/".

    Raises:
        UnknownName: there is none; the message offers the nearest.
    """
    found: type[Environment] = _find("envs", "environment", name.removeprefix(NAMESPACE))
    return found


def tool_class(name: str) -> Any:
    """The class of a tool; the tool itself where a plug-in defines a finished one, as langchain's ``@tool`` does.

    Of a foreign name, whatever makes its tools.

    Raises:
        UnknownName: there is none; the message offers the nearest.
    """
    if name.startswith(FOREIGN):
        from testbed import foreign_tools

        return foreign_tools.find(name)
    return _find("tools", "tool", name)


def make_env(
    name: str,
    tools: Sequence[str | BaseTool] = (),
    control: str | Control | None = None,
    tool_options: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Environment:
    """An environment with its tools; also the entry point that `gymnasium.make` calls.

    Args:
        name: id, such as "Multiplication-v0".
        tools: names or objects of the tools it offers.
        control: how they behave; live by default, absent without tools.
        tool_options: options of each tool by its name.
        options: the environment's own options and those of `testbed.env.Common`.

    Raises:
        UnknownName: unknown environment, tool or option.
        UsageError: options that do not go together.
    """
    from testbed.tool import ToolSet
    from testbed.wrappers import under_control

    cls = env_class(name)
    check_options(cls, options, f"option of {name}")
    if control and control not in list(Control):
        raise UnknownName("control", str(control), list(Control))
    if isinstance(tools, ToolSet):
        if control or tool_options:
            raise UsageError("a ToolSet is offered as it is: give control and tool_options to tools by name.")
        shared: Environment = construct(cls, name, {**options, "tools": tools})
        return shared
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise UsageError(f"tools must be a list of names or tools, such as ('python',), not {tools!r:.80}.")
    tools = list(tools)
    for tool in tool_options or {}:
        if tool not in tools:
            raise UnknownName("tool in tool_options", tool, [t for t in tools if isinstance(t, str)])
    chosen = make_tools(tools, tool_options or {})
    mode = Control(control) if control else (Control.LIVE if chosen else Control.ABSENT)
    made: Environment = construct(cls, name, {**options, "tools": under_control(chosen, mode)})
    return made


def make_tools(tools: Iterable[str | BaseTool], options: Mapping[str, Mapping[str, Any]]) -> list[BaseTool]:
    """Tools from names, of which a foreign one may stand for several; objects are passed through."""
    made: list[BaseTool] = []
    for tool in tools:
        made += _made(tool, options.get(tool, {})) if isinstance(tool, str) else [tool]
    return made


def make_tool(name: str, **options: Any) -> BaseTool:
    """A tool with its options. A `corpus` option may name an environment (its documents) or a JSONL file.

    Raises:
        UnknownName: unknown tool or option.
        DataError: the corpus cannot be read.
        UsageError: the name stands for several tools.
    """
    made = _made(name, options)
    if len(made) != 1:
        raise UsageError(f"{name} stands for {', '.join(tool.name for tool in made)}: make them with make_tools.")
    return made[0]


def _made(name: str, options: Mapping[str, Any]) -> list[BaseTool]:
    cls = tool_class(name)
    check_options(cls, options, f"option of tool {name}")
    if name.startswith(FOREIGN):
        from testbed import foreign_tools

        return foreign_tools.make(name, options)
    return [_of_class(cls, name, options)]


def _of_class(cls: Any, name: str, options: Mapping[str, Any]) -> BaseTool:
    if not inspect.isclass(cls):
        finished: BaseTool = cls
        return finished
    lacking = [option for option in required_options(cls) if option not in options]
    if lacking:
        such = '"Facts-v0", or a JSONL file of documents (docs/corpus.md)' if lacking[0] == "corpus" else "…"
        needs = f"tool {name} needs {' and '.join(lacking)}"
        raise UsageError(f"{needs}: write in a table [tool.{name}] {lacking[0]} = {such}.")
    if "corpus" in options:
        options = {**options, "corpus": make_corpus(options["corpus"])}
    made: BaseTool = construct(cls, f"tool {name}", options)
    return made


def load_plugin(path: str | Path) -> list[str]:
    """Registers every environment and tool defined in a Python file; returns their names.

    Loading a file again does nothing unless it was changed; then what it defines replaces what it defined before.

    Raises:
        DataError: no such file, it cannot be run (names the line), or it defines neither.
        UsageError: a name is taken.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"plug-in {str(path)!r} does not exist; give the path of a Python file.{nearest_path(path, '.py')}"
        )
    source = str(path.resolve())
    content = digest(path.read_bytes().hex())
    if _loaded.get(source, ("", []))[0] != content:
        for group, name in [key for key, owner in _owners.items() if owner == source]:
            del _plugins[group][name], _owners[group, name]
        _loaded.pop(source, None)
        _loaded[source] = content, register_module(execute(path), source)
    return list(_loaded[source][1])


def register_module(module: ModuleType, source: str) -> list[str]:
    """Registers the environments and tools that a module defines: all of them, or none if one cannot be.

    Raises:
        DataError: it defines neither, or a class that lacks a method.
        UsageError: a name is taken.
    """
    try:
        found = list(defined(module))
    except DataError as error:
        raise DataError(f"plug-in {source!r}: {error}") from None
    if not found:
        raise DataError(f"plug-in {source!r} defines no environment with an `id` and no tool with a `name`.")
    names = [name for _, name, _ in found]
    for group, name, _ in found:
        owner = _owners.get((group, name), source)
        if owner != source or name in _builtin(group).names or name in _installed(group) or names.count(name) > 1:
            by = f" by {owner!r}" if owner != source else ""
            raise UsageError(f"plug-in {source!r}: the name {name!r} is taken{by}; choose another.")
    register_with_gymnasium([name for group, name, _ in found if group == "envs"])
    for group, name, thing in found:
        _plugins[group][name], _owners[group, name] = thing, source
    return names


def summary(cls: Any) -> str:
    """First line of a class's docstring, or of a finished tool's description."""
    return str((inspect.getdoc(cls) if inspect.isclass(cls) else cls.description) or "").partition("\n")[0]


def _table(group: str) -> dict[str, Callable[[], Any]]:
    """Every name of a group with what loads it; built-in names win over installed ones."""
    plugged = {name: partial(_itself, thing) for name, thing in _plugins[group].items()}
    return {**plugged, **_installed(group), **_builtin(group).names}


def _find(group: str, kind: str, name: str) -> Any:
    table = _table(group)
    if name not in table:
        known = list(table)
        if group == "tools":
            from testbed.foreign_tools import FORMS

            known += FORMS
        raise UnknownName(kind, name, known, hint=" ".join([f"See `testbed list {group}`.", *unread(group).values()]))
    return table[name]()


@cache
def _builtin(group: str) -> Shelf:
    return read_shelf(group)


@cache
def _installed(group: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        point.name: partial(load_entry_point, group, point) for point in entry_points(group=f"testbed.{group}")
    }
    for name in [name for name in found if group == "envs" and not ENV_ID.fullmatch(name)]:
        warnings.warn(f"ignoring the installed environment {name!r}: its id must have the form NAME-v0", stacklevel=2)
        del found[name]
    return found


def _itself(thing: Any) -> Any:
    return thing
