"""Shows a run under way. It reads counters a few times a second, so that showing costs the run nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from testbed.runner import Runner
from testbed.schedule import Progress as Counts

REFRESH = 0.25  # seconds between looks, on a terminal
LINE_EVERY = 15.0  # seconds between lines, elsewhere
STANDSTILL = 5.0  # seconds of nothing but refusals from which on they are told


async def watch(runner: Runner, console: Console) -> None:
    """Shows the run's counts until cancelled: a bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        await _bar(runner, console)
    else:
        await _lines(runner, console)


async def _bar(runner: Runner, console: Console) -> None:
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} attempts"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        row = bar.add_task("preparing", total=None)
        while True:
            counts = runner.progress
            if counts.total:
                bar.update(row, total=counts.total, completed=counts.done, description=describe(runner))
            bar.refresh()
            await asyncio.sleep(REFRESH)


async def _lines(runner: Runner, console: Console) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY)
        counts = runner.progress
        if counts.total:
            console.print(f"{counts.done}/{counts.total} attempts, {describe(runner)}", soft_wrap=True)


def describe(runner: Runner) -> str:
    """Reach so far per arm, cost and time left: 'solved bare 31/100, python 40/100 · 1.2M tokens · 1:05 left'.

    Where sampling stops early, also how many task × arm have stopped; the time left is then at most that. Where a
    server refuses everything, that is told in place of the time left.
    """
    counts, tasks = runner.progress, len(runner.tasks)
    solved = ", ".join(f"{arm.spec.name} {len(counts.solved.get(arm.spec.name, ()))}/{tasks}" for arm in runner.arms)
    parts = [f"solved {solved}", f"{_short(counts.generated_tokens)} tokens"]
    if counts.usd:
        parts.append(f"{counts.usd:.2f} USD")
    if counts.cells:
        parts.append(f"settled {counts.settled}/{counts.cells}")
    if counts.missing:
        parts.append(f"{counts.missing} missing")
    if refused := sum({id(arm.model): getattr(arm.model, "refused", 0) for arm in runner.arms}.values()):
        parts.append(f"{refused} refused requests waited for")
    parts.append(_standstill(runner) or time_left(counts))
    return " · ".join(parts)


def _standstill(runner: Runner) -> str:
    """That a server has refused everything for a while: the rate so far says nothing of the time left then."""
    asked = [refusing() for arm in runner.arms if (refusing := getattr(arm.model, "refusing", None))]
    since, patience = max(filter(None, asked), default=(0.0, 0.0))
    if since < STANDSTILL:
        return ""
    return f"the server has refused everything for {since:.0f} s, which is waited out for {patience:g} s"


def time_left(counts: Counts, now: Callable[[], float] = time.monotonic) -> str:
    """Minutes and seconds until the end at the rate so far."""
    fresh = counts.done - counts.resumed
    if fresh <= 0:
        return "time left unknown"
    seconds = (now() - counts.started) / fresh * (counts.total - counts.done)
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"


def _short(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k" if number >= 1e3 else str(number)
