"""Bundles of honest runs, and what forgers make of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import zstandard

from helpers.boards import an_experiment
from testbed.board import uploads
from testbed.board.boards import Board
from testbed.board.bundle import write_bundle
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries
from testbed.board.settings import Settings
from testbed.board.uploads import Announced
from testbed.board.verify import Means, verify_entry
from testbed.experiment_file import parse_experiment
from testbed.runner import Runner
from testbed.store import Store
from testbed.store.schema import pack, unpack
from testbed.types import attempt_id, digest

LABELS = ("name", "stateful", "schemas", "replays")


@dataclass
class Lines:
    """The lines of a bundle, to be changed at will."""

    manifest: dict[str, Any]
    arms: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    attempts: list[dict[str, Any]]

    @classmethod
    def of(cls, data: bytes) -> Lines:
        text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        lines = [json.loads(line) for line in text.splitlines()]
        head, counts = lines[0], (lines[0]["arms"], lines[0]["tasks"])
        return cls(head, lines[1 : 1 + counts[0]], lines[1 + counts[0] : 1 + sum(counts)], lines[1 + sum(counts) :])

    def of_arm(self, name: str) -> list[dict[str, Any]]:
        hash = next(arm["hash"] for arm in self.arms if arm["name"] == name)
        return [attempt for attempt in self.attempts if attempt["arm"] == hash]

    def first(self, name: str, **having: Any) -> dict[str, Any]:
        """The first attempt of an arm with these values."""
        return next(a for a in self.of_arm(name) if all(a[key] == value for key, value in having.items()))

    def sealed(self, *, counted: bool = True) -> bytes:
        """The bytes, with every hash and id made to fit: a forger knows how these are made."""
        for arm in self.arms:
            old, arm["hash"] = arm["hash"], digest({k: v for k, v in arm["spec"].items() if k not in LABELS})
            for attempt in self.attempts:
                if attempt["arm"] == old:
                    attempt["arm"] = arm["hash"]
        for attempt in self.attempts:
            attempt["id"] = attempt_id(attempt["task"], attempt["arm"], attempt["sample"], attempt["seed"])
        if counted:
            counts = {"arms": len(self.arms), "tasks": len(self.tasks), "attempts": len(self.attempts)}
            self.manifest.update(counts)
        return packed([self.manifest, *self.arms, *self.tasks, *self.attempts])


def packed(lines: list[Any]) -> bytes:
    return zstandard.compress("".join(pack(line) + "\n" for line in lines).encode())


def bundle_of(where: Path, run: str, board: Board) -> bytes:
    """The bundle of a run, as `testbed board submit` makes it."""
    with Store.open(where, create=False) as store:
        found, tasks = store.run(run), store.tasks(run)
        wanted = {arm.name: board.samples["tools" if arm.spec["tools"] else "bare"] for arm in found.arms}
        return write_bundle(store, found, tasks, wanted, where.with_suffix(".bundle")).path.read_bytes()


def upload(db: BoardDatabase, board: str, data: bytes, account: str = "ann", chunk: int = 4096) -> str:
    """Sends a bundle and makes an entry of it; returns the entry's id."""
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    hashes = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    announced = Announced(hashlib.sha256(data).hexdigest(), len(data), hashes)
    settings = Settings(chunk=chunk)
    id_ = uploads.begin(db, settings, account, board, announced).id
    for n, piece in enumerate(pieces):
        uploads.put(db, account, id_, n, piece)
    return uploads.complete(db, settings, account, id_, "an entry")


@dataclass
class Examined:
    """What became of an entry."""

    id: str
    state: str
    reasons: list[dict[str, str]] = field(default_factory=list)

    def of(self, level: str) -> list[str]:
        return [f"{reason['check']}: {reason['text']}" for reason in self.reasons if reason["level"] == level]

    @property
    def wrong(self) -> str:
        return "\n".join(self.of("wrong"))


def examine(db: BoardDatabase, board: str, data: bytes, means: Means | None = None) -> Examined:
    """Sends a bundle and has it checked."""
    id_ = upload(db, board, data)
    state = verify_entry(db, id_, means or Means())
    with db.reading() as connection:
        reasons = connection.scalar(sa.select(entries.c.reasons).where(entries.c.id == id_))
    return Examined(id_, state, unpack(reasons))


def ran(where: Path, board: Board, model: dict[str, Any], *, seed: int | None = None, name: str = "mine") -> str:
    """Runs an entry's experiment with a model into a store; returns the run's name."""
    source = {**an_experiment(board, name).source, "model": model}
    experiment = parse_experiment(source if seed is None else {**source, "seed": seed})
    with Store.open(where) as store:
        asyncio.run(Runner(experiment, store).run())
    return name
