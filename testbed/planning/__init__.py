"""Before a run: how many tasks and attempts a gain needs, what a design can find, and what it costs.

What varies is assumed, given, or estimated from an earlier run (a pilot). All formulas are `testbed.stats`; they are
derived in docs/planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.experiment import Experiment
from testbed.experiment_file import read_experiment
from testbed.planning.earlier import Earlier
from testbed.planning.planner import make_plan
from testbed.planning.record import Asked, Plan
from testbed.registry import make_env
from testbed.store import Store
from testbed.types import Task

__all__ = ["Asked", "Earlier", "Plan", "make_plan", "plan_for"]


def plan_for(
    asked: Asked, *, experiment: str = "", pilot: str = "", store: str = "", plugins: Sequence[str] = ()
) -> Plan:
    """Plans from the names of an experiment and of a run. Makes no attempt, loads no model, writes nothing.

    Args:
        asked: what the caller says; it goes before everything else.
        experiment: experiment file, or the name of a shipped one; empty for none.
        pilot: run in the store to estimate variances and costs from; empty for none.
        store: SQLite file or SQLAlchemy URL that holds the pilot.
        plugins: further plug-in files.

    Raises:
        UsageError: the experiment, the pilot, an arm or the store is unknown, or a value is out of its range.
    """
    read = read_experiment(experiment, plugins) if experiment else None
    earlier = None
    if pilot:
        with Store.open(store, create=False) as opened:
            earlier = Earlier.read(opened, pilot)
    return make_plan(asked, experiment=read, tasks=_tasks(read) if read else (), earlier=earlier)


def _tasks(experiment: Experiment) -> list[Task]:
    tasks: list[Task] = []
    for n, source in enumerate(experiment.environments):
        with experiment.places.blaming(("env", n)):
            tasks += make_env(source.id, **source.options).tasks
    return tasks
