"""Runs that are renamed and deleted: what others share stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.command import Done
from helpers.stored import ARMS, TASKS, every_attempt, make_run, put
from testbed.board.database import BoardDatabase
from testbed.errors import StoreError, UnknownName
from testbed.store import MessageScore, ScorerRecord, Store
from testbed.store.runs import RunTables
from testbed.store.schema import transcripts


def rows(store: Store, table: sa.Table) -> int:
    with store._database.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


async def test_what_no_other_run_has_goes_and_what_others_share_stays(store: Store) -> None:
    long, short = make_run("long"), make_run("short", samples=2, arms=ARMS[:1])
    other_seed = make_run("other", seed=8)
    for run in (long, short, other_seed):
        store.add_run(run, TASKS)
    await put(store, *every_attempt(long), *every_attempt(other_seed))
    scored = every_attempt(long)
    store.scores.add(ScorerRecord("m", {}), [MessageScore(a.id, 0, "assistant", 1, 0.5) for a in scored])

    shared = len(TASKS) * 2
    assert store.edits.own_attempts("long") == len(scored) - shared
    assert store.edits.delete("long") == len(scored) - shared
    assert [(run.name, run.attempts) for run in store.runs()] == [("other", len(scored)), ("short", shared)]
    assert list(store.attempts("short")) == [a for a in scored if a.arm == ARMS[0].hash and a.sample < 2]
    assert rows(store, transcripts) == shared + len(scored)
    assert len(store.scores.of("short", ScorerRecord("m", {}).hash).id) == shared
    with pytest.raises(UnknownName, match="long"):
        store.run("long")
    assert store.edits.delete("short") == shared


async def test_a_renamed_run_keeps_its_attempts_and_its_experiment_finds_it(store: Store) -> None:
    run = make_run("r")
    named = type(run)("r", {"name": "r", "seed": 7}, run.seed, run.arms, run.created, run.samples)
    store.add_run(named, TASKS)
    await put(store, *every_attempt(run))
    store.edits.rename("r", "s")
    assert [(found.name, found.attempts) for found in store.runs()] == [("s", len(every_attempt(run)))]
    again = type(run)("s", {"name": "s", "seed": 7}, run.seed, run.arms, run.created, run.samples)
    store.add_run(again, TASKS)  # which refuses an experiment that changed
    store.add_run(make_run("taken"), TASKS)
    for name, said in (("taken", "already"), ("", "printable"), ("a\nb", "printable")):
        with pytest.raises(StoreError, match=said):
            store.edits.rename("s", name)


def test_entries_of_boards_stay_as_sent(db: BoardDatabase) -> None:
    with db.writing() as connection:
        RunTables(db.database).write(connection, make_run("entry"), TASKS)
    for change in (db.store.edits.delete, lambda name: db.store.edits.rename(name, "x")):
        with pytest.raises(StoreError, match="entries, which stay as sent"):
            change("entry")
    assert db.store.run("entry").name == "entry"


async def test_the_command_says_what_would_go_before_it_goes(testbed: Callable[..., Done]) -> None:
    with Store.open("testbed.sqlite") as store:
        store.add_run(make_run("r"), TASKS)
        await put(store, *every_attempt(make_run("r")))
    asked = testbed("runs", "delete", "r")
    assert asked.code == 2
    assert asked.out == "24 attempts of run 'r' are in no other run and would be gone; --yes deletes them.\n"
    assert testbed("runs", "rename", "r", "s").out == "run 'r' is now 's'\n"
    done = testbed("runs", "delete", "s", "--yes")
    assert (done.code, done.out) == (0, "deleted run 's' and 24 attempts that no other run has\n")
    assert "s" not in testbed("list", "runs").out.split()[6:]


@pytest.mark.parametrize("name", ["a/b", "a b", "a" * 101, "sums_2026-11.v2"])
def test_a_run_gets_no_name_that_its_experiment_file_could_not_have(
    testbed: Callable[..., Done], tmp_path: Path, name: str
) -> None:
    text = 'name = "r"\nsamples = 1\nmodel = { id = "scripted", replies = ["4"] }\n'
    text += '[[env]]\nid = "Addition-v0"\ntasks = 1\n[[arm]]\nname = "bare"\n'
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert testbed("run", "r.toml").code == 0
    renamed = testbed("runs", "rename", "r", name)
    (tmp_path / "r.toml").write_text(text.replace('"r"', f'"{name}"'), encoding="utf-8")
    goes_on = testbed("run", "r.toml")
    assert goes_on.code == renamed.code
    assert ("0 new, 1 from before" in goes_on.err) == (renamed.code == 0)
    assert renamed.code == 0 or "is no name of an experiment" in renamed.err


def test_a_run_of_imported_outcomes_gets_any_name(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("q,mode,ok\n1,bare,1\n", encoding="utf-8")
    assert testbed("import", "log.csv", "--run", "r", "--task", "q", "--arm", "mode", "--success", "ok").code == 0
    assert testbed("runs", "rename", "r", "a/b").code == 0
