#!/usr/bin/env python3
"""Measures a whole analysis: summaries, reach curves, verdicts, gain with its bootstrap, null row, groups, ladder.

The outcomes are made up (seeded): five arms, 200 attempts at each task, successes of chance Beta(.3, 2) with a fifth
of zeros, costs on six axes, clusters of one and of five tasks, one attempt in a thousand missing. Each size has a
process of its own, whose peak of memory is its own. The anchor, in the same process: the same rows sorted by arm and
task, and the mean success and cost of every task from them, which is the least that any analysis must do.

Usage: scripts/bench/analysis.py [--rows 1e5 1e6 1e7] [--grow tasks|attempts] [--store] [--spend]
With --grow attempts there are 1,000 tasks at every size. With --store the rows also go through a real SQLite store,
written once; reading them is timed apart. With --spend, instead: reach at a spend of one task with very many attempts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from analysis_outcomes import ARMS, ATTEMPTS, TASKS, batches, synthetic

if TYPE_CHECKING:
    from testbed.store import Outcomes

GOAL_ROWS, GOAL_SECONDS, GOAL_MIB = 1_000_000, 5.0, 2048.0


def anchor(outcomes: Outcomes) -> float:
    """Seconds for sorting the rows by arm and task and taking each task's mean success and cost."""
    import numpy as np

    begun = time.perf_counter()
    cells = len(outcomes.arms) * len(outcomes.tasks)
    cell = outcomes.arm.astype(np.int64) * len(outcomes.tasks) + outcomes.task
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    number = np.bincount(cell, minlength=cells)
    for column in (outcomes.success, *outcomes.cost.T):
        _ = np.bincount(cell, weights=column[order], minlength=cells) / np.maximum(number, 1)
    return time.perf_counter() - begun


def measure(rows: int, grow: str) -> dict[str, float]:
    """Times one size in this process."""
    from testbed.report.analyse import analyse

    tasks, attempts = shape(rows, grow)
    outcomes = synthetic(tasks, attempts)
    analyse(synthetic(20, 20), elicitation=4, replicates=100)  # the first call of a library loads and compiles
    found = {"rows": len(outcomes.task), "tasks": tasks, "start_mib": peak_mib()}
    found |= timed(lambda: analyse(outcomes, name="bench"))
    found["peak_mib"] = peak_mib()
    found["anchor"] = min(anchor(outcomes) for _ in range(3))
    return found


def measure_store(path: Path) -> dict[str, float]:
    """Times the run of a store that `fill` wrote."""
    from testbed.report.analyse import analyse, analyse_run
    from testbed.store import Store

    analyse(synthetic(20, 20), elicitation=4, replicates=100)
    with Store.open(path, create=False) as store:
        found = {"start_mib": peak_mib()}
        found |= timed(lambda: analyse_run(store, "bench"))
        found["peak_mib"] = peak_mib()
        found["read"] = timed(lambda: store.outcomes("bench"))["seconds"]
        outcomes = store.outcomes("bench")
    found |= {"rows": len(outcomes.task), "tasks": len(outcomes.tasks)}
    found["anchor"] = min(anchor(outcomes) for _ in range(3))
    return found


def shape(rows: int, grow: str) -> tuple[int, int]:
    """Tasks and attempts per task and arm of so many rows."""
    tasks = rows // (len(ARMS) * ATTEMPTS) if grow == "tasks" else TASKS
    return tasks, rows // (len(ARMS) * tasks)


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of CPU, all threads together."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}


