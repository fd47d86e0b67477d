"""`kill -9` of a real server amid concurrent submissions: none that was acknowledged is lost, none is there by half."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from helpers.boards import a_board
from helpers.bundles import Lines, bundle_of, ran
from helpers.served_board import free_port
from testbed.board import boards, uploads
from testbed.board.accounts import create_token
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries, entry_run, upload_chunks
from testbed.board.schema import uploads as table
from testbed.protocol import write_answer
from testbed.store.schema import unpack

CHUNK = 2000
# Checks entries as the board's own worker does, but works out no figures and draws no charts of them.
SERVER = f"""
import sys, threading, time, uvicorn
import sqlalchemy as sa
from testbed.board.app import create_app
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries
from testbed.board.settings import Settings
from testbed.board.verify import verify_entry

def work(db):
    while True:
        with db.reading() as connection:
            waiting = connection.scalars(sa.select(entries.c.id).where(entries.c.state == "waiting")).all()
        for id_ in waiting:
            verify_entry(db, id_)
        time.sleep(0.02)

with BoardDatabase.open(sys.argv[1]) as db:
    threading.Thread(target=work, args=[db], daemon=True).start()
    many = dict(burst=10**9, open_uploads=10**6, waiting=10**6, entries=10**6)
    free = Settings(requests=1e9, **many, chunk={CHUNK}, work=False)
    uvicorn.run(create_app(db, free), port=int(sys.argv[2]), log_level="warning")
"""
Step = tuple[str, str, int]  # "put" or "complete", upload, chunk


@dataclass
class Sender:
    """Submits bundles to a server, and remembers what was acknowledged."""

    url: str
    acknowledged: list[Step] = field(default_factory=list)
    killed: threading.Event = field(default_factory=threading.Event)

    def send(self, data: bytes, token: str, *, slow: bool = False) -> bool:
        """Whether it came to an entry before the server was gone; a slow one completes none before it is killed."""
        pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        told = {
            "content": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "chunks": [hashlib.sha256(piece).hexdigest() for piece in pieces],
        }
        headers = {"Authorization": f"Bearer {token}"}
        try:
            with httpx.Client(base_url=self.url, headers=headers, timeout=60.0) as http:
                begun = http.post("/api/boards/sums/uploads", json=told).raise_for_status().json()
                id_ = begun["upload"]
                for n in begun["missing"]:
                    http.put(f"/api/uploads/{id_}/chunks/{n}", content=pieces[n]).raise_for_status()
                    self.acknowledged.append(("put", id_, n))
                assert not slow or self.killed.wait(200)
                http.post(f"/api/uploads/{id_}/complete", json={}).raise_for_status()
                self.acknowledged.append(("complete", id_, 0))
                return True
        except httpx.TransportError:
            return False

    def completed(self) -> int:
        return sum(step == "complete" for step, _, _ in self.acknowledged)


@contextmanager
def serving(where: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server process, which answers, and its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, where, str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            try:
                httpx.get(f"{url}/api/boards/sums/terms").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


def different(data: bytes, count: int) -> list[bytes]:
    """As many bundles of one run with different contents."""
    made = []
    for n in range(count):
        lines = Lines.of(data)
        lines.manifest["created"] = f"{n}"
        made.append(lines.sealed())
    return made


def check(where: str, acknowledged: Sequence[Step]) -> None:
    """Whatever was acknowledged is in the database, and every entry is whole."""
    with BoardDatabase.open(where) as db:
        with db.reading() as connection:
            pieces = connection.execute(sa.select(upload_chunks.c.upload, upload_chunks.c.n))
            kept = {(row.upload, row.n) for row in pieces}
            sent = {row.id: row for row in connection.execute(sa.select(table))}
            made = {row.id: row.state for row in connection.execute(sa.select(entries))}
        for step, id_, n in acknowledged:
            assert (id_, n) in kept if step == "put" else id_ in made, f"{step} {id_} {n} was lost"
        for id_, state in made.items():
            assert hashlib.sha256(b"".join(uploads.parts(db, id_))).hexdigest() == sent[id_].content
            assert sent[id_].state == ("complete" if state == "waiting" else state)
            attempts = len(list(db.store.attempts(entry_run(id_)))) if state != "waiting" else 0
            assert attempts == (60 if state == "verified" else 0)
        runs = {run.name for run in db.store.runs()}
        assert runs == {entry_run(id_) for id_, state in made.items() if state == "verified"}


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("sqlite", 5),
        pytest.param("sqlite", 200, marks=pytest.mark.slow),
        pytest.param("postgresql", 200, marks=pytest.mark.slow),
    ],
    indirect=["where"],
)
def test_a_killed_server_loses_nothing_acknowledged_and_keeps_nothing_by_half(
    where: str, tmp_path: Path, count: int
) -> None:
    board = a_board(tmp_path)
    ran(tmp_path / "run.sqlite", board, {"id": "scripted", "replies": [write_answer("8")]})
    bundles = different(bundle_of(tmp_path / "run.sqlite", "mine", board), count)
    with BoardDatabase.open(where) as db:
        boards.create(db, board)
        # Of accounts of their own: one run of one account is one entry, whatever it is packed in.
        tokens = [create_token(db, f"account-{n}", ["submit"]) for n in range(count)]
    with ThreadPoolExecutor(count) as threads:
        with serving(where) as (process, url):
            sender = Sender(url)
            sent = [
                threads.submit(sender.send, *both, slow=n == 0)
                for n, both in enumerate(zip(bundles, tokens, strict=True))
            ]
            while sender.completed() < count // 3:
                time.sleep(0.001)
            process.kill()
            process.wait()
            sender.killed.set()
            arrived = [future.result() for future in sent]
        assert not all(arrived)  # it was killed amid them
        check(where, sender.acknowledged)
        with serving(where) as (_, url):
            later = Sender(url)
            assert all(threads.map(later.send, bundles, tokens))
            _decided(where, count)
        check(where, sender.acknowledged + later.acknowledged)


def _decided(where: str, count: int) -> None:
    """Waits until the server has decided every entry."""
    until = time.monotonic() + 10 + count
    with BoardDatabase.open(where) as db:
        while time.monotonic() < until:
            with db.reading() as connection:
                found = connection.execute(sa.select(entries.c.state, entries.c.reasons)).all()
            if len(found) == count and all(state != "waiting" for state, _ in found):
                break
            time.sleep(0.1)
    assert [state for state, _ in found] == ["verified"] * count, [unpack(r) for s, r in found if s != "verified"][:1]
