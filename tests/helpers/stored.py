"""Runs and attempts to store."""

from __future__ import annotations

from dataclasses import replace

from testbed.store import ArmRecord, Run, Store
from testbed.types import Attempt, Cost, Status, Task, attempt_id, digest

TASKS = tuple(Task("Sums-v0", f"{n} + {n}?", 2 * n, cluster=f"c{n % 2}", meta={"size": n}) for n in range(4))
ARMS = tuple(ArmRecord(digest(name), name, {"model": "scripted", "tools": [name]}) for name in ("bare", "python"))
ODD = "nul \x00, half a pair \ud800, 🜁, line \u2028, quote \" and '"


def make_run(name: str = "r", samples: int = 3, seed: int = 7, arms: tuple[ArmRecord, ...] = ARMS) -> Run:
    counts = {arm.name: samples for arm in arms}
    return Run(name, {"seed": seed, "arms": [a.name for a in arms]}, seed, arms, "2026-01-01T00:00:00+00:00", counts)


def make_attempt(task: Task = TASKS[0], arm: ArmRecord = ARMS[0], sample: int = 0, seed: int = 7) -> Attempt:
    return Attempt(
        id=attempt_id(task.hash, arm.hash, sample, seed),
        task=task.hash,
        arm=arm.hash,
        sample=sample,
        seed=seed,
        status=Status.COMPLETE,
        ended="answered",
        success=sample % 2 == 0,
        score=0.1 * sample,
        answer=f"{sample}",
        cost=Cost(10 + sample, 2**40, 3, 2, 1, 2, 0.25, 1e-7),
        faults={"timeout": 1} if sample else {},
        transcript=({"role": "user", "content": task.prompt, "remaining": {"turns": 3}},),
    )


def missing(attempt: Attempt) -> Attempt:
    return replace(attempt, status=Status.MISSING, ended="missing:sandbox_died", success=None, score=None, answer=None)


def every_attempt(run: Run) -> list[Attempt]:
    return [make_attempt(task, arm, n, run.seed) for arm in run.arms for task in TASKS for n in range(3)]


async def put(store: Store, *attempts: Attempt) -> None:
    async with store.writer() as writer:
        for attempt in attempts:
            await writer.add(attempt)
