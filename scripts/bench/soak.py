#!/usr/bin/env python3
"""Runs thousands of calls, some of them hostile, and counts what is left afterwards: nothing must be.

Attempts of ten calls each, programs and cells mixed, at a fixed concurrency, one warm sandbox per attempt. Before and
after, it counts processes, containers, mounts, cgroups, descriptors and temporary files, and looks at this process's
memory at every tenth of the way. Exits with 1 if anything leaked or an honest call went wrong.

Example:
    scripts/bench/soak.py --calls 20000 --backend bwrap
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.sandbox import Limits, Pool, Result, Sandbox, Session, pick

LIMITS = Limits(
    wall_seconds=10.0,  # an honest call on a busy machine; attacks have timeouts of their own
    memory_mib=96,
    processes=24,
    scratch_mib=16,
    output_kib=16,
    file_mib=8,
)
CALLS_PER_ATTEMPT = 10
HOSTILE_SHARE = 0.2
SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Attack:
    """A hostile program and what may become of it.

    Attributes:
        code: the program.
        outcomes: statuses that it may end with, as a program or as a cell.
        timeout: seconds that it is given.
    """

    code: str
    outcomes: frozenset[str]
    timeout: float = 1.0


def attack(code: str, outcomes: str, timeout: float = 1.0) -> Attack:
    return Attack(code, frozenset(outcomes.split()), timeout)


ATTACKS = {
    "fork bomb": attack("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout", 0.2),
    "endless loop": attack("while True: pass", "timeout", 0.1),
    "ignored interrupt": attack(
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", "timeout", 0.1
    ),
    "memory": attack("blocks = []\nwhile True: blocks.append(bytearray(1 << 20))", "error oom", 10.0),
    "memory of many": attack(
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0: block = b'x' * (40 << 20); time.sleep(9)\n"
        "time.sleep(9)",
        "oom timeout",
    ),
    "threads": attack(
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "error",
    ),
    "full scratch": attack("for n in range(9): open(f'f{n}', 'wb').write(bytes(4 << 20))", "error"),
    "many files": attack("for n in range(99999): open(f'f{n}', 'w').close()", "error timeout"),
    "deep folders": attack("import os\nfor _ in range(500): os.mkdir('d'); os.chdir('d')", "ok"),
    "locked folders": attack("import os\nos.makedirs('a/b/c'); os.chmod('a/b', 0); os.chmod('a', 0)", "ok"),
    "daemon": attack(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(99)\n    os._exit(0)",
        "ok",
    ),
    "flood": attack("while True: print('x' * 100_000)", "timeout", 0.2),
    "segfault": attack("import ctypes; ctypes.string_at(0)", "killed"),
    "leaves": attack("import os; os._exit(0)", "ok"),
    "kills all": attack("import os; os.kill(-1, 9)", "error"),  # nobody else is there
    "closed descriptors": attack("import os; os.closerange(0, 100)", "ok error killed"),
    "stops itself": attack("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout", 0.2),
    "pipes": attack("import os\nheld = []\nwhile True: held.append(os.pipe())", "error"),
    "sockets": attack("import socket\nheld = [socket.socketpair() for _ in range(1000)]", "error"),
}


def main() -> None:
    """Soaks, and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls in all (default 20000)")
    parser.add_argument("--concurrency", type=int, default=8, help="attempts at one time (default 8)")
    parser.add_argument("--backend", default="auto", help="auto, bwrap or docker")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sandbox = pick(options.backend)
    print(f"{sandbox.identity}: {options.calls} calls at concurrency {options.concurrency}, seed {options.seed}")
    # A folder of its own, where whatever is left is ours: the machine's other programs use the common one.
    with tempfile.TemporaryDirectory(prefix="soak-") as tempfile.tempdir:
        failures = asyncio.run(soak(sandbox, options.calls, options.concurrency, options.seed))
    if failures:
        sys.exit("\n".join(failures))
    print("nothing leaked")


