"""Runs of small experiments, in this process and in others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed import registry
from testbed.models.scripted import Scripted
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Attempt

SAY_AND_ECHO = Path(__file__).parents[2] / "scripts" / "bench" / "episode.py"  # defines Say-v0 and echo


@contextmanager
def registered(*sources: Path | ModuleType) -> Iterator[None]:
    """What files and modules define, gone again afterwards: other tests look at all that is registered."""
    tables = [*registry._plugins.values(), registry._owners, registry._loaded]
    before = [dict(table) for table in tables]  # type: ignore[call-overload]
    for source in sources:
        if isinstance(source, ModuleType):
            registry.register_module(source, str(source.__file__))
        else:
            registry.load_plugin(source)
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()  # type: ignore[attr-defined]
            table.update(content)  # type: ignore[attr-defined]


async def run(policy: Any, experiment: Any, path: Path, **options: Any) -> tuple[Runner, dict[str, Attempt]]:
    """The runner when it is done, and all attempts of the run by their ids."""
    with Store.open(path) as store:
        runner = Runner(experiment, store, models={"scripted": Scripted(policy)}, back_off=0.01, **options)
        await runner.run()
        return runner, {attempt.id: attempt for attempt in store.attempts(experiment.name)}


def stored(path: Path, run: str) -> dict[str, Attempt]:
    with Store.open(path, create=False) as store:
        return {attempt.id: attempt for attempt in store.attempts(run)}


def same(left: Mapping[str, Attempt], right: Mapping[str, Attempt]) -> bool:
    return left.keys() == right.keys() and all(left[id_].same_outcome(right[id_]) for id_ in left)
