"""What every registered environment and tool must do. A new one that needs no options is tested without a line here."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import pytest_asyncio
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from jsonschema import Draft202012Validator
from langchain_core.tools import BaseTool

from testbed.budget import Budget, Meter
from testbed.corpus import Corpus
from testbed.env import Environment, approximate_tokens
from testbed.errors import FaultKind, SandboxUnavailable
from testbed.protocol import write_answer, write_call
from testbed.registry import env_class, env_names, make_env, make_tool, option_names, tool_class, tool_names
from testbed.sandbox import pick
from testbed.spaces import Utf8
from testbed.tool import AttemptContext, Tool, Toolbox, ToolSet
from testbed.types import Control, ToolCall, ToolResult
from testbed.wrappers import under_control

AT_LEAST = 200  # tasks that validate() looks at
FEWER = {
    "HumanEval-v0": 4,
    "MBPP-v0": 4,
    "HotpotQA-v0": 100,
    "Maths-v0": 3,
}  # all that these list with the options given here

# Options of environments that need some, or that list few tasks without. "{data}" is the folder of public data files,
# "{tests}" this one.
ENV_OPTIONS: dict[str, dict[str, Any]] = {
    "Addition-v0": {"digits": list(range(1, 10)), "tasks": 25},
    "Multiplication-v0": {"digits": list(range(1, 10)), "tasks": 25},
    "Facts-v0": {"tasks": 40},
    "GSM8K-v0": {"path": "{data}/gsm8k/test.jsonl"},
    # Graded in sandboxes, which takes its time: all tasks have their turn in test_program_env.py.
    "HumanEval-v0": {"path": "{data}/humaneval/HumanEval.jsonl.gz", "limit": 4},
    "MBPP-v0": {"path": "{data}/mbpp/mbpp.jsonl", "limit": 4},
    "Game24-v0": {"tasks": 300},
    "Maths-v0": {"path": "{tests}/fixtures/maths.jsonl"},
    "NQOpen-v0": {"path": "{data}/nq_open/NQ-open.dev.jsonl", "limit": 300},
    "HotpotQA-v0": {"path": "{data}/hotpot100/questions.jsonl"},
    "Questions-v0": {"path": "{tests}/fixtures/questions.jsonl"},
    "ReasoningGym-v0": {"dataset": "chain_sum", "tasks": 200},
    "Oracle-v0": {"digits": [16, 20], "told": [8, 0], "vaults": 100},
    "SciFact-v0": {"path": "{data}/scifact/scifact.zip"},
}
CORPUS = Corpus.of(
    (f"d{n:03}", f"The {noun} of {land} is {land[::-1]}{noun[0]}.")
    for n, (noun, land) in enumerate(
        (noun, f"{start}{end}")
        for noun in ("capital", "ruler", "river")
        for start in ("Drai", "Molva", "Kap", "Shos", "Wurm", "Ib", "Zon", "Pe")
        for end in ("stor", "nia", "lin", "ta", "el")
    )
)
# A call that a tool answers, where it wants something else than text to look for.
CALLS: dict[str, dict[str, Any]] = {name: {"code": "print(6 * 7)"} for name in ("python", "python_repl")}
CALLS["open"] = {"id": "d000"}
CALLS["calculator"] = {"expression": "6 * 7"}
CALLS |= {"ask": {"text": "left"}, "simulate": {"moves": ["left", "right"]}}
HOSTILE = ["", " ", "\0", "\ud800", "-" * 100_000, "AND OR NOT (", "{}", "</tool_call>", "'; DROP TABLE x; --", "漢🙂"]

envs = pytest.mark.parametrize("name", env_names())
tools = pytest.mark.parametrize("name", tool_names())
in_one_loop = pytest.mark.asyncio(loop_scope="module")  # in which the tools run that tests share


def env_options(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    options = ENV_OPTIONS.get(name, {})
    if env_class(name).grades_slowly and no_sandbox():
        pytest.skip(no_sandbox())
    if name == "Maths-v0":
        pytest.importorskip("math_verify", reason="math-verify is not installed (pip install capability-testbed[math])")
    needs_data = any("{data}" in str(value) for value in options.values())
    data: Path = request.getfixturevalue("data_dir") if needs_data else Path()
    return {
        key: value.format(data=data, tests=Path(__file__).parent) if isinstance(value, str) else value
        for key, value in options.items()
    }


@cache
def _made(name: str, options: str) -> Environment:
    made = make_env(name, **json.loads(options))
    _open.append(made)
    return made


_open: list[Environment] = []


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    for made in _open:
        made.close()


@cache
def no_sandbox() -> str:
    try:
        pick("auto")
    except SandboxUnavailable as error:
        return str(error)
    return ""


@pytest.fixture
def options(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    return env_options(name, request)


@pytest.fixture
def env(name: str, options: dict[str, Any]) -> Environment:
    """Made once, for its tasks; tests that begin attempts make their own."""
    return _made(name, json.dumps(options))


# -- environments ------------------------------------------------------------------------------------------------------


@envs
def test_gymnasium_makes_it_without_a_prior_import_and_its_checker_agrees(name: str, options: dict[str, Any]) -> None:
    made = gymnasium.make(f"testbed:testbed/{name}", **options)
    check_env(made.unwrapped, skip_render_check=True)
    made.close()


@envs
def test_it_says_what_it_is(name: str) -> None:
    cls = env_class(name)
    assert cls.id == name
    assert re.fullmatch(r"[A-Z]\w*-v\d+", name)
    assert cls.__doc__
    assert cls.__doc__ != Environment.__doc__
    assert all(f"{part}:" in cls.card for part in ("Source", "Expected", "Contamination"))


@envs
def test_same_seed_same_attempt(name: str, options: dict[str, Any]) -> None:
    def play(seed: int) -> list[Any]:
        made = make_env(name, **options)
        seen: list[Any] = [made.reset(seed=seed)]
        seen += [made.step("I think"), made.step(write_call("search", {"query": "x"})), made.step(write_answer("42"))]
        made.close()
        return json.loads(json.dumps(seen, default=lambda array: array.tolist()))

    first = play(5)
    assert play(5) == first
    assert any(make_env(name, **options).reset(seed=seed)[0]["text"] != first[0][0]["text"] for seed in range(6, 10))


@envs
def test_tasks_are_unique_and_the_same_in_every_instance(name: str, env: Environment, options: dict[str, Any]) -> None:
    hashes = [task.hash for task in env.tasks]
    assert len(set(hashes)) == len(hashes)
    assert [task.hash for task in make_env(name, **options).tasks] == hashes
    assert all(task.environment == name for task in env.tasks)


@envs
def test_tasks_are_well_formed(env: Environment) -> None:
    for task in env.tasks:
        assert task.prompt.strip()
        assert task.prompt in Utf8()
        assert env.reference_answer(task).strip()
        json.dumps([task.reference, dict(task.meta)], allow_nan=False)


@envs
def test_graders_are_right_about_references_and_near_misses(env: Environment) -> None:
    found = env.validate()
    assert found.problems == ()
    assert found.checked == len(env.tasks)
    assert found.checked >= FEWER.get(env.id, AT_LEAST)


@envs
def test_the_oracle_is_right_every_time(name: str, env: Environment, options: dict[str, Any]) -> None:
    made = make_env(name, **options)
    for task in env.tasks:
        made.reset(options={"task": task})
        observation, reward, terminated, truncated, info = made.step(write_answer(env.reference_answer(task)))
        assert (reward, terminated, truncated) == (1.0, True, False), task.prompt
        assert observation["text"] == ""
        assert info["score"] in (None, 1.0)
    made.close()


@envs
def test_empty_and_random_answers_are_wrong(env: Environment) -> None:
    for task in env.tasks:
        for answer in ("", " ", "\0", "no such answer", "9" * 50_000):
            assert not env.grade(task, answer).success, (task.prompt, answer[:50])
    text = Utf8(seed=0)
    # Not never: a random text may be the digit that is asked for.
    assert np.mean([env.grade(task, text.sample()).success for task in env.tasks]) < 0.02


@envs
def test_answers_of_other_tasks_are_mostly_wrong(env: Environment) -> None:
    answers = [env.reference_answer(task) for task in env.tasks]
    pairs = zip(env.tasks, answers[1:] + answers[:1], strict=True)
    assert np.mean([env.grade(task, answer).success for task, answer in pairs]) < 0.5


@envs
def test_grading_is_the_same_every_time(env: Environment) -> None:
    for task in env.tasks[:20]:
        for answer in (env.reference_answer(task), "42", "no such answer"):
            assert env.grade(task, answer) == env.grade(task, answer)


@envs
def test_the_prompt_is_the_same_whatever_is_offered(name: str, env: Environment, options: dict[str, Any]) -> None:
    offered = make_env(name, tools=[made_tool("search")], **options)
    shown, info = offered.reset(options={"task": env.tasks[0]})
    bare, bare_info = make_env(name, **options).reset(options={"task": env.tasks[0]})
    assert shown["text"] == bare["text"] == env.tasks[0].prompt
    assert [tool["function"]["name"] for tool in info["tools"]] == ["search"]
    assert bare_info["tools"] == []
    offered.close()


@envs
def test_limits_end_an_attempt_and_are_named(name: str, options: dict[str, Any]) -> None:
    made = make_env(name, budget=Budget(turns=2), **options)
    made.reset(seed=0)
    assert made.step("hm")[2:4] == (False, False)
    _, reward, terminated, truncated, info = made.step("hm")
    assert (reward, terminated, truncated, info["limit"]) == (0.0, False, True, "turns")


@envs
def test_it_works_in_a_vector(name: str, options: dict[str, Any]) -> None:
    vector = SyncVectorEnv([lambda: make_env(name, **options)] * 3)
    observation, _ = vector.reset(seed=1)
    assert len(set(observation["text"])) > 1
    assert observation["remaining"].shape == (3, 6)
    _, rewards, terminated, _, _ = vector.step((write_answer("no such answer"), "hm", ""))
    assert rewards.tolist() == [0, 0, 0]
    assert terminated.tolist() == [True, False, False]
    vector.close()


# -- tools -------------------------------------------------------------------------------------------------------------


def made_tool(name: str) -> Tool:
    """A tool over the test corpus, where it takes one."""
    return make_tool(name, **({"corpus": CORPUS} if "corpus" in option_names(tool_class(name)) else {}))  # type: ignore[return-value]


def usual_call(tool: BaseTool) -> ToolCall:
    properties = ToolSet([tool]).schemas[0]["function"]["parameters"]["properties"]
    return ToolCall(tool.name, CALLS.get(tool.name) or dict.fromkeys(properties, "capital of Draistor"))


def open_box(tool_set: ToolSet, context: AttemptContext | None = None) -> Toolbox:
    """The tools of one attempt; those that act on a game have one in which "left" from the start changes nothing."""
    lake = _made("FrozenLake-v0", json.dumps({"tasks": 1}))
    return tool_set.open(
        Meter(Budget()), approximate_tokens, lake.enter(lake.tasks[0], tool_set, context or AttemptContext())
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started() -> AsyncIterator[dict[str, ToolSet]]:
    """Tool sets that tests share, by the tool's name: starting one may start sandboxes."""
    tool_sets: dict[str, ToolSet] = {}
    yield tool_sets
    for tool_set in tool_sets.values():
        await tool_set.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def live(name: str, started: dict[str, ToolSet]) -> ToolSet:
    if name not in started:
        tool_set = ToolSet([made_tool(name)])
        try:
            await tool_set.start()
        except SandboxUnavailable as error:
            pytest.skip(str(error))
        started[name] = tool_set
    return started[name]


