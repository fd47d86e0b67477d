from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

from helpers import some_agents
from helpers.runs import SAY_AND_ECHO, registered
from testbed.errors import ExperimentError, ModelError, UnknownName, UsageError
from testbed.experiment_file import parse_experiment
from testbed.experiment_tables import with_agent
from testbed.models import make_model
from testbed.report.transcript_view import why_it_ended
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Attempt, Status

AGENTS = "helpers.some_agents"
BARE: dict[str, Any] = {"name": "bare"}
ECHO: dict[str, Any] = {"name": "echo", "tools": ["echo"]}


@pytest.fixture(autouse=True)
def say_and_echo() -> Iterator[None]:
    some_agents.seen.clear()
    with registered(SAY_AND_ECHO):
        yield


async def attempts_of(
    agent: str,
    path: Path,
    *arms: dict[str, Any],
    tasks: int = 2,
    samples: int = 1,
    model: Any = None,
    module: str = AGENTS,
    concurrency: int = 256,
    **more: Any,
) -> list[Attempt]:
    """The attempts of one agent."""
    data = {
        "name": "test",
        "samples": samples,
        "env": [{"id": "Say-v0", "tasks": tasks}],
        "arm": list(arms or (BARE,)),
        "model": {"id": f"agent:{module}:{agent}", **(model or {})},
        **more,
    }
    path.mkdir(exist_ok=True)
    with Store.open(path / "s.sqlite") as store:
        await Runner(parse_experiment(data), store, back_off=0.01, concurrency=concurrency).run()
        return sorted(store.attempts("test"), key=lambda attempt: (attempt.task, attempt.sample))


@pytest.mark.parametrize("agent", ["plain", "awaiting", "runnable", "make", "stepping"])
async def test_agents_of_every_kind_are_graded(agent: str, tmp_path: Path) -> None:
    attempts = await attempts_of(agent, tmp_path, tasks=3)
    assert [a.success for a in attempts] == [True] * 3
    assert {a.ended for a in attempts} == {"answered"}
    assert {a.cost.turns for a in attempts} == {1}


@pytest.mark.parametrize("agent", ["with_tools", "awaiting", "make", "stepping"])
async def test_agents_use_the_arms_tools_and_every_call_is_metered(agent: str, tmp_path: Path) -> None:
    attempts = await attempts_of(agent, tmp_path, ECHO)
    for attempt in attempts:
        assert attempt.success
        assert (attempt.cost.tool_calls, attempt.cost.turns, attempt.cost.observed_tokens) == (1, 2, 1)
        assert [m["role"] for m in attempt.transcript] == ["user", "assistant", "tool", "assistant"]


async def test_controls_hold_for_agents(tmp_path: Path) -> None:
    placebo = {"name": "placebo", "tools": ["echo"], "control": "inert"}
    attempts = await attempts_of("with_tools", tmp_path, placebo)
    assert [a.success for a in attempts] == [False, False]


async def test_an_attempt_has_randomness_of_its_own_and_the_same_in_every_arm(tmp_path: Path) -> None:
    first = await attempts_of("gambling", tmp_path, BARE, ECHO, tasks=3, samples=2)
    draws = some_agents.seen.pop("draws")
    assert len(draws) == 12
    assert len(set(draws)) == 6
    again = await attempts_of("gambling", tmp_path / "..", BARE, ECHO, tasks=3, samples=2)
    assert set(some_agents.seen["draws"]) == set(draws)
    assert all(a.same_outcome(b) for a, b in zip(first, again, strict=True))


async def test_what_an_agent_raises_is_its_failure_and_is_told(tmp_path: Path) -> None:
    for agent, told in (("raises", "ValueError: I cannot"), ("exits", "SystemExit: 3"), ("twice", "UsageError: reset")):
        (attempt,) = await attempts_of(agent, tmp_path / agent, tasks=1)
        assert (attempt.status, attempt.success, attempt.ended) == (Status.COMPLETE, False, "agent:error")
        assert attempt.transcript[-1]["content"].startswith(f"The agent raised {told}")


