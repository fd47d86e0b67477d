"""Boards, runs for them and clients of a served one."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from testbed.board import boards
from testbed.board.app import Settings, create_app
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.serving import Address, config
from testbed.experiment import Experiment
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.runner import Runner
from testbed.store import Store

SUMS = """\
slug = "sums"
title = "Sums of one digit"
seed = 3

[samples]
bare = 6
tools = 4

[rules]
tools = ["calculator"]

[budget]
turns = 4
tool_calls = 2
generated_tokens = 100

[measure]
operating = 1
elicitation = 4
replicates = 100

[[env]]
id = "Addition-v0"
digits = 1
tasks = 6
"""

FEW = """\
[samples]
bare = 2
tools = 2

[budget]
turns = 4
tool_calls = 2

[measure]
elicitation = 2
replicates = 100
"""
VAULTS = f"""\
slug = "vaults"
title = "Vaults that tell half of their code"
private = true

{FEW}
[[env]]
id = "Oracle-v0"
digits = [4]
told = [2]
vaults = 3

[[arm]]
name = "bare"

[[arm]]
name = "asks"
tools = ["ask"]
"""
FREE = Settings(requests=1e9, burst=1_000_000, work=False)  # no rate limit, no worker


def board_file(folder: Path, text: str = SUMS, **changes: Any) -> Path:
    """A board's file; `changes` replace values of its first lines: slug="other"."""
    for key, value in changes.items():
        line = f"{key} = {json.dumps(value)}\n"
        text, found = re.subn(rf"^{key} = .*\n", line, text, count=1, flags=re.MULTILINE)
        text = text if found else line + text
    path = folder / f"{changes.get('slug', 'board')}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def a_board(folder: Path, text: str = SUMS, **changes: Any) -> Board:
    """A board as its file says; not in any database yet."""
    return boards.read_board_file(board_file(folder, text, **changes))


@contextmanager
def a_database(where: str | Path, *created: Board) -> Iterator[BoardDatabase]:
    """A database with these boards."""
    with BoardDatabase.open(where) as db:
        for board in created:
            boards.create(db, board)
        yield db


def client(db: BoardDatabase, settings: Settings = FREE, token: str = "") -> TestClient:
    """A client of a board, in this process; use it in `with` to start the application."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return TestClient(create_app(db, settings), headers=headers, raise_server_exceptions=False)


@contextmanager
def listening(app: FastAPI, settings: Settings = FREE) -> Iterator[int]:
    """The port at which uvicorn serves an application, in a thread."""
    address = Address(port=0)
    with address.listen() as opened:
        server = uvicorn.Server(config(app, settings, address))
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield opened.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


class Adder(Scripted):
    """Answers sums: bare it is right with probability `skill`; offered a calculator it asks that, with `helped`."""

    def __init__(self, skill: float = 0.4, helped: float = 0.9) -> None:
        super().__init__(self._reply)
        self.skill, self.helped = skill, helped

    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "adder", "skill": self.skill, "helped": self.helped}

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        if request.messages[-1]["role"] == "tool":
            return write_answer(request.messages[-1]["content"].strip())
        left, right = map(int, re.findall(r"\d+", request.messages[0]["content"]))
        lucky = rng.random() < (self.helped if request.tools else self.skill)
        if request.tools and lucky:
            return write_call("calculator", {"expression": f"{left}+{right}"})
        return write_answer(str(left + right if lucky else left + right + 1))


def an_experiment(board: Board, name: str = "mine", arms: Sequence[Mapping[str, Any]] | None = None) -> Experiment:
    """What a board's entry runs: a bare arm and one with a calculator, unless others are given."""
    spec, counts = board.spec, board.samples
    usual = [{"name": "bare"}, {"name": "calculator", "tools": ["calculator"]}]
    listed = [{"samples": counts["tools" if arm.get("tools") else "bare"], **arm} for arm in arms or usual]
    shared = {key: spec[key] for key in ("seed", "budget", "measure", "env") if key in spec}
    return parse_experiment({**shared, "name": name, "model": {"id": "scripted", "replies": ["?"]}, "arm": listed})


def a_run(
    where: str | Path,
    board: Board,
    name: str = "mine",
    *,
    skill: float = 0.4,
    helped: float = 0.9,
    arms: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Runs an entry's experiment into a store; returns the run's name."""
    experiment = an_experiment(board, name, arms)
    with Store.open(where) as store:
        asyncio.run(Runner(experiment, store, models={"scripted": Adder(skill, helped)}).run())
    return name