async def soak(sandbox: Sandbox, calls: int, concurrency: int, seed: int) -> list[str]:
    """Runs everything and returns what went wrong."""
    async with asyncio.timeout(600):
        await _attempts(sandbox, CALLS_PER_ATTEMPT * concurrency, concurrency, random.Random("warm-up"))  # caches fill
    before = await settled_counts()
    began, rng = time.monotonic(), random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    memory = []
    for tenth in range(10):
        seen, wrong = await _attempts(sandbox, calls // 10, concurrency, rng)
        outcomes += seen
        failures += wrong
        gc.collect()
        memory.append(resident_mib())
        print(f"  {10 * (tenth + 1):3} % {time.monotonic() - began:7.1f} s {memory[-1]:8.1f} MiB", flush=True)
    after = await settled_counts()
    print("outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    print(f"{'':22}{'before':>9}{'after':>9}")
    for name in before:
        print(f"{name:22}{before[name]:9}{after[name]:9}")
        if after[name] > before[name]:
            failures.append(f"leaked {name}: {before[name]} before, {after[name]} after")
    if memory[-1] > memory[1] + 8:
        failures.append(f"this process grew from {memory[1]:.1f} to {memory[-1]:.1f} MiB after the first fifth")
    return failures


async def _attempts(
    sandbox: Sandbox, calls: int, concurrency: int, rng: random.Random
) -> tuple[collections.Counter[str], list[str]]:
    pool = Pool(sandbox, LIMITS, size=concurrency + 2)
    seeds = iter([rng.random() for _ in range(max(1, calls // CALLS_PER_ATTEMPT))])
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[str] = []

    async def worker() -> None:
        for seed in seeds:
            async with pool.session() as session:
                await attempt(session, random.Random(seed), outcomes, failures)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    await pool.close()
    return outcomes, failures


async def attempt(
    session: Session, rng: random.Random, outcomes: collections.Counter[str], failures: list[str]
) -> None:
    """Ten calls, about a fifth of them hostile; the honest ones check that the sandbox is in order."""
    for _ in range(CALLS_PER_ATTEMPT):
        stateful = rng.random() < 0.5
        if rng.random() < HOSTILE_SHARE:
            name = rng.choice(list(ATTACKS))
            hostile = ATTACKS[name]
            result = await call(session, hostile.code, stateful, hostile.timeout)
            wrong = result.status not in hostile.outcomes
            if stateful:
                await session.reset()  # what a hostile cell leaves in the state is the attempt's own to live with
        else:
            name, number = "honest", rng.randrange(1000)
            result = await call(session, f"print({number} * 3)", stateful, None)
            wrong = (result.status, result.stdout) != ("ok", f"{3 * number}\n")
        outcomes[result.status] += 1
        if wrong:
            failures.append(f"{name} ({'cell' if stateful else 'program'}): {result}")


async def call(session: Session, code: str, stateful: bool, timeout: float | None) -> Result:
    """One call of either kind."""
    return await (session.repl(code, timeout) if stateful else session.run(code, timeout=timeout))


async def settled_counts() -> dict[str, int]:
    """The counts once the kernel and the engine have cleaned up behind the last sandboxes."""
    await asyncio.sleep(SETTLE_SECONDS)
    gc.collect()
    return {
        "processes": sum(name.isdecimal() and _is_ours(name) for name in os.listdir("/proc")),
        "containers": await asyncio.to_thread(containers),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sum("testbed" in folder for folder, _, _ in os.walk("/sys/fs/cgroup")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "temporary files": len(os.listdir(tempfile.gettempdir())),
    }


def _is_ours(pid: str) -> bool:
    """Whether a process belongs to a sandbox: a worker, what it started, or its bwrap."""
    try:
        return b"/python/worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def containers() -> int:
    """Containers of the testbed's on the engine; 0 if there is no engine."""
    try:
        import docker
    except ImportError:
        return 0
    try:
        client = docker.from_env(timeout=10)
    except docker.errors.DockerException:
        return 0
    try:
        return sum(found.name.startswith("testbed") for found in client.containers.list(all=True))
    except docker.errors.DockerException:
        return 0
    finally:
        client.close()


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


if __name__ == "__main__":
    main()
