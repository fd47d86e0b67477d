"""The generated world and the questions about it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from testbed.envs.facts import Facts
from testbed.envs.world import BANDS, KINDS, UNKNOWN, exposure_weights, make_world
from testbed.errors import UnknownName, UsageError


@pytest.fixture(scope="module")
def world():
    return make_world(7)


@pytest.fixture(scope="module")
def text_of(world):
    return dict(world.documents())


def test_same_seed_gives_the_same_world_whatever_the_global_generator_does(world):
    make_world.cache_clear()
    random.seed(1)
    before = random.getstate()
    assert make_world(7) == world
    assert random.getstate() == before


def test_other_seed_gives_other_names(world):
    assert len(make_world(8).names() & world.names()) < 0.05 * len(world.names())


def test_every_fact_is_one_document_with_its_own_short_id(world, text_of):
    assert len(text_of) == len(world.known) + len(world.document_only)
    assert all(len(document) == 4 for document in text_of)
    assert 600 <= len(text_of) <= 1200


def test_document_only_entities_and_names_occur_in_no_known_fact(world):
    known = {name for fact in world.known for name in (fact.entity, fact.value)}
    hidden = {name for fact in world.document_only for name in (fact.entity, fact.value)}
    assert not {name for name in known & hidden if name.isalpha()}


def test_no_two_names_begin_alike(world):
    assert len({name[:4] for name in world.names()}) == len(world.names())


def test_names_are_not_words_of_the_sentences(world, text_of):
    words = {word for text in text_of.values() for word in text.rstrip(".").split()} - world.names()
    assert not {word.casefold() for word in words} & {name.casefold() for name in world.names()}


def test_exposure_falls_steeply_and_never_rises():
    weights = exposure_weights(280)
    assert all(first > second for first, second in pairwise(weights))
    assert sum(weights[:28]) > 0.6 * sum(weights)


def test_bands_split_the_known_facts_in_order_of_exposure(world):
    assert tuple(fact for band in BANDS for fact in world.band(band)) == world.known


@pytest.mark.parametrize("kind", ["known", "document"])
def test_a_single_supporting_document_states_the_answer(world, text_of, kind):
    for question in world.questions(kind, 200):
        (document,) = question.support
        assert text_of[document].endswith(f" is {question.answer}.")


def test_two_hop_support_leads_from_the_land_over_its_capital_to_the_answer(world, text_of):
    for question in world.questions("two_hop", 100):
        first, second = (text_of[document] for document in question.support)
        capital = first.removesuffix(".").split(" is ")[1]
        assert f" of {capital} is {question.answer}." in second
        assert capital not in question.prompt


def test_sum_is_that_of_the_two_supporting_documents(world, text_of):
    for question in world.questions("sum", 100):
        values = [int(text_of[document].removesuffix(".").split(" is ")[1]) for document in question.support]
        assert question.answer == str(sum(values))


def test_unanswerable_questions_are_about_documented_entities_and_undocumented_facts(world, text_of):
    documented = {(fact.noun, fact.entity) for fact in world.known + world.document_only}
    entities = {entity for _, entity in documented}
    for noun, entity in world.missing:
        assert entity in entities
        assert (noun, entity) not in documented
    assert {question.answer for question in world.questions("unanswerable", 30)} == {UNKNOWN}


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_different_and_repeatable(world, kind):
    questions = world.questions(kind, 40, seed=3)
    assert len({question.prompt for question in questions}) == 40
    assert questions == world.questions(kind, 40, seed=3)
    assert questions != world.questions(kind, 40, seed=4)


def test_a_mistyped_kind_is_answered_with_the_nearest(world):
    with pytest.raises(UnknownName, match="two_hop"):
        world.questions("twohop", 1)


def test_a_mistyped_band_is_answered_with_the_nearest(world):
    with pytest.raises(UnknownName, match="tail"):
        world.questions("known", 1, band="tale")


@pytest.mark.parametrize("n", [-1, 10_000])
def test_more_questions_than_there_are_are_refused_with_the_range(world, n):
    with pytest.raises(UsageError, match="at most 280"):
        world.questions("known", n)


def test_grader_accepts_every_reference_and_refuses_every_near_miss():
    environment = Facts(tasks=60)
    assert len(environment.tasks) == 300
    assert environment.validate().problems == ()


def test_tasks_carry_their_supporting_documents(text_of):
    environment = Facts(kind=["document", "two_hop"], tasks=10)
    assert [len(task.meta["support"]) for task in environment.tasks] == [1] * 10 + [2] * 10
    assert set(environment.tasks[0].meta["support"]) <= set(dict(environment.documents()))


def test_band_is_named_in_the_family_of_known_facts_only():
    environment = Facts(kind=["known", "document"], tasks=2, band="tail")
    assert [task.meta["family"] for task in environment.tasks] == ["known tail"] * 2 + ["document"] * 2
