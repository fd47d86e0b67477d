"""Environments and tools by name: the one door for the built-in ones, for plug-in files and for installed packages.

Built-in names are read from the source files without importing them (`ast`), so that listing costs milliseconds and no
file has to be announced anywhere: dropping ``envs/my_env.py`` in is enough. Third parties use a plug-in file
(`load_plugin`, ``--plugin``) or an entry point in the group ``testbed.envs`` or ``testbed.tools``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from testbed.errors import DataError, UnknownName, UsageError
from testbed.types import Control

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from testbed.corpus import Corpus
    from testbed.env import Environment

NAMESPACE = "testbed/"
_plugins: dict[str, dict[str, type]] = {"envs": {}, "tools": {}}


def env_names() -> tuple[str, ...]:
    """Ids of all environments, sorted."""
    return tuple(sorted(_table("envs")))


def tool_names() -> tuple[str, ...]:
    """Names of all tools, sorted."""
    return tuple(sorted(_table("tools")))


def env_class(name: str) -> type[Environment]:
    """The class of an environment, by id with or without "testbed/".

    Raises:
        UnknownName: there is none; the message offers the nearest.
    """
    found: type[Environment] = _find("envs", "environment", name.removeprefix(NAMESPACE))
    return found


def tool_class(name: str) -> type[BaseTool]:
    """The class of a tool.

    Raises:
        UnknownName: there is none; the message offers the nearest.
    """
    found: type[BaseTool] = _find("tools", "tool", name)
    return found


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
    if isinstance(tools, ToolSet):
        return cls(tools=tools, **options)
    chosen = make_tools(tools, tool_options or {})
    mode = Control(control) if control else (Control.LIVE if chosen else Control.ABSENT)
    return cls(tools=under_control(chosen, mode), **options)


def make_tools(tools: Iterable[str | BaseTool], options: Mapping[str, Mapping[str, Any]]) -> list[BaseTool]:
    """Tools from names; objects are passed through."""
    return [make_tool(tool, **options.get(tool, {})) if isinstance(tool, str) else tool for tool in tools]


def make_tool(name: str, **options: Any) -> BaseTool:
    """A tool with its options. A `corpus` option may name an environment (its documents) or a JSONL file.

    Raises:
        UnknownName: unknown tool or option.
        DataError: the corpus cannot be read.
    """
    cls = tool_class(name)
    check_options(cls, options, f"option of tool {name}")
    if "corpus" in options:
        options = {**options, "corpus": make_corpus(options["corpus"])}
    return cls(**options)


def make_corpus(source: Any) -> Corpus:
    """A corpus from an environment's name, a table {env = NAME, …its options}, a path to a JSONL file, or a `Corpus`.

    Raises:
        DataError: there is neither such an environment nor such a file, or it has no documents.
    """
    from testbed.corpus import Corpus

    if isinstance(source, Corpus):
        return source
    table = dict(source) if isinstance(source, Mapping) else {"env": source}
    name = str(table.pop("env", ""))
    if name.removeprefix(NAMESPACE) in env_names():
        return Corpus.of(make_env(name, **table).documents())
    if isinstance(source, str) and Path(source).exists():
        return Corpus.read(Path(source))
    raise DataError(
        f"corpus {source!r} is neither a file nor an environment with documents ({', '.join(env_names())})."
    )


def check_options(cls: Callable[..., Any], options: Mapping[str, Any], kind: str) -> None:
    """Refuses options that a class does not take.

    Raises:
        UnknownName: names the option and the nearest one.
    """
    known = option_names(cls)
    for key in options:
        if key not in known:
            raise UnknownName(kind, key, known)


def option_names(cls: Any) -> tuple[str, ...]:
    """The options of an environment's or tool's constructor."""
    explicit = [p.name for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = list(getattr(cls, "model_fields", ())) if len(explicit) <= 2 else []
    common = ["budget", "count", "render_mode"] if hasattr(cls, "make_tasks") else []
    return tuple(dict.fromkeys(n for n in (*explicit, *fields, *common) if n not in ("self", "args", "tools")))


def load_plugin(path: str | Path) -> list[str]:
    """Registers every environment and tool defined in a Python file; returns their names.

    Raises:
        DataError: no such file, or it defines neither.
        UsageError: a name is taken.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"plug-in {str(path)!r} does not exist; give the path of a Python file.")
    spec = importlib.util.spec_from_file_location(f"testbed_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"plug-in {str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up the annotations of tools there
    spec.loader.exec_module(module)
    return register_module(module, str(path))


def register_module(module: ModuleType, source: str) -> list[str]:
    """Registers the environments and tools that a module defines."""
    from langchain_core.tools import BaseTool

    from testbed.env import Environment

    names = []
    for value in vars(module).values():
        if not inspect.isclass(value) or value.__module__ != module.__name__:
            continue
        if issubclass(value, Environment) and getattr(value, "id", None):
            names.append(_add("envs", value.id, value, source))
        elif issubclass(value, BaseTool) and _default_name(value):
            names.append(_add("tools", _default_name(value), value, source))
    if not names:
        raise DataError(f"plug-in {source!r} defines no environment with an `id` and no tool with a `name`.")
    return names


def summary(cls: type) -> str:
    """First line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _add(group: str, name: str, cls: type, source: str) -> str:
    if name in _builtin(group) or name in _installed(group):
        raise UsageError(f"plug-in {source!r}: the name {name!r} is taken; choose another.")
    _plugins[group][name] = cls
    if group == "envs":
        register_with_gymnasium([name])
    return name


def register_with_gymnasium(names: Iterable[str]) -> None:
    """Makes environments known to `gymnasium.make` as "testbed/NAME"; nothing is imported until one is made."""
    import gymnasium

    for name in names:
        if NAMESPACE + name not in gymnasium.registry:
            gymnasium.register(NAMESPACE + name, entry_point="testbed.registry:make_env", kwargs={"name": name})


def _table(group: str) -> dict[str, Callable[[], type]]:
    """Every name of a group with what loads its class; built-in names win over installed ones."""
    plugged = {name: partial(_itself, cls) for name, cls in _plugins[group].items()}
    return {**plugged, **_installed(group), **_builtin(group)}


def _find(group: str, kind: str, name: str) -> Any:
    table = _table(group)
    if name not in table:
        raise UnknownName(kind, name, table, hint=f"See `testbed list {group}`.")
    return table[name]()


@cache
def _builtin(group: str) -> dict[str, Callable[[], type]]:
    package = importlib.import_module(f"testbed.{group}")
    found: dict[str, Callable[[], type]] = {}
    for file in sorted(Path(package.__path__[0]).glob("[!_]*.py")):
        for name, cls in _names_in(file, "id" if group == "envs" else "name"):
            found[name] = _importer(f"testbed.{group}.{file.stem}", cls)
    return found


@cache
def _installed(group: str) -> dict[str, Callable[[], type]]:
    return {point.name: point.load for point in entry_points(group=f"testbed.{group}")}


def _importer(module: str, cls: str) -> Callable[[], type]:
    def load() -> type:
        loaded: type = getattr(importlib.import_module(module), cls)
        return loaded

    return load


def _names_in(file: Path, attribute: str) -> Iterable[tuple[str, str]]:
    """(value, class name) of each class that sets `attribute` to a string, read from the source."""
    for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
            value = getattr(line, "value", None)
            if isinstance(target, ast.Name) and target.id == attribute and isinstance(value, ast.Constant):
                yield str(value.value), node.name


def _itself(cls: type) -> type:
    return cls


def _default_name(cls: type) -> str:
    field = getattr(cls, "model_fields", {}).get("name")
    return field.default if field is not None and isinstance(field.default, str) else ""
