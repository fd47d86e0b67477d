"""Entries of a board whose attempts come from a store, as the server writes them once it has checked an upload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.boards import SUMS, a_board, a_run
from testbed.board import boards, ranking
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.results import FIGURES, as_bytes, compute_entry
from testbed.board.schema import ACCEPTED, entries, entry_arm, entry_arms, entry_run
from testbed.store import ArmRecord, Run, Store
from testbed.store.runs import RunTables
from testbed.store.schema import pack
from testbed.types import Attempt, attempt_id, digest


def enter(
    db: BoardDatabase,
    board: Board,
    source: Store,
    run: str,
    *,
    title: str = "An entry",
    state: str = "verified",
    reasons: Sequence[dict[str, str]] = (),
    manifest: dict[str, Any] | None = None,
    model: str = "",
    created: str = "2026-01-01T00:00:00+00:00",
    compute: bool = True,
    id_: str = "",
    rewrite: Callable[[Attempt], Attempt] = lambda attempt: attempt,
) -> str:
    """Enters a run of a store; returns the entry's id. Its figures are computed as the server computes them.

    Args:
        db: the board's database.
        board: the board, whose tasks are the run's.
        source: where the run is.
        run: its name.
        title: of the entry.
        state: what the check came to.
        reasons: why.
        manifest: what its author says of it.
        model: in place of the run's own model id, so that one run serves as several models.
        created: when it came.
        compute: whether its figures are computed, where its state lets them be shown.
        id_: of the entry; by default made from board, run and title.
        rewrite: what becomes of each attempt, such as another transcript.
    """
    old = source.run(run)
    assert old.seed == board.seed, "entries have their board's seed"
    id_ = id_ or digest([board.slug, run, title])
    made = {arm.hash: entry_arm(id_, arm.hash) for arm in old.arms}
    arms = tuple(ArmRecord(made[arm.hash], arm.name, arm.spec) for arm in old.arms)
    experiment = {**old.experiment, "measure": dict(board.spec.get("measure", {}))}
    if model:
        experiment["model"] = {"id": model}
        experiment["arm"] = [{k: v for k, v in arm.items() if k != "model"} for arm in experiment.get("arm", ())]
    entered = Run(entry_run(id_), experiment, old.seed, arms, old.created, old.samples)
    with db.writing() as connection:
        RunTables(db.database).write(connection, entered, source.tasks(run))
    asyncio.run(_copy(db, [_of_entry(rewrite(attempt), made) for attempt in source.attempts(run)]))
    row = {
        "id": id_,
        "board": board.slug,
        "account": "somebody",
        "title": pack(title),
        "kind": "submitted",
        "state": state,
        "reasons": json.dumps(list(reasons)),
        "manifest": pack(manifest or {"description": "what its author says"}),
        "created": created,
        "decided": created,
    }
    with db.writing() as connection:
        connection.execute(entries.insert().values(**row))
    if compute and state in ACCEPTED:
        compute_entry(db, id_)
    return id_


def _of_entry(attempt: Attempt, arms: dict[str, str]) -> Attempt:
    arm = arms[attempt.arm]
    return replace(attempt, arm=arm, id=attempt_id(attempt.task, arm, attempt.sample, attempt.seed))


async def _copy(db: BoardDatabase, attempts: Sequence[Attempt]) -> None:
    async with db.store.writer() as writer:
        for attempt in attempts:
            await writer.add(attempt)


HOSTILE = (
    "<script>document.title='owned'</script></textarea><img src=x onerror=alert(1)>\u202egnp.exe\u202c\x1b[31m{{ 7*7 }}"
)


def said(text: str, sample: int | None = None) -> Callable[[Attempt], Attempt]:
    """Puts words into the model's mouth: this text becomes the last message of attempts.

    Args:
        text: what is said.
        sample: the attempt that says it at the run's first task, in each arm; None for every attempt at every task.
    """
    first: list[str] = []

    def rewritten(attempt: Attempt) -> Attempt:
        first.append(attempt.task)  # attempts come by arm, task and sample
        if sample is not None and (attempt.task, attempt.sample) != (first[0], sample):
            return attempt
        *before, last = attempt.transcript
        return replace(attempt, transcript=[*before, {**last, "content": text}])

    return rewritten


def boarded(
    folder: Path,
    where: str = "",
    *,
    tasks: int = 6,
    private: bool = False,
    entries_: Sequence[dict[str, Any]] = ({},),
    **changes: Any,
) -> tuple[BoardDatabase, Board, list[str]]:
    """A database with one board of sums, its entries and its ranking; close it after use.

    Args:
        folder: for what else is made.
        where: the database; an SQLite file in the folder by default.
        tasks: of the board.
        private: whether the board says that its tasks are.
        entries_: arguments of `enter` for each entry, with "skill", "helped" and "arms" of `a_run`.
        changes: of the board's file.
    """
    board = a_board(folder, SUMS.replace("tasks = 6", f"tasks = {tasks}"), **changes)
    db = BoardDatabase.open(where or folder / f"{board.slug}.sqlite")
    made = boards.create(db, replace(board, private=private))
    return db, made, add_entries(db, made, folder, entries_)


def add_entries(db: BoardDatabase, board: Board, folder: Path, entries_: Sequence[dict[str, Any]]) -> list[str]:
    """Makes runs, enters them, and ranks the board; returns the entries' ids."""
    ids = []
    for n, asked in enumerate(entries_):
        run = {key: asked[key] for key in ("skill", "helped", "arms") if key in asked}
        rest = {key: value for key, value in asked.items() if key not in run}
        name = f"{board.slug}-{n}"
        a_run(folder / "source.sqlite", board, name, **run)
        with Store.open(folder / "source.sqlite") as source:
            ids.append(enter(db, board, source, name, **{"title": f"Entry {n}", **rest}))
    ranking.recompute(db, board)
    return ids


