"""Attempts, runs and outcomes, in both databases."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from helpers.stored import ARMS, ODD, TASKS, every_attempt, make_attempt, make_run, missing, put
from testbed.errors import StoreError, UnknownName
from testbed.store import ArmRecord, MessageScore, ScorerRecord, Store
from testbed.store import schema as store_schema
from testbed.store.records import changes
from testbed.types import COST_COMPONENTS, REDRAWN, Task, digest

# -- attempts


async def test_an_attempt_comes_back_as_it_was_stored(store: Store) -> None:
    attempt = make_attempt(sample=1)
    await put(store, attempt)
    assert store.find(attempt.id) == attempt


async def test_text_that_databases_refuse_comes_back_as_it_was_stored(store: Store) -> None:
    task = Task("Odd-v0", ODD.replace("\ud800", ""), {"answer": ODD}, cluster=ODD, meta={"note": ODD})
    odd = replace(make_attempt(task), answer=ODD, transcript=({"role": "assistant", "content": ODD},))
    store.add_run(make_run(), [task])
    await put(store, odd)
    assert store.find(odd.id) == odd
    assert store.tasks("r") == (task,)
    assert store.tasks("r")[0].meta == task.meta


async def test_a_complete_attempt_never_changes(store: Store) -> None:
    first = make_attempt()
    await put(store, first)
    await put(store, replace(first, success=False, transcript=()))
    await put(store, missing(first))
    assert store.find(first.id) == first


async def test_a_missing_attempt_gives_way_with_its_transcript(store: Store) -> None:
    second = make_attempt()
    await put(store, missing(replace(second, transcript=({"role": "system", "content": "the sandbox died"},))))
    await put(store, second)
    assert store.find(second.id) == second


async def test_within_one_batch_the_complete_attempt_wins(store: Store) -> None:
    early, late = make_attempt(sample=0), make_attempt(sample=1)
    await put(store, early, missing(early), missing(late), late)
    assert store.find(early.id) == early
    assert store.find(late.id) == late


async def test_finished_leaves_out_missing_attempts(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, make_attempt(sample=0), missing(make_attempt(sample=1)))
    assert store.finished("r") == {make_attempt(sample=0).id}


async def test_an_attempt_is_found_by_the_first_characters_of_its_id(store: Store) -> None:
    attempts = [make_attempt(sample=n) for n in range(40)]
    await put(store, *attempts)
    assert store.attempt(attempts[3].id[:12]) == attempts[3]
    assert store.attempt(attempts[3].id) == attempts[3]
    common = next(c for c in "0123456789abcdef" if sum(a.id.startswith(c) for a in attempts) > 1)
    with pytest.raises(StoreError, match=r"several attempts .* Give more characters"):
        store.attempt(common)
    with pytest.raises(StoreError, match=r"no attempt in .* begins with"):
        store.attempt("0" * 32)
    with pytest.raises(StoreError, match="32 characters"):
        store.attempt("demo%")


# -- runs


def test_a_run_and_its_tasks_come_back_in_order(store: Store) -> None:
    run, backwards = make_run(), TASKS[::-1]
    store.add_run(run, backwards)
    assert store.run("r") == run
    assert store.tasks("r") == backwards
    assert [task.meta for task in store.tasks("r")] == [task.meta for task in backwards]


def test_adding_the_same_run_again_changes_nothing(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    later = replace(make_run(), created="2027-01-01T00:00:00+00:00")
    store.add_run(later, TASKS)
    assert store.run("r") == make_run()
    assert len(store.runs()) == 1


def test_a_changed_experiment_is_refused_with_what_changed(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    harder = ArmRecord(digest("other"), "python", {"model": "scripted", "tools": ["search"]})
    changed = replace(make_run(seed=8, arms=(ARMS[0], harder)), samples={"bare": 3, "python": 5})
    with pytest.raises(StoreError) as caught:
        store.add_run(changed, TASKS[:3])
    said = str(caught.value)
    for part in ("seed 7 → 8", 'tools[0] "python" → "search"', "samples of 'python' 3 → 5", "tasks: 1 removed"):
        assert part in said, said
    assert store.run("r") == make_run()


def test_a_run_goes_on_when_its_experiment_only_says_its_name_or_describes_itself(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    said = {**make_run().experiment, "name": "r", "description": "What python adds"}
    store.add_run(replace(make_run(), experiment=said), TASKS)
    assert store.run("r").experiment == said


def test_a_changed_seed_is_told_once(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    with pytest.raises(StoreError, match=r"was started: seed 7 → 8\. Give"):
        store.add_run(make_run(seed=8), TASKS)


def test_a_task_keeps_its_newest_labels(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    relabelled = [replace(task, cluster="all", meta={"size": 0}) for task in TASKS]
    store.add_run(make_run(), relabelled)
    assert {task.cluster for task in store.tasks("r")} == {"all"}


async def test_runs_share_attempts_of_the_same_content(store: Store) -> None:
    store.add_run(make_run("first"), TASKS)
    await put(store, *every_attempt(make_run()))
    store.add_run(make_run("second", arms=ARMS[:1]), TASKS[:2])
    bare = {
        a.id for a in every_attempt(make_run()) if a.arm == ARMS[0].hash and a.task in (TASKS[0].hash, TASKS[1].hash)
    }
    assert store.finished("second") == bare


@pytest.mark.parametrize(
    ("samples", "seed", "stored"), [(3, 7, 24), (2, 7, 16), (5, 7, 24), (3, 8, 0)], ids=["all", "fewer", "more", "seed"]
)
async def test_a_run_has_only_attempts_of_its_seed_and_sample_count(
    store: Store, samples: int, seed: int, stored: int
) -> None:
    store.add_run(make_run(samples=samples, seed=seed), TASKS)
    await put(store, *every_attempt(make_run()))
    assert len(store.outcomes("r").task) == len(store.finished("r")) == store.runs()[0].attempts == stored


async def test_two_arms_of_equal_content_both_have_the_attempts(store: Store) -> None:
    twin = replace(ARMS[0], name="bare again")
    store.add_run(make_run(arms=(ARMS[0], twin)), TASKS)
    await put(store, *every_attempt(make_run()))
    assert np.bincount(store.outcomes("r").arm).tolist() == [12, 12]
    assert len(list(store.attempts("r", arm="bare again"))) == 12


async def test_runs_are_summed_up_oldest_first(store: Store) -> None:
    store.add_run(make_run("b"), TASKS)
    store.add_run(replace(make_run("a"), created="2026-02-01T00:00:00+00:00"), TASKS[:1])
    await put(store, make_attempt(), missing(make_attempt(TASKS[1])))
    assert [(s.name, s.tasks, s.arms, s.attempts, s.missing) for s in store.runs()] == [
        ("b", 4, 2, 2, 1),
        ("a", 1, 2, 1, 0),
    ]


@pytest.mark.parametrize("read", ["run", "tasks", "finished", "outcomes", "attempts"])
def test_an_unknown_run_is_named_with_the_nearest_one(store: Store, read: str) -> None:
    store.add_run(make_run("demonstration"), TASKS)
    with pytest.raises(UnknownName, match="Did you mean 'demonstration'"):
        list(getattr(store, read)("demonstratoin"))


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_a_run_needs_a_printable_name(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="printable"):
        store.add_run(make_run(name), TASKS)


# -- outcomes


async def test_outcomes_are_the_attempts_in_order_whatever_order_they_were_stored_in(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    attempts = every_attempt(make_run())
    attempts[5] = missing(attempts[5])
    shuffled = attempts.copy()
    random.Random(0).shuffle(shuffled)
    await put(store, *shuffled)

    got = store.outcomes("r")
    assert got.tasks == TASKS
    assert got.arms == ARMS
    hashes = [task.hash for task in TASKS]
    assert [hashes[t] for t in got.task] == [a.task for a in attempts]
    assert [ARMS[n].hash for n in got.arm] == [a.arm for a in attempts]
    assert got.sample.tolist() == [a.sample for a in attempts]
    assert got.success.tolist() == [-1 if a.success is None else int(a.success) for a in attempts]
    assert got.cost.tolist() == [list(map(float, a.cost.as_dict().values())) for a in attempts]
    assert got.ended.tolist() == [a.ended for a in attempts]
    assert got.faults.tolist() == [sum(a.faults.values()) for a in attempts]
    assert list(store.attempts("r")) == attempts


async def test_outcomes_keep_every_ending_and_sum_of_faults(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.store.runs._BLOCK", 5)  # the 24 attempts come in several blocks
    store.add_run(make_run(), TASKS)
    endings = ("answered", "limit:turns", "limit:tool_calls", "answered")
    faults: tuple[dict[str, int], ...] = ({}, {"timeout": 2}, {"timeout": 1, "parse_error": 3})
    attempts = [
        replace(attempt, ended=endings[i % 4], faults=faults[i % 3])
        for i, attempt in enumerate(every_attempt(make_run()))
    ]
    await put(store, *reversed(attempts))
    got = store.outcomes("r")
    assert got.ended.tolist() == [attempt.ended for attempt in attempts]
    assert got.faults.tolist() == [sum(attempt.faults.values()) for attempt in attempts]
    assert got.cost.tolist() == [list(map(float, a.cost.as_dict().values())) for a in attempts]


async def test_outcomes_need_no_transcript(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, *every_attempt(make_run()))
    whole = store.outcomes("r")
    with store._database.writing() as connection:
        connection.execute(sa.text("UPDATE transcripts SET data = :data"), {"data": b"damaged"})
    assert store.outcomes("r").success.tolist() == whole.success.tolist()
    with pytest.raises(StoreError, match="damaged"):
        store.find(every_attempt(make_run())[0].id)


def test_a_run_without_attempts_has_empty_arrays_of_the_right_shape(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    got = store.outcomes("r")
    assert got.cost.shape == (0, len(COST_COMPONENTS))
    assert [a.dtype for a in (got.task, got.arm, got.sample, got.success, got.cost, got.faults)] == [
        np.int32,
        np.int32,
        np.int32,
        np.int8,
        np.float64,
        np.int32,
    ]


async def test_attempts_are_selected_by_task_and_arm_and_come_without_texts_on_request(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, *every_attempt(make_run()))
    some = list(store.attempts("r", task=TASKS[1].hash, arm="python", texts=False))
    assert some == [replace(make_attempt(TASKS[1], ARMS[1], n), transcript=()) for n in range(3)]
    with pytest.raises(UnknownName, match="Did you mean 'python'"):
        list(store.attempts("r", arm="pythonn"))


# -- opening


@pytest.mark.parametrize("create", [True, False])
def test_a_store_of_a_newer_schema_is_refused_with_what_to_do(where: str, create: bool) -> None:
    Store.open(where).close()
    database = store_schema.Database(where, create=False)
    with database.writing() as connection:
        connection.execute(store_schema.meta.update().values(value="99"))
    database.close()
    with pytest.raises(StoreError, match=r"schema 99; .* knows schema 1\. Upgrade"):
        Store.open(where, create=create)


def test_a_database_without_a_store_is_not_opened_to_read(where: str) -> None:
    if "://" not in where:
        Path(where).touch()
    with pytest.raises(StoreError, match="holds no testbed store"):
        Store.open(where, create=False)


# -- scores; more of them in test_store_scores.py


async def test_scores_come_back_from_each_database_and_are_kept_once(store: Store, where: str) -> None:
    run, attempt, lost = make_run(), make_attempt(sample=1), replace(make_attempt(), faults={REDRAWN: 1})
    store.add_run(run, TASKS)
    await put(store, attempt, lost)
    assert store.scores.scorers("r") == {}
    scorer = ScorerRecord("one", {"weights": ODD.replace("\ud800", "")})
    rows = [MessageScore(a.id, 1, "tool", 4, nats) for a, nats in ((attempt, 2.5), (lost, 1e-300))]
    store.scores.add(scorer, rows)
    store.scores.add(scorer, [row._replace(nats=9.0) for row in rows])
    with Store.open(where) as again:
        assert again.scores.scorers("r") == {scorer.hash: scorer}
        assert again.scores.done("r", scorer.hash) == {attempt.id, lost.id}
        found = again.scores.of("r", scorer.hash)
    assert found.nats.tolist() == [1e-300, 2.5]
    assert found.success.tolist() == [-1, 0]


def test_what_a_tokenizers_hash_comes_to_is_no_change_of_a_run_from_before_it_was_said() -> None:
    spec = {"budget": {"turns": 8}}
    old = make_run(arms=(ArmRecord("a" * 32, "bare", spec),))
    new = make_run(arms=(ArmRecord("b" * 32, "bare", {"budget": {"turns": 16}, "tokenization": {"tokens": "t"}}),))
    assert changes(old, new, [], []) == ["arm 'bare': budget.turns 8 → 16"]
