"""Every registered environment and tool keeps the contract; a new one that needs no options needs no line here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from testbed import contract
from testbed.contract import ENVIRONMENT
from testbed.contract_tools import TOOL, Subject
from testbed.corpus import Corpus
from testbed.env import Environment
from testbed.errors import SandboxUnavailable
from testbed.registry import env_class, env_names, make_env, make_tool, option_names, tool_class, tool_names
from testbed.sandbox import pick

AT_LEAST = 200  # tasks that are looked at
FEWER = {
    "HumanEval-v0": 4,
    "MBPP-v0": 4,
    "HotpotQA-v0": 100,
    "Maths-v0": 2,
}  # all that these list with the options given here

# Options of environments that need some, or that list few tasks without. "{data}" is the folder of public data files,
# "{tests}" this one.
ENV_OPTIONS: dict[str, dict[str, Any]] = {
    "Addition-v0": {"digits": list(range(1, 10)), "tasks": 25},
    "Multiplication-v0": {"digits": list(range(1, 10)), "tasks": 25},
    "Facts-v0": {"tasks": 40},
    "GSM8K-v0": {"path": "{data}/gsm8k/test.jsonl"},
    # Graded in sandboxes, which takes its time: all tasks have their turn in test_program_env.py, and in test_maths.py.
    "HumanEval-v0": {"path": "{data}/humaneval/HumanEval.jsonl.gz", "limit": 4},
    "MBPP-v0": {"path": "{data}/mbpp/mbpp.jsonl", "limit": 4},
    "Game24-v0": {"tasks": 300},
    "Maths-v0": {"path": "{tests}/fixtures/maths.jsonl", "limit": 2},
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

envs = pytest.mark.parametrize("name", env_names())
tools = pytest.mark.parametrize("name", tool_names())


@cache
def no_sandbox() -> str:
    try:
        pick("auto")
    except SandboxUnavailable as error:
        return str(error)
    return ""


@pytest.fixture
def options(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
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


@envs
def test_gymnasium_makes_it_without_a_prior_import_and_it_lists_enough_tasks(
    name: str, options: dict[str, Any]
) -> None:
    made = gymnasium.make(f"testbed:testbed/{name}", **options).unwrapped
    assert isinstance(made, Environment)
    assert made.id == name
    assert len(made.tasks) >= FEWER.get(name, AT_LEAST)
    made.close()


@pytest.fixture
def all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is time to look at more than at somebody's plug-in."""
    monkeypatch.setattr(contract, "MOST_TASKS", 10**9)


@envs
@pytest.mark.parametrize("what", ENVIRONMENT)
@pytest.mark.usefixtures("all_tasks")
def test_an_environment_keeps_the_contract(name: str, options: dict[str, Any], what: str) -> None:
    made: list[Environment] = []

    def make(**common: Any) -> Environment:
        made.append(make_env(name, **options, **common))
        return made[-1]

    try:
        ENVIRONMENT[what](make)
    finally:
        for env in made:
            env.close()


# A game in which "left" from the start changes nothing, for tools that act on one.
@pytest.fixture(scope="module")
def lake() -> Iterator[Environment]:
    made = make_env("FrozenLake-v0", tasks=1)
    yield made
    made.close()


@tools
@pytest.mark.parametrize("what", TOOL)
async def test_a_tool_keeps_the_contract(name: str, what: str, lake: Environment) -> None:
    corpus = {"corpus": CORPUS} if "corpus" in option_names(tool_class(name)) else {}
    subject = Subject(lambda: make_tool(name, **corpus), CALLS.get(name), lake)
    assert subject.schema["name"] == name
    try:
        await TOOL[what](subject)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
