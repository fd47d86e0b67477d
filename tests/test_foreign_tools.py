"""Tools of real MCP servers, started by the tests, and langchain tools by import path."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.tools import BaseTool, tool

from testbed import registry
from testbed.budget import Budget, Meter
from testbed.errors import DataError, ExperimentError, FaultKind, TransportError, UnknownName, UsageError
from testbed.experiment_file import parse_experiment
from testbed.foreign_tools import McpTool, scrambled
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.registry import make_env, make_tool, make_tools
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import AttemptContext, Toolbox, ToolSet
from testbed.types import Control, Status, ToolCall
from testbed.wrappers import under_control

SERVER = str(Path(__file__).parent / "fixtures" / "mcp_server.py")
COMMAND = [sys.executable, SERVER]


@pytest.fixture(autouse=True)
def _extra(request: pytest.FixtureRequest) -> None:
    if "langchain" not in request.node.name:
        pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")


@cache  # each asks a server, which takes a second to start
def tools(**options: Any) -> tuple[BaseTool, ...]:
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return tuple(make_tools(["mcp:fixture"], {"mcp:fixture": {"command": COMMAND, **options}}))


def box(tool_set: ToolSet, budget: Budget | None = None, context: AttemptContext | None = None) -> Toolbox:
    return tool_set.open(Meter(budget or Budget()), len, context)


async def fails_with(kind: FaultKind, opened: Toolbox, name: str, **arguments: Any) -> str:
    result = await opened.call(ToolCall(name, arguments))
    assert result.fault is kind, result
    return result.text


async def text(opened: Toolbox, name: str, **arguments: Any) -> str:
    result = await opened.call(ToolCall(name, arguments))
    assert result.fault is None, result
    return result.text


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
async def shared() -> AsyncIterator[ToolSet]:
    tool_set = ToolSet(tools(timeout=8.0))
    yield tool_set
    await tool_set.aclose()


# -- calls
# ----------------------------------------------------------------------------------------------------------------------


async def test_calls_are_answered_over_stdio_and_arguments_checked_before_the_server_sees_them(shared: ToolSet) -> None:
    opened = box(shared)
    assert await text(opened, "add", a=2, b=3) == "5"
    assert await text(opened, "reach", points=[{"x": 1, "y": 2}, {"x": 3, "y": 4}]) == "10"
    assert await text(opened, "where", runtime="here") == "here"
    assert await text(opened, "dotted_name_with_slash") == "dotted"
    assert "b: 'x' is not of type 'integer'" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1, b="x")
    assert "'b' is a required" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1)
    assert "Did you mean 'b'" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1, b=1, bb=1)
    deep = await fails_with(FaultKind.INVALID_ARGS, opened, "reach", points=[{"x": 1, "y": -1}])
    assert deep.startswith("error: invalid_args: points.0.y: ")
    assert "Did you mean 'add'" in await fails_with(FaultKind.TOOL_NOT_FOUND, opened, "ad")
    assert "no such file: page 42" in await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")


async def test_results_that_are_no_plain_text_are_described_and_long_ones_cut(shared: ToolSet) -> None:
    opened = box(shared)
    assert await text(opened, "picture") == "[image, image/png, 256 bytes]"
    assert await text(opened, "mixed") == "first\n[link to file:///tmp/a.bin: a.bin]\nof a file"
    assert (await text(opened, "odd")).startswith("nul")
    began = time.monotonic()
    long = await text(opened, "huge", megabytes=50)
    assert time.monotonic() - began < 8  # the mcp package's transport would take 100 s
    assert long.endswith("\n[49980000 more characters cut]")
    assert len(long) < 20_100


async def test_a_server_killed_in_mid_call_is_the_infrastructures_fault_and_replaced(shared: ToolSet) -> None:
    opened = box(shared)
    first = await text(opened, "process")
    with pytest.raises(TransportError, match=r"(?s)ended in mid-call.*out of coffee"):
        await opened.call(ToolCall("die", {}))
    second = await text(opened, "process")
    assert second != first
    os.kill(int(second), 9)  # between two calls: nobody's call was lost, but it is noticed by the next
    with pytest.raises(TransportError):
        await opened.call(ToolCall("process", {}))
    assert await text(opened, "add", a=1, b=1) == "2"


async def test_a_hanging_call_times_out_and_only_it_and_its_server_is_ended() -> None:
    tool_set = ToolSet(tools(timeout=1.5))
    opened, other = box(tool_set), box(tool_set)
    pid = int(await text(opened, "process"))
    began = time.monotonic()
    hung = asyncio.create_task(fails_with(FaultKind.TIMEOUT, opened, "hang"))
    await asyncio.sleep(0.1)
    assert await text(other, "add", a=1, b=1) == "2"  # by a second server
    assert await hung == "error: timeout: took longer than 1.5 s."
    assert time.monotonic() - began < 4
    assert await text(opened, "add", a=1, b=1) == "2"
    await tool_set.aclose()  # which waits until the one that hangs has been killed
    assert not runs(pid)


async def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    tool_set = ToolSet(tools(timeout=8.0))
    await text(box(tool_set), "spawn", pid_file=str(tmp_path / "pid"))
    child = int((tmp_path / "pid").read_text())
    assert runs(child)
    await tool_set.aclose()
    await asyncio.sleep(0.2)  # a killed process takes a moment to go
    assert not runs(child)


@pytest.mark.slow
async def test_closing_in_mid_call_ends_the_server_and_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tool_set = ToolSet(tools(timeout=60.0))
    pid = int(await text(box(tool_set), "process"))
    hung = asyncio.create_task(box(tool_set).call(ToolCall("hang", {})))
    await asyncio.sleep(0.3)
    hung.cancel()
    await tool_set.aclose()
    assert not runs(pid)
    assert caplog.records == []
    with pytest.raises(asyncio.CancelledError):
        await hung


async def test_attempts_share_a_server_unless_each_has_its_own() -> None:
    shared = ToolSet(tools(timeout=8.0))
    one, two = box(shared, context=AttemptContext(1)), box(shared, context=AttemptContext(1))
    assert await text(one, "note", text="a") == "a"
    assert await text(two, "note", text="b") == "a, b"
    await shared.aclose()
    own = ToolSet(tools(per_attempt=True, offer=("note", "process")))
    # Equal contexts: a retry of the same attempt must not find what the first try left.
    one, two = box(own, context=AttemptContext(1)), box(own, context=AttemptContext(1))
    assert await text(one, "note", text="a") == "a"
    assert await text(two, "note", text="b") == "b"
    assert await text(one, "note", text="c") == "a, c"
    pid = int(await text(one, "process"))  # of another tool, but the same attempt
    await one.aclose()
    await asyncio.sleep(1)
    assert not runs(pid)
    assert await text(two, "note", text="d") == "b, d"
    await two.aclose()
    await own.aclose()


@pytest.mark.slow
async def test_slots_bound_the_servers_and_waiting_for_one_is_no_timeout() -> None:
    tool_set = ToolSet(tools(per_attempt=True, slots=1, timeout=1.0, offer=("process",)))
    first = box(tool_set, context=AttemptContext(1))
    await text(first, "process")
    second = asyncio.create_task(text(box(tool_set, context=AttemptContext(2)), "process"))
    await asyncio.sleep(1.3)
    assert not second.done()
    await first.aclose()
    assert (await second).isdigit()
    await tool_set.aclose()


async def test_calls_are_budgeted_like_any_other(shared: ToolSet) -> None:
    opened = box(shared, Budget(tool_calls=3, calls={"add": 1}))
    await text(opened, "add", a=1, b=1)
    assert "no calls of add are left" in await fails_with(FaultKind.BUDGET_EXHAUSTED, opened, "add", a=1, b=1)
    await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")
    assert "budget is spent" in await fails_with(FaultKind.BUDGET_EXHAUSTED, opened, "process")


def test_a_gymnasium_environment_offers_them_and_leaves_no_server_behind() -> None:
    env = make_env(
        "Addition-v0",
        tools=["mcp:fixture"],
        tool_options={"mcp:fixture": {"command": COMMAND, "offer": ["add", "process"]}},
    )
    _, info = env.reset(seed=1)
    assert [offered["function"]["name"] for offered in info["tools"]] == ["add", "process"]
    assert env.step(write_call("add", {"a": 20, "b": 22}))[0]["text"].endswith("42")
    pid = int(env.step(write_call("process", {}))[0]["text"].split()[-1])
    assert runs(pid)
    env.close()
    assert not runs(pid)


@pytest.mark.slow
def test_a_program_that_forgets_to_close_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from testbed.registry import make_tool\n"
        f"made = make_tool('mcp:x', command={COMMAND!r}, offer=['process'])\n"
        "print(asyncio.run(made.ainvoke({})))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not runs(int(done.stdout))


# -- streamable HTTP
# ----------------------------------------------------------------------------------------------------------------------


class HttpServer:
    """The fixture behind a port of the loopback."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*COMMAND, "http", str(self.port)], stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the server does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def http() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.kill()