async def test_an_agent_that_returns_nothing_has_failed(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("silent", tmp_path, tasks=1)
    assert (attempt.success, attempt.ended, attempt.answer) == (False, "agent:silent", None)


async def test_agents_that_gave_no_answer_are_counted_at_the_end_of_a_run(tmp_path: Path) -> None:
    data = {"name": "test", "samples": 1, "env": [{"id": "Say-v0", "tasks": 2}], "arm": [BARE]}
    experiment = parse_experiment({**data, "model": f"agent:{AGENTS}:silent"})
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(experiment, store)
        await runner.run()
    assert "2 x agent:silent (The agent returned without an answer.)" in runner.progress.broken.told()


async def test_a_value_that_is_no_text_is_an_error_of_the_agents_and_no_wrong_answer(tmp_path: Path) -> None:
    for agent, kind in (("returns_a_number", "int"), ("returns_a_step", "tuple")):
        (attempt,) = await attempts_of(agent, tmp_path / agent, tasks=1)
        assert (attempt.status, attempt.success, attempt.ended) == (Status.COMPLETE, False, "agent:error")
        said = f"The agent returned a value of type {kind}; only text is an answer, as of str(…)."
        assert attempt.transcript[-1]["content"] == said
        assert why_it_ended(attempt, {}) == said


async def test_a_limit_ends_an_agent_that_goes_on_whatever_it_catches(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("keeps_asking", tmp_path, ECHO, tasks=1, budget={"turns": 5})
    assert (attempt.ended, attempt.cost.turns, attempt.success) == ("limit:turns", 5, False)
    assert "swallowed" not in some_agents.seen


async def test_an_agent_that_hangs_ends_by_its_seconds_and_holds_nobody_up(tmp_path: Path) -> None:
    began = time.monotonic()
    attempts = await attempts_of("hangs", tmp_path, tasks=4, budget={"seconds": 0.5})
    some_agents.release.set()
    assert time.monotonic() - began < 5
    assert sorted(a.ended for a in attempts) == ["answered"] * 3 + ["limit:seconds"]


async def test_without_a_limit_of_seconds_its_own_timeout_ends_an_agent(tmp_path: Path) -> None:
    some_agents.release.clear()
    attempts = await attempts_of("hangs", tmp_path, model={"timeout": 0.5})
    some_agents.release.set()
    assert sorted(a.ended for a in attempts) == ["answered", "limit:seconds"]


async def test_a_coroutine_that_blocks_its_loop_costs_only_itself(tmp_path: Path) -> None:
    attempts = await attempts_of("blocks", tmp_path, tasks=4, budget={"seconds": 0.4})
    assert sorted((a.ended, a.success) for a in attempts) == [("answered", True)] * 3 + [("limit:seconds", False)]


async def test_a_wrong_answer_is_told_to_an_agent_that_has_another(tmp_path: Path) -> None:
    for agent in ("never_right", "stubborn"):
        (attempt,) = await attempts_of(agent, tmp_path / agent, tasks=1, budget={"answers": 2})
        assert attempt.success
        assert attempt.cost.turns == 2
    assert some_agents.seen["told"] == "That is wrong. Answers left: 1."
    assert some_agents.seen["turns"][1][-1] == some_agents.seen["told"]


async def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    await attempts_of("gambling", tmp_path, BARE)
    await attempts_of("gambling", tmp_path, BARE)
    assert len(some_agents.seen["draws"]) == 2


async def test_how_many_attempts_are_under_way_changes_none_of_them(tmp_path: Path) -> None:
    alone = await attempts_of("gambling", tmp_path / "1", ECHO, tasks=20, samples=2, concurrency=1)
    together = await attempts_of("gambling", tmp_path / "256", ECHO, tasks=20, samples=2)
    assert len(alone) == 40
    assert 0 < sum(bool(attempt.success) for attempt in alone) < 40
    assert all(a.same_outcome(b) for a, b in zip(alone, together, strict=True))


async def test_a_changed_file_is_another_agent(tmp_path: Path) -> None:
    file = tmp_path / "agent.py"
    prints = []
    for answer in ("1", "2", "2"):
        file.write_text(f"def agent(env):\n    return {answer!r}\n", encoding="utf-8")
        prints.append(make_model(f"agent:{file}:agent").fingerprint())
    assert prints[0] != prints[1] == prints[2]
    assert make_model(f"agent:{AGENTS}:gambling").fingerprint()["own"] == "2"


@pytest.mark.parametrize(
    ("agent", "error", "told"),
    [
        (f"{AGENTS}:plan", UnknownName, "plain"),
        (f"{AGENTS}:two", ModelError, "a function called with env, more, which is no agent: give a function of one"),
        (f"{AGENTS}:NoAgent", ModelError, "the class NoAgent, and not an object of it such as NoAgent(), which is no"),
        (f"{AGENTS}:seen", ModelError, "is {}, which is no agent: give a function of one argument, agent(env), or an"),
        ("no_such_module:agent", ModelError, "no_such_module"),
        ("no_such.py:agent", ModelError, "no agent file"),
        ("nothing", UsageError, "module:object"),
    ],
)
def test_what_is_no_agent_is_refused_by_name(agent: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told.replace("(", r"\(").replace(")", r"\)")):
        make_model(f"agent:{agent}")


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        ("my_agnt.py:solve", r"no agent file 'my_agnt.py'; .* Did you mean 'my_agent.py'\?"),
        ("my_agent:solve", r"'my_agent' cannot be imported .* The file my_agent.py is here: write 'my_agent.py:…'"),
    ],
)
def test_a_misspelt_agent_file_is_answered_with_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, told: str
) -> None:
    (tmp_path / "my_agent.py").write_text("def solve(env): ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=told):
        make_model(f"agent:{agent}")


async def test_a_search_cannot_drive_what_drives_itself(tmp_path: Path) -> None:
    arm = {"name": "best", "lookahead": {"kind": "best_of", "n": 2, "check": "grader"}}
    with pytest.raises(ExperimentError, match="drives its attempts itself"):
        await attempts_of("plain", tmp_path, arm)


async def test_decoding_that_nobody_would_heed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="not passed on"):
        await attempts_of("plain", tmp_path, model={"temperature": 0.5})


