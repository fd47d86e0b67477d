#!/usr/bin/env python3
"""Measures the sandbox, beside what a call would cost otherwise and the least it could cost, all in one run.

Anchors: the same program in a new unconfined Python (`python -I -S -c`), which is what a tool without a sandbox does,
and fork + exit + wait in a bare Python, below which no fork per call can get.

Example:
    scripts/bench/sandbox.py --calls 500
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testbed.sandbox import Limits, Pool, Sandbox, Session, pick

PROGRAM = "print(sum(n * n for n in range(100)))"
ANSWER = "328350\n"
CONCURRENCY = 8


def main() -> None:
    """Runs every measurement and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="calls per measurement (default 300)")
    calls = parser.parse_args().calls
    sandbox = pick("auto")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{sandbox.identity}, {cores} cores, load {load:.1f} before the start, {calls} calls each")
    print(f"{'':34}{'p50':>9}{'p95':>9}")
    asyncio.run(measure(sandbox, calls))
    report("anchor: python -I -S -c, no sandbox", [subprocess_call() for _ in range(min(calls, 100))])
    report("anchor: fork + exit + wait", fork_calls(calls))


async def measure(sandbox: Sandbox, calls: int) -> None:
    """Everything that needs a sandbox."""
    report("cold start", [await cold_start(sandbox) for _ in range(min(calls, 30))])
    session = await sandbox.open(Limits())
    report("stateless call", [await one_call(session) for _ in range(calls)])
    overshoot = [(await session.run("while True: pass", timeout=0.2)).milliseconds - 200 for _ in range(5)]
    report("timeout overshoot", overshoot)
    print(f"{'idle sandbox':34}{proportional_memory(session):8.1f} MiB (proportional)")
    await session.close()
    pool = Pool(sandbox, size=CONCURRENCY)
    await pool.start()
    sessions = [await pool.acquire() for _ in range(CONCURRENCY)]
    began = time.perf_counter()
    await asyncio.gather(*(burst(session, calls // 2) for session in sessions))
    rate = CONCURRENCY * (calls // 2) / (time.perf_counter() - began)
    print(f"{f'calls at concurrency {CONCURRENCY}':34}{rate:8.0f} /s")
    await pool.close()
    report("acquire from a warm pool", [await warm_acquire(sandbox) for _ in range(5)])


async def cold_start(sandbox: Sandbox) -> float:
    """Milliseconds until a new sandbox is ready for its first call."""
    began = time.perf_counter()
    session = await sandbox.open(Limits())
    took = time.perf_counter() - began
    await session.close()
    return 1000 * took


async def one_call(session: Session) -> float:
    """Milliseconds of one call."""
    result = await session.run(PROGRAM)
    if result.stdout != ANSWER:
        raise SystemExit(f"a call failed: {result}")
    return result.milliseconds


async def burst(session: Session, calls: int) -> None:
    """Calls in a row."""
    for _ in range(calls):
        await one_call(session)


async def warm_acquire(sandbox: Sandbox) -> float:
    """Milliseconds to take a sandbox that is waiting."""
    pool = Pool(sandbox, size=2)
    await pool.release(await pool.acquire())
    await asyncio.sleep(0.5)
    began = time.perf_counter()
    await pool.acquire()
    took = time.perf_counter() - began
    await pool.close()
    return 1000 * took


def subprocess_call() -> float:
    """Milliseconds of the same program in a new Python without any confinement."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ANSWER
    return 1000 * (time.perf_counter() - began)


def fork_calls(calls: int) -> list[float]:
    """Milliseconds of fork + exit + wait, in a Python that has nothing loaded."""
    code = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    print(1000 * (time.perf_counter() - began))
"""
    command = [sys.executable, "-I", "-S", "-c", code, str(calls)]
    # A pipe is block-buffered, and a forked child that leaves with _exit prints nothing of its copy.
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def proportional_memory(session: Session) -> float:
    """MiB of a sandbox's processes (its bwrap and its worker), shared pages counted in proportion."""
    worker = getattr(getattr(session, "_link", None), "worker_pid", None)
    if worker is None:
        return float("nan")
    parent = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    total = 0
    for pid in (worker, parent):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def report(name: str, milliseconds: Sequence[float]) -> None:
    """One line: median and 95th percentile."""
    ordered = sorted(milliseconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    print(f"{name:34}{ordered[len(ordered) // 2]:6.2f} ms{p95:6.2f} ms")


if __name__ == "__main__":
    main()
