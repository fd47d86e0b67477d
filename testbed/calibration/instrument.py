"""The whole instrument in one call: experiment → runner → store → analysis, as `testbed run` and `report` do it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from testbed import registry
from testbed.experiment_file import parse_experiment
from testbed.models.base import Model
from testbed.report.analyse import Analysis, analyse_run
from testbed.runner import Runner
from testbed.schedule import Progress
from testbed.store import Outcomes, Store
from testbed.types import Attempt


@dataclass(frozen=True, eq=False)
class Examination:
    """What came out of the instrument.

    Attributes:
        analysis: what the report would show.
        outcomes: every attempt as the store gives it.
        progress: the runner's counts.
        attempts: every attempt with its transcript, where these were asked for.
    """

    analysis: Analysis
    outcomes: Outcomes
    progress: Progress
    attempts: tuple[Attempt, ...] = ()


def examine(
    experiment: Mapping[str, Any],
    *,
    models: Mapping[str, Model] | None = None,
    plugins: Sequence[ModuleType | str | Path] = (),
    concurrency: int = 64,
) -> Analysis:
    """Runs an experiment through the real runner into a real store in a temporary folder, and analyses it.

    Args:
        experiment: what an experiment file holds, as `testbed.experiment_file.parse_experiment` takes it. Its
            environments and tools are looked up in the registry.
        models: models by the id that the experiment gives them; begin such an id with "scripted:".
        plugins: modules or files that define further environments and tools; they enter by `registry.load_plugin`.
        concurrency: attempts under way at once.

    Raises:
        TestbedError: whatever `testbed run` and `testbed report` raise.
    """
    return examine_closely(experiment, models=models, plugins=plugins, concurrency=concurrency).analysis


def examine_closely(
    experiment: Mapping[str, Any],
    *,
    models: Mapping[str, Model] | None = None,
    plugins: Sequence[ModuleType | str | Path] = (),
    concurrency: int = 64,
    transcripts: bool = False,
    retries: int = 4,
) -> Examination:
    """As `examine`, with the outcomes beside the analysis, and every attempt with its transcript where asked for.

    Faults of the infrastructure are tried again `retries` times before the attempt is missing.
    """
    for plugin in plugins:
        registry.load_plugin(_file(plugin))
    checked = parse_experiment(experiment)
    with TemporaryDirectory(prefix="testbed-calibrate-") as folder, Store.open(Path(folder) / "store.sqlite") as store:
        runner = Runner(checked, store, concurrency=concurrency, models=dict(models or {}), retries=retries)
        progress = asyncio.run(runner.run())
        attempts = tuple(store.attempts(checked.name)) if transcripts else ()
        return Examination(analyse_run(store, checked.name), store.outcomes(checked.name), progress, attempts)


def _file(plugin: ModuleType | str | Path) -> str | Path:
    if not isinstance(plugin, ModuleType):
        return plugin
    assert plugin.__file__ is not None
    return plugin.__file__
