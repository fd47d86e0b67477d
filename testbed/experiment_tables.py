"""The tables of an experiment file: each value checked for its type, with errors that name the line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from testbed.errors import ExperimentError, UnknownName
from testbed.places import Key, Places


class Tables:
    """One file's data, and where each key stands.

    Args:
        data: what the file holds.
        path: the file, for messages.
        text: its text, to find lines in.
    """

    def __init__(self, data: Mapping[str, Any], path: str, text: str) -> None:
        self.data, self.path, self.places = data, path, Places.of(path, text)

    def _table(self, name: str, known: Collection[str]) -> dict[str, Any]:
        table = self._mapping(self.data.get(name, {}), name, (name,))
        self._keys(table, known, f"key of [{name}]", (name,))
        return dict(table)

    def _list(self, name: str) -> Sequence[Mapping[str, Any]]:
        value = self.data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self._fail(f"write [[{name}]], with two brackets", (name,))
        return value

    def _mapping(self, value: Any, name: str, at: Key) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"[{name}] must be a table", at)
        return value

    def _strings(self, value: Any, name: str, at: Key) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self._fail(f"{name} must be a list of strings, not {value!r}", at)
        return tuple(value)

    def _whole(self, value: Any, name: str, at: Key, *, least: int, most: int | None = None) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._fail(f"{name} must be a whole number of at least {least}, not {value!r}", at)
        if most is not None and value > most:
            self._fail(f"{name} must be at most {most}, not {value!r}", at)
        return int(value)

    def _keys(self, table: Mapping[str, Any], known: Collection[str], kind: str, at: Key) -> None:
        for key in table:
            if key not in known:
                self._fail(str(UnknownName(kind, key, known)), (*at, key))

    def _fail(self, message: str, *at: Key) -> NoReturn:
        raise self.places.error(message, *at)


def with_agent(data: Mapping[str, Any], agent: str) -> dict[str, Any]:
    """An experiment's data with an agent in the place of its model.

    A [model] without an id may hold the agent's options; one with an id is of a model, and goes as a whole.

    Args:
        data: what the TOML file holds.
        agent: "module:object" or "file.py:object"; empty to leave the data as they are.

    Raises:
        ExperimentError: an arm names a model of its own.
    """
    if not agent:
        return dict(data)
    arms = data.get("arm", [])
    for arm in arms if isinstance(arms, list) else []:
        if isinstance(arm, dict) and "model" in arm:
            raise ExperimentError(f"arm {arm.get('name')!r} has a model of its own, and --agent drives all arms alike.")
    model = data.get("model", {})
    options = model if isinstance(model, dict) and "id" not in model else {}
    return {**data, "model": {**options, "id": f"agent:{agent}"}}
