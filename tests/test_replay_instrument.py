"""Recordings replayed through the whole instrument: bit for bit, and without what was recorded being there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import testbed.sandbox
from helpers.runs import SAY_AND_ECHO, registered
from testbed import sandbox_tool
from testbed.errors import SandboxUnavailable, UsageError
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.recording import Recording
from testbed.registry import make_tool
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import ToolSet
from testbed.types import Attempt, Status

FIXTURE = Path(__file__).parent / "fixtures" / "mcp_server.py"

LANGCHAIN = """
from langchain_core.tools import tool

@tool
def shouted(text: str) -> dict:
    '''Shouts.'''
    return {"loud": text.upper(), "n": len(text)}
"""


def curious(request: Request, rng: Any) -> str:
    """Calls whatever is offered in every way, right and wrong, by the attempt's own stream, and then answers."""
    seen = [m["content"] for m in request.messages if m["role"] == "tool"]
    if len(seen) > 6 or rng.random() < 0.1:
        return write_answer(re.sub(r"\W", "", "".join(seen))[-3:] or "none")
    question, n = request.messages[0]["content"], int(rng.integers(3))
    calls = {
        "search": [{"query": question}, {"query": "river"}, {"query": question, "more": 1}],
        "open": [{"id": "d1"}, {"id": "nowhere"}, {"offset": "x"}],
        "retrieve": [{"query": question}],
        "python": [{"code": f"print({n} / {n})"}, {"code": "print('x\\u00e9' * 15000)"}, {"code": "1 +"}],
        "python_repl": [{"code": "n = n + 1 if 'n' in globals() else 0\nprint(n)"}],
        "add": [{"a": n, "b": 2}, {"a": "one", "b": 2}, {"a": 1, "b": 2, "c": 3}],
        "fail": [{}],
        "odd": [{}],
        "huge": [{"megabytes": 1}],
        "shouted": [{"text": f"\u00df\x00{n}"}],
        "simulate": [{"moves": ["right", "down"]}, {"moves": []}],
        "calculator": [{"expression": f"{n} + {n}"}, {"expression": "1 / 0"}],
        "ask": [{"text": "Is it alive?"}, {"text": "left"}, {"text": "9999"}],
    }
    names = [tool["function"]["name"] for tool in request.tools] or ["search"]
    name = names[int(rng.integers(len(names)))]
    call = write_call(name, calls[name][n % len(calls[name])])
    return call + {0: "", 1: write_call("search2", {}), 2: "<tool_call>{"}[int(rng.integers(3))]


async def made(data: dict[str, Any], path: Path, **options: Any) -> dict[tuple[str, str, int], Attempt]:
    """Runs an experiment; its attempts by arm, task and sample."""
    with Store.open(path) as store:
        runner = Runner(parse_experiment(data), store, models={"scripted": Scripted(curious)}, back_off=0.01, **options)
        await runner.run()
        names = {arm.hash: arm.spec.name for arm in runner.arms}
        return {(names[a.arm], a.task, a.sample): a for a in store.attempts(data["name"])}


def alike(recorded: Attempt, replayed: Attempt) -> bool:
    """Equal in everything but the arm, and what follows from it, and the clock."""
    cost = replace(replayed.cost, seconds=recorded.cost.seconds)
    return recorded == replace(replayed, id=recorded.id, arm=recorded.arm, cost=cost)


async def test_tools_that_may_be_called_must_be_as_many_as_were_recorded(tmp_path: Path) -> None:
    await made(experiment("first", ["add"], arm=[{"name": "live", "tools": ["calculator"]}], budget={}), tmp_path / "s")
    again = {"name": "live", "tools": ["calculator"], "replay": {"run": "first", "otherwise": "live"}}
    (spec,) = parse_experiment(experiment("again", ["add"], arm=[again], budget={})).arms
    with Store.open(tmp_path / "s") as store:
        recording = Recording(spec, lambda: store)
        recording.check_tools(ToolSet([make_tool("calculator")]).fingerprint())
        with pytest.raises(UsageError, match=r"the list of tools is not what was recorded.*offered.*ask"):
            recording.check_tools(ToolSet([make_tool("calculator"), make_tool("ask")]).fingerprint())
        recording.close()


def experiment(name: str, tools: list[str], **more: Any) -> dict[str, Any]:
    controls = [{"name": control, "tools": tools, "control": control} for control in ("live", "inert", "yoked")]
    return {
        "name": name,
        "samples": 3,
        "model": {"id": "scripted", "replies": ["unused"]},
        "budget": {"turns": 12, "observed_tokens": 5016, "calls": {tools[0]: 1}},
        "env": [{"id": "Addition-v0", "digits": 2, "tasks": 3}],
        "arm": [{"name": "bare"}, *controls],
        **more,
    }


