#!/usr/bin/env python3
"""Measures how long `grade_code` takes for the whole of HumanEval, several problems at once.

The anchor is the same programs with the same tests in one unconfined Python each (`python -I -S -c`), which shares
everything between program and tests, and can be passed by `os._exit(0)`.

Example:
    scripts/bench/grade.py --data ../shared/data/humaneval/HumanEval.jsonl.gz
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed.sandbox import Pool, pick
from testbed.sandbox.grade import GRADING_LIMITS, CodeGrade, Tests, grade_code

Problem = tuple[str, str, Tests]  # name, canonical solution, tests

DATA = Path(os.environ.get("TESTBED_DATA") or Path(__file__).parents[3] / "shared" / "data")
PATIENCE = 60.0  # seconds


def main() -> None:
    """Grades the canonical solutions of all problems and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "humaneval" / "HumanEval.jsonl.gz", help="the problems")
    parser.add_argument("--sandbox", default="auto", help="backend (default auto)")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="problems at one time")
    options = parser.parse_args()
    problems = read(options.data)
    sandbox = pick(options.sandbox)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{sandbox.identity}, {cores} cores, load {load:.1f} before the start, {options.at_once} at once")
    began, used = time.perf_counter(), cpu_seconds()
    grades = asyncio.run(grade_all(Pool(sandbox, GRADING_LIMITS, 2 * options.at_once), problems, options.at_once))
    report(f"grade_code, {len(problems)} problems", began, used)
    seconds = sorted(grade.seconds for grade in grades)
    calls = sum(grade.calls for grade in grades)
    passed = sum(grade.passed for grade in grades)
    print(f"  one problem: p50 {1000 * seconds[len(seconds) // 2]:.0f} ms, slowest {1000 * seconds[-1]:.0f} ms")
    print(f"  {passed} of {len(grades)} passed; their functions were called {calls} times")
    began, used = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(unconfined, problems))
    report("anchor: one unconfined Python each", began, used)


def read(path: Path) -> list[Problem]:
    """The benchmark's problems, from its own file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        (
            row["task_id"],
            row["prompt"] + row["canonical_solution"],
            Tests(row["test"], setup=row["prompt"], entry_point=row["entry_point"]),
        )
        for row in rows
    ]


async def grade_all(pool: Pool, problems: Sequence[Problem], at_once: int) -> list[CodeGrade]:
    """The grade of each problem's own solution; the sandboxes' start is part of the time."""
    turns = asyncio.Semaphore(at_once)

    async def grade(problem: Problem) -> CodeGrade:
        async with turns:
            return await grade_code(pool, problem[1], problem[2], PATIENCE)

    try:
        return list(await asyncio.gather(*map(grade, problems)))
    finally:
        await pool.close()


def unconfined(problem: Problem) -> None:
    """Program and tests in one process, without any confinement."""
    _, program, tests = problem
    code = f"{program}\n{tests.code}\ncheck({tests.entry_point})\n"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def report(name: str, began: float, used: float) -> None:
    """One line: wall-clock and CPU time since."""
    print(f"{name}: {time.perf_counter() - began:.1f} s, {cpu_seconds() - used:.1f} s of CPU")


if __name__ == "__main__":
    main()
