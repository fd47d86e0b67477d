"""Honest runs of every kind are never taken for forged: faults, limits, several answers, placebos, yokes, clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.boards import SUMS, a_board, a_database, a_run, an_experiment
from helpers.bundles import Examined, bundle_of, examine, upload
from helpers.runs import SAY_AND_ECHO, registered
from testbed.board import boards
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.results import compute_entry
from testbed.board.schema import entry_run
from testbed.board.verify import verify_entry
from testbed.env import approximate_tokens
from testbed.errors import TransportError
from testbed.experiment_file import parse_experiment
from testbed.models.base import Reply, Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import COST_COMPONENTS, Status, Usage

QUICK_IN_POSTGRESQL = ("test_what_is_stored_is_the_servers_own_and_no_clock_or_price_is_among_it",)

SAY = """\
slug = "say"
title = "Say a number"

[samples]
bare = 2
tools = 2

[measure]
elicitation = 2
replicates = 100

[[env]]
id = "Say-v0"
tasks = 2
"""
TIGHT = {
    "turns": 7,
    "tool_calls": 4,
    "generated_tokens": 90,
    "prompt_tokens": 900,
    "observed_tokens": 40,
    "answers": 2,
    "calls": "{ calculator = 3 }",
}
SAYINGS = (
    write_call("calculator", {"expression": "1+1"}),
    write_call("calculator", {"expression": "2**200"}) + write_call("calculator", {"expression": "1/0"}),
    write_call("calculator", {"formula": "1"}),
    write_call("calculators", {"expression": "1"}),
    "<tool_call>{not json</tool_call>",
    "Let me think about this for quite a while before I say anything at all.",
    write_answer("5"),
    write_answer("no idea"),
    "Grüße — 例えば 🜁 " + write_answer("8"),
    "-" * 90 + write_answer("3"),
)


class Unknown(Scripted):
    """A model of which the server knows nothing: no kind that it has, and tokens that it cannot count."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "of a stranger"}

    def count(self, text: str) -> int:
        return (len(text) + 4) // 5


class Hosted(Scripted):
    """A hosted model: its provider counts what it is given and writes, and nobody can count that again."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "chat", "model": "provider:large"}

    def count(self, text: str) -> int:
        return approximate_tokens(text)

    async def generate(self, request: Request) -> Reply:
        reply = await super().generate(request)
        thought, dense = request.stream % 7, len(reply.text) // (3 + request.stream % 9)
        return replace(reply, usage=Usage(reply.usage.prompt_tokens + 11, max(1, dense) + thought))


def says_anything(request: Request, rng: np.random.Generator) -> str:
    return SAYINGS[int(rng.integers(len(SAYINGS)))]


def a_tight_board(folder: Path, **budget: Any) -> Board:
    lines = "".join(f"{key} = {value}\n" for key, value in {**TIGHT, **budget}.items())
    head, _, rest = SUMS.partition("[budget]\n")
    return a_board(folder, head + "[budget]\n" + lines + "\n[measure]" + rest.partition("[measure]")[2])


class Sent:
    """Entries of this file, each made once, for both databases."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory, self._made = factory, dict[str, tuple[Board, bytes]]()

    def examined(self, db: BoardDatabase, name: str, make: Callable[[Path], tuple[Board, bytes]]) -> Examined:
        """What becomes of an entry."""
        if name not in self._made:
            self._made[name] = make(self._factory.mktemp("sent"))
        board, data = self._made[name]
        boards.create(db, board)
        return examine(db, board.slug, data)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    return Sent(tmp_path_factory)


def submitted(folder: Path, board: Board, model: Any, arms: list[dict[str, Any]] | None = None) -> tuple[Board, bytes]:
    """A board, and the bundle of a model's run for it."""
    where = folder / "run.sqlite"
    with Store.open(where) as store:
        experiment = parse_experiment(an_experiment(board, arms=arms).source)
        asyncio.run(Runner(experiment, store, models={"scripted": model}, retries=0).run())
    return board, bundle_of(where, "mine", board)


@pytest.mark.parametrize("model", [Scripted, Unknown, Hosted])
def test_whatever_a_model_says_within_tight_limits_is_made_out_as_it_was(
    db: BoardDatabase, sent: Sent, model: Any
) -> None:
    arms = [
        {"name": "bare"},
        {"name": "live", "tools": ["calculator"]},
        {"name": "inert", "tools": ["calculator"], "control": "inert"},
        {"name": "yoked", "tools": ["calculator"], "control": "yoked"},
    ]
    make = lambda folder: submitted(folder, a_tight_board(folder), model(says_anything), arms)  # noqa: E731
    found = sent.examined(db, model.__name__, make)
    assert found.wrong == ""
    assert found.state == "partly"