async def test_search_python_and_a_real_server_replay_bit_for_bit_without_any_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")
    server, corpus, theirs = tmp_path / "server.py", tmp_path / "corpus.jsonl", tmp_path / "theirs.py"
    shutil.copy(FIXTURE, server)
    theirs.write_text(LANGCHAIN)
    rows = [
        {"id": f"d{n}", "text": f"The river of town {n} carries {n * n} boats. " * (1 + 400 * (n == 1))}
        for n in range(9)
    ]
    corpus.write_text("\n".join(map(json.dumps, rows)))
    foreign = f"langchain:{theirs}:shouted"
    tools = ["search", "open", "python", "python_repl", "mcp:server", foreign]
    table = {
        "search": {"corpus": str(corpus)},
        "open": {"corpus": str(corpus)},
        "mcp:server": {"command": [sys.executable, str(server)], "offer": ["add", "fail", "odd", "huge"]},
    }
    first = await made(experiment("first", tools, tool=table), tmp_path / "recorded.sqlite")
    for file in (server, corpus, theirs):
        file.unlink()

    def gone(name: str = "auto", packages: tuple[str, ...] = ()) -> Any:
        raise SandboxUnavailable("there is no sandbox")

    sandbox_tool.backend.cache_clear()
    monkeypatch.setattr(testbed.sandbox, "pick", gone)
    store = str(tmp_path / "recorded.sqlite")
    again = experiment("again", tools, tool=table, replay={"run": "first", "store": store})
    second = await made(again, tmp_path / "offline.sqlite")
    third = await made({**again, "name": "third"}, tmp_path / "one.sqlite", concurrency=1)
    assert first.keys() == second.keys() == third.keys()
    assert [key for key, attempt in first.items() if not alike(attempt, second[key])] == []
    assert [key for key, attempt in second.items() if not attempt.same_outcome(third[key])] == []
    messages = [m for a in first.values() for m in a.transcript if m["role"] == "tool"]
    faults = {m.get("fault") for m in messages}
    assert faults >= {None, "invalid_args", "parse_error", "tool_not_found", "execution_error", "budget_exhausted"}
    assert {m["name"] for m in messages} >= {"search", "open", "python", "python_repl", "add", "huge", "odd", "shouted"}
    assert any("more characters cut]" in m["content"] for m in messages)
    assert any("cut" in m for m in messages)  # to the tokens that were left
    for attempt in (*first.values(), *second.values()):
        tokens = [m["tokens"] for m in attempt.transcript if m["role"] == "tool"]
        assert sum(tokens) == attempt.cost.observed_tokens
    shared = first.keys() & second.keys() & {key for key in first if key[0] == "bare"}
    assert {first[key].id for key in shared} == {second[key].id for key in shared}
    assert not {a.id for key, a in first.items() if key[0] != "bare"} & {a.id for a in second.values()}


@pytest.mark.parametrize(
    ("env", "tool"), [("FrozenLake-v0", "simulate"), ("FrozenLake-v0", "ask"), ("TwentyQuestions-v0", "ask")]
)
async def test_tools_that_act_on_a_game_replay_without_one(env: str, tool: str, tmp_path: Path) -> None:
    controls = [{"name": c, "tools": [tool], "control": c} for c in ("live", "yoked")]
    data = experiment("first", [tool], env=[{"id": env, "tasks": 3}], arm=controls, samples=2)
    first = await made(data, tmp_path / "s.sqlite")
    second = await made({**data, "name": "second", "replay": "first"}, tmp_path / "s.sqlite")
    assert first.keys() == second.keys()
    assert all(alike(attempt, second[key]) for key, attempt in first.items())
    assert any(m["role"] == "tool" and "fault" not in m for a in first.values() for m in a.transcript)


# -- recordings that were cut short
# ----------------------------------------------------------------------------------------------------------------------

POLICY = """\
from testbed.protocol import write_answer, write_call
def gamble(request, rng):
    if len(request.messages) < 3:
        return write_call("echo", {"text": str(rng.random())})
    return write_answer(request.messages[0]["content"][4:-1] if rng.random() < .5 else "no")
"""
SOURCE = """\
name = "{name}"
samples = 40
{replay}
model = {{ id = "scripted", policy = "{policy}:gamble" }}
[[env]]
id = "Say-v0"
tasks = 40
[[arm]]
name = "echo"
tools = ["echo"]
"""


@pytest.fixture
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        yield


@pytest.mark.slow  # five processes
@pytest.mark.usefixtures("plugins")
def test_a_run_that_was_killed_is_a_recording_of_what_it_had_and_of_nothing_else(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    (tmp_path / "policy.py").write_text(POLICY)

    def command(name: str, replay: str = "") -> list[str]:
        file = tmp_path / f"{name}.toml"
        file.write_text(SOURCE.format(name=name, replay=replay, policy=tmp_path / "policy.py"))
        arguments = ["run", str(file), "--store", str(store), "--plugin", str(SAY_AND_ECHO)]
        return [sys.executable, "-m", "testbed", *arguments]

    process = subprocess.Popen(command("first"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not made_so_far(store, "first"):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = subprocess.run(command("again", 'replay = "first"'), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr  # attempts are missing
    with Store.open(store) as opened:
        first = {(a.task, a.sample): a for a in opened.attempts("first")}
        again = {(a.task, a.sample): a for a in opened.attempts("again")}
    assert 0 < len(first) < len(again) == 40 * 40
    assert all(alike(attempt, again[key]) for key, attempt in first.items())
    others = [attempt for key, attempt in again.items() if key not in first]
    assert {(a.status, a.ended, a.success) for a in others} == {(Status.MISSING, "missing:not_recorded", None)}
    assert all("this attempt was not recorded" in a.transcript[-1]["content"] for a in others)
    ended = subprocess.run(command("first"), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    changed = subprocess.run(command("again", 'replay = "first"'), capture_output=True, text=True, check=False)
    assert changed.returncode == 2
    assert "replay.recording" in changed.stderr  # another recording now: nothing is mixed


def made_so_far(path: Path, run: str) -> int:
    try:
        with Store.open(path, create=False) as store:
            return len(store.finished(run))
    except UsageError:
        return 0  # not created yet
