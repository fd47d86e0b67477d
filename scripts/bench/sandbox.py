#!/usr/bin/env python3
"""Measures the sandbox, beside what a call would cost otherwise and the least it could cost, all in one run.

Anchors: fork + exit + wait in a bare Python, below which no fork per call can get; the same program in a new unconfined
Python (`python -I -S -c`), which is what a tool without a sandbox does; `docker exec` through the SDK per call; and a
fresh container per call. The last two need an engine (`scripts/with-engine`), as the docker backend does.

Example:
    scripts/with-engine scripts/bench/sandbox.py --calls 500
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import SandboxUnavailable
from testbed.sandbox import Bwrap, Limits, Pool, Result, Sandbox, Session, backends, pick

PROGRAM = "print(sum(n * n for n in range(100)))"
ANSWER = "328350\n"
NUMPY = "import numpy; print(int(numpy.arange(10).sum()))"
FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
CONCURRENCY = 8
TIMEOUT = 0.2
COLD_START_GOAL = {"bwrap": 100, "docker": 500}


def main() -> None:
    """Runs every measurement and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="calls per measurement (default 300)")
    parser.add_argument("--backend", action="append", help="only this one; may be given more than once")
    options = parser.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f} before the start, {options.calls} calls each")
    print(f"{'':38}{'p50':>9}{'p95':>10}{'goal':>16}")
    for name in options.backend or backends():
        try:
            sandbox = pick(name)
        except SandboxUnavailable as error:
            print(f"{name}: not measured: {str(error).splitlines()[1].strip()}")
            continue
        print(sandbox.identity)
        asyncio.run(measure(sandbox, options.calls))
        asyncio.run(measure_numpy(name, options.calls))
    print("anchors")
    report("fork + exit + wait", fork_calls(options.calls))
    report("python -I -S -c, no sandbox", [subprocess_call(PROGRAM, "-S") for _ in range(min(options.calls, 100))])
    report("python -I -c, importing numpy", [subprocess_call(NUMPY) for _ in range(min(options.calls, 20))])
    docker_anchors(options.calls)