def peak_mib() -> float:
    """Most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fill(path: Path, rows: int, grow: str) -> None:
    """Writes the outcomes as attempts with transcripts to a new store."""
    from testbed.store import Run, Store
    from testbed.store.schema import Database
    from testbed.store.writer import AttemptTable

    tasks, attempts = shape(rows, grow)
    outcomes = synthetic(tasks, attempts)
    run = Run("bench", {}, 0, outcomes.arms, "2026-01-01T00:00:00", dict.fromkeys(ARMS, attempts))
    with Store.open(path) as store:
        store.add_run(run, outcomes.tasks)
    database = Database(path, create=False)
    table = AttemptTable(database)
    for batch in batches(outcomes, 2000):
        with database.writing() as connection:
            table.write(connection, batch)
    database.close()


def spend() -> None:
    """Prints what reach at a spend costs per attempt, from 100 to 100,000 attempts at one task."""
    import numpy as np

    from testbed.stats import reach_at_spend

    print(f"{'attempts':>9} {'successes':>9} {'costs':>12} {'ms':>9} {'µs/attempt':>11} {'error':>9}")
    rng = np.random.default_rng(0)
    for n in (100, 1000, 10_000, 100_000):
        for c in (0, 1, n // 20, n // 2):
            for kind, cost in (("all differ", rng.lognormal(4.5, 0.6, n)), ("1 to 4", 1.0 + rng.integers(0, 4, n))):
                won = rng.permutation(np.arange(n) < c)
                spends = np.geomspace(cost.min(), cost.sum(), 40)
                begun = time.perf_counter()
                for _ in range(repeats := max(1, 1000 // n)):
                    found = reach_at_spend(won, cost, spends)
                seconds = (time.perf_counter() - begun) / repeats
                error = found.standard_error.max()
                print(f"{n:9,} {c:9,} {kind:>12} {1e3 * seconds:9.2f} {1e6 * seconds / n:11.2f} {error:9.5f}")


def in_process(*arguments: str) -> dict[str, float]:
    """Runs a part of the bench in a process of its own, whose peak of memory is its own; returns what it printed."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    result: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return result


def line(row: dict[str, float]) -> str:
    """One size as a line of the table."""
    rate = row["rows"] / row["seconds"]
    return (
        f"{int(row['rows']):11,} {int(row['tasks']):7,} {row['seconds']:8.2f} {row['cpu']:7.2f} {rate:11,.0f} "
        f"{row['start_mib']:9.0f} {row['peak_mib']:9.0f} {row['anchor']:9.3f} {row['seconds'] / row['anchor']:6.1f}"
    )


def verdict(rows: list[dict[str, float]]) -> Iterator[str]:
    """The goals beside what was seen."""
    for row in rows:
        if int(row["rows"]) == GOAL_ROWS:
            yield (
                f"goal at {GOAL_ROWS:,} rows: {GOAL_SECONDS:g} s, is {row['seconds']:.2f} "
                f"({row['seconds'] / GOAL_SECONDS:.2f} of it); {GOAL_MIB:g} MiB, is {row['peak_mib']:.0f} "
                f"({row['peak_mib'] / GOAL_MIB:.2f} of it)"
            )
    for before, after in pairwise(rows):
        times, cpu = after["seconds"] / before["seconds"], after["cpu"] / before["cpu"]
        yield (
            f"{int(before['rows']):,} to {int(after['rows']):,} rows, {after['rows'] / before['rows']:.1f} times: "
            f"{times:.1f} times the seconds, {cpu:.1f} times the CPU"
        )


def main() -> None:
    """Runs every size in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6, 1e7], help="sizes (default 1e5 1e6 1e7)")
    parser.add_argument("--grow", choices=("tasks", "attempts"), default="tasks", help="what grows with the rows")
    parser.add_argument("--store", action="store_true", help="through an SQLite store, reading apart")
    parser.add_argument("--spend", action="store_true", help="reach at a spend with many attempts at one task")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one and options.fill:
        fill(options.fill, options.one, options.grow)
    elif options.path:
        print(json.dumps(measure_store(options.path)))
    elif options.one:
        print(json.dumps(measure(options.one, options.grow)))
    elif options.spend:
        spend()
    else:
        table([int(rows) for rows in options.rows], options.grow, through_store=options.store)


def table(sizes: list[int], grow: str, *, through_store: bool) -> None:
    """Prints a line for each size, and the goals."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} before the start, Python {platform.python_version()}")
    print(
        f"{'rows':>11} {'tasks':>7} {'seconds':>8} {'CPU s':>7} {'rows/s':>11} {'start MiB':>9} {'peak MiB':>9} "
        f"{'anchor s':>9} {'ratio':>6}"
    )
    done = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.sqlite"
            if through_store:
                in_process("--one", str(rows), "--grow", grow, "--fill", str(path))
                row = in_process("--path", str(path))
            else:
                row = in_process("--one", str(rows), "--grow", grow)
        done.append(row)
        reading = f"   reading {row['read']:.2f} s of it" if through_store else ""
        print(line(row) + reading, flush=True)
    print("\n".join(verdict(done)))


if __name__ == "__main__":
    main()
