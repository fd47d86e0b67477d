"""Runs with outcomes of a test's choosing, in a store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.stored import put
from testbed.report.sides import Side, choose, named, read_side
from testbed.store import ArmRecord, Run, Store
from testbed.types import Attempt, Cost, Status, Task, attempt_id, digest

SPEC: Mapping[str, Any] = {
    "model": {"kind": "hf", "weights": "w1"},
    "name": "m",
    "sampling": {"temperature": 1.0, "max_tokens": 64},
    "tools": [],
    "control": "absent",
    "budget": {"turns": 8},
    "protocol": "1",
}
MEASURE = {"operating": 1, "elicitation": 2, "replicates": 200}


def tool(name: str, **content: Any) -> dict[str, Any]:
    return {"schema": {"type": "function", "function": {"name": name}}, "content": content, "version": "1"}


LIVE: Mapping[str, Any] = {**SPEC, "tools": [tool("python", cpus=1.0)], "control": "live"}


def tasks(n: int, *, first: int = 0, **changes: Any) -> tuple[Task, ...]:
    return tuple(Task("Sums-v0", f"{i} + {i}?", 2 * i, **changes) for i in range(first, first + n))


def add(
    path: Path,
    name: str,
    listed: Sequence[Task],
    arms: Mapping[str, Sequence[Sequence[bool | None]]],
    *,
    specs: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 1,
    measure: Mapping[str, Any] = MEASURE,
    tokens: Mapping[str, int] | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    stops: Mapping[str, Mapping[str, Any]] | None = None,
    failed: Mapping[str, str] | None = None,
) -> None:
    """Adds a run: of each arm, the outcomes of its attempts at each task; None is missing.

    Arms in `stops` stop early: their attempts per task are given as in an experiment file. Failures of an arm in
    `failed` ended as it says.
    """
    records = {arm: _record(arm, (specs or {}).get(arm, SPEC)) for arm in arms}
    samples = {arm: max(map(len, rows)) for arm, rows in arms.items()}
    stopping = {"arm": [{"name": arm, "samples": dict(rule)} for arm, rule in stops.items()]} if stops else {}
    run = Run(name, {"measure": dict(measure), **stopping}, seed, tuple(records.values()), created, samples)
    attempts = [
        _attempt(task, records[arm], n, seed, success, (tokens or {}).get(arm, 10), (failed or {}).get(arm))
        for arm, rows in arms.items()
        for task, row in zip(listed, rows, strict=True)
        for n, success in enumerate(row)
    ]
    with Store.open(path) as store:
        store.add_run(run, listed)
        asyncio.run(put(store, *attempts))


def _record(name: str, spec: Mapping[str, Any]) -> ArmRecord:
    return ArmRecord(digest({key: value for key, value in spec.items() if key != "name"}), name, spec)


def _attempt(
    task: Task, arm: ArmRecord, sample: int, seed: int, success: bool | None, tokens: int, failed: str | None
) -> Attempt:
    lost = success is None
    return Attempt(
        id=attempt_id(task.hash, arm.hash, sample, seed),
        task=task.hash,
        arm=arm.hash,
        sample=sample,
        seed=seed,
        status=Status.MISSING if lost else Status.COMPLETE,
        ended="missing:sandbox_died" if lost else failed if failed and not success else "answered",
        success=success,
        score=None,
        answer=None if lost else "4",
        cost=Cost(generated_tokens=tokens, prompt_tokens=20, model_calls=1, turns=1, seconds=0.5),
        transcript=(
            {"role": "user", "content": task.prompt},
            {"role": "assistant", "content": f"<answer>{arm.name} {sample}</answer>"},
        ),
    )


def sides(left: tuple[Path, str], right: tuple[Path, str]) -> tuple[Side, Side]:
    """Two sides as the command reads them."""
    same = left[0] == right[0]
    with Store.open(left[0], create=False) as first, Store.open(right[0], create=False) as second:
        both = named(first, left[1]), named(second, right[1])
        arms = choose(*both, same_store=same)
        return read_side(first, both[0].run, arms[0], "A"), read_side(second, both[1].run, arms[1], "B")
