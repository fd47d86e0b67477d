"""What is said in nats is what the intervals support: no words on calls never made, nulls, strangers or gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.outcomes import outcomes, record, tasks_of
from testbed.report.analyse import analyse, scored_arms
from testbed.report.nats import Told, Words, arm_nats, tasks_beyond
from testbed.report.nats_words import table
from testbed.report.record import Analysis
from testbed.store import Scores

TASKS = 8
ALWAYS, NEVER, HALF = [(16, 16)] * TASKS, [(64, 0)] * TASKS, [(64, 32)] * TASKS


def analysed(
    nats: float | Sequence[float],
    *,
    bare: Sequence[tuple[int, int]] = NEVER,
    tool: Sequence[tuple[int, int]] = ALWAYS,
    results: int = 1,
    scored: float = 1.0,
    own: bool = True,
    role: str = "tool",
    k: int = 16,
    missing: Mapping[str, int] | None = None,
    **of_tool: Any,
) -> Analysis:
    """A run's analysis with the nats of one arm, of which a share of the attempts was read, task by task."""
    records = {"bare": record("bare"), "python": record("python", **of_tool)}
    found = outcomes(
        tasks_of((("A-v0", "x", len(bare)),)), {"bare": bare, "python": tool}, records=records, missing=missing
    )
    analysis = analyse(found, elicitation=k, replicates=400)
    arms = {arm.name: arm for arm in scored_arms(found)}
    rows = np.flatnonzero((found.arm == 1) & (found.success >= 0))
    rows = rows[: int(scored * rows.size)]
    size, per_task = rows.size, np.broadcast_to(np.asarray(nats, float), (TASKS,))
    scores = Scores(
        id=np.array([f"{n}" for n in range(size)]),
        arm=found.arm[rows],
        task=found.task[rows],
        sample=found.sample[rows],
        success=found.success[rows],
        attempt=np.repeat(np.arange(size, dtype=np.int32), results),
        message=np.zeros(size * results, np.int32),
        role=np.array([role] * size * results, np.str_),
        tokens=np.ones(size * results, np.int32),
        nats=np.repeat(per_task[found.task[rows]], results) / max(results, 1),
    )
    hashes = [task.hash for task in found.tasks]
    told = Told.of(scores, np.ones(size, bool), hashes, arms["python"], "reader", own)
    return replace(analysis, nats=(arm_nats(arms["bare"], arms["python"], told, analysis),))


def said(analysis: Analysis) -> str:
    return " ".join(table(analysis).notes[1:])


def test_words_that_the_budget_pays_for_and_words_that_it_does_not() -> None:
    assert analysed(0.1).nats[0].words is Words.WITHIN
    assert analysed(9.0).nats[0].words is Words.BEYOND
    assert analysed(2.7).nats[0].words is Words.OPEN
    assert "out of their reach" in (both := said(analysed(9.0, k=1)))
    assert both.startswith(
        "python: its verdict rests on both: on average the budget pays neither for re-weighting what the bare arm does "
        "nor for guessing the tools' words. Re-weighting bare would"
    )
    there = said(analysed(9.0, k=3))
    assert there.startswith("python: at 8 of 8 tasks its verdict rests on re-weighting"), there
    assert said(analysed(0.1, k=3)).startswith("python: its verdict rests on how the bare arm acts")


def test_where_no_end_decides_the_first_sentence_says_that_the_attempts_do() -> None:
    (about, told, *_) = table(analysed(9.0, bare=HALF, tool=[(16, 12)] * TASKS)).notes
    assert told.startswith("python: the verdict rests on the attempts themselves, that is on how often each arm")
    assert "Only tools' words are held against ln K, and re-weighting against these 1.84." in about


def test_an_arm_that_never_calls_rests_on_no_words() -> None:
    found = analysed(0.0, bare=HALF, tool=[(16, 8)] * TASKS, results=0)
    assert found.nats[0].words is Words.NONE
    assert "were shown no results" in said(found)
    assert "its verdict" not in said(found).lower()


def test_what_a_wrong_answer_is_told_is_no_tools_word() -> None:
    """The bare arm is told it too, and one that imagines its tools' results."""
    assert analysed(9.0, role="feedback").nats[0].words is Words.NONE


def test_of_a_null_pair_nothing_is_said_to_rest_on_easy_words() -> None:
    found = said(analysed(0.01, bare=HALF, tool=[(16, 8)] * TASKS))
    assert ": its verdict rests on" not in found
    assert "Its verdict rests on" not in found
    assert "out of their reach" not in found


