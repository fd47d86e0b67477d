from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed import progress
from testbed.experiment_file import parse_experiment
from testbed.models.scripted import Scripted
from testbed.progress import describe, time_left, watch
from testbed.runner import Runner
from testbed.schedule import Progress
from testbed.store import Store

EXPERIMENT: dict[str, Any] = {
    "name": "shown",
    "samples": 2,
    "model": {"id": "scripted", "replies": ["<answer>3</answer>"]},
    "env": [{"id": "Addition-v0", "digits": 1, "tasks": 4}],
    "arm": [{"name": "bare"}],
}


async def finished(path: Path) -> Runner:
    with Store.open(path) as store:
        runner = Runner(parse_experiment(EXPERIMENT), store, models={"scripted": Scripted(["<answer>3</answer>"])})
        await runner.run()
    return runner


def test_the_time_left_goes_by_the_rate_since_the_start() -> None:
    counts = Progress(total=300, resumed=100, done=200, started=10.0)
    assert time_left(counts, now=lambda: 70.0) == "1:00 left"


def test_nothing_made_yet_gives_no_guess() -> None:
    assert time_left(Progress(total=300, resumed=100, done=100)) == "time left unknown"


async def test_the_description_says_reach_tokens_and_time(tmp_path: Path) -> None:
    runner = await finished(tmp_path / "s.sqlite")
    said = describe(runner)
    solved = len(runner.progress.solved.get("bare", ()))
    assert f"solved bare {solved}/4" in said
    assert f"{runner.progress.generated_tokens} tokens" in said
    assert "left" in said


@pytest.mark.parametrize("terminal", [True, False])
async def test_watching_shows_the_run_until_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    runner = await finished(tmp_path / "s.sqlite")
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    monkeypatch.setattr(progress, "REFRESH", 0.01)
    shown = io.StringIO()
    watching = asyncio.create_task(watch(runner, Console(file=shown, force_terminal=terminal, width=200)))
    await asyncio.sleep(0.1)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert "8/8 attempts" in shown.getvalue()
