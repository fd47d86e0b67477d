"""Board files: TOML like an experiment's, which says what every entry must share and what it may choose.

The tables that both have ([budget], [measure], [[env]], [tool], [[arm]]) are read by the experiment's own reader, so
that a board is refused for the same reasons, with the same words and at the same lines.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.errors import ExperimentError, UnknownName, nearest_path
from testbed.experiment import Experiment
from testbed.experiment_file import LARGEST_SEED, parse_experiment
from testbed.experiment_tables import Tables
from testbed.types import canonical

SECRET_VARIABLE = "TESTBED_BOARD_SECRET"  # the variable's name, not its value
KEYS = ("slug", "title", "description", "seed", "private", "samples", "rules", "budget", "measure", "env")
PRIVATE_KEYS = ("tool", "arm")
ARM_KEYS = ("name", "tools", "control", "budget")
SAMPLES_KEYS = ("bare", "tools")
RULES_KEYS = ("tools", "corpora", "most_served")
ANY = "any"
MOST_SAMPLES = 100_000
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class Rules:
    """What entries of a board may do.

    Attributes:
        tools: names of the tools that they may offer; ("any",) allows all.
        corpora: by tool: hash of the corpus that it must search, where the board says so.
        most_served: how often a private task is served to an entry's arm for each of its samples.
    """

    tools: tuple[str, ...] = (ANY,)
    corpora: Mapping[str, str] = field(default_factory=dict)
    most_served: int = 1

    def allows(self, tool: str) -> bool:
        """Whether an entry may offer this tool."""
        return ANY in self.tools or tool in self.tools


def read_spec(path: str | Path, plugins: Sequence[str]) -> dict[str, Any]:
    """What a board's file says, checked but for what needs the tasks.

    Args:
        path: the TOML file.
        plugins: Python files with further environments and tools, loaded first.

    Raises:
        ExperimentError: the file is missing, is not TOML, or is no board; names the file and the line.
    """
    file = Path(path)
    if not file.is_file():
        raise ExperimentError(f"board {str(path)!r}: no such file.{nearest_path(file, '.toml')}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text)
    except RecursionError:
        raise ExperimentError("tables or lists are nested too deeply.", path=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"cannot be read: {error}.", path=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = int(line.group(1)) if line else None
        raise ExperimentError(f"not valid TOML: {error}", path=str(path), line=number) from None
    for plugin in plugins:
        registry.load_plugin(plugin)
    BoardTables(data, str(path), text).check()
    experiment_of(data, secret="0" * 64, path=str(path), text=text)
    return data


def experiment_of(spec: Mapping[str, Any], secret: str = "", *, path: str = "", text: str = "") -> Experiment:
    """The experiment that a board's entries repeat: its environments, budget, measure and, if it is private, its arms.

    Args:
        spec: what the board's file says.
        secret: of a private board: what its tasks are drawn from.
        path: the file, for messages.
        text: its text, to find lines in.

    Raises:
        ExperimentError: it cannot be run.
    """
    shared = {key: spec[key] for key in ("seed", "budget", "measure", "tool") if key in spec}
    environments = spec.get("env", [])
    if spec.get("private"):
        environments = [{**table, "seed": _seed(secret, n)} for n, table in enumerate(environments)]
    samples = spec["samples"]
    arms = [
        {**arm, "samples": samples["tools" if arm.get("tools") else "bare"]} for arm in spec.get("arm", arms_of(spec))
    ]
    data = {**shared, "name": spec["slug"], "env": environments, "arm": arms}
    return parse_experiment(data, path=path, text=text)


def _seed(secret: str, n: int) -> int:
    """Seed of the tasks of a private board's n-th environment; nobody finds it without the secret."""
    drawn = hmac.digest(secret.encode(), f"tasks of environment {n}".encode(), hashlib.sha256)
    return int.from_bytes(drawn[:8], "big") % LARGEST_SEED


