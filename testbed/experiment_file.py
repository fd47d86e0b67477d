"""Experiment files: TOML, checked whole before anything is loaded.

Unknown keys are named with their line and the nearest known key; environments, tools and models are looked up; arms are
checked against the rule that the tool set is the varied factor and all else is shared.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from testbed import registry
from testbed.budget import Budget
from testbed.errors import ExperimentError, UnknownName, UsageError, did_you_mean
from testbed.experiment import ArmSpec, EnvSpec, Experiment, Measure
from testbed.models import MODEL_KINDS
from testbed.models.base import Sampling
from testbed.types import Control

KEYS = ("name", "description", "seed", "samples", "plugins", "model", "budget", "measure", "env", "tool", "arm")
ARM_KEYS = ("name", "tools", "control", "samples", "budget", "model", "yoke")
SAMPLING_KEYS = ("temperature", "top_p", "max_tokens")
COMMON_OPTIONS = frozenset({"budget", "count", "render_mode"})  # set by the arm, not by [[env]]

T = TypeVar("T")


def read_experiment(source: str | Path, plugins: Sequence[str] = ()) -> Experiment:
    """Reads and checks an experiment file, or one that ships with the testbed.

    Args:
        source: path of a TOML file, or the name of a shipped experiment such as "demo".
        plugins: further plug-in files to load first.

    Raises:
        ExperimentError: the file is missing, is not TOML, or cannot be run; names the file and the line.
    """
    path, text = _load(str(source))
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = int(line.group(1)) if line else None
        raise ExperimentError(f"not valid TOML: {error}", path=path, line=number) from None
    return parse_experiment(data, path=path, text=text, plugins=plugins)


def parse_experiment(
    data: Mapping[str, Any], *, path: str = "", text: str = "", plugins: Sequence[str] = ()
) -> Experiment:
    """Checks an experiment given as data.

    Args:
        data: what the TOML file holds.
        path: the file, for messages and for relative plug-in paths.
        text: the file's text, to find lines in.
        plugins: further plug-in files to load first.

    Raises:
        ExperimentError: it cannot be run.
    """
    return _Reader(data, path, text).experiment(plugins)


def shipped() -> tuple[str, ...]:
    """Names of the experiments that come with the testbed."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in _shipped_folder().iterdir() if f.name.endswith(".toml")))


def _shipped_folder() -> Any:
    return files("testbed") / "experiments"


def _load(source: str) -> tuple[str, str]:
    if source in shipped():
        return source, (_shipped_folder() / f"{source}.toml").read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        near = did_you_mean(source, shipped()) if "/" not in source and not source.endswith(".toml") else ""
        raise ExperimentError(f"experiment {source!r}: no such file, and no experiment of that name is shipped.{near}")
    try:
        return source, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"not valid UTF-8: {error}", path=source) from None


