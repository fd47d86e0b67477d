"""A hosted model does not write the same again: what a fault has cost cannot be made good by another try."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import SAY_AND_ECHO, registered
from testbed.errors import (
    InfrastructureError,
    ModelBusy,
    ModelNotAsked,
    ModelUnavailable,
    SandboxDied,
    TransportError,
)
from testbed.experiment_file import parse_experiment
from testbed.models.base import Reply, Request
from testbed.models.pacing import Pace
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import REDRAWN


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        yield


class Hosted(Scripted):
    """Draws anew each time it is asked, and breaks down before the answers whose numbers are named.

    Args:
        error: with what.
        breaks: which of its replies, counted over all attempts, break; "wrong" for half of those that would be wrong.
        reproducible: whether it says that it repeats.
    """

    def __init__(
        self, error: InfrastructureError, breaks: Any, reproducible: bool = False, chance: float = 1.0
    ) -> None:
        super().__init__(["unused"])
        self.reproducible, self._error, self._breaks, self._chance = reproducible, error, breaks, chance
        self._rng, self._asked = np.random.default_rng(1), -1
        self.first: dict[int, bool] = {}  # by attempt, whether its first draw was right

    async def generate(self, request: Request) -> Reply:
        self._asked += 1
        right = self._rng.random() < self._chance
        self.first.setdefault(request.stream, bool(right))
        chosen = not right and self._rng.random() < 0.5 if self._breaks == "wrong" else self._asked in self._breaks
        if chosen:
            raise self._error
        number = request.messages[0]["content"][4:-1]
        calls = request.tools and request.messages[-1]["role"] != "tool"
        text = write_call("echo", {"text": "x"}) if calls else write_answer(number if right else "no")
        return Reply(text, (await super().generate(request)).usage)


def experiment(samples: int = 1, tasks: int = 1, tools: tuple[str, ...] = ()) -> Any:
    arms = [{"name": "bare", "samples": samples, "tools": list(tools)}]
    return parse_experiment(
        {
            "name": "test",
            "model": {"id": "scripted", "replies": ["unused"]},
            "env": [{"id": "Say-v0", "tasks": tasks}],
            "arm": arms,
            "measure": {"elicitation": 4},
        }
    )


async def run(model: Hosted, exp: Any, path: Path, retries: int = 4) -> tuple[Any, Any, Any]:
    with Store.open(path) as store:
        await Runner(exp, store, models={"scripted": model}, back_off=0.01, concurrency=1, retries=retries).run()
        return list(store.attempts("test")), store.outcomes("test"), analyse_run(store, "test")


UNAVAILABLE = ModelUnavailable("500")


@pytest.mark.parametrize(
    ("error", "reproducible", "lost"),
    [
        (UNAVAILABLE, False, 1),
        (TransportError("cut"), False, 1),
        (SandboxDied("gone"), False, 1),
        (ModelNotAsked("429"), False, 0),
        (UNAVAILABLE, True, 0),
    ],
)
async def test_a_lost_reply_that_does_not_come_again_makes_the_attempt_missing(tmp_path, error, reproducible, lost):
    exp = experiment(samples=3)
    attempts, outcomes, found = await run(Hosted(error, {0}, reproducible), exp, tmp_path / "s.sqlite")
    assert [attempt.faults.get(REDRAWN, 0) for attempt in attempts] == [lost, 0, 0]
    assert [attempt.success for attempt in attempts] == [True] * 3  # the record says what happened
    assert outcomes.success.tolist() == [-1 if lost else 1, 1, 1]
    assert outcomes.faults.tolist() == [0, 0, 0]  # it was none of the model's
    assert any("further try" in warning for warning in found.warnings) == bool(lost)


async def test_a_refusal_after_the_first_reply_has_cost_that_reply(tmp_path):
    exp = experiment(samples=2, tools=("echo",))
    attempts, *_ = await run(Hosted(ModelNotAsked("429"), {1}), exp, tmp_path / "s.sqlite")
    assert attempts[0].faults == {REDRAWN: 1}


@pytest.mark.parametrize(("error", "lost"), [(UNAVAILABLE, {REDRAWN: 1}), (ModelNotAsked("429"), {})])
async def test_an_attempt_that_an_earlier_run_left_missing_is_a_redraw_when_made(tmp_path, error, lost):
    exp = experiment(samples=2)
    attempts, *_ = await run(Hosted(error, {0}), exp, tmp_path / "s.sqlite", retries=0)
    assert [attempt.success for attempt in attempts] == [None, True]
    attempts, *_ = await run(Hosted(error, ()), exp, tmp_path / "s.sqlite")
    assert [attempt.faults for attempt in attempts] == [lost, {}]
    assert all(attempt.success for attempt in attempts)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_run_that_ends_while_a_retry_waits_does_not_forget_what_was_lost(tmp_path, killed):
    exp = experiment(samples=2)
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": Hosted(UNAVAILABLE, {0})}, back_off=600.0, concurrency=1)
        going = asyncio.create_task(runner.run())
        while runner.progress.done < 1:  # the other attempt
            await asyncio.sleep(0.01)
        if killed:
            going.cancel()
        else:
            runner.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(going, 30)
        counts = runner.progress.done, runner.progress.missing, runner.progress.retried
        assert counts == ((1, 0, 1) if killed else (2, 1, 1))  # it is told as missing, as which it is stored
        assert len(store.finished("test")) == 1
    attempts, outcomes, _ = await run(Hosted(UNAVAILABLE, ()), exp, tmp_path / "s.sqlite")
    assert [attempt.faults for attempt in attempts] == [{REDRAWN: 1}, {}]
    assert outcomes.success.tolist() == [-1, 1]


class Slow(Hosted):
    """Writes what it is asked for only once it is let."""

    def __init__(self, reproducible: bool = False, after: int = 0) -> None:
        super().__init__(UNAVAILABLE, (), reproducible)
        self.asked, self._after = asyncio.Event(), after

    async def generate(self, request: Request) -> Reply:
        reply = await super().generate(request)
        if self._asked >= self._after:
            self.asked.set()
            await asyncio.Event().wait()
        return reply


async def given_up(model: Slow, exp: Any, path: Path, *, stop: bool = True) -> tuple[list[Any], Runner]:
    """What is stored of a run that is stopped, and then given up in the middle of a reply."""
    with Store.open(path) as store:
        runner = Runner(exp, store, models={"scripted": model}, concurrency=1)
        going = asyncio.create_task(runner.run())
        await asyncio.wait_for(model.asked.wait(), 30)
        if stop:
            runner.stop()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        return list(store.attempts("test")), runner


async def test_a_reply_that_is_under_way_when_a_run_is_given_up_counts_as_lost(tmp_path):
    exp, path = experiment(samples=3), tmp_path / "s.sqlite"
    (made, lost), runner = await given_up(Slow(after=1), exp, path)
    assert (made.success, lost.ended, lost.first_draw) == (True, "missing:given_up", None)
    assert (runner.progress.missing, runner.progress.given_up) == (1, 1)
    attempts, outcomes, _ = await run(Hosted(UNAVAILABLE, ()), exp, path)
    assert [attempt.faults for attempt in attempts] == [{}, {REDRAWN: 1}, {}]
    assert outcomes.success.tolist() == [1, -1, 1]


async def test_what_was_written_before_a_run_was_given_up_is_kept_with_what_it_cost(tmp_path):
    exp = experiment(samples=1, tools=("echo",))
    (lost,), _ = await given_up(Slow(after=1), exp, tmp_path / "s.sqlite")
    assert [message["role"] for message in lost.transcript] == ["user", "assistant", "tool", "system"]
    assert lost.cost.model_calls == 1


async def test_of_a_model_that_repeats_itself_nothing_is_lost_when_a_run_is_given_up(tmp_path):
    exp, path = experiment(samples=2), tmp_path / "s.sqlite"
    attempts, runner = await given_up(Slow(reproducible=True), exp, path)
    assert (attempts, runner.progress.missing) == ([], 0)


async def test_a_run_that_another_error_ends_remembers_replies_once_it_has_heard_the_model(tmp_path):
    exp = experiment(samples=3)
    (_, lost), _ = await given_up(Slow(after=1), exp, tmp_path / "a.sqlite", stop=False)
    assert lost.ended == "missing:given_up"
    attempts, _ = await given_up(Slow(), exp, tmp_path / "b.sqlite", stop=False)
    assert attempts == []  # so that a run whose first requests are refused leaves nothing behind


class Closing(Hosted):
    """Answers once, and then wants to be asked again in so many seconds, time and again."""

    def __init__(self, again: float) -> None:
        super().__init__(ModelBusy("429"), ())
        self.again, self.pace, self.refused = again, Pace(8, patience=1.0), asyncio.Event()

    async def generate(self, request: Request) -> Reply:
        return (await self.pace.ask(lambda: self._served(request), request.off_clock))[0]

    async def _served(self, request: Request) -> Reply:
        if self._asked < 0:
            return await super().generate(request)
        self.refused.set()
        busy = ModelBusy("429")
        busy.retry_after = self.again
        raise busy


@pytest.mark.parametrize("again", [0.0, 0.9, 3600.0])
async def test_a_stopped_run_waits_for_patience_and_no_longer_and_keeps_what_was_paid_for(again, tmp_path):
    exp, model = experiment(samples=2, tools=("echo",)), Closing(again)
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": model}, concurrency=1)
        going = asyncio.create_task(runner.run())
        await model.refused.wait()
        runner.stop()
        await asyncio.wait_for(going, 30)
        (attempt,) = store.attempts("test")
    assert attempt.ended == "missing:model_not_asked"
    assert [m["role"] for m in attempt.transcript[:3]] == ["user", "assistant", "tool"]
    attempts, *_ = await run(Hosted(UNAVAILABLE, ()), exp, tmp_path / "s.sqlite")
    assert [a.faults for a in attempts] == [{REDRAWN: 1}, {}]


class Fading(Hosted):
    """Breaks down once, and then is not there."""

    async def generate(self, request: Request) -> Reply:
        try:
            return await super().generate(request)
        except InfrastructureError:
            self._error = ModelNotAsked("no connection")
            raise


async def test_a_lost_reply_is_not_forgotten_behind_tries_at_which_the_model_was_not_asked(tmp_path):
    exp, model = experiment(samples=2), Fading(UNAVAILABLE, range(9))
    with Store.open(tmp_path / "s.sqlite") as store:
        await Runner(exp, store, models={"scripted": model}, back_off=0.01, concurrency=1, retries=1).run()
        attempts, outcomes = list(store.attempts("test")), store.outcomes("test")
    assert [attempt.ended for attempt in attempts] == ["missing:model_not_asked"] * 2
    assert [attempt.faults for attempt in attempts] == [{REDRAWN: 1}, {}]
    assert outcomes.redrawn.tolist() == [False, False]  # missing as they are
    attempts, *_ = await run(Hosted(UNAVAILABLE, ()), exp, tmp_path / "s.sqlite")
    assert [attempt.faults for attempt in attempts] == [{REDRAWN: 1}, {}]


async def test_tries_that_are_made_again_are_counted_once(tmp_path):
    with Store.open(tmp_path / "s.sqlite") as store:
        model = Hosted(UNAVAILABLE, {0, 1, 3})
        counts = await Runner(experiment(samples=3), store, models={"scripted": model}, back_off=0.3).run()
    assert (counts.done, counts.missing, counts.retried) == (3, 0, 3)


async def test_bounds_hold_the_truth_where_faults_choose_the_failures(tmp_path):
    """Chance .5, and half of the failures break down: redrawn, three in four of these attempts would end well."""
    exp = experiment(samples=400)
    model = Hosted(UNAVAILABLE, "wrong", chance=0.5)
    attempts, _, found = await run(model, exp, tmp_path / "s.sqlite", retries=10)  # so that each is made in the end
    truth, redrawn = np.mean(list(model.first.values())), np.mean([attempt.success for attempt in attempts])
    assert redrawn > truth + 0.08
    bounds = found.arms[0].if_missing
    assert bounds.low == pytest.approx(truth)  # it was failures that broke, every one of them
    assert bounds.high > redrawn