def test_the_option_replaces_a_model_but_not_what_an_arm_names_itself() -> None:
    data = {"model": {"id": "hf:x", "dtype": "float32"}, "arm": [BARE]}
    assert with_agent(data, "a:b")["model"] == {"id": "agent:a:b"}
    assert with_agent({**data, "model": {"timeout": 3}}, "a:b")["model"] == {"timeout": 3, "id": "agent:a:b"}
    assert with_agent({"arm": [BARE]}, "a:b")["model"] == {"id": "agent:a:b"}
    with pytest.raises(ExperimentError, match="bare"):
        with_agent({"arm": [{**BARE, "model": "oracle"}]}, "a:b")


async def test_why_an_agents_attempt_ended_is_told(tmp_path: Path) -> None:
    (attempt,) = await attempts_of("raises", tmp_path, tasks=1)
    lines = Path(some_agents.__file__).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "I cannot" in text)
    assert why_it_ended(attempt, {}) == f"The agent raised ValueError: I cannot (some_agents.py, line {line})"


async def test_models_are_told_of_the_tools_what_the_arm_offers(tmp_path: Path) -> None:
    await attempts_of("shown_tools", tmp_path, ECHO, tasks=1)
    assert [convert_to_openai_tool(tool) for tool in some_agents.seen["tools"]] == some_agents.seen["schemas"]
