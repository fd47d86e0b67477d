#!/usr/bin/env python3
"""Measures the leaderboard: its pages, a submission, and the report of a run as large as a whole board.

The board is made up by scripts/bench/board_entries.py, which says how: 1,000 entries with a million attempts.

It is served in a process of its own, with no limit of rate and nothing to check, and asked by threads of another: one
by one for latencies, then by eight at once for requests per second. Submissions are of real runs of a scripted model;
timed is what the author waits for, from the first request until the upload is acknowledged. The report is measured by
scripts/bench/report.py.

Usage: scripts/bench/board.py [--entries 1000] [--computed 5] [--requests 300] [--submissions 10] [--no-report]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from board_entries import BARE, BOARD, MODELS, TASKS, WITH_TOOLS, entry_id, fill, stored_arm

AT_ONCE = 8
GOAL_MS, GOAL_KB = 200.0, 500.0


# ---- pages -----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """Serves the board in a process of its own, without limits of rate; yields its address."""
    command = [sys.executable, __file__, "--serve", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def serve(path: Path) -> None:
    """Serves until it is terminated, as `testbed board serve` does; says where first."""
    import uvicorn

    from testbed.board.app import create_app
    from testbed.board.database import BoardDatabase
    from testbed.board.serving import Address, config
    from testbed.board.settings import Settings

    address = Address(port=0)
    settings = Settings(
        requests=1e9, burst=1_000_000_000, open_uploads=1_000_000, waiting=1_000_000, entries=1_000_000, work=False
    )
    with address.listen() as listening, BoardDatabase.open(path, create=False) as db:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(config(create_app(db, settings), settings, address)).run([listening])


def ask_pages(address: str, path: Path, entries: int, requests: int) -> None:
    """Prints latencies, sizes and requests per second of every kind of page."""
    import httpx

    print(f"\n{'page':<22} {'p50 ms':>8} {'p95 ms':>8} {'largest KB':>11} {'requests/s':>11}   goals: {GOAL_MS:g} ms, "
          f"{GOAL_KB:g} KB")  # fmt: skip
    for name, where in kinds_of_pages(path, entries).items():
        with httpx.Client(base_url=address, timeout=60) as client:
            spent, sizes = [], []
            for n in range(requests + 5):
                begun = time.perf_counter()
                answer = client.get(where())
                if n >= 5:  # the first ones open connections and read templates
                    spent.append(1000 * (time.perf_counter() - begun))
                    sizes.append(len(answer.content) / 1000)
                assert answer.status_code == 200, (name, answer.status_code, answer.text[:300])
        p50, p95 = quantile(spent, 0.5), quantile(spent, 0.95)
        rate = throughput(address, where, requests)
        small = max(sizes) <= GOAL_KB or name == "transcript"
        held = "held" if p95 <= GOAL_MS and small else "NOT HELD"
        print(f"{name:<22} {p50:8.1f} {p95:8.1f} {max(sizes):11.1f} {rate:11.0f}   {held}", flush=True)


def kinds_of_pages(path: Path, entries: int) -> dict[str, Callable[[], str]]:
    """Every kind of page, with what gives the address of one at random."""
    from testbed.board import boards
    from testbed.board.database import BoardDatabase
    from testbed.types import attempt_id

    rng = random.Random(0)
    with BoardDatabase.open(path, create=False) as db:
        board = boards.get(db, "bench")
    pages = max(1, -(-entries // 50))

    models = min(MODELS, entries)

    def entry() -> int:
        return rng.randrange(entries)

    def attempt() -> str:
        task, arm = rng.choice(board.tasks).hash, stored_arm(entry(), rng.randrange(2))
        return attempt_id(task, arm, rng.randrange(WITH_TOOLS), board.seed)

    def task() -> str:
        number = rng.randrange(max(1, -(-2 * entries // 50))) + 1  # every entry has two arms
        return f"/tasks/{rng.choice(board.tasks).hash}?board=bench&page={number}"

    return {
        "boards": lambda: "/",
        "ranking": lambda: f"/boards/bench?page={rng.randrange(pages) + 1}",
        "ranking, filtered": lambda: f"/boards/bench?by=gain&model=model+{rng.randrange(models)}&tokens=300",
        "entry": lambda: f"/entries/{entry_id(entry())}",
        "entry, chart": lambda: f"/entries/{entry_id(entry())}/charts/gain.svg",
        "compare": lambda: f"/compare?left={entry_id(entry())}:0&right={entry_id(entry())}:1",
        "tasks": lambda: "/boards/bench/tasks?page=2",
        "task": task,
        "by tool": lambda: "/boards/bench/mechanisms",
        "one set of tools": lambda: (
            f"/boards/bench/mechanisms?tools=calculator&page={1 + rng.randrange(entries > 300)}"
        ),
        "cost": lambda: "/boards/bench/pareto",
        "transcript": lambda: f"/attempts/{attempt()}",
    }


def throughput(address: str, where: Callable[[], str], requests: int) -> float:
    """Requests per second of some clients at once."""
    import httpx

    wanted = [where() for _ in range(requests)]

    def ask(share: Sequence[str]) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            for page in share:
                client.get(page).raise_for_status()

    begun = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask, [wanted[n::AT_ONCE] for n in range(AT_ONCE)]))
    return requests / (time.perf_counter() - begun)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


# ---- submissions -----------------------------------------------------------------------------------------------------


def submit(address: str, path: Path, folder: Path, submissions: int) -> None:
    """Prints how long submissions of 1,000 attempts take until they are acknowledged, one by one and at once."""
    from testbed.board.accounts import create_token
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(path, create=False) as db:
        token = create_token(db, "bench", ["submit"])
    store = folder / "runs.sqlite"
    total = 2 * submissions
    make_runs(store, total)
    spent = [send(address, store, token, n) for n in range(submissions)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda n: send(address, store, token, n), range(submissions, total)))
    rate = submissions / (time.perf_counter() - begun)
    print(f"\nsubmission of {TASKS * (BARE + WITH_TOOLS):,} attempts, until acknowledged (both sides on these cores):")
    print(
        f"  p50 {quantile(spent, 0.5):.2f} s, p95 {quantile(spent, 0.95):.2f} s; {AT_ONCE} at once: {rate:.1f}/s",
        flush=True,
    )


def make_runs(store: Path, runs: int) -> None:
    """Runs of a scripted model on the board's tasks; all share their attempts, and no two bundles are the same."""
    import asyncio

    from testbed.experiment_file import parse_experiment
    from testbed.runner import Runner
    from testbed.store import Store

    spec = tomllib.loads(BOARD)
    arms = [{"name": "bare", "samples": BARE}, {"name": "calculator", "tools": ["calculator"], "samples": WITH_TOOLS}]
    model = {"id": "scripted", "replies": ["<answer>12</answer>"]}
    for n in range(runs):
        data = {key: spec[key] for key in ("seed", "budget", "measure", "env")}
        experiment = parse_experiment({**data, "name": f"run-{n}", "model": model, "arm": arms})
        with Store.open(store) as opened:
            asyncio.run(Runner(experiment, opened).run())


