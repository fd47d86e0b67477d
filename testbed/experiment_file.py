"""Experiment files: TOML, checked whole before anything is loaded.

Unknown keys are named with their line and the nearest known key; environments, tools and models are looked up; arms are
checked against the rule that the tool set is the varied factor and all else is shared.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.budget import Budget
from testbed.errors import ExperimentError, UnknownName, did_you_mean, nearest_path
from testbed.experiment import ArmSpec, EnvSpec, Experiment, Measure, Replay
from testbed.experiment_samples import SampleTables
from testbed.experiment_tables import with_agent
from testbed.lookahead import read_lookahead
from testbed.models import MODEL_KINDS, unknown_model
from testbed.models.base import Sampling
from testbed.places import Key
from testbed.types import Control

KEYS = (
    "name",
    "description",
    "seed",
    "samples",
    "plugins",
    "replay",
    "model",
    "budget",
    "measure",
    "env",
    "tool",
    "arm",
)
ARM_KEYS = ("name", "tools", "control", "samples", "budget", "model", "yoke", "lookahead", "replay")
SAMPLING_KEYS = ("temperature", "top_p", "max_tokens")
LARGEST_SEED = 2**63 - 1  # stores hold seeds in 64 bits
COMMON_OPTIONS = frozenset({"budget", "count", "render_mode"})  # set by the arm, not by [[env]]


def read_experiment(source: str | Path, plugins: Sequence[str] = (), agent: str = "") -> Experiment:
    """Reads and checks an experiment file, or one that ships with the testbed.

    Args:
        source: path of a TOML file, or the name of a shipped experiment such as "demo".
        plugins: further plug-in files to load first.
        agent: "module:object" or "file.py:object" of an agent that takes the place of the models; empty for none.

    Raises:
        ExperimentError: the file is missing, is not TOML, or cannot be run; names the file and the line.
    """
    path, text = _load(str(source))
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ExperimentError("tables or lists are nested too deeply.", path=path) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = int(line.group(1)) if line else None
        twice = re.search(r"'(arm|env)',?\) twice", str(error))
        told = f"write [[{twice[1]}]], with two brackets, for each of several." if twice else f"not valid TOML: {error}"
        raise ExperimentError(told, path=path, line=number) from None
    found = parse_experiment(with_agent(data, agent), path=path, text=text, plugins=plugins)
    arguments: dict[Key, str] = {("model",): f"--agent {agent}"} if agent else {}
    return replace(found, places=replace(found.places, arguments=arguments))


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
    if path.is_dir():
        raise ExperimentError(f"experiment {source!r} is a folder; name the TOML file itself.")
    if not path.is_file():
        names = shipped() if "/" not in source and not source.endswith(".toml") else ()
        near = nearest_path(path, ".toml", names) or (did_you_mean(source, names) if names else "")
        raise ExperimentError(f"experiment {source!r}: no such file, and no experiment of that name is shipped.{near}")
    try:
        return source, path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ExperimentError(f"not valid UTF-8: {error}", path=source) from None
    except OSError as error:
        raise ExperimentError(f"cannot be read: {error.strerror or error}.", path=source) from None


class _Reader(SampleTables):
    """Turns the data of one file into an `Experiment`."""

    def experiment(self, plugins: Sequence[str]) -> Experiment:
        data = self.data
        self._keys(data, KEYS, "key", ())
        own = self._strings(data.get("plugins", []), "plugins", ("plugins",))
        for plugin in plugins:
            registry.load_plugin(plugin)
        base = Path(self.path).parent if self.path.endswith(".toml") else Path()
        for n, plugin in enumerate(own):
            with self.places.blaming(("plugins", n)):
                registry.load_plugin(base / plugin)
        name = data.get("name", Path(self.path).stem)
        if not isinstance(data.get("description", ""), str):
            self._fail("description must be text", ("description",))
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name):
            self._fail(f"name must be 1–100 letters, digits, '.', '_' or '-', not {name!r}", ("name",))
        seed = self._whole(data.get("seed", 0), "seed", ("seed",), least=0, most=LARGEST_SEED)
        arms = self._arms(self._samples(data.get("samples", 16), "samples", ("samples",)))
        with self.places.blaming(("measure",)):
            measure = Measure(**self._table("measure", Measure.__dataclass_fields__))
        self._check_stopping(arms, measure)
        if measure.bare and measure.bare not in [arm.name for arm in arms]:
            self._fail(str(UnknownName("arm", measure.bare, [arm.name for arm in arms])), ("measure", "bare"))
        environments, tools = self._environments(), self._tools(arms)
        return Experiment(name, seed, environments, arms, tools, measure, own, dict(data), self.places)

    def _environments(self) -> tuple[EnvSpec, ...]:
        listed = self._list("env")
        if not listed:
            self._fail("no tasks: give at least one [[env]] with an id")
        specs = []
        for n, table in enumerate(listed):
            options = dict(table)
            id_ = options.pop("id", None)
            if not isinstance(id_, str):
                self._fail('[[env]] needs an id, such as id = "Multiplication-v0"', ("env", n, "id"))
            with self.places.blaming(("env", n)):
                known = set(registry.option_names(registry.env_class(id_))) - COMMON_OPTIONS
                self._keys(options, known, f"option of {id_}", ("env", n))
                registry.make_env(id_, **options)  # wrong values show here
            specs.append(EnvSpec(id_.removeprefix(registry.NAMESPACE), options))
        return tuple(specs)

    def _tools(self, arms: Sequence[ArmSpec]) -> dict[str, dict[str, Any]]:
        tables = self._mapping(self.data.get("tool", {}), "tool", ("tool",))
        replayed = {tool for arm in arms if arm.replays_all for tool in arm.tools}
        replayed -= {tool for arm in arms if not arm.replays_all for tool in arm.tools}
        for name, options in tables.items():
            self._mapping(options, f"tool.{name}", ("tool", name))
            if name in replayed:  # it need not be there; its options are compared with the recorded ones
                continue
            with self.places.blaming(("tool", name)):
                known = registry.option_names(registry.tool_class(name))
            self._keys(options, known, f"option of tool {name}", ("tool", name))
        offered = {tool for arm in arms for tool in arm.tools}
        self._described(arms, tables)
        for name in self.data.get("budget", {}).get("calls", {}):
            if not _may_be(name, offered):
                self._fail(str(UnknownName("tool in [budget] calls", name, offered)), ("budget", "calls", name))
        return {name: dict(options) for name, options in tables.items()}

    def _described(self, arms: Sequence[ArmSpec], tables: Mapping[str, Any]) -> None:
        """Every MCP server that an arm names has its table."""
        servers = [name for name in tables if name.startswith("mcp:")]
        for n, arm in enumerate(arms):
            for number, name in enumerate(() if arm.replays_all else arm.tools):
                if name.startswith("mcp:") and name not in servers:
                    hint = f'Describe it in [tool."{name}"]: command = ["python", "server.py"], or url = "http://…".'
                    self._fail(str(UnknownName("MCP server", name, servers, hint)), ("arm", n, "tools", number))

    def _arms(self, samples: tuple[int, int, str]) -> tuple[ArmSpec, ...]:
        listed = self._list("arm")
        if not listed:
            self._fail('no arms: give at least one [[arm]], such as name = "bare"')
        arms: list[ArmSpec] = []
        for n, table in enumerate(listed):
            arm = self._arm(table, n, samples)
            if arm.name in [other.name for other in arms]:
                self._fail(f"two arms are named {arm.name!r}", ("arm", n, "name"))
            arms.append(arm)
        return tuple(self._yoked(arm, n, arms) for n, arm in enumerate(arms))

    def _arm(self, table: Mapping[str, Any], n: int, samples: tuple[int, int, str]) -> ArmSpec:
        at: Key = ("arm", n)
        self._keys(table, ARM_KEYS, "key of an arm", at)
        name = table.get("name")
        if not isinstance(name, str) or not name.strip():
            self._fail("[[arm]] needs a name", (*at, "name"))
        tools = self._strings(table.get("tools", []), "tools", (*at, "tools"))
        control = self._control(table, name, tools, at)
        replay = self._replay(table, name, tools, control, at)
        for number, tool in enumerate(tools):
            if replay is None or replay.otherwise == "live":
                with self.places.blaming((*at, "tools", number)):
                    registry.tool_class(tool)
            if tool in tools[:number]:
                self._fail(f"arm {name!r} lists the tool {tool!r} twice", (*at, "tools", number))
        model = {
            **self._model(self.data.get("model", {}), ("model",)),
            **self._model(table.get("model", {}), (*at, "model")),
        }
        own = self._mapping(table.get("budget", {}), "budget", (*at, "budget"))
        with self.places.blaming((*at, "budget"), ("budget",)):
            shared = self._mapping(self.data.get("budget", {}), "budget", ("budget",))
            budget = Budget.from_mapping({**shared, **own})
        for tool in own.get("calls", {}):
            if not _may_be(tool, tools):
                wrong = UnknownName("tool", tool, tools, of=f"arm {name!r}")
                self._fail(str(wrong), (*at, "budget", "calls", tool))
        if "samples" in table:
            samples = self._samples(table["samples"], f"samples of arm {name!r}", (*at, "samples"))
        least, count, stop = samples
        id_ = model.pop("id", "reference")
        logprobs = model.pop("logprobs", False)
        if not isinstance(logprobs, bool):
            said = f"logprobs must be true or false, not {logprobs!r}"
            self._fail(said, (*at, "model", "logprobs"), ("model", "logprobs"))
        with self.places.blaming((*at, "model"), ("model",)):
            sampling = Sampling(**{k: model.pop(k) for k in SAMPLING_KEYS if k in model})
        yoke = table.get("yoke", "")
        if not isinstance(yoke, str):
            self._fail(f"yoke must be the name of an arm, not {yoke!r}", (*at, "yoke"))
        lookahead = None
        if "lookahead" in table:
            with self.places.blaming((*at, "lookahead")):
                lookahead = read_lookahead(table["lookahead"])
                lookahead.refuse(tools, control, budget, sampling.max_tokens, replays=replay is not None)
        return ArmSpec(
            name, tools, control, count, budget, id_, model, sampling, yoke, least, stop, lookahead, replay, logprobs
        )

    def _replay(
        self, table: Mapping[str, Any], name: str, tools: Sequence[str], control: Control, at: Key
    ) -> Replay | None:
        """The recording that an arm's tools answer from; the file's, unless the arm names one of its own."""
        if "replay" in table and not tools:
            self._fail(f"arm {name!r} has replay, but no tools that could be replayed", (*at, "replay"))
        if "replay" in table and control is Control.IMAGINED:
            self._fail(f"arm {name!r} imagines its tools' results, so there is nothing to replay", (*at, "replay"))
        value = table.get("replay", self.data.get("replay"))
        if value is None or not tools or control is Control.IMAGINED:
            return None
        with self.places.blaming((*at, "replay"), ("replay",)):
            return Replay.of(value, name)

    def _control(self, table: Mapping[str, Any], name: str, tools: Sequence[str], at: Key) -> Control:
        control = table.get("control", "live" if tools else "absent")
        if control not in list(Control):
            hint = "The placebo is 'inert'." if str(control).lower() == "placebo" else ""
            self._fail(str(UnknownName("control", str(control), list(Control), hint)), (*at, "control"))
        if control == "absent" and tools:
            self._fail(
                f"arm {name!r} is bare (control = 'absent') but offers {', '.join(tools)}; drop one of them",
                (*at, "name"),
            )
        if control != "absent" and not tools:
            self._fail(f"arm {name!r}: control = {control!r} needs tools", (*at, "name"))
        return Control(control)

    def _model(self, value: Any, at: Key) -> dict[str, Any]:
        table = {"id": value} if isinstance(value, str) else dict(self._mapping(value, "model", at))
        kinds = {form.partition(":")[0] for form in MODEL_KINDS}
        if "id" in table and (not isinstance(table["id"], str) or table["id"].partition(":")[0] not in kinds):
            self._fail(str(unknown_model(str(table["id"]))), (*at, "id"))
        return table


def _may_be(name: str, offered: Collection[str]) -> bool:
    """Whether tools have or may have that name: which ones a foreign name stands for is known when they are made."""
    foreign = any(tool.startswith(registry.FOREIGN) for tool in offered)
    return not name.startswith(registry.FOREIGN) and (name in offered or foreign)