def place(
    db: BoardDatabase,
    board: Board,
    entry: str,
    arms: Sequence[dict[str, Any]],
    *,
    state: str = "verified",
    created: str = "2026-01-01T00:00:00+00:00",
) -> None:
    """Writes an entry with known counts and no attempts, for what only reads counts; ids are 32 times one character.

    Args:
        db: the database.
        board: the board.
        entry: a character of 0-9 and a-f.
        arms: of each: share, n; or n and c by task, and "made" where some are missing; and any column of `entry_arms`.
        state: what the check came to.
        created: when it came.
    """
    id_, size = entry * 32, len(board.tasks)
    head = {"id": id_, "board": board.slug, "account": "somebody", "title": pack(f"Entry {entry}"), "kind": "submitted"}
    told = {"state": state, "reasons": "[]", "manifest": "{}", "created": created, "decided": created}
    rows = [_placed(id_, position, arm, size) for position, arm in enumerate(arms)]
    with db.writing() as connection:
        connection.execute(entries.insert().values(**head, **told))
        connection.execute(entry_arms.insert(), rows)


def _placed(entry: str, position: int, arm: dict[str, Any], size: int) -> dict[str, Any]:
    n = np.full(size, arm.get("n", 4)) if np.isscalar(arm.get("n", 4)) else np.array(arm["n"])
    c = np.array(arm["c"]) if "c" in arm else np.where(np.arange(size) < arm["share"] * size, n, 0)
    reach = float((c / np.maximum(n, 1)).mean())
    tools = sorted(arm.get("tools", ()))
    gain = arm.get("gain")
    figures = dict.fromkeys(FIGURES) | {
        "operating": {"k": 1, "estimate": {"value": reach, "low": reach, "high": reach}},
        "gain": None if gain is None else {"value": gain, "low": gain - 0.1, "high": gain + 0.1},
        "claims": True,
        "samples": int(arm.get("made", n.max())),
    }
    return {
        "entry": entry,
        "position": position,
        "name": pack(arm.get("name", "+".join(tools) or "bare")),
        "arm": digest([entry, position]),
        "model": pack(arm.get("model", "model")),
        "tools": pack(tools),
        "control": arm.get("control", "live" if tools else "absent"),
        "bare": arm.get("bare", not tools),
        "reach": reach,
        "gain": gain,
        "creation": None,
        "tokens": arm.get("tokens", 10.0),
        "usd": arm.get("usd"),
        "figures": json.dumps(figures),
        "n": as_bytes(n),
        "c": as_bytes(c),
    }