def test_few_tasks_with_easy_words_do_not_settle_that_all_words_are_easy() -> None:
    """The upper limit of a mean without an upper end goes by the worst task seen; a claim must not."""
    two = analysed(2.0, bare=NEVER[:2], tool=ALWAYS[:2])
    assert two.nats[0].told.mean.high < two.nats[0].budget
    assert two.nats[0].words is Words.OPEN
    assert "is not settled" in said(two)
    assert "as often as one of" not in said(two)


def test_a_mean_beyond_the_budget_is_no_claim_where_enough_attempts_are_easy_to_guess() -> None:
    found = analysed([0.0] * 7 + [400.0]).nats[0]
    assert found.told.mean.value > found.budget
    assert found.words is Words.WITHIN


def test_what_another_model_read_is_its_figure_and_no_claim() -> None:
    for nats in (0.1, 9.0):
        found = said(analysed(nats, own=False))
        assert "its own model was not asked" in found
        assert "verdict rests" not in found
        assert "within the budget" not in found


def test_an_arm_of_another_model_is_not_said_to_guess_within_the_bare_ones_budget() -> None:
    found = said(analysed(0.1, model={"id": "other"}))
    assert "Its model is not bare's" in found
    assert "within the budget" not in found


def test_of_an_arm_of_another_model_it_is_told_what_its_verdict_rests_on() -> None:
    other = {"model": {"id": "other"}}
    both = "what of it is the model's doing and what the tools', these nats do not tell. "
    far = said(analysed(9.0, k=1, **other))
    assert far.startswith(f"python: its verdict rests on re-weighting, which the budget does not pay for; {both}"), far
    assert "Re-weighting bare would have to spend" in far
    some = said(analysed(9.0, k=3, **other))
    assert some.startswith("python: at 8 of 8 tasks its verdict rests on re-weighting that the budget does not"), some
    near = said(analysed(9.0, bare=HALF, tool=[(16, 12)] * TASKS, **other))
    assert near.startswith("python: the verdict rests on the attempts themselves, that is on how often each arm"), near


@pytest.mark.parametrize(("nats", "k", "words"), [(0.1, 2, Words.WITHIN), (5.0, 16, Words.BEYOND)])
def test_a_run_that_is_scored_by_half_claims_only_what_the_rest_cannot_change(
    nats: float, k: int, words: Words
) -> None:
    assert analysed(nats, k=k).nats[0].words is words
    found = analysed(nats, k=k, scored=0.4)
    assert found.nats[0].unscored == TASKS * 16 - found.nats[0].scored
    assert found.nats[0].words is Words.OPEN
    assert "have no scores" in said(found)
    assert "verdict rests" not in said(found)


def test_failed_attempts_without_scores_count_as_ones_that_guess_nothing() -> None:
    found = analysed(0.5, tool=[(16, 8)] * TASKS)
    some = analysed(0.5, tool=[(16, 8)] * TASKS, scored=0.5)
    assert found.nats[0].told.guessed.value == pytest.approx(0.5 * np.exp(-0.5))
    assert some.nats[0].told.guessed.value == pytest.approx(0.25 * np.exp(-0.5))


def test_missing_attempts_can_undo_either_end() -> None:
    """All at the first task: 300 bare attempts that may have succeeded, and 1,000 of the arm."""
    few = analysed(9.0, bare=NEVER[:1] + NEVER[:1], tool=ALWAYS[:2], k=2)
    lost = analysed(9.0, bare=NEVER[:1] + NEVER[:1], tool=ALWAYS[:2], k=2, missing={"bare": 300, "python": 1000})
    assert (few.nats[0].beyond, lost.nats[0].beyond) == (2, 1)
    assert lost.nats[0].missing == 1300
    assert few.nats[0].words is Words.BEYOND
    assert lost.nats[0].words is Words.OPEN
    assert "however 1,300 missing attempts had ended" in said(lost)


def test_attempts_that_are_copies_claim_nothing() -> None:
    found = analysed(9.0, sampling={"temperature": 0.0})
    found = replace(found, comparisons=tuple(replace(c, claims=False) for c in found.comparisons))
    assert "nothing is claimed" in said(found)
    assert "out of their reach" not in said(found)


def test_of_many_tasks_at_the_border_hardly_ever_one_is_said_to_be_beyond() -> None:
    """K = 1 pays nothing, and the arms are one policy: 40 suites of 100 tasks, at a level of 95 %."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(40):
        bare, tool = ([(n, int(c)) for c in rng.binomial(n, 0.3, 100)] for n in (40, 40))
        found = outcomes(tasks_of((("A-v0", "x", 100),)), {"bare": bare, "python": tool})
        one, other = scored_arms(found)
        wrong += tasks_beyond(one.outcomes, other.outcomes, 0.0, 0.05) > 0
    assert wrong <= 5
