"""The order in which messages join the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from testbed.models.hf_queue import Waiting
from testbed.models.hf_row import Row


@dataclass(eq=False)
class Job:
    row: Row


def job(*prompt: int, position: int = 0) -> Job:
    return Job(Row(prompt, 4, position=position))


def prompts(jobs: list[Job]) -> list[tuple[int, ...]]:
    return [each.row.prompt for each in jobs]


def queue(*jobs: Job) -> Waiting[Job]:
    waiting = Waiting[Job]()
    for each in jobs:
        waiting.add(each)
    return waiting


def test_samples_of_one_prompt_join_together_in_the_order_in_which_they_came() -> None:
    jobs = [job(5, 6), job(9), job(5, 6), job(2), job(9), job(5, 6)]
    assert queue(*jobs).take(6) == [jobs[n] for n in (3, 0, 2, 5, 1, 4)]


def test_an_attempt_that_goes_on_joins_before_those_that_have_not_begun() -> None:
    jobs = [job(1), job(7, position=3), job(2), job(4, position=9)]
    assert queue(*jobs).first(3) == [jobs[1], jobs[3], jobs[0]]


def test_whoever_is_looked_at_waits_on_and_whoever_is_taken_does_not() -> None:
    waiting = queue(*(job(n) for n in range(5)))
    assert prompts(waiting.first(2)) == prompts(waiting.take(2)) == [(0,), (1,)]
    assert len(waiting) == 3
    assert prompts(list(waiting)) == [(2,), (3,), (4,)]
    assert prompts(waiting.take(9)) == [(2,), (3,), (4,)]
    assert not waiting


def test_new_ones_come_round_and_round_so_that_none_waits_for_more_than_one_round() -> None:
    waiting = queue(*(job(n) for n in (10, 20, 30)))
    assert prompts(waiting.take(2)) == [(10,), (20,)]
    waiting.add(job(5))  # would be first, but has just been passed
    waiting.add(job(25))
    assert prompts(waiting.take(3)) == [(25,), (30,), (5,)]


@pytest.mark.parametrize("passing", [(9,), (9, 1), (9, 9, 9, 9, 9)])
def test_none_starves_however_many_come_that_would_be_before_it(passing: tuple[int, ...]) -> None:
    waiting = queue(job(9), job(9), left := job(5))
    waiting._last = (9,)  # it has just been passed
    for turn in range(1, 40):
        waiting.add(job(*passing, turn))  # behind the one that joined last, and so in the same round
        if left in waiting.take(1):
            return
    pytest.fail("it waits for ever")


def test_each_is_taken_once_whatever_comes_and_goes() -> None:
    rng, waiting = random.Random(0), Waiting[Job]()
    put, got, gone = list[Job](), list[Job](), set[Job]()
    for _ in range(400):
        put.append(job(rng.randrange(9), position=rng.choice([0, 0, 5])))
        waiting.add(put[-1])
        if rng.random() < 0.3:
            gone.add(left := rng.choice(put))
            waiting.keep(lambda each, left=left: each is not left)  # type: ignore[misc]
        got += waiting.take(rng.choice([0, 0, 1, 3]))
    got += waiting.take(len(waiting))
    assert len(got) == len(set(got))
    assert set(put) - gone <= set(got)