@pytest.mark.parametrize("slow", ["writes", "calls"])
def test_attempts_that_a_clock_ended_are_failures_that_nobody_can_check(
    db: BoardDatabase, sent: Sent, slow: str
) -> None:
    class Slow(Scripted):
        async def generate(self, request: Request) -> Reply:
            if slow == "writes" and len(request.messages) > 1:
                await asyncio.sleep(5)
            return await super().generate(request)

    def make(folder: Path) -> tuple[Board, bytes]:
        says = (SAYINGS[0], SAYINGS[5]) if slow == "writes" else tuple([SAYINGS[1] * 2000])
        model = Slow(lambda request, rng: says[int(rng.integers(len(says)))])
        most = {"generated_tokens": 10**7, "prompt_tokens": 10**9, "tool_calls": 10**6}
        return submitted(folder, a_tight_board(folder, seconds=0.2, turns=3, calls="{}", **most), model)

    assert sent.examined(db, slow, make).wrong == ""


@pytest.mark.parametrize(("share", "state"), [(0.5, "rejected"), (0.05, "partly")])
def test_a_few_missing_attempts_are_kept_as_missing_and_many_are_refused(
    db: BoardDatabase, sent: Sent, share: float, state: str
) -> None:
    class Broken(Scripted):
        async def generate(self, request: Request) -> Reply:
            if request.stream % 1000 < 1000 * share:
                raise TransportError("the line is cut")
            return await super().generate(request)

    found = sent.examined(
        db, f"missing {share}", lambda folder: submitted(folder, a_board(folder), Broken(says_anything))
    )
    assert found.state == state
    assert any("missing" in text for text in found.of("wrong" if state == "rejected" else "unchecked"))


@pytest.mark.parametrize("agent", ["with_tools", "silent", "raises", "gambling", "never_right", "keeps_asking"])
def test_whatever_an_agent_does_is_made_out_as_it_was(db: BoardDatabase, sent: Sent, agent: str) -> None:
    def make(folder: Path) -> tuple[Board, bytes]:
        board = a_board(folder, SAY)
        arms = [{"name": "bare"}, {"name": "echo", "tools": ["echo"]}]
        source = {**an_experiment(board, arms=arms).source, "model": {"id": f"agent:helpers.some_agents:{agent}"}}
        with Store.open(folder / "run.sqlite") as store:
            asyncio.run(Runner(parse_experiment(source), store, retries=0).run())
        return board, bundle_of(folder / "run.sqlite", "mine", board)

    with registered(SAY_AND_ECHO):
        found = sent.examined(db, agent, make)
    assert found.wrong == ""
    assert "how often an agent asks its models" in "\n".join(found.of("unchecked"))


def test_what_is_stored_is_the_servers_own_and_no_clock_or_price_is_among_it(where: str, tmp_path: Path) -> None:
    board = a_board(tmp_path)
    a_run(tmp_path / "run.sqlite", board)
    with a_database(where, board) as db, Store.open(tmp_path / "run.sqlite") as mine:
        id_ = upload(db, "sums", bundle_of(tmp_path / "run.sqlite", "mine", board))
        assert verify_entry(db, id_) == verify_entry(db, id_) == "partly"  # deciding twice is deciding once
        stored = {(a.task, a.sample, bool(a.cost.tool_calls)): a for a in db.store.attempts(entry_run(id_))}
        for own in mine.attempts("mine"):
            there = stored[own.task, own.sample, bool(own.cost.tool_calls)] if own.cost.tool_calls else None
            if there is None:
                continue
            assert there.id != own.id  # an entry's arms are its own
            assert (there.success, there.answer, there.ended, there.status) == (
                own.success,
                own.answer,
                own.ended,
                Status.COMPLETE,
            )
            assert list(there.transcript) == list(own.transcript)
            assert there.cost.seconds == there.cost.usd == 0
            counted = [c for c in COST_COMPONENTS if c not in ("seconds", "usd")]
            assert [getattr(there.cost, c) for c in counted] == [getattr(own.cost, c) for c in counted]
        assert db.store.run(entry_run(id_)).samples == {"bare": 6, "calculator": 4}
        compute_entry(db, id_)  # what the pages show can be made of it