@pytest_asyncio.fixture(loop_scope="module")
async def box(live: ToolSet) -> AsyncIterator[Toolbox]:
    opened = open_box(live)
    yield opened
    await opened.aclose()


async def answer(tool_set: ToolSet, call: ToolCall, context: AttemptContext | None = None) -> ToolResult:
    """Of an attempt that calls once."""
    opened = open_box(tool_set, context)
    try:
        return await opened.call(call)
    finally:
        await opened.aclose()


@pytest.fixture
def call(name: str) -> ToolCall:
    return usual_call(made_tool(name))


@tools
def test_a_tool_says_what_it_is(name: str) -> None:
    tool = made_tool(name)
    assert tool.name == name
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name)  # what providers of native tool calls take
    assert tool.description.strip()
    assert tool.version
    (schema,) = ToolSet([tool]).schemas
    parameters = schema["function"]["parameters"]
    Draft202012Validator.check_schema(parameters)
    assert parameters["properties"]
    assert all(argument["description"] for argument in parameters["properties"].values())


@tools
def test_its_fingerprint_is_json_and_the_same_in_every_instance(name: str) -> None:
    one, two = (json.dumps(ToolSet([made_tool(name)]).fingerprint(), sort_keys=True) for _ in range(2))
    assert one == two


@tools
@in_one_loop
async def test_it_answers_and_repeats_itself(box: Toolbox, call: ToolCall) -> None:
    first = await box.call(call)
    assert first.fault is None
    assert first.text.strip()
    assert await box.call(call) == first


