"""MCP servers in experiments: identity, refusals, controls, and the tutorial."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.mcp_fixture import COMMAND, SERVER, box, raw, text
from testbed import registry
from testbed.errors import ExperimentError, UsageError
from testbed.experiment_file import parse_experiment
from testbed.foreign_tools import McpTool, scrambled
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.registry import make_tool, make_tools
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import ToolSet
from testbed.types import Status

pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")


ADD = ["add", {"type": "object"}]


def test_scrambling_keeps_layout_and_length_and_draws_words_anew() -> None:
    rng = np.random.default_rng(0)
    told = json.dumps({"city": "Paris", "people": [2_102_650, 7], "π": "Größe"}) + "\n" + "é" * 60_000
    blank = scrambled(told, rng)
    assert len(blank) == len(told)
    assert json.loads(blank.partition("\n")[0])
    assert "Paris" not in blank
    assert "2102650" not in blank
    assert scrambled("", rng) == ""


def fingerprint(**options: Any) -> str:
    made = make_tools(["mcp:f"], {"mcp:f": {"command": COMMAND, "offer": ["add"], **options}})
    return json.dumps(ToolSet(made).fingerprint(), sort_keys=True)


@pytest.mark.slow
def test_the_identity_repeats_covers_what_matters_and_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOKEN", "hush-1")
    usual = fingerprint(env={"FIXTURE_SECRET": "${TOKEN}"}, slots=2)
    monkeypatch.setenv("TOKEN", "hush-2")
    assert fingerprint(env={"FIXTURE_SECRET": "${TOKEN}"}, slots=3, start_timeout=20.0) == usual
    assert '"name": "fixture"' in usual
    literal = fingerprint(env={"FIXTURE_SECRET": "hush-3"})
    assert literal != usual
    assert "hush" not in usual + literal
    assert fingerprint(timeout=3.0) not in (usual, fingerprint())
    copy = tmp_path / "server.py"  # the same server but for its source: what it returns may have changed
    copy.write_text(Path(SERVER).read_text())
    before = fingerprint(command=[sys.executable, str(copy)])
    assert fingerprint(command=[sys.executable, str(copy)]) == before
    copy.write_text(Path(SERVER).read_text().replace("return a + b", "return a - b"))
    assert fingerprint(command=[sys.executable, str(copy)]) != before


@pytest.mark.slow
async def test_the_environment_reaches_the_server_and_only_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("FIXTURE_SECRET", "not inherited")
    for env, seen in (({"FIXTURE_SECRET": "${TOKEN}"}, "hush"), ({}, "nothing")):
        made = make_tools(["mcp:f"], {"mcp:f": {"command": COMMAND, "offer": ["secret"], "env": env}})
        tool_set = ToolSet(made)
        assert await text(box(tool_set), "secret") == seen
        await tool_set.aclose()


@pytest.mark.slow
async def test_a_server_that_changes_what_it_offers_ends_the_run(tmp_path: Path) -> None:
    copy = tmp_path / "server.py"
    copy.write_text(Path(SERVER).read_text())
    tool_set = ToolSet(make_tools(["mcp:f"], {"mcp:f": {"command": [sys.executable, str(copy)]}}))
    copy.write_text(Path(SERVER).read_text().replace("Adds two whole numbers.", "Adds."))
    with pytest.raises(UsageError, match="offers something else"):
        await tool_set.start()
    await tool_set.aclose()


# -- what cannot be made


def made(**options: Any) -> Any:
    return make_tools(["mcp:f"], {"mcp:f": options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"command": ["sh", "-c", "echo the licence has expired >&2"]},
            r"(?s)mcp:f: no MCP server answers.*the licence has expired",
        ),
        ({"command": ["sleep", "600"], "start_timeout": 0.7}, r"did not say within 0.7 s"),
        ({"command": ["no-such-program-at-all"]}, r"no-such-program-at-all"),
        ({"command": ["true"]}, r"no MCP server answers at 'true'"),
        ({"url": "http://127.0.0.1:9/mcp"}, r"no MCP server answers.*127.0.0.1:9"),
        ({"command": COMMAND, "env": {"A": "${NOT_SET_ANYWHERE}"}}, r"env.A needs .* NOT_SET_ANYWHERE"),
        ({"command": raw(tools=[ADD]), "offer": ["ad"]}, r"tool of mcp:f in offer 'ad'. Did you mean 'add'"),
        ({"command": COMMAND, "url": "http://x"}, r"either command"),
        ({"command": "python server.py"}, r"must be a list of strings"),
        ({"url": "localhost:80"}, r"must begin with http"),
        ({"command": COMMAND, "slots": 0}, r"slots"),
        ({"command": COMMAND, "timeout": True}, r"timeout"),
        ({"command": COMMAND, "cwd": "/no/such"}, r"is no folder"),
        ({"command": COMMAND, "timout": 3}, r"option of tool mcp:f 'timout'. Did you mean 'timeout'"),
        ({}, r'needs command .* in \[tool\."mcp:f"\]'),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_with_the_reason(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(**options)


def test_a_server_that_prints_other_lines_works_all_the_same() -> None:
    assert [tool.name for tool in made(command=raw(do="chatty", tools=[ADD]))] == ["add"]


@pytest.mark.slow
def test_a_name_that_stands_for_several_tools_is_not_one_tool() -> None:
    assert isinstance(make_tool("mcp:f", command=COMMAND, offer=["add"]), McpTool)
    with pytest.raises(UsageError, match=r"stands for add, double.*make_tools"):
        make_tool("mcp:f", command=COMMAND)
    with pytest.raises(UsageError, match="two tools are named 'add'"):
        ToolSet([*made(command=COMMAND, offer=["add"]), *made(command=COMMAND, offer=["add"])])
    both = [*made(command=COMMAND, offer=["add"]), *made(command=COMMAND, offer=["add"], prefix="b_")]
    assert list(ToolSet(both).offers) == ["add", "b_add"]


# -- experiments


def experiment(*arms: dict[str, Any], **more: Any) -> Any:
    data = {
        "name": "foreign",
        "samples": 3,
        "model": {"id": "scripted", "replies": ["unused"]},
        "env": [{"id": "Addition-v0", "digits": 3, "tasks": 4}],
        "tool": {"mcp:fixture": {"command": COMMAND, "offer": ["add"]}},
        "arm": list(arms),
        **more,
    }
    return parse_experiment(data)


def adder(request: Request) -> str:
    """Adds by the tool it is offered, or guesses."""
    last = request.messages[-1]
    if last["role"] == "tool":
        return write_answer(last["content"])
    if not request.tools:
        return write_answer("0")
    a, b = (int(n) for n in re.findall(r"\d+", request.messages[0]["content"])[:2])
    return write_call("add", {"a": a, "b": b})


async def test_an_experiment_runs_with_every_control_and_again_with_the_same_arms(tmp_path: Path) -> None:
    controls = [{"name": c, "tools": ["mcp:fixture"], "control": c} for c in ("live", "inert", "yoked")]
    arms = [{"name": "bare"}, *controls]
    table = {"mcp:fixture": {"command": COMMAND, "offer": ["add"], "slots": 1}}
    hashes = []
    for _ in range(2):
        with Store.open(tmp_path / "store.sqlite") as store:
            runner = Runner(experiment(*arms, tool=table), store, models={"scripted": Scripted(adder)})
            progress = await runner.run()
            hashes.append([arm.hash for arm in runner.arms])
            found = {arm.spec.name: [a for a in store.attempts("foreign") if a.arm == arm.hash] for arm in runner.arms}
    assert hashes[0] == hashes[1]
    assert progress.resumed == progress.done == 4 * 4 * 3
    assert {name: sum(bool(a.success) for a in made) for name, made in found.items()} == {
        "bare": 0,
        "live": 12,
        "inert": 0,
        "yoked": 12,  # another attempt at the same sum saw the same
    }


ONE_SUM = {"id": "Addition-v0", "digits": 3, "tasks": 1}


def dies_once(request: Request) -> str:
    return write_call("die", {}) if request.messages[-1]["role"] != "tool" else write_answer("0")


async def test_an_attempt_whose_server_dies_is_missing_never_wrong(tmp_path: Path) -> None:
    table = {"mcp:fixture": {"command": raw(do="dies", tools=[["die", {"type": "object"}]])}}
    asked = experiment({"name": "live", "tools": ["mcp:fixture"], "samples": 2}, tool=table, env=[ONE_SUM])
    with Store.open(tmp_path / "store.sqlite") as store:
        runner = Runner(asked, store, models={"scripted": Scripted(dies_once)}, retries=1, back_off=0.01)
        progress = await runner.run()
        attempts = list(store.attempts("foreign"))
    assert (progress.missing, progress.retried) == (2, 2)
    assert all((a.status, a.ended, a.success) == (Status.MISSING, "missing:transport_error", None) for a in attempts)


def test_an_experiment_names_the_server_or_tool_that_it_lacks() -> None:
    with pytest.raises(ExperimentError, match=r"unknown MCP server 'mcp:fixtur'. Did you mean 'mcp:fixture'"):
        experiment({"name": "live", "tools": ["mcp:fixtur"]})
    with pytest.raises(ExperimentError, match=r"unknown tool 'mpc:fixture'"):
        experiment({"name": "live", "tools": ["mpc:fixture"]})
    with pytest.raises(ExperimentError, match=r"option of tool mcp:fixture 'comand'. Did you mean 'command'"):
        experiment({"name": "live", "tools": ["mcp:fixture"]}, tool={"mcp:fixture": {"comand": COMMAND}})
    with pytest.raises(ExperimentError, match="tool in \\[budget\\] calls 'mcp:fixture'"):
        experiment({"name": "live", "tools": ["mcp:fixture"]}, budget={"calls": {"mcp:fixture": 2}})


async def test_limits_of_single_calls_name_the_servers_tools(tmp_path: Path) -> None:
    live = {"name": "live", "tools": ["mcp:fixture"], "samples": 1}
    table = {"mcp:fixture": {"command": raw(tools=[ADD])}}
    asked = experiment(live, tool=table, budget={"calls": {"add": 1, "ad": 1}})
    with pytest.raises(ExperimentError, match=r"tool in budget calls 'ad'. Did you mean 'add'"):
        await Runner(asked, lambda: Store.open(tmp_path / "store.sqlite")).run()
    assert not list(tmp_path.iterdir())


# -- the tutorial


def blocks(language: str) -> list[str]:
    page = (Path(__file__).parents[1] / "docs" / "tools_mcp.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def follow(folder: Path, command: str) -> str:
    """What a command of the tutorial prints, run in a folder with this Python first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [sys.executable, "-m", "testbed", *command.removeprefix("testbed ").split()]
    done = subprocess.run(words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    server, policy, theirs = blocks("python")
    sums, other = blocks("toml")
    for name, content in (("server.py", server), ("policy.py", policy), ("theirs.py", theirs), ("sums.toml", sums)):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "theirs.toml").write_text(other + '[model]\nid = "oracle"\n', encoding="utf-8")
    (console,) = blocks("console")
    commands = [line.removeprefix("$ ") for line in console.splitlines()]
    assert [command.split()[1] for command in commands] == ["run", "report", "show"]
    _, report, shown = [follow(tmp_path, command) for command in commands]
    assert re.search(r"bare to placebo +scaffold +5 +\+0\.00", report), report
    assert re.search(r"placebo to sums +information and interaction +5 +\+1\.00", report), report
    assert "sums" in shown
    follow(tmp_path, "testbed run theirs.toml")


def test_the_tutorial_names_every_option() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tools_mcp.md").read_text(encoding="utf-8")
    for option in registry.option_names(registry.tool_class("mcp:any")):
        assert f"| `{option}` |" in page
