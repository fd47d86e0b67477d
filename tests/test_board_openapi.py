"""What programs can ask of a board, as its OpenAPI document says it: nothing breaks it, nothing wrong is written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from helpers.board_entries import enter
from helpers.boards import FREE, a_board, a_run, client, listening
from helpers.postgres import place as schema_of
from helpers.remote import MANIFEST, SUMS_IN_PRIVATE
from testbed.board import boards
from testbed.board.accounts import create_token
from testbed.board.app import create_app
from testbed.board.database import BoardDatabase
from testbed.board.schema import audit, board_schema, tokens
from testbed.store import Store
from testbed.store.schema import schema as store_schema

QUICK_IN_POSTGRESQL = (
    "test_every_operation_says_what_it_answers_and_what_it_needs",
    "test_names_of_nothing_are_refused_wherever_they_stand",
)


@dataclass
class Things:
    """A board with one of everything that addresses name."""

    token: str
    upload: str
    entry: str
    remote_entry: str
    session: str
    chunk: bytes = b"one piece of two"

    def paths(self) -> dict[str, str]:
        """Parameters of paths by their names."""
        named = {"entry_id": self.remote_entry, "session_id": self.session, "entry": self.entry, "id": self.upload}
        return {"slug": "sums", "n": "0", **named}

    def path(self, template: str) -> str:
        """An address of something that is there."""
        own = {"slug": "hidden-sums"} if "remote" in template else {}
        own |= {"id": self.entry} if template.startswith("/api/entries") else {}
        return template.format(**{**self.paths(), **own})


World = tuple[BoardDatabase, Things]


def make_things(db: BoardDatabase, folder: Path) -> Things:
    sums = boards.create(db, a_board(folder))
    boards.create(db, a_board(folder, SUMS_IN_PRIVATE))
    a_run(folder / "runs.sqlite", sums)
    with Store.open(folder / "runs.sqlite") as store:
        entry = enter(db, sums, store, "mine")
    token = create_token(db, "ann", ["admin"])
    found = Things(token, "", entry, "", "")
    sizes = [hashlib.sha256(data).hexdigest() for data in (found.chunk, b"the other")]
    with client(db, FREE, token) as http:
        begun = {"content": "0" * 64, "bytes": 25, "chunks": sizes}
        found.upload = http.post("/api/boards/sums/uploads", json=begun).json()["upload"]
        form = {"title": "mine", "manifest": MANIFEST}
        found.remote_entry = http.post("/api/boards/hidden-sums/remote-entries", json=form).json()["entry"]
        where = f"/api/remote-entries/{found.remote_entry}/sessions"
        found.session = http.post(where, json={"arm": "bare", "task": "next"}).json()["session"]
    return found


@contextmanager
def place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Where a new database of one kind is."""
    if kind == "sqlite":
        yield str(folder / "board.sqlite")
        return
    with schema_of(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests that leave everything as it was."""
    folder = tmp_path_factory.mktemp(request.param)
    with place(request.param, request, folder) as where, BoardDatabase.open(where) as db:
        yield db, make_things(db, folder)


@pytest.fixture
def db(world: World) -> BoardDatabase:
    return world[0]


@pytest.fixture
def things(world: World) -> Things:
    return world[1]


@pytest.fixture
def served(db: BoardDatabase, things: Things, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("testbed.board.limits._WRONG_TOKENS", 1000)  # as many as a test tries
    with client(db, FREE, things.token) as opened:
        yield opened


def counts(db: BoardDatabase) -> dict[str, Any]:
    """How many rows each table holds, and what its newest note is."""
    tables = [*board_schema.sorted_tables, *store_schema.sorted_tables]
    with db.reading() as connection:
        there = set(sa.inspect(connection).get_table_names())
        count = sa.func.count()
        return {
            table.name: connection.scalar(sa.select(count).select_from(table))
            for table in tables
            if table.name in there
        }


# -- by schemathesis

NO_CHECKS = ("positive_data_acceptance",)  # a schema cannot say all that a valid request has to be
QUICK = ["--phases=fuzzing", "--max-examples=1"]
WHOLE = ["--phases=examples,coverage,fuzzing,stateful", "--max-examples=40"]


def schemathesis(folder: Path, port: int, things: Things, *options: str) -> str:
    """What schemathesis found at a served board, where it knows what is there, and where it makes up all."""
    bindings = "".join(f'"path.{name}" = {{ dictionary = "{name}", probability = 0.7 }}\n' for name in things.paths())
    lists = "".join(
        f"[dictionaries.{name}]\nvalues = [{', '.join(json.dumps(v) for v in values)}]\n"
        for name, values in {
            **{name: [value] for name, value in things.paths().items()},
            "slug": ["sums", "hidden-sums"],
            "id": [things.upload, things.entry],
        }.items()
    )
    (folder / "schemathesis.toml").write_text(f"{lists}\n[parameters]\n{bindings}", encoding="utf-8")
    command = [shutil.which("schemathesis", path=os.path.dirname(sys.executable)) or "schemathesis"]
    command += ["--config-file", "schemathesis.toml", "run", f"http://127.0.0.1:{port}/api/openapi.json"]
    command += ["--header", f"Authorization: Bearer {things.token}", "--no-color", "--generation-deterministic"]
    command += ["--checks=all", f"--exclude-checks={','.join(NO_CHECKS)}", "--suppress-health-check=all", *options]
    environment = {**os.environ, "COLUMNS": "200", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def examined(kind: str, request: pytest.FixtureRequest, folder: Path, *options: str) -> str:
    with place(kind, request, folder) as where, BoardDatabase.open(where) as db:
        things = make_things(db, folder)
        with listening(create_app(db, FREE)) as port:
            return schemathesis(folder, port, things, *options)


def test_schemathesis_breaks_nothing_at_a_first_look(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = examined("sqlite", request, tmp_path, *QUICK)
    assert "selected / " in found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_schemathesis_breaks_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    examined(kind, request, tmp_path, *WHOLE)


# -- by hand


def operations(served: TestClient, method: str = "") -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation; of one method, if one is given."""
    document = served.get("/api/openapi.json").json()
    found = [(verb, path, of) for path, verbs in document["paths"].items() for verb, of in verbs.items()]
    return [each for each in found if method in ("", each[0])]


def test_every_operation_says_what_it_answers_and_what_it_needs(served: TestClient) -> None:
    found = operations(served)
    described = served.get("/api/openapi.json").json()["components"]["schemas"]["Problem"]
    assert described["properties"].keys() == {"error"}
    assert len(found) >= 10
    for verb, path, said in found:
        assert path.startswith("/api/")
        assert said["summary"], (verb, path)
        refused = {status for status in said["responses"] if status >= "400"}
        assert {"400", "401", "403", "404", "413", "422", "429", "503"} <= refused
        for status in refused:
            of = said["responses"][status]["content"]["application/json"]["schema"]
            assert of == {"$ref": "#/components/schemas/Problem"}
        if verb != "get":
            assert said["security"] == [{"HTTPBearer": []}], (verb, path)


def test_nothing_is_changed_without_a_token_that_may(db: BoardDatabase, things: Things, served: TestClient) -> None:
    weak = create_token(db, "bob", ["read"])
    before = counts(db)
    for verb, path, said in operations(served):
        if "security" not in said:
            continue
        for header, status in (("", 401), (f"Bearer {weak}", 403), ("Bearer tb_000000000000_" + "A" * 43, 401)):
            answer = served.request(verb, things.path(path), headers={"Authorization": header}, json={})
            # what is not valid may be found first: it tells nothing of what is there
            assert answer.status_code in (status, 422), (verb, path, header, answer.text)
            assert answer.status_code == status or verb != "get"
    assert counts(db) == before


def test_what_is_somebody_elses_is_not_there(db: BoardDatabase, things: Things, served: TestClient) -> None:
    other = create_token(db, "bob", ["submit"])
    before = counts(db)
    headers = {"Authorization": f"Bearer {other}"}
    tried = [("get", f"/api/uploads/{things.upload}", None), ("get", f"/api/sessions/{things.session}", None)]
    tried += [("get", f"/api/remote-entries/{things.remote_entry}", None)]
    tried += [("post", f"/api/uploads/{things.upload}/complete", {"title": "x"})]
    tried += [("post", f"/api/remote-entries/{things.remote_entry}/close", None)]
    tried += [("post", f"/api/remote-entries/{things.remote_entry}/sessions", {"arm": "bare", "task": "next"})]
    tried += [("post", f"/api/sessions/{things.session}/steps", {"n": 0, "action": "<answer>1</answer>"})]
    for verb, path, body in tried:
        answer = served.request(verb, path, headers=headers, json=body)
        assert answer.status_code == 404, (verb, path, answer.text)
    chunk = served.put(f"/api/uploads/{things.upload}/chunks/0", content=things.chunk, headers=headers)
    assert chunk.status_code == 404
    assert counts(db) == before


VALID: dict[str, dict[str, Any]] = {
    "/api/boards/{slug}/uploads": {"content": "1" * 64, "bytes": 3, "chunks": ["2" * 64]},
    "/api/uploads/{id}/complete": {"title": "mine"},
    "/api/boards/{slug}/remote-entries": {"title": "mine", "manifest": MANIFEST},
    "/api/remote-entries/{entry_id}/sessions": {"arm": "bare", "task": "next"},
    "/api/sessions/{session_id}/steps": {"n": 0, "action": "<answer>1</answer>"},
}
ODD = [None, True, -1, 2**63, 1e308, "", "\x00", "\ud800", "a" * 70_000, [], [[]], {}, {"a": {}}, ["x"] * 100]


def hostile(body: dict[str, Any]) -> Iterator[bytes]:
    """Bodies made of a valid one that are none."""
    text = json.dumps(body).encode()
    yield from (text[:n] for n in range(0, len(text), 7))
    yield text + text
    yield text + b"]"
    yield b"[" + text + b"]"
    yield b"\xff\xfe" + text
    yield text.decode().encode("utf-16")
    yield b"\xef\xbb\xbf\xff" + text
    yield from (b"NaN", b"Infinity", b"null", b"0", b'""', b"[]", b"9" * 10_000, b"1e999", b'"\\ud800"')
    yield gzip.compress(text)
    yield gzip.compress(b"\0" * 10_000_000)
    yield b'{"title": ' * 10_000 + b"1" + b"}" * 10_000
    yield b"[" * 10_000 + b"]" * 10_000
    yield b"[" * 10_000
    yield b" " * 300_000 + text
    for key, value in body.items():
        for odd in ODD:  # but for an action any text will do, and for a title none
            if not isinstance(odd, str) or (key != "action" and (odd or key != "title")):
                yield json.dumps({**body, key: odd}).encode()
        if key not in ("title", "task"):  # which may be left out
            yield json.dumps({other: body[other] for other in body if other != key}).encode()
        yield json.dumps({**body, key + "\x00": value}).encode()


def test_bodies_that_are_none_are_refused_and_nothing_is_written(
    db: BoardDatabase, things: Things, served: TestClient
) -> None:
    taking = {path for _, path, said in operations(served, "post") if "requestBody" in said}
    assert taking == set(VALID)
    before = counts(db)
    for path, body in VALID.items():
        for content in hostile(body):
            answer = served.post(things.path(path), content=content, headers={"Content-Type": "application/json"})
            assert 400 <= answer.status_code < 500, (path, content[:200], answer.status_code, answer.text)
            assert answer.json()["error"], (path, content[:200])
            assert len(answer.content) < 2000
    assert counts(db) == before


def test_chunks_that_are_not_the_announced_ones_are_refused(db: BoardDatabase, things: Things, served) -> None:
    before = counts(db)
    address = f"/api/uploads/{things.upload}/chunks"
    data = things.chunk
    for n, content in ((0, data[:-1]), (0, data + data), (0, b"x"), (1, data), (0, gzip.compress(data))):
        assert served.put(f"{address}/{n}", content=content).status_code == 422
    assert served.put(f"{address}/2", content=data).status_code == 404
    for n in ("99999", "-1", "x", "1e3", "0x0", "%00", "9" * 5000):
        assert served.put(f"{address}/{n}", content=data).status_code in (400, 422)
    for deep in (b"[" * 1_000_000, b'{"a":' * 500_000, b"[" * 1_000_000 + b"]" * 1_000_000):  # whatever it says it is
        as_json = {"Content-Type": "application/json"}
        assert served.put(f"{address}/0", content=deep, headers=as_json).status_code in (400, 422)
    assert served.put(f"{address}/0", content=data, headers={"Content-Encoding": "gzip"}).status_code == 415
    assert served.put(f"{address}/0", content=b"x" * (FREE.chunk + 1)).status_code == 413
    assert counts(db) == before
    assert served.put(f"{address}/0", content=data).json()["missing"] == [1]


NAMES = [
    "%00",
    "%ff",
    "%ed%a0%80",
    "a" * 5000,
    "..%2f..%2fetc",
    "'",
    '"',
    "%0d%0aX: y",
    "{}",
    "⛄",
    "%",
    "-1",
    "0" * 33,
]


def test_names_of_nothing_are_refused_wherever_they_stand(db: BoardDatabase, things: Things, served) -> None:
    before = counts(db)
    for verb, path, _ in (each for each in operations(served, "get") if "{" in each[1]):
        for name in NAMES:
            made_up = path.format(**dict.fromkeys(things.paths(), name))
            for query in ("", "?dataset=a/b", f"?dataset={name}&x={name}"):
                answer = served.request(verb, made_up + query)
                assert 400 <= answer.status_code < 500, (made_up, answer.status_code, answer.text)
    assert counts(db) == before


def test_no_answer_holds_a_hash_of_a_token_or_a_private_task(db: BoardDatabase, things: Things, served) -> None:
    with db.reading() as connection:
        secret = [*connection.scalars(sa.select(tokens.c.hash)), *connection.scalars(sa.select(audit.c.detail))]
    private = boards.get(db, "hidden-sums").tasks
    secret += [task.hash for task in private] + [str(task.prompt) for task in private]
    session = served.get(f"/api/sessions/{things.session}").json()["prompt"]  # the one task that was served
    for _, path, _ in operations(served, "get"):
        for slug in ("sums", "hidden-sums"):
            told = served.get(path.format(**{**things.paths(), "slug": slug}), params={"dataset": "a/b"}).text
            assert not [text for text in secret if text in told and text != session], path