def send(address: str, store: Path, token: str, number: int) -> float:
    """Seconds that a submission takes."""
    from testbed.board.submit import submit as send_run
    from testbed.store import Store

    with Store.open(store, create=False) as opened:
        begun = time.perf_counter()
        send_run(opened, f"run-{number}", f"{address}/boards/bench", token, wait=0, say=lambda _: None)
        return time.perf_counter() - begun


# ---- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Makes the board, asks for its pages, submits, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1000, help="entries of 1,000 attempts (default 1000)")
    parser.add_argument("--computed", type=int, default=5, help="entries worked out by the server's code, at least 4")
    parser.add_argument("--requests", type=int, default=300, help="requests of each kind of page (default 300)")
    parser.add_argument("--submissions", type=int, default=10, help="one by one, and as many at once (default 10)")
    parser.add_argument("--report-rows", type=float, default=1e6, help="attempts of the report's run (default 1e6)")
    parser.add_argument("--no-report", action="store_true", help="leave the report out")
    parser.add_argument("--store", type=Path, help="keep the board in this file; used again if it is there")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Prints everything."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} before the start, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.store or folder / "board.sqlite"
        if not path.exists():
            fill(path, options.entries, max(4, options.computed))
        with serving(path) as address:
            ask_pages(address, path, options.entries, options.requests)
            submit(address, path, folder, options.submissions)
        if not options.no_report:
            print(flush=True)
            rows = str(options.report_rows)
            subprocess.run(
                [sys.executable, str(Path(__file__).with_name("report.py")), "--store", "--rows", rows], check=True
            )


if __name__ == "__main__":
    main()