async def test_a_server_behind_a_url_is_called_lost_and_found_again(http: HttpServer) -> None:
    made = await asyncio.to_thread(make_tools, ["mcp:far"], {"mcp:far": {"url": http.url, "timeout": 2.0}})
    tool_set = ToolSet(made)
    await tool_set.start()
    opened = box(tool_set)
    assert await text(opened, "add", a=2, b=3) == "5"
    assert "page 42" in await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")
    with pytest.raises(TransportError):
        await opened.call(ToolCall("die", {}))
    with pytest.raises(TransportError):  # nobody listens there any more
        await opened.call(ToolCall("add", {"a": 2, "b": 3}))
    http.process.wait()
    http.start()
    assert await text(opened, "add", a=2, b=4) == "6"
    http.kill()
    http.start()
    with pytest.raises(TransportError):  # another process, which does not know the session
        await opened.call(ToolCall("add", {"a": 2, "b": 3}))
    assert await text(opened, "add", a=2, b=5) == "7"
    assert await fails_with(FaultKind.TIMEOUT, opened, "hang") == "error: timeout: took longer than 2 s."
    http.kill()
    await tool_set.aclose()


# -- controls and identity
# ----------------------------------------------------------------------------------------------------------------------


async def test_the_placebo_has_the_live_results_shape_and_says_nothing(shared: ToolSet) -> None:
    inert = ToolSet(under_control(tools(timeout=8.0), Control.INERT))
    assert inert.schemas == shared.schemas
    assert inert.fingerprint() != shared.fingerprint()
    live = await text(box(shared), "double", number=21)
    one, again, other = [await text(box(inert, context=AttemptContext(n)), "double", number=21) for n in (1, 1, 2)]
    assert one == again != other
    for blank in (one, other):
        assert len(blank) == len(live)
        assert [c for c in blank if not c.isalnum()] == [c for c in live if not c.isalnum()]
        assert not set(blank.replace("\n", " ").split()) & {"Twice", "is", "42.", "That"}
    await fails_with(FaultKind.INVALID_ARGS, box(inert), "double")
    failed = await fails_with(FaultKind.EXECUTION_ERROR, box(inert), "fail")
    assert "page" not in failed
    await inert.aclose()