class _Reader:
    """Turns the data of one file into an `Experiment`, knowing where each key stands."""

    def __init__(self, data: Mapping[str, Any], path: str, text: str) -> None:
        self.data, self.path, self.lines = data, path, text.splitlines()

    def experiment(self, plugins: Sequence[str]) -> Experiment:
        data = self.data
        self._keys(data, KEYS, "key")
        own = self._strings(data.get("plugins", []), "plugins")
        for plugin in plugins:
            registry.load_plugin(plugin)
        base = Path(self.path).parent if self.path.endswith(".toml") else Path()
        for plugin in own:
            self._checked(partial(registry.load_plugin, base / plugin), "plugins")
        name = data.get("name", Path(self.path).stem)
        if not isinstance(data.get("description", ""), str):
            self._fail("description must be text", "description")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name):
            self._fail(f"name must be 1–100 letters, digits, '.', '_' or '-', not {name!r}", "name")
        seed = self._whole(data.get("seed", 0), "seed", least=0)
        arms = self._arms(self._whole(data.get("samples", 16), "samples", least=1))
        measure = self._checked(lambda: Measure(**self._table("measure", Measure.__dataclass_fields__)), "measure")
        if measure.bare and measure.bare not in [arm.name for arm in arms]:
            self._fail(str(UnknownName("arm", measure.bare, [arm.name for arm in arms])), "bare")
        return Experiment(name, seed, self._environments(), arms, self._tools(arms), measure, own, dict(data))

    def _environments(self) -> tuple[EnvSpec, ...]:
        listed = self._list("env")
        if not listed:
            self._fail("no tasks: give at least one [[env]] with an id", None)
        specs = []
        for n, table in enumerate(listed):
            options = dict(table)
            id_ = options.pop("id", None)
            if not isinstance(id_, str):
                self._fail('[[env]] needs an id, such as id = "Multiplication-v0"', "[[env]]", nth=n)
            cls = self._checked(partial(registry.env_class, id_), id_)
            for key in options:
                known = set(registry.option_names(cls)) - COMMON_OPTIONS
                if key not in known:
                    self._fail(str(UnknownName(f"option of {id_}", key, known)), key)
            self._checked(partial(registry.make_env, id_, **options), *options, id_)  # wrong values show here
            specs.append(EnvSpec(id_.removeprefix(registry.NAMESPACE), options))
        return tuple(specs)

    def _tools(self, arms: Sequence[ArmSpec]) -> dict[str, dict[str, Any]]:
        tables = self._mapping(self.data.get("tool", {}), "tool")
        for name, options in tables.items():
            self._mapping(options, f"tool.{name}")
            cls = self._checked(partial(registry.tool_class, name), f"[tool.{name}]")
            known = registry.option_names(cls)
            for key in options:
                if key not in known:
                    self._fail(str(UnknownName(f"option of tool {name}", key, known)), key, after=f"[tool.{name}]")
        offered = {tool for arm in arms for tool in arm.tools}
        for name in self.data.get("budget", {}).get("calls", {}):
            if name not in offered:
                self._fail(str(UnknownName("tool in [budget] calls", name, offered)), name)
        return {name: dict(options) for name, options in tables.items()}

    def _arms(self, samples: int) -> tuple[ArmSpec, ...]:
        listed = self._list("arm")
        if not listed:
            self._fail('no arms: give at least one [[arm]], such as name = "bare"', None)
        arms: list[ArmSpec] = []
        for n, table in enumerate(listed):
            arm = self._arm(table, n, samples)
            if arm.name in [other.name for other in arms]:
                self._fail(f"two arms are named {arm.name!r}", arm.name)
            arms.append(arm)
        return tuple(self._yoked(arm, arms) for arm in arms)

    def _arm(self, table: Mapping[str, Any], n: int, samples: int) -> ArmSpec:
        self._keys(table, ARM_KEYS, "key of an arm")
        name = table.get("name")
        if not isinstance(name, str) or not name.strip():
            self._fail("[[arm]] needs a name", "[[arm]]", nth=n)
        tools = self._strings(table.get("tools", []), "tools")
        control = table.get("control") or ("live" if tools else "absent")
        if control not in list(Control):
            self._fail(str(UnknownName("control", str(control), list(Control))), str(control))
        if control == "absent" and tools:
            self._fail(
                f"arm {name!r} is bare (control = 'absent') but offers {', '.join(tools)}; drop one of them", name
            )
        if control != "absent" and not tools:
            self._fail(f"arm {name!r}: control = {control!r} needs tools", name)
        for tool in tools:
            self._checked(partial(registry.tool_class, tool), tool)
        model = {**self._model(self.data.get("model", {})), **self._model(table.get("model", {}))}
        own = self._mapping(table.get("budget", {}), "budget")
        budget_table = {**self._mapping(self.data.get("budget", {}), "budget"), **own}
        budget = self._checked(lambda: Budget.from_mapping(budget_table), *budget_table)
        for tool in own.get("calls", {}):
            if tool not in tools:
                self._fail(str(UnknownName(f"tool of arm {name!r} in its budget", tool, tools)), tool)
        count = self._whole(table.get("samples", samples), f"samples of arm {name!r}", least=1)
        id_ = model.pop("id", "reference")
        sampling = self._checked(
            lambda: Sampling(**{k: model.pop(k) for k in SAMPLING_KEYS if k in model}), *SAMPLING_KEYS
        )
        return ArmSpec(name, tools, Control(control), count, budget, id_, model, sampling, table.get("yoke", ""))

    def _yoked(self, arm: ArmSpec, arms: Sequence[ArmSpec]) -> ArmSpec:
        if arm.control is not Control.YOKED:
            if arm.yoke:
                self._fail(f"arm {arm.name!r} has yoke = {arm.yoke!r} but is not yoked", "yoke")
            return arm
        live = [a for a in arms if a.control is Control.LIVE]
        partner = arm.yoke or next((a.name for a in live if set(a.tools) == set(arm.tools)), "")
        found = [a for a in live if a.name == partner]
        if not found:
            wanted = str(UnknownName("live arm", partner, [a.name for a in live])) if partner else "none has its tools"
            self._fail(f"arm {arm.name!r} is yoked and needs a live arm to replay: {wanted}", arm.name)
        if arm.samples > found[0].samples:
            self._fail(
                f"arm {arm.name!r}: {arm.samples} yoked attempts would replay the {found[0].samples} of its live arm "
                f"{partner!r} more than once; give it at most as many samples",
                arm.name,
            )
        if found[0].samples < 2:
            self._fail(f"arm {arm.name!r}: its live arm {partner!r} needs samples of at least 2", partner)
        return replace(arm, yoke=partner)

    def _model(self, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return {"id": value}
        table = dict(self._mapping(value, "model"))
        if "id" in table:
            kinds = {form.partition(":")[0] for form in MODEL_KINDS}
            if str(table["id"]).partition(":")[0] not in kinds:
                self._fail(str(UnknownName("model", str(table["id"]), MODEL_KINDS)), str(table["id"]))
        return table

    # -- helpers that know where things stand
    # -------------------------------------------------------------------------------

    def _table(self, name: str, known: Any) -> dict[str, Any]:
        table = self._mapping(self.data.get(name, {}), name)
        self._keys(table, tuple(known), f"key of [{name}]")
        return dict(table)

    def _list(self, name: str) -> Sequence[Mapping[str, Any]]:
        value = self.data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self._fail(f"write [[{name}]], with two brackets", name)
        return value

    def _mapping(self, value: Any, name: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"[{name}] must be a table", name)
        return value

    def _strings(self, value: Any, name: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self._fail(f"{name} must be a list of strings, not {value!r}", name)
        return tuple(value)

    def _whole(self, value: Any, name: str, *, least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._fail(f"{name} must be a whole number of at least {least}, not {value!r}", name.split(" ")[0])
        return int(value)

    def _keys(self, table: Mapping[str, Any], known: Sequence[str], kind: str) -> None:
        for key in table:
            if key not in known:
                self._fail(str(UnknownName(kind, key, known)), key)

    def _checked(self, make: Callable[[], T], *hints: str) -> T:
        """`make()`, with errors told where in the file they come from."""
        try:
            return make()
        except ExperimentError:
            raise
        except UsageError as error:
            self._fail(str(error).rstrip("."), next((h for h in hints if self._line(h)), None))

    def _fail(self, message: str, hint: str | None, *, nth: int = 0, after: str = "") -> NoReturn:
        if not message.endswith((".", "?")):
            message += "."
        line = self._line(hint, nth, after) if hint else None
        raise ExperimentError(message, path=self.path or "experiment", line=line)

    def _line(self, hint: str, nth: int = 0, after: str = "") -> int | None:
        """Line on which a key, a header or a quoted value stands, or None."""
        key, header = re.escape(hint), re.escape(hint.strip("[]"))
        pattern = re.compile(
            rf"""^\s*\[+{header}[\].]|(?:^|[{{,])\s*"?{key}"?\s*=|["']{key}["']"""  # [header], key =, or "value"
        )
        found = [n for n, line in enumerate(self.lines, 1) if pattern.search(line)]
        if after:
            start = next((n for n, line in enumerate(self.lines, 1) if line.strip() == after), 0)
            found = [n for n in found if n > start]
        return found[min(nth, len(found) - 1)] if found else None
