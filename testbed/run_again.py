"""Recording a run as it begins, and again as it goes on: what differs is told so that one knows what to do.

What is refused before its first attempt leaves no run behind: the experiment, put right, may have the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from testbed.errors import StoreError, UnknownName, UsageError
from testbed.store import ArmRecord, Run, Store
from testbed.store.records import changes
from testbed.types import Task, digest

_OF_MODEL = ("model", "name", "sampling", "tokenization")  # of an arm's identity; all else is the experiment's
_AGENT = "agent:"
_PARTS = {"content": "its file", "own": "its version"}  # of an agent's identity; others are options of the same name


@contextmanager
def recorded(store: Store, run: Run, tasks: Sequence[Task]) -> Iterator[None]:
    """Records a run for a block that makes its attempts.

    A run that was not there before is taken back where the block refuses the experiment without an attempt made, as a
    server may at the first request. Who makes the same run elsewhere records it again.

    Raises:
        StoreError: another experiment has that name.
    """
    new, refused = not store.has(run.name), False
    _begin(store, run, tasks)
    try:
        yield
    except UsageError:
        refused = True
        raise
    finally:
        with suppress(UsageError):  # how the block ended is told, and not that the store can no longer be written
            if not refused and not store.has(run.name):
                _begin(store, run, tasks)
            elif refused and new and not store.edits.own_attempts(run.name):
                store.edits.delete(run.name)


def _begin(store: Store, run: Run, tasks: Sequence[Task]) -> None:
    """Records a run before its attempts are made; does nothing when the same run is there.

    Raises:
        StoreError: another experiment has that name; says what differs, and of a model or an agent what to do.
    """
    try:
        store.add_run(run, tasks)
    except StoreError as error:
        if told := _another_model(store, run, tasks):
            raise StoreError(told) from error
        raise


def _another_model(store: Store, run: Run, tasks: Sequence[Task]) -> str:
    """In sentences, that the run was made with another model or agent; empty where it was not."""
    try:
        old = store.run(run.name)
    except UnknownName:
        return ""
    if "imported" in old.experiment:
        return ""
    was, now = ({arm.name: arm.spec for arm in one.arms} for one in (old, run))
    pairs = [(was[name], now[name]) for name in was if name in now]
    before, after = (sorted({str(pair[i].get("name", "")) for pair in pairs}) for i in (0, 1))
    if before != after:
        told = f"run {run.name!r} was started with {_named(before)}, and now it is {_named(after)}"
        again = f"To go on with it, give {_named(before)} again"
    elif len(before) == 1 and before[0].startswith(_AGENT) and (parts := _changed(pairs)):
        told = f"run {run.name!r} was started with {_named(before)}, and {' and '.join(parts)} changed since"
        again = "To go on with it, bring back what it was"
    else:
        return ""
    rest = changes(_without_model(old), _without_model(run), store.tasks(run.name), tasks)
    besides = f" Besides: {'; '.join(rest)}." if rest else ""
    return f"{told}.{besides} {again}; to measure the new one, give the experiment another name."


def _named(models: Sequence[str]) -> str:
    named = [f"--agent {name.removeprefix(_AGENT)}" if name.startswith(_AGENT) else f"model {name}" for name in models]
    return " and ".join(named)


def _changed(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """What of an agent differs, in words."""
    keys = [
        key
        for one, other in ((before.get("model") or {}, after.get("model") or {}) for before, after in pairs)
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    ]
    return list(dict.fromkeys(_PARTS.get(key, f"its {key}") for key in keys))


def _without_model(run: Run) -> Run:
    """The run as it would be of any model."""
    experiment = {key: value for key, value in run.experiment.items() if key != "model"}
    if isinstance(arms := experiment.get("arm"), list):
        experiment["arm"] = [{key: value for key, value in arm.items() if key != "model"} for arm in arms]
    return replace(run, experiment=experiment, arms=tuple(map(_arm_without_model, run.arms)))


def _arm_without_model(arm: ArmRecord) -> ArmRecord:
    spec = {key: value for key, value in arm.spec.items() if key not in _OF_MODEL}
    return ArmRecord(digest(spec), arm.name, spec)
