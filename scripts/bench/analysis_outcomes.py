"""Outcomes that are made up for benches: five arms, chances of many kinds, costs on six axes, few missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.store import Outcomes
    from testbed.types import Attempt, Message

ARMS = ("bare", "inert", "yoked", "python", "search")
CONTROLS = ("absent", "inert", "yoked", "live", "live")
TOOLS = ((), ("python",), ("python",), ("python",), ("search",))
LIFT = (1.0, 0.95, 1.2, 3.0, 1.5)  # odds of success of each arm over the bare one's
ATTEMPTS, TASKS = 200, 1000
MISSING = 0.001


def synthetic(tasks: int, attempts: int, seed: int = 0) -> Outcomes:
    """Outcomes of every arm at `tasks` tasks with `attempts` attempts each."""
    import numpy as np

    from testbed.store import Outcomes
    from testbed.types import COST_COMPONENTS

    rng = np.random.default_rng(seed)
    listed = suite(tasks)
    chance = rng.beta(0.3, 2.0, tasks) * (rng.random(tasks) < 0.8)
    chance[:: max(1, tasks // 7)] = 0.9  # a few easy ones, so that something is preserved
    odds = chance / (1 - chance)
    per_arm = tasks * attempts
    rows = len(ARMS) * per_arm
    success, cost = np.empty(rows, np.int8), np.zeros((rows, len(COST_COMPONENTS)))
    for arm, lift in enumerate(LIFT):
        own = slice(arm * per_arm, (arm + 1) * per_arm)
        p = lift * odds / (1 + lift * odds)
        success[own] = rng.random(per_arm) < np.repeat(p, attempts)
        calls = 1.0 + (rng.integers(0, 4, per_arm) if arm else np.zeros(per_arm))
        tokens = np.rint(rng.lognormal(4.5, 0.6, per_arm)) + 1
        amounts = {
            "generated_tokens": tokens,
            "prompt_tokens": np.rint(150 * calls + tokens * (calls - 1)),
            "observed_tokens": np.rint(20 * (calls - 1)),
            "model_calls": calls,
            "tool_calls": calls - 1,
            "seconds": 0.01 * tokens * rng.random(per_arm),
        }
        for name, values in amounts.items():
            cost[own, COST_COMPONENTS.index(name)] = values
    lost = rng.random(rows) < MISSING
    success[lost] = -1
    return Outcomes(
        tasks=listed,
        arms=records(),
        task=np.tile(np.repeat(np.arange(tasks, dtype=np.int32), attempts), len(ARMS)),
        arm=np.repeat(np.arange(len(ARMS), dtype=np.int32), per_arm),
        sample=np.tile(np.arange(attempts, dtype=np.int32), len(ARMS) * tasks),
        success=success,
        cost=cost,
        ended=np.where(lost, "missing:timeout", "answered"),
        faults=(rng.random(rows) < 0.02).astype(np.int32),
        redrawn=np.zeros(rows, dtype=bool),
    )


def suite(tasks: int) -> tuple[Any, ...]:
    """Tasks of four kinds; half are clusters of their own, half share one with four others."""
    from testbed.types import Task

    kinds = ("sums", "products", "facts", "puzzles")
    return tuple(
        Task(
            "Bench-v0",
            f"Problem {i}",
            i,
            cluster=f"source {i // 5}" if i >= tasks // 2 else "",
            meta={"family": kinds[i % 4]},
        )
        for i in range(tasks)
    )


def records() -> tuple[Any, ...]:
    """The arms as a store keeps them."""
    from testbed.store import ArmRecord

    return tuple(
        ArmRecord(
            f"{position:032x}",
            name,
            {
                "control": CONTROLS[position],
                "tools": [{"schema": {"function": {"name": tool}}} for tool in TOOLS[position]],
                "model": {"id": "made up"},
                "sampling": {"temperature": 1.0},
            },
        )
        for position, name in enumerate(ARMS)
    )


def batches(outcomes: Outcomes, size: int) -> Iterator[list[Attempt]]:
    """The rows as attempts."""
    import numpy as np

    from testbed.types import Attempt, Cost, Status, attempt_id

    # Attempts of a run come in blocks of samples, not task by task: the store must do the sorting.
    order = np.lexsort((outcomes.task, outcomes.arm, outcomes.sample // 16))
    transcript: tuple[Message, ...] = (
        {"role": "user", "content": "Problem"},
        {"role": "assistant", "content": "The answer. " * 20},
    )
    hashes, arms = [task.hash for task in outcomes.tasks], [arm.hash for arm in outcomes.arms]
    for start in range(0, order.size, size):
        batch = []
        for i in order[start : start + size].tolist():
            success, amounts = int(outcomes.success[i]), outcomes.cost[i].tolist()
            task, arm, sample = hashes[outcomes.task[i]], arms[outcomes.arm[i]], int(outcomes.sample[i])
            batch.append(
                Attempt(
                    id=attempt_id(task, arm, sample, 0),
                    task=task,
                    arm=arm,
                    sample=sample,
                    seed=0,
                    status=Status.MISSING if success < 0 else Status.COMPLETE,
                    ended=str(outcomes.ended[i]),
                    success=None if success < 0 else bool(success),
                    score=None,
                    answer="42",
                    cost=Cost(*(int(x) for x in amounts[:6]), *amounts[6:]),
                    faults={"timeout": 1} if outcomes.faults[i] else {},
                    transcript=transcript,
                )
            )
        yield batch
