"""A private board whose attempts are made against its server, and a little client of the service."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from helpers.boards import FREE, VAULTS, a_board, a_database, client
from testbed.board.accounts import create_token
from testbed.board.database import BoardDatabase
from testbed.board.schema import entry_run
from testbed.protocol import write_answer, write_call
from testbed.types import Attempt

SUMS_IN_PRIVATE = """\
slug = "hidden-sums"
title = "Sums nobody has seen"
private = true
seed = 5

[samples]
bare = 2
tools = 1

[budget]
turns = 3
tool_calls = 2

[measure]
elicitation = 2
replicates = 100

[[env]]
id = "Addition-v0"
digits = 3
tasks = 3

[[arm]]
name = "bare"

[[arm]]
name = "calculator"
tools = ["calculator"]
"""
MANIFEST = {"model": "none: a few lines of Python"}
SECRET = "a secret of thirty-two letters .."
__all__ = ["MANIFEST", "SECRET", "SUMS_IN_PRIVATE", "VAULTS", "Service", "serving"]


class Service:
    """The environment service, as an agent sees it."""

    def __init__(self, db: BoardDatabase, http: TestClient, board: str) -> None:
        self.db, self.http, self.board = db, http, board

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.http.post(f"/api/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.http.get(f"/api/{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def entry(self, **more: Any) -> dict[str, Any]:
        body = {"title": "mine", "manifest": MANIFEST, **more}
        made: dict[str, Any] = self.post(f"boards/{self.board}/remote-entries", body, 201)
        return made

    def begin(self, entry: Mapping[str, Any], arm: str, task: Any = "next", status: int = 201) -> dict[str, Any]:
        path = f"remote-entries/{entry['entry']}/sessions"
        made: dict[str, Any] = self.post(path, {"arm": arm, "task": task}, status)
        return made

    def step(self, session: Mapping[str, Any], n: int, action: str, status: int = 200) -> dict[str, Any]:
        body = {"n": n, "action": action}
        reply: dict[str, Any] = self.post(f"sessions/{session['session']}/steps", body, status)
        return reply

    def finish(self, entry: Mapping[str, Any]) -> None:
        """Makes everything that is left, right, and closes the entry."""
        for arm in self.get(f"remote-entries/{entry['entry']}")["arms"]:
            for _ in range(sum(arm["left"].values())):
                session = self.begin(entry, arm["name"])
                assert self.step(session, 0, write_answer(added(session["prompt"])))["reward"] == 1
        assert self.post(f"remote-entries/{entry['entry']}/close")["state"] == "closed"


def attempts_of(service: Service, entry: Mapping[str, Any]) -> list[Attempt]:
    return list(service.db.store.attempts(entry_run(entry["entry"])))


def added(prompt: str) -> str:
    """The answer to a sum."""
    return str(sum(map(int, re.findall(r"\d+", prompt))))


def calculated(prompt: str) -> str:
    """A call of the calculator for it."""
    return write_call("calculator", {"expression": "+".join(re.findall(r"\d+", prompt))})


@contextmanager
def serving(folder: Path, text: str = SUMS_IN_PRIVATE, where: str = "") -> Iterator[Service]:
    """A served private board, and a client that may submit to it; again over what is there already.

    Args:
        folder: for its file, and its database if `where` names no other one.
        text: of its file.
        where: its database.
    """
    board = a_board(folder, text)
    with a_database(where or folder / "board.sqlite", board) as db:
        token = create_token(db, "ann", ["submit"])
        with client(db, FREE, token) as http:
            yield Service(db, http, board.slug)
