"""A run is recorded before its attempts, and taken back where it is refused before the first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.runs import SAY_AND_ECHO, registered, run
from testbed.errors import ModelError, StoreError
from testbed.experiment import Experiment
from testbed.experiment_file import parse_experiment
from testbed.models.base import Reply, Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer
from testbed.runner import Runner
from testbed.store import Store


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        yield


def experiment(turns: int) -> Experiment:
    return parse_experiment(
        {
            "name": "test",
            "samples": 3,
            "budget": {"turns": turns},
            "model": {"id": "scripted"},
            "env": [{"id": "Say-v0", "tasks": 5}],
            "arm": [{"name": "bare"}],
        }
    )


@pytest.mark.parametrize("made", [0, 2])
async def test_a_run_refused_before_its_first_attempt_leaves_its_name_free(tmp_path: Path, made: int) -> None:
    asked: list[Request] = []

    def refusing(request: Request) -> str:
        asked.append(request)
        return write_answer("x") if len(asked) <= made else refused()

    def refused() -> str:
        raise ModelError("the server tells no log-probabilities")

    store = tmp_path / "s.sqlite"
    with pytest.raises(ModelError):
        await run(refusing, experiment(1), store, concurrency=1)
    changed = experiment(2)
    if made:  # these are kept, under the experiment that made them
        with pytest.raises(StoreError, match="changed since run 'test' was started"):
            await run(lambda request: write_answer("x"), changed, store)
    else:
        assert len((await run(lambda request: write_answer("x"), changed, store))[1]) == 15


class Asked(Scripted):
    """Answers, or refuses, once it is told to."""

    def __init__(self, *, refuses: bool) -> None:
        super().__init__(lambda request: write_answer("x"))
        self.refuses, self.began, self.told = refuses, asyncio.Event(), asyncio.Event()

    async def generate(self, request: Request) -> Reply:
        self.began.set()
        await self.told.wait()
        if self.refuses:
            raise ModelError("the server tells no log-probabilities")
        return await super().generate(request)


async def test_a_run_that_is_refused_elsewhere_stays_where_another_process_makes_it(tmp_path: Path) -> None:
    where, models = tmp_path / "s.sqlite", [Asked(refuses=True), Asked(refuses=False)]
    with Store.open(where) as one, Store.open(where) as other:
        going = []
        for store, model in zip((one, other), models, strict=True):
            going.append(asyncio.create_task(Runner(experiment(1), store, models={"scripted": model}).run()))
            await model.began.wait()
        models[0].told.set()
        with pytest.raises(ModelError):
            await going[0]
        models[1].told.set()
        await going[1]
        assert [(found.name, found.attempts) for found in other.runs()] == [("test", 15)]


async def test_two_processes_that_are_refused_at_one_time_are_both_told_why(tmp_path: Path) -> None:
    where, model = tmp_path / "s.sqlite", Asked(refuses=True)
    with Store.open(where) as one, Store.open(where) as other:
        for store in (one, other):
            store.has = lambda name: False  # type: ignore[method-assign]  # as before either had recorded it
        going = [
            asyncio.create_task(Runner(experiment(1), store, models={"scripted": model}).run())
            for store in (one, other)
        ]
        await model.began.wait()
        model.told.set()
        for run_ in going:
            with pytest.raises(ModelError, match="the server tells no log-probabilities"):
                await run_
        assert other.runs() == []