def test_scrambling_keeps_layout_and_length_and_draws_words_anew() -> None:
    rng = np.random.default_rng(0)
    told = json.dumps({"city": "Paris", "people": [2_102_650, 7], "π": "Größe"}) + "\n" + "é" * 60_000
    blank = scrambled(told, rng)
    assert len(blank) == len(told)
    assert json.loads(blank.partition("\n")[0])
    assert "Paris" not in blank
    assert "2102650" not in blank
    assert scrambled("", rng) == ""


async def test_yoked_replays_without_any_server() -> None:
    yoked = ToolSet(under_control(tools(timeout=8.0), Control.YOKED))
    await yoked.start()
    opened = box(yoked, context=AttemptContext(1, iter(["seen", "then"])))
    assert await text(opened, "add", a=1, b=1) == "seen"
    assert await text(opened, "fail") == "then"


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
# ----------------------------------------------------------------------------------------------------------------------


def made(**options: Any) -> Any:
    return make_tools(["mcp:f"], {"mcp:f": options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"command": [*COMMAND, "broken"]}, r"(?s)mcp:f: no MCP server answers.*the licence has expired"),
        ({"command": [*COMMAND, "silent"], "start_timeout": 0.7}, r"did not say within 0.7 s"),
        ({"command": ["no-such-program-at-all"]}, r"no-such-program-at-all"),
        ({"command": ["true"]}, r"no MCP server answers at 'true'"),
        ({"url": "http://127.0.0.1:9/mcp"}, r"no MCP server answers.*127.0.0.1:9"),
        ({"command": COMMAND, "env": {"A": "${NOT_SET_ANYWHERE}"}}, r"env.A needs .* NOT_SET_ANYWHERE"),
        ({"command": COMMAND, "offer": ["ad"]}, r"tool of mcp:f in offer 'ad'. Did you mean 'add'"),
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
    assert len(made(command=[*COMMAND, "chatty"])) == len(tools(timeout=8.0))


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
# ----------------------------------------------------------------------------------------------------------------------


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


def dies_once(request: Request) -> str:
    return write_call("die", {}) if request.messages[-1]["role"] != "tool" else write_answer("0")


async def test_an_attempt_whose_server_dies_is_missing_never_wrong(tmp_path: Path) -> None:
    table = {"mcp:fixture": {"command": COMMAND, "offer": ["die"]}}
    asked = experiment({"name": "live", "tools": ["mcp:fixture"], "samples": 1}, tool=table)
    with Store.open(tmp_path / "store.sqlite") as store:
        runner = Runner(asked, store, models={"scripted": Scripted(dies_once)}, retries=1, back_off=0.01)
        progress = await runner.run()
        attempts = list(store.attempts("foreign"))
    assert (progress.missing, progress.retried) == (4, 4)
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
    asked = experiment(live, budget={"calls": {"add": 1, "ad": 1}})
    with pytest.raises(ExperimentError, match=r"tool in budget calls 'ad'. Did you mean 'add'"):
        await Runner(asked, lambda: Store.open(tmp_path / "store.sqlite")).run()
    assert not list(tmp_path.iterdir())