@tools
@in_one_loop
async def test_arguments_are_checked(box: Toolbox, call: ToolCall) -> None:
    for wrong in (
        {},
        {**call.arguments, "surplus": 1},
        dict.fromkeys(call.arguments, 3),
        dict.fromkeys(call.arguments),
    ):
        result = await box.call(ToolCall(call.name, wrong))
        assert result.fault is FaultKind.INVALID_ARGS
        assert result.text.startswith("error: invalid_args: ")


@tools
@in_one_loop
async def test_no_argument_can_break_it(box: Toolbox, call: ToolCall) -> None:
    for text in HOSTILE:
        result = await box.call(ToolCall(call.name, dict.fromkeys(call.arguments, text)))
        assert result.fault in (None, FaultKind.INVALID_ARGS, FaultKind.EXECUTION_ERROR)
        assert result.text in Utf8()
    assert (await box.call(call)).fault is None


@tools
@in_one_loop
async def test_attempts_do_not_see_each_other(live: ToolSet, call: ToolCall) -> None:
    alone = open_box(live)
    first = await alone.call(call)
    other = open_box(live)
    await other.call(ToolCall(call.name, dict.fromkeys(call.arguments, "0")))
    assert await answer(live, call) == first
    for opened in (alone, other):
        await opened.aclose()


