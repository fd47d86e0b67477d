from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.runs import SAY_AND_ECHO, registered, run, same
from helpers.say import echoing, experiment, gambling, number
from testbed.errors import ContextFull, ModelError, SandboxDied, StoreError, UsageError
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import Tool
from testbed.types import Attempt, Status


class Flaky(Tool):
    """Fails with a fault of the infrastructure the first `times` times."""

    name: str = "flaky"
    description: str = "Returns ok, sometimes."
    times: int = 2
    calls: int = 0

    async def _arun(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise SandboxDied("the worker died")
        return "ok"


class Slow(Tool):
    """Takes a minute."""

    name: str = "slow"
    description: str = "Takes a minute."

    async def _arun(self) -> str:
        await asyncio.sleep(60)
        return "ok"


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    """Say-v0, echo and the tools above."""
    with registered(SAY_AND_ECHO, sys.modules[__name__]):
        yield


async def test_every_cell_becomes_one_graded_attempt(tmp_path: Path) -> None:
    exp = experiment([{"name": "bare", "samples": 4}, {"name": "echo", "tools": ["echo"]}])
    runner, attempts = await run(echoing, exp, tmp_path / "s.sqlite")
    bare, echo = (arm.hash for arm in runner.arms)
    assert len(attempts) == 5 * 4 + 5 * 3
    assert all(a.success for a in attempts.values() if a.arm == echo)
    assert sum(bool(a.success) for a in attempts.values() if a.arm == bare) == 4  # the task whose number is 0
    assert {a.cost.tool_calls for a in attempts.values() if a.arm == echo} == {1}
    assert runner.progress.done == runner.progress.total == len(attempts)


async def test_a_second_run_makes_nothing_again(tmp_path: Path) -> None:
    exp = experiment([{"name": "echo", "tools": ["echo"]}])
    _, first = await run(echoing, exp, tmp_path / "s.sqlite")

    def never(request: Request) -> str:
        raise AssertionError("asked again")

    with Store.open(tmp_path / "s.sqlite") as store:
        model = Scripted(echoing)
        model._write = never
        again = Runner(exp, store, models={"scripted": model})
        counts = await again.run()
        assert counts.resumed == counts.done == len(first)


async def test_attempts_do_not_depend_on_concurrency(tmp_path: Path) -> None:
    exp = experiment([{"name": "echo", "tools": ["echo"], "samples": 8}])
    _, alone = await run(gambling, exp, tmp_path / "one.sqlite", concurrency=1)
    _, many = await run(gambling, exp, tmp_path / "many.sqlite", concurrency=40)
    assert same(alone, many)
    assert 5 < sum(bool(a.success) for a in alone.values()) < 35  # chance is at work, and it repeats


async def test_the_reference_model_writes_the_same_text_at_any_concurrency(tmp_path: Path) -> None:
    arms = [{"name": "bare"}, {"name": "inert", "tools": ["python"], "control": "inert"}]
    env = [{"id": "Multiplication-v0", "digits": 2, "tasks": 4}]
    exp = experiment(arms, env=env, samples=3, model={"id": "reference", "max_tokens": 48})

    async def texts(name: str, concurrency: int) -> dict[str, Attempt]:
        with Store.open(tmp_path / name) as store:
            await Runner(exp, store, concurrency=concurrency).run()
            return {attempt.id: attempt for attempt in store.attempts("test")}

    alone, many = await texts("one.sqlite", 1), await texts("many.sqlite", 24)
    assert len({attempt.transcript[1]["content"] for attempt in alone.values()}) > 4
    assert same(alone, many)


async def test_faults_of_the_infrastructure_are_retried_and_leave_no_trace(tmp_path: Path) -> None:
    exp = experiment([{"name": "flaky", "tools": ["flaky"], "samples": 1}], tasks=1)

    def policy(request: Request) -> str:
        return write_answer("0") if request.messages[-1]["content"] == "ok" else write_call("flaky", {})

    runner, attempts = await run(policy, exp, tmp_path / "s.sqlite")
    (attempt,) = attempts.values()
    assert runner.progress.retried == 2
    assert attempt.success is True
    assert attempt.cost.tool_calls == 1


async def test_what_cannot_be_repaired_is_missing_and_not_a_failure(tmp_path: Path) -> None:
    exp = experiment(
        [{"name": "flaky", "tools": ["flaky"], "samples": 1}], tasks=2, tool={"flaky": {"times": 1_000_000}}
    )
    runner, attempts = await run(lambda request: write_call("flaky", {}), exp, tmp_path / "s.sqlite", retries=1)
    assert {(a.status, a.ended, a.success) for a in attempts.values()} == {
        (Status.MISSING, "missing:sandbox_died", None)
    }
    assert runner.progress.missing == 2
    with Store.open(tmp_path / "s.sqlite") as store:
        assert store.finished("test") == set()  # to be tried again
        assert set(store.outcomes("test").success.tolist()) == {-1}


async def test_an_attempt_that_waits_for_its_retry_holds_no_slot(tmp_path: Path) -> None:
    exp = experiment([{"name": "flaky", "tools": ["flaky"], "samples": 1}], tasks=20, tool={"flaky": {"times": 1}})

    def policy(request: Request) -> str:
        return write_answer(number(request)) if request.messages[-1]["content"] == "ok" else write_call("flaky", {})

    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": Scripted(policy)}, concurrency=1, back_off=1.0)
        begun = time.monotonic()
        await runner.run()
        assert time.monotonic() - begun < 10  # 1 s to 1.5 s for the one that waits, while the only slot does the others
    assert runner.progress.retried == 1


async def test_a_limit_in_seconds_ends_the_attempt_as_data(tmp_path: Path) -> None:
    exp = experiment([{"name": "slow", "tools": ["slow"], "samples": 1, "budget": {"seconds": 0.05}}], tasks=1)
    _, attempts = await run(lambda request: write_call("slow", {}), exp, tmp_path / "s.sqlite")
    (attempt,) = attempts.values()
    assert (attempt.status, attempt.ended, attempt.success) == (Status.COMPLETE, "limit:seconds", False)


async def test_a_full_context_ends_the_attempt_as_data_and_says_so(tmp_path: Path) -> None:
    def policy(request: Request) -> str:
        if len(request.messages) > 1:
            raise ContextFull("the conversation has 5000 tokens, and the model takes 4096")
        return write_call("echo", {"text": "x" * 9})

    exp = experiment([{"name": "echo", "tools": ["echo"], "samples": 1}], tasks=1)
    _, attempts = await run(policy, exp, tmp_path / "s.sqlite")
    (attempt,) = attempts.values()
    assert (attempt.status, attempt.ended, attempt.success) == (Status.COMPLETE, "limit:context", False)
    assert "5000 tokens" in attempt.transcript[-1]["content"]


async def test_a_limit_on_tokens_stops_at_that_token(tmp_path: Path) -> None:
    exp = experiment([{"name": "bare", "samples": 1, "budget": {"generated_tokens": 7}}], tasks=1)
    _, attempts = await run(lambda request: "word " * 100, exp, tmp_path / "s.sqlite")
    (attempt,) = attempts.values()
    assert attempt.cost.generated_tokens == 7
    assert attempt.ended == "limit:generated_tokens"


async def test_calls_to_tools_that_were_not_offered_are_refused_metered_and_reported(tmp_path: Path) -> None:
    exp = experiment([{"name": "bare", "samples": 1}], tasks=1)

    def policy(request: Request) -> str:
        return write_answer("0") if len(request.messages) > 1 else write_call("echo", {"text": "0"})

    _, attempts = await run(policy, exp, tmp_path / "s.sqlite")
    (attempt,) = attempts.values()
    assert attempt.faults == {"tool_not_found": 1}
    assert attempt.cost.tool_calls == 1
    assert attempt.transcript[2]["content"].startswith("error: tool_not_found")


async def test_yoked_attempts_replay_another_live_attempt_at_the_same_task(tmp_path: Path) -> None:
    arms = [
        {"name": "yoked", "tools": ["echo"], "control": "yoked"},
        {"name": "echo", "tools": ["echo"]},
    ]
    runner, attempts = await run(gambling, experiment(arms), tmp_path / "s.sqlite")
    seen = {
        (a.arm, a.task, a.sample): [m["content"] for m in a.transcript if m["role"] == "tool"]
        for a in attempts.values()
    }
    yoked, live = (arm.hash for arm in runner.arms)
    for (arm, task, sample), results in seen.items():
        if arm == yoked:
            assert results == seen[live, task, (sample + 1) % 3]


async def test_arms_share_their_random_streams(tmp_path: Path) -> None:
    arms = [{"name": "a", "tools": ["echo"]}, {"name": "b", "tools": ["echo"], "budget": {"turns": 9}}]
    runner, attempts = await run(gambling, experiment(arms), tmp_path / "s.sqlite")
    by_cell: dict[tuple[str, int], set[str]] = {}
    for a in attempts.values():
        by_cell.setdefault((a.task, a.sample), set()).add(a.transcript[1]["content"])
    assert all(len(texts) == 1 for texts in by_cell.values())
    assert len({arm.hash for arm in runner.arms}) == 2


async def test_a_changed_experiment_is_refused_by_name(tmp_path: Path) -> None:
    await run(echoing, experiment([{"name": "bare"}]), tmp_path / "s.sqlite")
    with pytest.raises(StoreError, match=r"changed since run 'test' was started.*another name"):
        await run(echoing, experiment([{"name": "bare", "budget": {"turns": 2}}]), tmp_path / "s.sqlite")


async def test_another_run_reuses_the_attempts_of_arms_that_did_not_change(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    await run(echoing, experiment([{"name": "bare"}]), path)
    wider = experiment([{"name": "bare"}, {"name": "echo", "tools": ["echo"]}], name="wider")
    runner, _ = await run(echoing, wider, path)
    assert runner.progress.resumed == 5 * 3


async def test_an_error_of_the_caller_during_attempts_comes_out_as_itself(tmp_path: Path) -> None:
    def refusing(request: Request) -> str:
        raise ModelError("the server refuses the key")

    with pytest.raises(ModelError, match="refuses the key"):
        await run(refusing, experiment([{"name": "bare"}]), tmp_path / "s.sqlite")


async def test_two_environments_with_the_same_task_are_refused(tmp_path: Path) -> None:
    exp = experiment([{"name": "bare"}], env=[{"id": "Say-v0", "tasks": 2}, {"id": "Say-v0", "tasks": 3}])
    with pytest.raises(UsageError, match="list the task"):
        await run(echoing, exp, tmp_path / "s.sqlite")
