"""A board with many entries, made up by a seed, for scripts/bench/board.py.

A board of 100 tasks gets entries of 1,000 attempts (six without tools, four with them, per task): outcomes of chance,
costs, a short transcript each. All attempts are rows of the store like any others. The first entries are worked out as
the server does it; of the others, charts and the widths of intervals are copies of those, since a thousand reports take
half an hour, while counts, means and everything that pages and rankings sort and add up are their own. The ranking, the
Pareto view and the mechanisms are then made by the server's own code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.board.boards import Board
    from testbed.board.database import BoardDatabase
    from testbed.store import Run
    from testbed.types import Attempt, Message

TASKS, BARE, WITH_TOOLS = 100, 6, 4
BOARD = f"""\
slug = "bench"
title = "Bench"
seed = 1

[samples]
bare = {BARE}
tools = {WITH_TOOLS}

[budget]
turns = 4
tool_calls = 2

[measure]
operating = 1
elicitation = 3
replicates = 500

[[env]]
id = "Addition-v0"
digits = 2
tasks = {TASKS}
"""
TOOLS = (["calculator"], ["python"], ["search"], ["python", "search"])
MODELS = 40


def fill(path: Path, entries: int, computed: int) -> None:
    """Makes the board, its entries and their attempts, and prints how long each part took."""
    from testbed.board import boards, ranking
    from testbed.board.database import BoardDatabase

    file = path.with_suffix(".toml")
    file.write_text(BOARD, encoding="utf-8")
    with BoardDatabase.open(path) as db:
        board = boards.create(db, boards.read_board_file(file))
        begun = time.perf_counter()
        for number in range(entries):
            add_entry(db, board, number, entries)
        _told("attempts written", time.perf_counter() - begun, f"{entries * TASKS * (BARE + WITH_TOOLS):,} attempts")
        work_out(db, board, entries, min(computed, entries))
        for turn in ("first", "second"):
            begun = time.perf_counter()
            ranking.recompute(db, board)
            _told(f"ranking made, {turn} time", time.perf_counter() - begun, f"{entries:,} entries")


def add_entry(db: BoardDatabase, board: Board, number: int, entries: int) -> None:
    """Writes an entry's row, its run and its attempts."""
    from testbed.board.schema import entries as table
    from testbed.board.schema import entry_run
    from testbed.store import Run
    from testbed.store.runs import RunTables
    from testbed.store.writer import AttemptTable

    records = arms_of(number)
    samples = {"bare": BARE, "tools": WITH_TOOLS}
    experiment = {"measure": dict(board.spec["measure"]), "model": {"id": f"model {number % MODELS}"}}
    run = Run(entry_run(entry_id(number)), experiment, board.seed, records, moment(number), samples)
    row = {"id": entry_id(number), "board": board.slug, "account": f"account-{number % 97}", "kind": "submitted"}
    row |= {"title": json.dumps(f"Entry {number}"), "state": "partly" if number % 3 else "verified", "manifest": "{}"}
    row |= {"reasons": "[]", "created": moment(number), "decided": moment(number)}
    with db.writing() as connection:
        RunTables(db.database).write(connection, run, board.tasks)
        AttemptTable(db.database).write(connection, attempts_of(board, run, number, entries))
        connection.execute(table.insert().values(**row))


def arms_of(number: int) -> tuple[Any, ...]:
    """An entry's two arms."""
    from testbed.store import ArmRecord
    from testbed.types import digest

    shared = {"name": f"model {number % MODELS}", "model": {"kind": "made up"}, "sampling": {"temperature": 1.0}}
    tools = [{"schema": {"function": {"name": name}}} for name in TOOLS[number % len(TOOLS)]]
    bare, live = {**shared, "control": "absent", "tools": []}, {**shared, "control": "live", "tools": tools}
    return tuple(ArmRecord(digest([number, name]), name, spec) for name, spec in (("bare", bare), ("tools", live)))


