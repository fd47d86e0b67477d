"""A served board as the tests of its pages ask it."""

from __future__ import annotations

import html.parser

from starlette.testclient import TestClient

from testbed.board.arm_rows import read_rows
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.types import attempt_id


class Tags(html.parser.HTMLParser):
    """The tags of a page with their attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    @classmethod
    def of(cls, text: str) -> list[tuple[str, dict[str, str | None]]]:
        tags = cls()
        tags.feed(text)
        return tags.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class Served:
    """A database with a public board, as the pages' tests ask it."""

    def __init__(self, db: BoardDatabase, board: Board, ids: list[str], http: TestClient) -> None:
        self.db, self.board, self.ids, self.http = db, board, ids, http

    def page(self, address: str, status: int = 200) -> str:
        answer = self.http.get(address)
        assert answer.status_code == status, (address, answer.status_code, answer.text[:500])
        return answer.text

    def attempt(self, entry: str, arm: str, task: int = 0, sample: int = 0) -> str:
        with self.db.reading() as connection:
            (row,) = [r for r in read_rows(connection, self.board.slug) if (r.entry, r.name) == (entry, arm)]
        return f"/attempts/{attempt_id(self.board.tasks[task].hash, row.arm, sample, self.board.seed)}"


def addresses(served: Served) -> list[str]:
    one, other = served.ids[:2]
    return [
        "/",
        "/submit",
        "/boards/sums",
        "/boards/sums?by=gain&tools=calculator",
        "/boards/sums/pareto",
        "/boards/sums/mechanisms",
        "/boards/sums/mechanisms?tools=calculator",
        "/boards/sums/tasks",
        "/boards/sums/tasks/1",
        f"/tasks/{served.board.tasks[0].hash}",
        *(f"/entries/{id_}" for id_ in served.ids),
        f"/compare?left={one}:1&right={other}:1",
        served.attempt(other, "bare"),
        f"{served.attempt(one, 'bare')}?beside={served.attempt(other, 'calculator').rsplit('/', 1)[-1]}",
    ]
