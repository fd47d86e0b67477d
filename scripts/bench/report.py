#!/usr/bin/env python3
"""Measures a whole report: the analysis and the HTML page of a million attempts, beside their goals.

The outcomes are those of scripts/bench/analysis.py (made up, seeded): five arms, at tasks with 200 attempts each, and
at tasks with 16 each, of which there are more, so that the page's map of tasks is longer. Each has a process of its
own, whose peak of memory is its own. With --store the outcomes with 200 attempts also go through a real SQLite store,
written before the clock starts, and are read from it, with the transcripts that stand in the page, as `testbed report`
does. With --browser the page is opened in Chromium, and the time until its charts are drawn is told.

Usage: scripts/bench/report.py [--rows 1e6] [--store] [--browser]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from analysis import fill, peak_mib
from analysis_outcomes import ARMS, ATTEMPTS, synthetic

if TYPE_CHECKING:
    from testbed.report.record import Analysis
    from testbed.report.transcripts_inside import TranscriptsInside

FEW = 16  # attempts per task and arm of the second shape
GOAL_SECONDS, GOAL_MIB, GOAL_MB = 20.0, 2048.0, 10.0


def measure(rows: int, attempts: int, page: Path) -> dict[str, float]:
    """Times the analysis and the page of made-up outcomes in this process."""
    from testbed.report.analyse import analyse

    tasks = rows // (len(ARMS) * attempts)
    outcomes = synthetic(tasks, attempts)
    return {"tasks": tasks, "rows": len(outcomes.task)} | timed(lambda: analyse(outcomes, name="bench"), page)


def measure_store(path: Path, page: Path) -> dict[str, float]:
    """Times reading, analysis and page of a run in a store."""
    from testbed.report.analyse import analyse_run
    from testbed.report.transcripts_inside import transcripts_inside
    from testbed.store import Store

    with Store.open(path, create=False) as store:
        found = timed(lambda: analyse_run(store, "bench"), page, lambda analysis: transcripts_inside(store, analysis))
        return {"tasks": len(store.tasks("bench")), "rows": len(store.outcomes("bench").task)} | found


def timed(
    analysed: Callable[[], Analysis],
    page: Path,
    held: Callable[[Analysis], TranscriptsInside | None] = lambda analysis: None,
) -> dict[str, float]:
    """Seconds of the analysis and of the page, CPU seconds of both, the peak of memory and the page's size.

    `held` reads the transcripts that stand in the page.
    """
    from testbed.report.page import write_page

    begun, used = time.perf_counter(), time.process_time()
    analysis = analysed()
    made = time.perf_counter()
    write_page(analysis, page, held(analysis))
    return {
        "analysis": made - begun,
        "page": time.perf_counter() - made,
        "cpu": time.process_time() - used,
        "peak_mib": peak_mib(),
        "mb": page.stat().st_size / 1e6,
    }


def drawn(page: Path) -> float:
    """Seconds from opening the page in Chromium until every chart is drawn and the map is there."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(switch)
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        begun = time.perf_counter()
        driver.get(page.as_uri())
        ready = (
            "return document.querySelectorAll('svg.marks').length === document.querySelectorAll('script.spec').length "
            "&& document.querySelectorAll('#map-body tr').length > 0"
        )
        WebDriverWait(driver, 120, poll_frequency=0.05).until(lambda d: d.execute_script(ready))
        return time.perf_counter() - begun
    finally:
        driver.quit()


def in_process(*arguments: str) -> dict[str, float]:
    """Runs a part of the bench in a process of its own; returns what it printed."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def told(name: str, row: dict[str, float]) -> str:
    """One shape as a line of the table."""
    whole = row["analysis"] + row["page"]
    seen = f"{row['drawn']:8.1f}" if "drawn" in row else f"{'':>8}"
    return (
        f"{name:>14} {int(row['rows']):11,} {int(row['tasks']):7,} {row['analysis']:10.2f} {row['page']:6.2f} "
        f"{whole:7.2f} {row['cpu']:7.2f} {row['peak_mib']:9.0f} {row['mb']:8.2f} {seen}"
    )


def main() -> None:
    """Runs every shape in a process of its own and prints the table with the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6, help="attempts (default 1e6)")
    parser.add_argument("--store", action="store_true", help="also through an SQLite store")
    parser.add_argument("--browser", action="store_true", help="also open the page in Chromium")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--page", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = int(options.rows)
    if options.read:
        print(json.dumps(measure_store(options.read, options.page)))
    elif options.one:
        print(json.dumps(measure(rows, options.one, options.page)))
    else:
        table(rows, through_store=options.store, browser=options.browser)


def table(rows: int, *, through_store: bool, browser: bool) -> None:
    """Prints a line for each shape, and the goals below."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} before the start, Python {platform.python_version()}")
    print(
        f"{'shape':>14} {'attempts':>11} {'tasks':>7} {'analysis s':>10} {'page s':>6} {'both s':>7} {'CPU s':>7} "
        f"{'peak MiB':>9} {'page MB':>8} {'drawn s':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        page, path = Path(folder) / "bench.html", Path(folder) / "bench.sqlite"
        shapes = [(f"{n} per task", ("--one", str(n))) for n in (ATTEMPTS, FEW)]
        if through_store:
            fill(path, rows, "tasks")
            shapes.append(("from a store", ("--read", str(path))))
        for name, arguments in shapes:
            row = in_process("--rows", str(rows), *arguments, "--page", str(page))
            if browser:
                row["drawn"] = drawn(page)
            print(told(name, row), flush=True)
    print(f"goals at 1e6 attempts: {GOAL_SECONDS:g} s, {GOAL_MIB:g} MiB, {GOAL_MB:g} MB")


if __name__ == "__main__":
    main()
