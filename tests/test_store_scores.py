"""Scores beside attempts: a row a message, kept once, read back as arrays, in both databases; also in older stores."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.stored import ARMS, TASKS, every_attempt, make_attempt, make_run, missing, put
from testbed.errors import UnknownName
from testbed.store import MessageScore, ScorerRecord, Store
from testbed.types import REDRAWN

ONE, OTHER = ScorerRecord("one", {"weights": "a"}), ScorerRecord("other", {"weights": "b"})


def of(attempt, *nats: float) -> list[MessageScore]:
    roles = ("assistant", "tool", "assistant", "feedback")
    return [MessageScore(attempt.id, n + 1, roles[n], 3 + n, value) for n, value in enumerate(nats)]


@pytest.fixture
async def store(where: str):
    with Store.open(where) as opened:
        run = make_run()
        opened.add_run(run, TASKS)
        await put(opened, *every_attempt(run))
        yield opened


async def test_scores_come_back_by_arm_task_sample_and_message(store: Store) -> None:
    late, early = make_attempt(TASKS[1], ARMS[1], 2), make_attempt(TASKS[3], ARMS[0], 1)
    store.scores.add(ONE, [*of(late, 1.0, 2.5, 4.0, 0.25), *of(early, 0.5)])
    found = store.scores.of("r", ONE.hash)
    assert found.id.tolist() == [early.id, late.id]
    assert [found.arm.tolist(), found.task.tolist(), found.sample.tolist()] == [[0, 1], [3, 1], [1, 2]]
    assert found.success.tolist() == [0, 1]
    assert found.message.tolist() == [1, 1, 2, 3, 4]
    assert found.nats_of("assistant").tolist() == [0.5, 5.0]
    assert found.nats_of("tool", "feedback").tolist() == [0.0, 2.75]
    assert found.messages_of("tool").tolist() == [0, 1]
    assert found.tokens_of("tool").tolist() == [0, 4]


async def test_scores_are_kept_once_and_apart_by_scorer(store: Store) -> None:
    attempt = make_attempt()
    store.scores.add(ONE, of(attempt, 1.0))
    store.scores.add(ONE, of(attempt, 7.0))
    store.scores.add(OTHER, of(attempt, 3.0, 4.0))
    assert store.scores.of("r", ONE.hash).nats.tolist() == [1.0]
    assert store.scores.of("r", OTHER.hash).nats.tolist() == [3.0, 4.0]
    assert store.scores.scorers("r") == {ONE.hash: ONE, OTHER.hash: OTHER}
    assert store.scores.done("r", ONE.hash) == {attempt.id}


async def test_only_the_runs_own_attempts_are_its_scores(store: Store) -> None:
    store.scores.add(ONE, of(make_attempt(sample=5), 1.0))  # beyond its samples
    store.scores.add(ONE, of(make_attempt(seed=8), 1.0))
    assert store.scores.done("r", ONE.hash) == set()
    assert store.scores.scorers("r") == {}
    assert store.scores.of("r", ONE.hash).nats.size == 0
    with pytest.raises(UnknownName, match="run"):
        store.scores.of("s", ONE.hash)


async def test_an_attempt_whose_first_draw_was_lost_counts_as_no_success(where: str) -> None:
    from dataclasses import replace

    attempt = replace(make_attempt(), faults={REDRAWN: 1})
    with Store.open(where) as store:
        store.add_run(make_run(), TASKS)
        await put(store, attempt, missing(make_attempt(sample=1)))
        store.scores.add(ONE, of(attempt, 1.0))
        assert store.scores.of("r", ONE.hash).success.tolist() == [-1]


async def test_a_store_from_before_has_none_and_takes_some(store: Store, where: str) -> None:
    with store._database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE scores")
        connection.exec_driver_sql("DROP TABLE scorers")
    assert store.scores.scorers("r") == {}
    assert store.scores.done("r", ONE.hash) == set()
    assert store.scores.of("r", ONE.hash).id.size == 0
    store.scores.add(ONE, of(make_attempt(), 1.5))
    with Store.open(where) as again:
        assert np.array_equal(again.scores.of("r", ONE.hash).nats, [1.5])