async def measure(sandbox: Sandbox, calls: int) -> None:
    """Everything that one backend is measured by."""
    cold = [await cold_start(sandbox) for _ in range(min(calls, 20))]
    report("cold start", cold, f"≤ {COLD_START_GOAL.get(sandbox.name, 500)}")
    stays = await sandbox.open(Limits())
    report("start beside another sandbox", [await cold_start(sandbox) for _ in range(min(calls, 20))])
    await stays.close()
    if sandbox.name == "bwrap":
        for name, kind in (("CPU of start and end", sandbox), ("the same, a bubblewrap each", Bwrap(forks=False))):
            print(f"{f'  {name}':38}{await cpu_of_starts(kind, min(calls, 100)):6.2f} ms", flush=True)
    together = [await sandbox.open(Limits()) for _ in range(CONCURRENCY)]
    print(f"{f'  idle sandbox, of {CONCURRENCY}':38}{memory_mib(sandbox, together)}{'≤ 12 MiB':>16}")
    session = together.pop()
    for other in together:
        await other.close()
    report("stateless call", [await one_call(session.run) for _ in range(calls)], "≤ 5, ≤ 15")
    report("REPL call", [await one_call(session.repl) for _ in range(calls)], "≤ 1")
    for name, code in (("endless loop", "while True: pass"), ("fork bomb", FORK_BOMB)):
        for mode, run in (("stateless", session.run), ("REPL", session.repl)):
            over = [await overshoot(run, code) for _ in range(5)]
            report(f"overshoot, {name}, {mode}", over, "≤ 600" if code == FORK_BOMB else "≤ 100")
    await session.close()
    pool = Pool(sandbox, size=CONCURRENCY)
    sessions = [await pool.acquire() for _ in range(CONCURRENCY)]
    began = time.perf_counter()
    await asyncio.gather(*(burst(session, calls // 2) for session in sessions))
    rate = CONCURRENCY * (calls // 2) / (time.perf_counter() - began)
    print(f"{f'  stateless calls at concurrency {CONCURRENCY}':38}{rate:7.0f} /s{'≥ 400 /s':>26}")
    await pool.close()
    report("acquire from a warm pool", [await warm_acquire(sandbox) for _ in range(5)], "≤ 1")


async def measure_numpy(name: str, calls: int) -> None:
    """A call that imports numpy, which the worker has imported before."""
    try:
        sandbox = pick(name, ("numpy",))
    except SandboxUnavailable as error:
        print(f"  numpy preloaded: not measured: {str(error).splitlines()[1].strip()}")
        return
    session = await sandbox.open(Limits(memory_mib=512))
    report(
        "stateless call that imports numpy", [await one_call(session.run, NUMPY, "45\n") for _ in range(calls)], "≤ 5"
    )
    await session.close()


async def cold_start(sandbox: Sandbox) -> float:
    """Milliseconds until a new sandbox is ready for its first call."""
    began = time.perf_counter()
    session = await sandbox.open(Limits())
    took = time.perf_counter() - began
    await session.close()
    return 1000 * took


async def cpu_of_starts(sandbox: Sandbox, starts: int) -> float:
    """Milliseconds of CPU time per sandbox, of this process and of all that it starts, beside one that stays."""
    await (await sandbox.open(Limits())).close()  # what is done once
    before = cpu_milliseconds()
    stays = await sandbox.open(Limits())
    for _ in range(starts):
        await cold_start(sandbox)
    await stays.close()
    return (cpu_milliseconds() - before) / starts


def cpu_milliseconds() -> float:
    """User and system time so far, of this process and of those whose end it has seen."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1000 * sum(one.ru_utime + one.ru_stime for one in used)


async def one_call(run: Callable[..., Any], code: str = PROGRAM, answer: str = ANSWER) -> float:
    """Milliseconds of one call."""
    result: Result = await run(code)
    if result.stdout != answer:
        raise SystemExit(f"a call failed: {result}")
    return result.milliseconds


async def overshoot(run: Callable[..., Any], code: str) -> float:
    """Milliseconds that a call takes beyond its timeout."""
    result: Result = await run(code, timeout=TIMEOUT)
    if result.status != "timeout":
        raise SystemExit(f"a call did not time out: {result}")
    return result.milliseconds - 1000 * TIMEOUT


async def burst(session: Session, calls: int) -> None:
    """Calls in a row."""
    for _ in range(calls):
        await one_call(session.run)


async def warm_acquire(sandbox: Sandbox) -> float:
    """Milliseconds to take a sandbox that is waiting."""
    pool = Pool(sandbox, size=2)
    await pool.release(await pool.acquire())
    await asyncio.sleep(1.0)
    began = time.perf_counter()
    await pool.acquire()
    took = time.perf_counter() - began
    await pool.close()
    return 1000 * took


def subprocess_call(code: str, *options: str) -> float:
    """Milliseconds of a program in a new Python without any confinement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", *options, "-c", code], capture_output=True, check=True)
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


def docker_anchors(calls: int) -> None:
    """What others do: an exec in a running container, or a container, for each call; in our own image."""
    try:
        import docker

        from testbed.sandbox.image import tag
        from testbed.sandbox.root import python_root

        client = docker.from_env()
        root = python_root()
        image = client.images.get(tag(root))
    except (ImportError, docker.errors.DockerException) as error:
        print(f"  docker exec, fresh container: not measured: {error}")
        return
    command = [root.executable, "-I", "-S", "-c", PROGRAM]
    options: dict[str, Any] = {"network_mode": "none", "environment": root.environment}
    keeper = client.containers.run(
        image, [root.executable, "-c", "import time; time.sleep(600)"], detach=True, **options
    )
    try:
        report("docker exec per call", list(timed(lambda: keeper.exec_run(command).output, min(calls, 50))))
    finally:
        keeper.remove(force=True)
    fresh = timed(lambda: client.containers.run(image, command, remove=True, **options), min(calls, 10))
    report("fresh container per call", list(fresh))
    client.close()


def timed(run: Callable[[], bytes], calls: int) -> Iterator[float]:
    """Milliseconds of each call, whose output must be right."""
    for _ in range(calls):
        began = time.perf_counter()
        output = run()
        yield 1000 * (time.perf_counter() - began)
        if output != ANSWER.encode():
            raise SystemExit(f"an anchor failed: {output!r}")


def memory_mib(sandbox: Sandbox, sessions: Sequence[Session]) -> str:
    """A sandbox's processes that do not run programs, on average: its worker, and its share of what started it.

    That is bwrap with its fork server, or the engine's shim. Shared pages are counted in proportion.
    """
    links: list[Any] = [getattr(session, "_link", None) for session in sessions]
    if sandbox.name == "docker":
        workers = [int(link._engine.api.inspect_container(link.name)["State"]["Pid"]) for link in links]
    else:
        workers = [int(link.worker_pid) for link in links]
    if not all(Path(f"/proc/{worker}").exists() for worker in workers):  # an engine on another machine
        return f"{'not known':>9}{'':10}"
    above = set(map(parent_of, workers))
    if sandbox.name == "bwrap":
        above |= set(map(parent_of, above)) - {os.getpid()}
    total = sum(map(proportional, workers)) / len(links)
    return f"{total + sum(map(proportional, above)) / len(links):5.1f} MiB ({total:.1f} worker)"


def parent_of(pid: int) -> int:
    """A process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def proportional(pid: int) -> float:
    """Proportional set size of a process, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def report(name: str, milliseconds: Sequence[float], goal: str = "") -> None:
    """One line: median and 95th percentile, in milliseconds, beside the goal."""
    ordered = sorted(milliseconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    goal = f"{goal} ms" if goal else ""
    print(f"{f'  {name}':38}{ordered[len(ordered) // 2]:6.2f} ms{p95:7.2f} ms{goal:>16}", flush=True)


if __name__ == "__main__":
    main()