def arms_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arms that stand for whatever entries bring: a bare one, and one with all tools that the file names."""
    allowed = spec.get("rules", {}).get("tools", [ANY])
    named = spec.get("budget", {}).get("calls", {}) if ANY in allowed else allowed
    tools = [name for name in dict.fromkeys(named) if name in registry.tool_names()]
    return [{"name": "bare"}, *([{"name": "tools", "tools": tools}] if tools else [])]


class BoardTables(Tables):
    """The tables of a board's file that an experiment has not."""

    def check(self) -> None:
        """Refuses what is no board.

        Raises:
            ExperimentError: names the file and the line.
        """
        data = self.data
        private = data.get("private", False)
        if not isinstance(private, bool):
            self._fail(f"private must be true or false, not {private!r}", ("private",))
        if not private and (extra := [key for key in PRIVATE_KEYS if key in data]):
            self._fail(f"[{extra[0]}] is for private boards: entries bring their own arms and tools", (extra[0],))
        self._keys(data, KEYS + PRIVATE_KEYS, "key of a board", ())
        if not isinstance(data.get("slug"), str) or not _SLUG.fullmatch(data["slug"]):
            self._fail("slug must be 1–64 small letters, digits and '-', such as slug = \"sums-1\"", ("slug",))
        for key in ("title", "description"):
            value = data.get(key, "")
            if not isinstance(value, str) or len(value) > 2000 or not value.isprintable():
                self._fail(f"{key} must be one line of text", (key,))
        if not data.get("title", "").strip():
            self._fail('a board needs a title, such as title = "Sums of three digits"', ("title",))
        self._check_samples()
        self._check_rules()
        if private:
            self._check_private()
        try:
            canonical(data)
        except (TypeError, ValueError) as error:
            self._fail(f"a board holds text, numbers, true and false: {error}")

    def _check_samples(self) -> None:
        table = self._table("samples", SAMPLES_KEYS)
        for kind in SAMPLES_KEYS:
            if kind not in table:
                wanted = "attempts per task of an arm, as in bare = 32 and tools = 16"
                self._fail(f"[samples] needs {kind}: {wanted}", ("samples",))
            self._whole(table[kind], f"samples of {kind}", ("samples", kind), least=1, most=MOST_SAMPLES)

    def _check_rules(self) -> None:
        table = self._table("rules", RULES_KEYS)
        tools = self._strings(table.get("tools", [ANY]), "tools of [rules]", ("rules", "tools"))
        for n, tool in enumerate(tools):
            if tool != ANY and not tool.startswith(registry.FOREIGN) and tool not in registry.tool_names():
                known = (ANY, *registry.tool_names())
                self._fail(str(UnknownName("tool", tool, known)), ("rules", "tools", n))
        corpora = self._mapping(table.get("corpora", {}), "rules.corpora", ("rules", "corpora"))
        for tool, hash_ in corpora.items():
            if not isinstance(hash_, str) or not re.fullmatch("[0-9a-f]{32}", hash_):
                self._fail(
                    f"corpora: {tool} needs the 32 characters that `testbed corpus info` prints as hash",
                    ("rules", "corpora", tool),
                )
        self._whole(table.get("most_served", 1), "most_served", ("rules", "most_served"), least=1, most=1000)

    def _check_private(self) -> None:
        for n, table in enumerate(self._list("env")):
            if "seed" in table:
                self._fail("the seed of a private board's tasks is its secret; leave it out", ("env", n, "seed"))
            with self.places.blaming(("env", n)):
                known = registry.option_names(registry.env_class(str(table.get("id", ""))))
            if "seed" not in known:
                self._fail(f"{table['id']} draws no tasks from a seed, so they cannot be private", ("env", n, "id"))
        listed = self._list("arm")
        bare = [table for table in listed if not table.get("tools")]
        if len(bare) != 1 or len(listed) < 2:
            self._fail("a private board needs one [[arm]] without tools and at least one with tools", ("arm",))
        for n, table in enumerate(listed):
            self._keys(table, ARM_KEYS, "key of a board's arm", ("arm", n))
            if table.get("control", "live") not in ("live", "inert", "absent"):
                self._fail("control of a board's arm must be live, inert or absent", ("arm", n, "control"))