def attempts_of(board: Board, run: Run, number: int, entries: int) -> Iterator[Attempt]:
    """An entry's attempts: later entries are better, and tools help all of them."""
    import numpy as np

    from testbed.types import Attempt, Cost, Status, attempt_id

    rng = np.random.default_rng(number)
    easy = np.random.default_rng(0).random(TASKS)  # the same for all entries
    for record in run.arms:
        skill = 0.1 + 0.6 * number / max(1, entries) + (0.25 if record.name == "tools" else 0.0)
        for i, task in enumerate(board.tasks):
            for sample in range(run.samples[record.name]):
                success, tokens = bool(rng.random() < min(0.98, skill * (0.5 + easy[i]))), int(rng.integers(5, 400))
                asked: Message = {"role": "user", "content": task.prompt}
                words: Message = {"role": "assistant", "content": "The sum is so and so. " * (tokens // 20)}
                yield Attempt(
                    id=attempt_id(task.hash, record.hash, sample, board.seed),
                    task=task.hash,
                    arm=record.hash,
                    sample=sample,
                    seed=board.seed,
                    status=Status.COMPLETE,
                    ended="answered",
                    success=success,
                    score=None,
                    answer=str(task.reference) if success else "0",
                    cost=Cost(generated_tokens=tokens, prompt_tokens=60, model_calls=1, turns=1),
                    transcript=(asked, words),
                )


def work_out(db: BoardDatabase, board: Board, entries: int, computed: int) -> None:
    """Works out the first entries as the server does; of the others the counts, and the rest from those."""
    import sqlalchemy as sa

    from testbed.board.results import compute_entry
    from testbed.board.schema import entry_arms, entry_reports

    begun = time.perf_counter()
    for number in range(computed):
        compute_entry(db, entry_id(number))
    _told("entries worked out by the server's code", time.perf_counter() - begun, f"{computed} entries")
    with db.reading() as connection:
        arms = [dict(row._mapping) for row in connection.execute(sa.select(entry_arms))]
        report = dict(connection.execute(sa.select(entry_reports)).first()._mapping)  # type: ignore[union-attr]
    begun = time.perf_counter()
    for number in range(computed, entries):
        model = [row for row in arms if row["entry"] == entry_id(number % min(computed, len(TOOLS)))]
        rows = list(own_rows(db, board, number, sorted(model, key=lambda row: int(row["position"]))))
        with db.writing() as connection:
            connection.execute(entry_arms.insert(), rows)
            connection.execute(entry_reports.insert().values(**{**report, "entry": entry_id(number)}))
    _told("the other entries' rows", time.perf_counter() - begun, f"{entries - computed} entries")


def own_rows(db: BoardDatabase, board: Board, number: int, model: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An entry's rows of `entry_arms` from its attempts in the store; intervals are those of another entry."""
    import numpy as np

    from testbed.board.results import as_bytes
    from testbed.board.schema import entry_run

    outcomes = db.store.outcomes(entry_run(entry_id(number)))
    records, reach = arms_of(number), []
    for position, (record, row) in enumerate(zip(records, model, strict=True)):
        own = outcomes.arm == position
        n = np.bincount(outcomes.task[own], minlength=TASKS)
        c = np.bincount(outcomes.task[own], weights=outcomes.success[own] == 1, minlength=TASKS)
        reach.append(float((c / n).mean()))
        figures = json.loads(row["figures"])
        shift = reach[-1] - figures["operating"]["estimate"]["value"]
        figures["operating"]["estimate"] = moved(figures["operating"]["estimate"], shift, 0.0)
        gain = None if position == 0 else reach[1] - reach[0]
        if gain is not None:
            figures["gain"] = moved(figures["gain"], gain - figures["gain"]["value"], -1.0)
        yield {
            **row,
            "entry": entry_id(number),
            "arm": record.hash,
            "model": json.dumps(f"model {number % MODELS}"),
            "tools": json.dumps([] if position == 0 else TOOLS[number % len(TOOLS)], separators=(",", ":")),
            "reach": reach[-1],
            "gain": gain,
            "tokens": float(outcomes.cost[own, 0].mean()),
            "figures": json.dumps(figures),
            "n": as_bytes(n),
            "c": as_bytes(c),
        }


def moved(found: dict[str, float], by: float, least: float) -> dict[str, float]:
    """An estimate elsewhere, with limits as wide as before."""
    return {end: min(1.0, max(least, value + by)) for end, value in found.items()}


def entry_id(number: int) -> str:
    """Id of an entry."""
    return f"{number:032x}"


def moment(number: int) -> str:
    """When an entry came."""
    return f"2026-01-{1 + number % 28:02}T00:00:00.{number:06}+00:00"


def stored_arm(number: int, position: int) -> str:
    """Hash of an entry's arm in the store."""
    return str(arms_of(number)[position].hash)


def _told(what: str, seconds: float, of: str) -> None:
    """Prints how long a part took."""
    print(f"{what:<42} {seconds:9.2f} s   {of}", flush=True)