@tools
@in_one_loop
async def test_it_can_be_started_again_after_closing(live: ToolSet, call: ToolCall) -> None:
    before = await answer(live, call)
    await live.aclose()
    await live.start()
    assert await answer(live, call) == before


@tools
@in_one_loop
async def test_inert_looks_alike_repeats_under_its_stream_and_tells_nothing(live: ToolSet, call: ToolCall) -> None:
    tool = live.offers[call.name].tool
    inert = ToolSet(under_control([tool], Control.INERT))
    assert inert.schemas == live.schemas
    assert inert.fingerprint() != live.fingerprint()
    await inert.start()
    told = await answer(live, call)
    blank = [await answer(inert, call, AttemptContext(key)) for key in (1, 1, 2)]
    assert blank[0] == blank[1]
    assert all(result.fault is None for result in blank)
    assert not set(told.text.splitlines()) & {line for result in blank for line in result.text.splitlines()}
    wrong = await answer(inert, ToolCall(call.name, {"surplus": 1}))
    assert wrong.fault is FaultKind.INVALID_ARGS


@tools
@in_one_loop
async def test_yoked_replays_in_order_whatever_is_asked(name: str, call: ToolCall) -> None:
    yoked = ToolSet(under_control([made_tool(name)], Control.YOKED))
    opened = open_box(yoked, AttemptContext(1, iter(["first", "second"])))
    shown = [(await opened.call(call)).text for _ in range(3)]
    assert shown[:2] == ["first", "second"]
    assert shown[2] not in ("first", "second")