# -- langchain tools by import path
# ----------------------------------------------------------------------------------------------------------------------

LANGCHAIN = '''
from langchain_core.tools import BaseTool, tool

@tool
def shout(text: str) -> str:
    """Returns a text in capitals."""
    return text.upper()

class Repeat(BaseTool):
    """Repeats."""
    name: str = "repeat"
    description: str = "Repeats a text."
    times: int = 2
    def _run(self, text: str) -> str:
        return text * self.times

def counter(start: int = 0):
    @tool
    def count(by: int) -> int:
        """Adds to the start."""
        return start + by
    return [count, shout]

class NoTool:
    pass

number = 42
def wrong():
    return 7
'''


@pytest.fixture
def langchain_file(tmp_path: Path) -> str:
    file = tmp_path / "theirs.py"
    file.write_text(LANGCHAIN)
    return str(file)


async def test_langchain_objects_classes_and_factories_become_tools(langchain_file: str) -> None:
    at = f"langchain:{langchain_file}:"
    options = {at + "Repeat": {"times": 3}, at + "counter": {"start": 40}}
    tool_set = ToolSet(make_tools([at + "Repeat", at + "counter"], options))
    opened = box(tool_set)
    assert await text(opened, "repeat", text="ab") == "ababab"
    assert await text(opened, "count", by=2) == "42"
    assert await text(opened, "shout", text="hi") == "HI"
    await fails_with(FaultKind.INVALID_ARGS, opened, "count", by="x")
    assert [t.name for t in make_tools([at + "shout"], {})] == ["shout"]
    await tool_set.aclose()


def test_langchain_options_are_part_of_the_identity(langchain_file: str) -> None:
    def identity(what: str, **options: Any) -> str:
        name = f"langchain:{langchain_file}:{what}"
        return json.dumps(ToolSet(make_tools([name], {name: options})).fingerprint(), sort_keys=True)

    for what, option in (("Repeat", "times"), ("counter", "start")):
        assert identity(what, **{option: 3}) == identity(what, **{option: 3})
        assert identity(what, **{option: 3}) != identity(what, **{option: 4})


@tool
def echo(text: str) -> str:
    """Returns its argument."""
    return text


def test_a_langchain_tool_is_found_in_a_module() -> None:
    sys.modules["theirs_for_a_test"] = sys.modules[__name__]
    try:
        assert make_tool("langchain:theirs_for_a_test:echo") is echo
    finally:
        del sys.modules["theirs_for_a_test"]


@pytest.mark.parametrize(
    ("what", "options", "error", "says"),
    [
        ("shou", {}, UnknownName, "Did you mean 'shout'"),
        ("NoTool", {}, UsageError, "no langchain tool"),
        ("number", {}, UsageError, "no langchain tool"),
        ("wrong", {}, UsageError, "neither a langchain tool nor a list"),
        ("Repeat", {"tims": 2}, UnknownName, "Did you mean 'times'"),
        ("Repeat", {"times": "x"}, UsageError, "times"),
        ("counter", {"begin": 2}, UnknownName, "There are: start"),
        ("shout", {"loud": True}, UnknownName, "option of tool"),
    ],
)
def test_what_langchain_names_must_be_a_tool(
    langchain_file: str, what: str, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make_tool(f"langchain:{langchain_file}:{what}", **options)


def test_langchain_paths_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("x = 1\n1 / 0\n")
    for name, says in (
        ("langchain:no_such_module_x:y", "'no_such_module_x' cannot be imported"),
        ("langchain:no_such.py:y", "there is no file 'no_such.py'"),
        (f"langchain:{tmp_path / 'raises.py'}:y", r"raises.py:2: ZeroDivisionError"),
    ):
        with pytest.raises(DataError, match=says):
            make_tool(name)
    with pytest.raises(UsageError, match="must be"):
        make_tool("langchain:nothing")


def test_both_langchain_and_mcp_forms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from testbed.listing import print_list

    print_list("tools", "", [])
    assert {"mcp:NAME", "langchain:MODULE:ATTRIBUTE"} <= set(capsys.readouterr().out.split())
    assert "mcp:NAME" not in registry.tool_names()


# -- the tutorial
# ----------------------------------------------------------------------------------------------------------------------


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
