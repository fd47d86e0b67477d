"""What agents ask of langchain models is metered, limited, and judged where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import some_agents
from helpers.runs import SAY_AND_ECHO, registered
from test_agents import AGENTS, BARE, ECHO, attempts_of
from testbed.errors import ModelError, UnknownName
from testbed.experiment_file import parse_experiment
from testbed.protocol import ANSWER_INSTRUCTION
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Status


@pytest.fixture(autouse=True)
def say_and_echo() -> Iterator[None]:
    some_agents.seen.clear()
    with registered(SAY_AND_ECHO):
        yield


async def test_calls_of_models_are_counted_instead_of_the_text_of_messages(tmp_path: Path) -> None:
    prices = {"usd_per_million": {"input": 1e6, "output": 2e6}}
    (attempt,) = await attempts_of("asks", tmp_path, ECHO, tasks=1, model=prices)
    cost = attempt.cost
    assert (cost.prompt_tokens, cost.generated_tokens, cost.model_calls) == (30, 60, 3)
    assert cost.usd == 30 * 1.0 + 60 * 2.0
    assert (cost.turns, cost.tool_calls) == (2, 1)


async def test_without_a_model_in_sight_the_messages_are_counted(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("plain", tmp_path, tasks=1)
    said = attempt.transcript[-1]["content"]
    assert (attempt.cost.generated_tokens, attempt.cost.model_calls) == ((len(said) + 3) // 4, 1)


async def test_a_runnables_model_is_metered_too(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("make", tmp_path, ECHO, tasks=1)
    assert (attempt.cost.prompt_tokens, attempt.cost.generated_tokens, attempt.cost.model_calls) == (10, 20, 1)
    assert [str(m.text) for m in some_agents.seen["messages"]] == [ANSWER_INSTRUCTION, "Say 0."]


async def test_a_runnable_may_read_tools_and_seed_from_its_config(tmp_path: Path) -> None:
    await attempts_of("runnable", tmp_path, ECHO, tasks=1)
    given = some_agents.seen["configurable"]
    assert [tool.name for tool in given["tools"]] == ["echo"]
    assert 0 <= given["seed"] < 2**31


async def test_an_asynchronous_runnable_is_awaited(tmp_path: Path) -> None:
    attempts = await attempts_of("arunnable", tmp_path, model={"asynchronous": True, "system": ""})
    assert [a.success for a in attempts] == [True, True]


async def test_a_model_that_tells_nothing_is_counted_by_its_text(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("asks_the_silent", tmp_path, tasks=1)
    assert (attempt.cost.prompt_tokens, attempt.cost.model_calls) == (1, 1)
    assert attempt.cost.generated_tokens >= 2


@pytest.mark.parametrize(
    ("budget", "limit", "calls"),
    [
        ({"model_calls": 4}, "model_calls", 4),
        ({"generated_tokens": 12}, "generated_tokens", 3),
        ({"prompt_tokens": 20}, "prompt_tokens", 2),
        ({"usd": 60.0}, "usd", 3),
    ],
)
async def test_a_spent_budget_stops_the_models_of_an_agent(
    budget: dict[str, float], limit: str, calls: int, tmp_path: Path
) -> None:
    prices = {"usd_per_million": {"input": 1e6, "output": 2e6}}
    (attempt,) = await attempts_of("asks_for_ever", tmp_path, tasks=1, budget=budget, model=prices)
    assert (attempt.ended, attempt.success) == (f"limit:{limit}", False)
    assert (attempt.cost.model_calls, attempt.cost.prompt_tokens) == (calls, 10 * calls)


async def test_prices_come_from_a_file_by_the_models_name(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["house:small"]\ninput = 1e6\noutput = 0\n', encoding="utf-8")
    (attempt,) = await attempts_of("asks", tmp_path, ECHO, tasks=1, model={"prices": str(prices)})
    assert attempt.cost.usd == 30
    prices.write_text('["house:large"]\ninput = 1e6\noutput = 0\n', encoding="utf-8")
    with pytest.raises(UnknownName, match="house:small"):
        await attempts_of("asks", tmp_path / "b", ECHO, tasks=1, model={"prices": str(prices)})


async def test_faults_of_the_infrastructure_are_tried_again(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("fickle", tmp_path, tasks=1)
    assert attempt.success
    assert some_agents.seen["tries"] == 3


@pytest.mark.parametrize("agent", ["disconnected", "model_down"])
async def test_a_broken_connection_of_the_model_is_missing_data(agent: str, tmp_path: Path) -> None:
    (attempt,) = await attempts_of(agent, tmp_path, tasks=1)
    assert (attempt.status, attempt.success) == (Status.MISSING, None)


async def test_an_agents_own_failed_request_is_its_failure(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("not_found", tmp_path, tasks=1)
    assert (attempt.status, attempt.ended) == (Status.COMPLETE, "agent:error")


async def test_a_full_context_is_a_limit(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("full", tmp_path, tasks=1)
    assert (attempt.status, attempt.ended) == (Status.COMPLETE, "limit:context")


async def test_a_model_that_refuses_for_good_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="API key"):
        await attempts_of("wrong_key", tmp_path, BARE, tasks=1)


async def test_a_maker_that_makes_no_runnable_has_failed(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("makes_nothing", tmp_path, tasks=1)
    assert attempt.ended == "agent:error"
    assert "no Runnable" in attempt.transcript[-1]["content"]


@pytest.mark.parametrize("agent", ["waits_for_a_model", "awaits_a_model"])
async def test_a_call_under_way_when_the_clock_ends_counts_with_what_it_was_asked(agent: str, tmp_path: Path) -> None:
    prices = {"usd_per_million": {"input": 1e6, "output": 2e6}}
    (attempt,) = await attempts_of(agent, tmp_path, tasks=1, budget={"seconds": 0.3}, model=prices)
    assert attempt.ended == "limit:seconds"
    cost = attempt.cost
    assert (cost.model_calls, cost.prompt_tokens, cost.generated_tokens) == (1, 2, 0)
    assert cost.usd == pytest.approx(2.0)


async def test_what_an_agent_has_used_is_recorded_where_its_attempt_is_given_up(tmp_path: Path) -> None:
    model = {"id": f"agent:{AGENTS}:awaits_a_model", "usd_per_million": {"input": 1e6, "output": 2e6}}
    env = [{"id": "Say-v0", "tasks": 1}]
    exp = parse_experiment({"name": "test", "samples": 1, "env": env, "arm": [BARE], "model": model})
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(exp, store)
        going = asyncio.create_task(runner.run())
        async with asyncio.timeout(30):
            while "asked" not in some_agents.seen:
                await asyncio.sleep(0.001)
        runner.stop()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        (attempt,) = store.attempts("test")
    assert attempt.ended == "missing:given_up"
    assert (attempt.cost.model_calls, attempt.cost.prompt_tokens, attempt.cost.usd) == (1, 2, 2.0)
