"""A run that is stopped: what only waits is given up, what is under way ends, and a second stop ends that, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import SAY_AND_ECHO, registered, run
from helpers.say import echoing, experiment, gambling, number
from testbed.errors import ModelBusy
from testbed.models.base import Reply, Request
from testbed.models.pacing import Pace
from testbed.models.scripted import Scripted
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Attempt, Status


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        yield


class Served(Scripted):
    """A model on a server with so many places, which refuses whoever comes while it is busy, for an hour."""

    def __init__(
        self,
        places: int,
        reproducible: bool = False,
        until: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0.05),
    ) -> None:
        super().__init__(echoing)
        self.reproducible, self.until = reproducible, until
        self.pace, self.full = Pace(places, patience=7200), asyncio.Event()
        self.asked: list[str] = []

    async def generate(self, request: Request) -> Reply:
        return (await self.pace.ask(lambda: self._served(request), request.off_clock))[0]

    async def _served(self, request: Request) -> Reply:
        self.asked.append(number(request))
        await self.until()
        return await super().generate(request)


class Busy(Served):
    """It refuses every request after the first few."""

    def __init__(self, answers: int, reproducible: bool = False) -> None:
        super().__init__(8, reproducible)
        self.answers = answers

    async def _served(self, request: Request) -> Reply:
        if len(self.asked) >= self.answers:
            self.full.set()
            busy = ModelBusy("too many requests")
            busy.retry_after = 3600.0
            raise busy
        return await super()._served(request)


async def stopped(model: Served, exp: Any, path: Path, after: Callable[[Served], Awaitable[object]]) -> Runner:
    """A run that is stopped then; it must end within seconds, not within the server's hour."""
    with Store.open(path) as store:
        runner = Runner(exp, store, models={"scripted": model}, concurrency=16)
        run = asyncio.create_task(runner.run())
        await after(model)
        runner.stop()
        await asyncio.wait_for(run, 30)
    return runner


async def attempts_of(path: Path) -> list[Attempt]:
    with Store.open(path) as store:
        return list(store.attempts("test"))


async def test_a_stopped_run_gives_up_attempts_that_wait_for_a_server_and_makes_them_when_it_goes_on(
    tmp_path: Path,
) -> None:
    exp, path = experiment([{"name": "bare", "samples": 4}]), tmp_path / "s.sqlite"
    runner = await stopped(Busy(3), exp, path, lambda model: model.full.wait())
    assert (runner.progress.done, runner.progress.missing) == (3, 0)
    assert [a.status for a in await attempts_of(path)] == [Status.COMPLETE] * 3  # of the others nothing is recorded
    _, all_ = await run(echoing, exp, path)
    assert len(all_) == 20
    assert not any(a.faults for a in all_.values())  # nor counts any as made anew


async def test_attempts_that_wait_for_a_place_are_given_up_and_those_being_served_end(tmp_path: Path) -> None:
    exp, path = experiment([{"name": "bare", "samples": 4}]), tmp_path / "s.sqlite"

    async def two_are_served(model: Served) -> None:
        while len(model.asked) < 2:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, answers.set)  # once the run has been told to stop

    answers = asyncio.Event()
    model = Served(2, until=answers.wait)
    runner = await stopped(model, exp, path, two_are_served)
    assert runner.progress.done == len(model.asked) == 2


@pytest.mark.parametrize("reproducible", [False, True])
async def test_an_attempt_of_which_something_would_be_lost_is_not_given_up(tmp_path: Path, reproducible: bool) -> None:
    """It has made its call; what it wrote would not come again, and choosing which replies stay would bias them."""
    exp, path = experiment([{"name": "echo", "tools": ["echo"], "samples": 1}], tasks=1), tmp_path / "s.sqlite"
    with Store.open(path) as store:
        model = Busy(1, reproducible)
        runner = Runner(exp, store, models={"scripted": model})
        going = asyncio.create_task(runner.run())
        await model.full.wait()
        await asyncio.sleep(0.01)
        runner.stop()
        await asyncio.wait([going], timeout=30 if reproducible else 0.5)
        assert going.done() == reproducible
        going.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await going
        assert store.finished("test") == set()


async def test_of_attempts_that_wait_for_a_place_when_an_error_ends_the_run_nothing_is_recorded(tmp_path: Path) -> None:
    exp, path, model = experiment([{"name": "bare", "samples": 40}]), tmp_path / "s.sqlite", Served(2)
    with Store.open(path) as store:
        runner = Runner(exp, store, models={"scripted": model}, concurrency=16)
        going = asyncio.create_task(runner.run())
        while runner.progress.done < 1:
            await asyncio.sleep(0.001)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        ended = [a.ended for a in store.attempts("test")]
    assert set(ended) <= {"answered", "missing:given_up"}
    assert len(ended) == len(model.asked) < 200  # of the others the model has seen nothing


async def test_a_second_stop_ends_attempts_that_are_being_given_up_like_all_others(tmp_path: Path) -> None:
    exp, path = experiment([{"name": "bare", "samples": 4}]), tmp_path / "s.sqlite"
    with Store.open(path) as store:
        model = Busy(3)
        runner = Runner(exp, store, models={"scripted": model}, concurrency=16)
        going = asyncio.create_task(runner.run())
        await model.full.wait()
        runner.stop()
        going.cancel()  # at the same moment
        with pytest.raises(asyncio.CancelledError):
            await going
        ended = [a.ended for a in store.attempts("test")]
        assert ended == ["missing:given_up"] * len(model.asked)  # those being served; nothing of those that waited
        assert len(model.asked) == 3


async def test_a_stopped_run_ends_what_is_under_way_and_goes_on_later(tmp_path: Path) -> None:
    exp = experiment([{"name": "echo", "tools": ["echo"], "samples": 40}])
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": Scripted(gambling)}, concurrency=4)

        def stopping(request: Request, rng: Any) -> str:
            if len(store_ids) > 20:
                runner.stop()
            store_ids.add(id(request))
            return gambling(request, rng)

        store_ids: set[int] = set()
        runner._given["scripted"] = Scripted(stopping)
        await runner.run()
        some = len(store.finished("test"))
    assert 0 < some < 200
    assert runner.stopped
