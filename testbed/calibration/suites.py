"""What cases are made of: experiments on locks, and made-up outcomes of the same policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.calibration import codes
from testbed.calibration.instrument import Examination, examine_closely
from testbed.calibration.policies import Table
from testbed.models.base import Model
from testbed.report.record import Analysis, Group, GroupEffect
from testbed.stats import ArmOutcomes, Comparison, Estimate, cluster_bootstrap
from testbed.store import ArmRecord, Outcomes
from testbed.types import COST_COMPONENTS, Task

FloatArray = npt.NDArray[np.float64]
LOOKUP = "calibration_lookup"
REPLICATES = 500


def through(
    models: Mapping[str, Model],
    table: Table,
    *,
    attempts: int,
    seed: int,
    arms: Sequence[Mapping[str, Any]] = (),
    measure: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    retries: int = 4,
) -> Examination:
    """Puts policies on locks through the whole instrument.

    Args:
        models: the policies by name; each is a bare arm of that name where `arms` are left out.
        table: stratum → chance of each of its locks; how many there are is all that the environment learns.
        attempts: attempts per task and arm.
        seed: the experiment's.
        arms: the arms; "model" is a name in `models`.
        measure: settings of the report.
        env: further options of the environment, also its id.
        retries: how often a fault of the infrastructure is tried again.
    """
    listed = [dict(arm) for arm in arms] or [{"name": name} for name in models]
    for arm in listed:
        model = arm.get("model", arm["name"])
        arm["model"] = {**(model if isinstance(model, dict) else {"id": model})}
        arm["model"]["id"] = f"scripted:{arm['model']['id']}"
    experiment = {
        "name": "calibration",
        "seed": seed,
        "samples": attempts,
        "measure": {"replicates": REPLICATES, "bare": listed[0]["name"], **(measure or {})},
        "env": [{"id": "CalibrationCodes-v0", "strata": {k: len(v) for k, v in table.items()}, **(env or {})}],
        "arm": listed,
    }
    known = {f"scripted:{name}": model for name, model in models.items()}
    return examine_closely(experiment, models=known, plugins=[codes], retries=retries)


def numbered(label: str, groups: int, chances: Sequence[float] | FloatArray) -> dict[str, list[float]]:
    """A table of several suites, strata "label-1" and on, that share out the chances."""
    return {f"{label}-{i + 1}": [float(p) for p in part] for i, part in enumerate(np.array_split(chances, groups))}


def groups(analysis: Analysis, label: str = "") -> list[Group]:
    """The analysis' groups whose name begins with `label`, the environment's own apart."""
    return [group for group in analysis.groups if group.within and group.label.startswith(label)]


def effects(analysis: Analysis, arm: str, label: str = "") -> list[GroupEffect]:
    """What an arm did to each of these groups."""
    return [effect for group in groups(analysis, label) for effect in group.effects if effect.arm == arm]


def covers(estimate: Estimate | None, truth: float) -> bool:
    """Whether an interval holds the truth."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return False
    return estimate.low <= truth <= estimate.high


def comparison(analysis: Analysis, arm: str) -> Comparison:
    """The full comparison of an arm with the bare one."""
    found = next(c.full for c in analysis.comparisons if c.arm == arm)
    assert found is not None
    return found


def generators(size: int, seed: int, case: int) -> Iterator[np.random.Generator]:
    """A random generator for each of `size` simulated suites."""
    for suite in range(size):
        yield np.random.default_rng([seed, case, suite])


def draw(rng: np.random.Generator, name: str, chances: FloatArray, attempts: int) -> ArmOutcomes:
    """Made-up outcomes of a policy with these chances."""
    return ArmOutcomes.from_counts(
        name, [f"t{i}" for i in range(chances.size)], attempts, rng.binomial(attempts, chances)
    )


def made_up(arms: Mapping[str, Mapping[str, FloatArray]], attempts: int, rng: np.random.Generator) -> Outcomes:
    """Outcomes as a store gives them, of policies with these chances by group of tasks, in as many attempts each."""
    labels = next(iter(arms.values()))
    tasks = tuple(
        Task("Lock-v0", f"{label}, {i}", i, meta={"family": label})
        for label in labels
        for i in range(len(labels[label]))
    )
    drawn = [rng.random((len(tasks), attempts)) < np.concatenate([*p.values()])[:, None] for p in arms.values()]
    shape, size = (len(arms), len(tasks), attempts), len(arms) * len(tasks) * attempts
    arm, task, sample = (index.ravel().astype(np.int32) for index in np.indices(shape))
    return Outcomes(
        tasks=tasks,
        arms=tuple(
            ArmRecord(name, name, {"control": "absent" if n == 0 else "live", "sampling": {"temperature": 1.0}})
            for n, name in enumerate(arms)
        ),
        task=task,
        arm=arm,
        sample=sample,
        success=np.array(drawn).ravel().astype(np.int8),
        cost=np.zeros((size, len(COST_COMPONENTS))),
        ended=np.full(size, "answered"),
        faults=np.zeros(size, np.int32),
        redrawn=np.zeros(size, np.bool_),
    )


def interval(values: FloatArray, seed: int, *, clusters: Sequence[str] | None = None, least: float = 0.0) -> Estimate:
    """Mean over tasks of values in [least, 1] with the report's 95% interval."""
    found = cluster_bootstrap(values, least=least, clusters=clusters, replicates=REPLICATES, seed=seed)
    return found.intervals(0.05)[0]
