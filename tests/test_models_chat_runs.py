"""Runs of models that refuse: what waits is not charged, what was refused is counted, nothing goes missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faulty_proxy import Proxy, Refusal
from helpers.openai_process import Server, openai_server
from testbed import registry
from testbed.errors import ModelUnavailable
from testbed.experiment_file import parse_experiment
from testbed.models.base import Reply, Request
from testbed.models.chat import Chat
from testbed.models.scripted import Scripted
from testbed.progress import describe
from testbed.protocol import write_answer
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.running import run_experiment
from testbed.store import Store
from testbed.types import RESENT, Attempt, Usage

PLUGIN = Path(__file__).parents[1] / "scripts" / "bench" / "episode.py"


@pytest.fixture(autouse=True)
def say(nothing_registered: None) -> None:
    registry.load_plugin(PLUGIN)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


def experiment(samples: int, tasks: int, seconds: float = 60.0) -> Any:
    return parse_experiment(
        {
            "name": "test",
            "samples": samples,
            "model": {"id": "scripted", "replies": ["unused"]},
            "env": [{"id": "Say-v0", "tasks": tasks}],
            "arm": [{"name": "bare"}],
            "budget": {"turns": 1, "seconds": seconds},
            "measure": {"elicitation": max(samples, 2)},
        }
    )


async def run(
    model: Any, path: Path, samples: int, tasks: int, seconds: float = 60.0, **options: Any
) -> tuple[list[Attempt], Any]:
    exp = experiment(samples, tasks, seconds)
    with Store.open(path) as store:
        await Runner(exp, store, models={"scripted": model}, back_off=0.01, **options).run()
        return list(store.attempts("test")), analyse_run(store, "test")


class Queued(Scripted):
    """Waits for others before and between the times it works."""

    async def generate(self, request: Request) -> Reply:
        with request.off_clock():
            await asyncio.sleep(0.6)
        refused = asyncio.get_running_loop().time()
        await asyncio.sleep(0.3)
        with request.off_clock(refused):
            await asyncio.sleep(0.3)
        await asyncio.sleep(0.2)
        return Reply(write_answer("0"), Usage(1, 1, 0.2, resent=1))


async def test_waits_are_none_of_the_attempts_seconds(tmp_path: Path) -> None:
    (attempt,), _ = await run(Queued(["unused"]), tmp_path / "s.sqlite", 1, 1, seconds=0.5 + 0.3)
    assert attempt.ended == "answered"  # after 1.4 seconds by the wall clock
    assert 0.2 <= attempt.cost.seconds < 0.7
    assert attempt.faults == {RESENT: 1}


class Shameless(Scripted):
    """Says that it waited since before it was asked."""

    async def generate(self, request: Request) -> Reply:
        with request.off_clock(asyncio.get_running_loop().time() - 1000):
            pass
        await asyncio.sleep(5)
        return Reply(write_answer("0"), Usage(1, 1))


async def test_no_wait_is_older_than_the_request(tmp_path: Path) -> None:
    (attempt,), _ = await run(Shameless(["unused"]), tmp_path / "s.sqlite", 1, 1, seconds=0.3)
    assert attempt.ended == "limit:seconds"
    assert 0.2 < attempt.cost.seconds < 5


async def test_what_was_refused_is_no_fault_of_the_model_and_is_told(tmp_path: Path) -> None:
    _, found = await run(Queued(["unused"]), tmp_path / "s.sqlite", 2, 1)
    assert found.arms[0].faults == 0
    assert any("Requests of bare 2 were refused by the server" in warning for warning in found.warnings)


async def test_the_progress_says_what_is_waited_for(tmp_path: Path) -> None:
    model = Scripted([write_answer("0")])
    model.refused = 7  # type: ignore[attr-defined]
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(experiment(1, 1), store, models={"scripted": model})
        await runner.run()
    assert "7 refused requests waited for" in describe(runner)


@pytest.mark.parametrize(
    ("refusing", "said"),
    [
        (None, "left"),
        ((1.0, 300.0), "left"),
        ((62.4, 300.0), "the server has refused everything for 62 s, which is waited out for 300 s"),
    ],
)
async def test_the_progress_guesses_no_time_left_while_a_server_refuses_everything(
    tmp_path: Path, refusing: tuple[float, float] | None, said: str
) -> None:
    model = Scripted([write_answer("0")])
    model.refusing = lambda: refusing  # type: ignore[attr-defined]
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(experiment(1, 1), store, models={"scripted": model})
        await runner.run()
    assert describe(runner).endswith(said)


class Down(Scripted):
    """Fails once and says when it wants to be asked again."""

    def __init__(self) -> None:
        super().__init__([write_answer("0")])
        self.asked: list[float] = []

    async def generate(self, request: Request) -> Reply:
        self.asked.append(time.monotonic())
        if len(self.asked) == 1:
            error = ModelUnavailable("500")
            error.retry_after = 0.8
            raise error
        return await super().generate(request)


async def test_the_runner_comes_back_when_the_server_wants_it(tmp_path: Path) -> None:
    model = Down()
    await run(model, tmp_path / "s.sqlite", 1, 1, retries=1)
    first, second = model.asked
    assert second - first >= 0.8


@pytest.mark.parametrize("headers", [(), (("retry-after-ms", "100"),)])
async def test_two_hundred_attempts_pass_a_server_that_takes_eight_at_a_time(
    server: Server, tmp_path: Path, headers: tuple[tuple[str, str], ...]
) -> None:
    async with Proxy(server.url, places=8, refusal=Refusal(headers=headers)) as proxy:
        model = Chat("openai:caller", base_url=proxy.url)
        attempts, found = await run(model, tmp_path / "s.sqlite", 20, 10, concurrency=200)
        await model.aclose()
    assert len(attempts) == 200
    assert all(attempt.first_draw is not None for attempt in attempts)
    assert found.arms[0].missing == 0
    assert len(proxy.bodies) == 200 + proxy.refused
    assert sum(attempt.faults.get(RESENT, 0) for attempt in attempts) == model.refused == proxy.refused <= 20  # 5 to 9


async def test_counts_that_the_server_did_not_tell_are_told_to_be_estimates(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        f'name = "e"\nsamples = 1\n[model]\nid = "chat:openai:no-usage"\nbase_url = "{server.url}"\n'
        '[[env]]\nid = "Say-v0"\ntasks = 1\n[[arm]]\nname = "bare"\n'
    )
    await run_experiment(str(file), str(tmp_path / "s.sqlite"), concurrency=1)
    assert "chat:openai:no-usage did not tell all its tokens" in capsys.readouterr().err
