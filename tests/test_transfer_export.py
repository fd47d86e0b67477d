"""Exporting a run: nothing is lost, nothing half is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from testbed.errors import StoreError, UnknownName, UsageError
from testbed.store import ArmRecord, MessageScore, Run, ScorerRecord, Store
from testbed.store.schema import attempts, transcripts
from testbed.transfer import Columns, export, import_outcomes
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status, Task, attempt_id, digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


ODD = "nul \x00, 🜁,\nline"
LONE = "half a pair \ud800"


async def fill(store: Store) -> Run:
    """A run of two arms at two tasks with everything that an attempt can have."""
    tasks = [Task("Odd-v0", ODD, 1, cluster="c"), Task("Odd-v0", "plain", 2)]
    arms = tuple(ArmRecord(digest(name), name, {}) for name in ("bare", "python"))
    run = Run("r", {"env": "Odd-v0"}, 5, arms, "2026-01-01", {"bare": 2, "python": 2})
    store.add_run(run, tasks)
    async with store.writer() as writer:
        for task in tasks:
            for arm in arms:
                for n in range(2):
                    await writer.add(an_attempt(task, arm, n, lost=task is tasks[1] and n == 1))
    return run


def an_attempt(task: Task, arm: ArmRecord, n: int, *, lost: bool) -> Attempt:
    return Attempt(
        id=attempt_id(task.hash, arm.hash, n, 5),
        task=task.hash,
        arm=arm.hash,
        sample=n,
        seed=5,
        status=Status.MISSING if lost else Status.COMPLETE,
        ended="missing:transport_error" if lost else "limit:turns" if n else "answered",
        success=None if lost else n == 0,
        score=None if n else 0.25,
        answer=None if n else LONE,
        cost=Cost(1, 2, 3, 4, 5, 6, 0.5, 1e-6),
        faults={"timeout": 2} if arm.name == "python" else {},
        transcript=({"role": "user", "content": ODD}, {"role": "assistant", "content": LONE}),
    )


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
async def test_exported_lines_import_as_the_same_outcomes(store: Store, folder: Path, name: str) -> None:
    await fill(store)
    assert export(store, "r", folder / name) == 8
    import_outcomes(store, folder / name, "again", Columns.exported())
    was, now = store.outcomes("r"), store.outcomes("again")
    for part in ("task", "arm", "sample", "success", "cost", "ended", "faults"):
        np.testing.assert_array_equal(getattr(was, part), getattr(now, part), err_msg=part)
    assert [arm.name for arm in now.arms] == [arm.name for arm in was.arms]
    assert [task.cluster for task in now.tasks] == [task.cluster for task in was.tasks]


async def test_exported_lines_hold_whole_attempts(store: Store, folder: Path) -> None:
    await fill(store)
    export(store, "r", folder / "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    for row, attempt in zip(rows, store.attempts("r"), strict=True):
        assert (row["id"], row["answer"], row["seed"], row["score"]) == (attempt.id, attempt.answer, 5, attempt.score)
        assert tuple(row["transcript"]) == attempt.transcript
        assert row["faults"] == attempt.faults
    assert {row["prompt"] for row in rows} == {ODD, "plain"}


async def test_parquet_holds_a_typed_row_an_attempt(store: Store, folder: Path) -> None:
    run = await fill(store)
    export(store, "r", folder / "out.parquet")
    table = pq.read_table(folder / "out.parquet")
    attempts = list(store.attempts("r"))
    assert table["id"].to_pylist() == [a.id for a in attempts]
    assert table["success"].to_pylist() == [a.success for a in attempts]
    assert table["arm"].to_pylist() == [arm.name for arm in run.arms for _ in range(4)]
    for component in COST_COMPONENTS:
        assert table[component].to_pylist() == [getattr(a.cost, component) for a in attempts]
    assert [json.loads(text) for text in table["faults"].to_pylist()] == [a.faults for a in attempts]
    assert json.loads(table["transcript"][0].as_py())[0]["content"] == ODD
    assert str(table.schema.field("success").type) == "bool"
    assert str(table.schema.field("generated_tokens").type) == "int64"


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
async def test_transcripts_are_left_out_on_request(store: Store, folder: Path, name: str) -> None:
    await fill(store)
    export(store, "r", folder / name, transcripts=False)
    path = folder / name
    columns = (
        pq.read_table(path).column_names if name.endswith("parquet") else json.loads(path.read_text().splitlines()[0])
    )
    assert "transcript" not in columns
    assert "faults" in columns


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_a_run_without_attempts_exports_as_an_empty_table(store: Store, folder: Path, name: str) -> None:
    store.add_run(Run("r", {}, 0, (), "2026-01-01", {}), [])
    assert export(store, "r", folder / name) == 0
    if name.endswith("parquet"):
        assert pq.read_table(folder / name).num_rows == 0


async def test_a_file_that_exists_is_replaced_only_by_force(store: Store, folder: Path) -> None:
    await fill(store)
    (folder / "out.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"exists\. Give another name, or replace it with --force"):
        export(store, "r", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_text() == "mine"
    assert export(store, "r", folder / "out.jsonl", force=True) == 8


async def test_an_export_that_fails_leaves_nothing_and_keeps_the_old_file(store: Store, folder: Path) -> None:
    await fill(store)
    (folder / "out.parquet").write_text("mine")
    with store._database.writing() as connection:
        last = sa.select(sa.func.max(attempts.c.id)).scalar_subquery()
        connection.execute(transcripts.update().where(transcripts.c.attempt == last).values(data=b"\0"))
    with pytest.raises(StoreError, match=r"transcript of attempt \w{32} is damaged"):
        export(store, "r", folder / "out.parquet", force=True)
    assert (folder / "out.parquet").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["out.parquet"]


def test_an_unknown_run_or_format_or_folder_is_named(store: Store, folder: Path) -> None:
    store.add_run(Run("demo", {}, 0, (), "2026-01-01", {}), [])
    with pytest.raises(UnknownName, match=r"unknown export format '\.xlsx'"):
        export(store, "demo", folder / "out.xlsx")
    with pytest.raises(UnknownName, match="Did you mean 'demo'"):
        export(store, "dmo", folder / "out.jsonl")
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        export(store, "demo", folder / "none" / "out.jsonl")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "jsonl.gz"])
def test_a_folder_that_is_none_is_told_alike_in_every_format(store: Store, folder: Path, ending: str) -> None:
    store.add_run(Run("demo", {}, 0, (), "2026-01-01", {}), [])
    (folder / "file").write_text("mine")
    none, file = folder / "none", folder / "file"
    for place, why in (
        (none, f"No such file or directory; make the folder {none} first"),
        (file, f"Not a directory; {file} is a file: give another path"),
    ):
        with pytest.raises(UsageError) as told:
            export(store, "demo", place / f"out.{ending}")
        assert str(told.value) == f"{place}/out.{ending} cannot be written: {why}."


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_name_that_is_too_long_with_what_it_has_meanwhile_is_told(store: Store, folder: Path, ending: str) -> None:
    store.add_run(Run("none", {}, 0, (), "2026-01-01", {}), [])
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        export(store, "none", folder / f"{'x' * 247}.{ending[:3]}", format=ending)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
async def test_scores_go_out_a_row_for_each_message_and_model(store: Store, folder: Path, ending: str) -> None:
    scorers = (ScorerRecord("one", {"weights": "a"}), ScorerRecord("other", {"weights": "b"}))
    path = folder / f"scores.{ending}"
    await fill(store)
    attempt = store.find(attempt_id(store.tasks("r")[0].hash, digest("python"), 1, 5))
    assert attempt is not None
    for scorer in scorers:
        store.scores.add(scorer, [MessageScore(attempt.id, n, "assistant", 3, n + 0.5) for n in (1, 3)])
    assert export(store, "r", path, scores=True) == 4
    text = path.read_text("utf-8") if ending == "jsonl" else ""
    rows = [json.loads(line) for line in text.splitlines()] if text else pq.read_table(path).to_pylist()
    assert {(row["scorer"], row["message"], row["nats"]) for row in rows} == {
        (scorer.name, n, n + 0.5) for scorer in scorers for n in (1, 3)
    }
    assert {(row["arm"], row["sample"], row["attempt"], row["success"]) for row in rows} == {
        ("python", 1, attempt.id, False)
    }


async def test_a_run_that_nobody_scored_has_no_scores_to_write(store: Store, folder: Path) -> None:
    await fill(store)
    with pytest.raises(UsageError, match="testbed nats r"):
        export(store, "r", folder / "scores.jsonl", scores=True)
    assert not (folder / "scores.jsonl").exists()


async def test_csv_holds_what_spreadsheets_read(store: Store, folder: Path) -> None:
    import csv

    await fill(store)
    path = folder / "out.csv"
    assert export(store, "r", path, transcripts=False) == 8
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = folder / "out.jsonl"
    export(store, "r", lines, transcripts=False)
    same = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [(row["arm"], row["prompt"], int(row["sample"])) for row in rows] == [
        (row["arm"], row["prompt"], row["sample"]) for row in same
    ]
    assert [row["success"] for row in rows] == [
        "" if row["success"] is None else str(row["success"]).lower() for row in same
    ]
