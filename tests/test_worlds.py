"""Worlds-v0: its questions are exact, and so are the documents, the splits and the secret form."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testbed.corpus import Corpus
from testbed.envs.worlds import Worlds
from testbed.envs.worlds_draws import Permutation
from testbed.envs.worlds_language import KINDS, MONTHS, RELATIONS
from testbed.envs.worlds_model import paths
from testbed.envs.worlds_names import bare
from testbed.envs.worlds_prose import facts_in, text_of
from testbed.envs.worlds_questions import COMPARED, COUNTED, SPLITS, UNKNOWN, chain
from testbed.plugins import execute
from testbed.question_env import normalise
from testbed.types import Task

PLAYERS = execute(Path(__file__).parents[1] / "docs" / "experiments" / "worlds_players.py")
SECRET = "correct horse battery staple"
SIDES = [(r.key, form, sign) for r in COMPARED for form, sign in ((r.most, 1), (r.least, -1))]
Texts = Mapping[str, str]  # by id
Known = Mapping[
    str, tuple[str, Mapping[str, str]]
]  # by name of the thing: the id of its document, and what that states


def read(texts: Texts) -> Known:
    """What documents state. Whoever reads like that knows the documents, and nothing else of the world."""
    found: dict[str, tuple[str, Mapping[str, str]]] = {}
    for id_, text in texts.items():
        name, facts = facts_in(text)
        if name:
            assert name not in found
            found[name] = id_, facts
    return found


def between(text: str, form: str) -> str | None:
    """What stands in the place of ``{x}``, if a text has this form."""
    before, _, after = form.partition("{x}")
    whole = text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if whole else None


def counted_in(question: str) -> tuple[str, str] | None:
    """The relation and the target that a question counts by."""
    found = [(relation.key, between(question, relation.count)) for relation in COUNTED]
    return next(((key, bare(target)) for key, target in found if target is not None), None)


def solve(question: str, known: Known) -> tuple[str, list[str]]:
    """The answer that documents give, and those that were read for it, by looking things up as a person would."""
    for relation, form, sign in SIDES:
        names = between(question, form.replace("{x} or {y}", "{x}"))
        both = [bare(name) for name in names.split(" or ")] if names else []
        if both and all(relation in known.get(name, ("", {}))[1] for name in both):
            values = {name: sign * amount(known[name][1][relation]) for name in both}
            assert len(set(values.values())) == 2
            return max(values, key=values.__getitem__), [known[name][0] for name in both]
    counted = counted_in(question)
    if counted:
        listed = [id_ for id_, facts in known.values() if facts.get(counted[0]) == counted[1]]
        return str(len(listed)), listed
    if ", " in question:
        return "", []
    thing, path = PLAYERS.chain_in(question)
    documents = []
    for relation in path:
        if thing not in known:
            return "", documents
        id_, facts = known[thing]
        documents.append(id_)
        thing = facts.get(relation, UNKNOWN)
    return thing, documents


def amount(text: str) -> int:
    """A date, year or number as something that can be compared."""
    words = text.replace(",", "").split()
    return int(words[0]) if len(words) == 1 else (int(words[2]) * 12 + MONTHS.index(words[1])) * 31 + int(words[0])


def question_of(task: Task) -> str:
    return task.prompt.partition("\n")[0]


def made(documents: int, tasks: int, **options: Any) -> tuple[Worlds, Texts]:
    environment = Worlds(documents=documents, tasks=tasks, **options)
    return environment, dict(environment.documents())


@pytest.fixture(scope="module")
def world() -> tuple[Worlds, Texts]:
    return made(1500, 6)


# -- the generator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000, 4097])
def test_a_random_order_has_every_number_once_and_reads_backwards(n: int) -> None:
    order = Permutation(b"key", "name", n)
    listed = [order[place] for place in range(n)]
    assert sorted(listed) == list(range(n))
    assert [order.index(number) for number in listed] == list(range(n))
    assert n < 10 or listed != sorted(listed)


def test_a_world_is_a_pure_function_of_its_seed_on_every_machine() -> None:
    random.seed(1)
    before = random.getstate()
    assert Corpus.of(Worlds(documents=60, world=5).documents()).hash == "42e792fed46c5e14eb5af993c6e22a5d"
    assert random.getstate() == before


def test_any_document_is_made_without_the_others() -> None:
    one, other = Worlds(documents=777), Worlds(documents=777)
    listed = list(one.documents())
    assert [other.document(number) for number in (776, 3, 500, 0)] == [listed[number] for number in (776, 3, 500, 0)]
    assert [id_ for id_, _ in listed] == sorted(id_ for id_, _ in listed)
    assert len({id_ for id_, _ in listed}) == len(listed) == 777


def test_the_largest_world_costs_nothing_before_it_is_listed() -> None:
    environment = Worlds(documents=1_000_000, tasks=2)
    assert environment.document(999_999)[0] == "d999999"
    texts = {id_: environment.document(int(id_[1:]))[1] for task in environment.tasks for id_ in task.meta["support"]}
    for task in environment.tasks:
        if task.meta["kind"] == "hops":
            assert solve(question_of(task), read(texts)) == (task.reference[0], task.meta["support"])


def test_other_seeds_give_other_names_and_other_questions() -> None:
    names = [set(read(dict(Worlds(documents=200, world=seed).documents()))) for seed in (0, 1)]
    assert not names[0] & names[1]
    prompts = [
        {task.prompt for task in Worlds(documents=1000, kind="hops", tasks=4, seed=seed).tasks} for seed in (0, 1)
    ]
    assert len(prompts[0] & prompts[1]) < 0.05 * len(prompts[0])


@pytest.mark.parametrize("documents", [50, 74, 1500])
def test_documents_state_each_fact_of_their_thing_and_no_other(documents: int) -> None:
    environment, texts = made(documents, 1)
    world = environment.world
    for thing in world.all():
        name, stated = facts_in(texts[world.document_id(thing)])
        relations = {relation.key: relation for relation in RELATIONS[world.kind(thing)]}
        facts = {
            key: bare(world.shown(value) if relations[key].target else relations[key].text(value))
            for key, value in world.facts(thing).items()
        }
        assert stated == facts
        assert name == (world.name(thing) if relations else "")


def test_names_are_unique_and_have_namesakes(world: tuple[Worlds, Texts]) -> None:
    environment, texts = world
    names = read(texts)  # asserts that they are unique
    assert len(names) == sum(len(environment.world.things(kind)) for kind in KINDS)
    words = Counter(name.split()[-1] for name, (_, facts) in names.items() if "birth" in facts)
    assert sum(count > 1 for count in words.values()) > 0.9 * len(words)


# -- questions ---------------------------------------------------------------------------------------------------------


def check_exact(environment: Worlds, texts: Texts) -> None:
    """Every answer is what the documents give, from the gold documents and from no fewer of them."""
    for task in environment.tasks:
        question, gold = question_of(task), [*task.meta["support"], *task.meta["gap"]]
        assert len(set(gold)) == len(gold)
        only = {id_: texts[id_] for id_ in gold}
        answer, documents = solve(question, read(only))
        assert (answer, sorted(documents)) == (task.reference[0], sorted(gold)), question
        for missing in gold:
            rest = {id_: text for id_, text in only.items() if id_ != missing}
            found = normalise(solve(question, read(rest))[0])
            assert found not in map(normalise, task.reference)


def check_complete(environment: Worlds, texts: Texts) -> None:
    """Nothing elsewhere in the world changes an answer: lists are complete, and gaps are filled nowhere."""
    listed: dict[tuple[str, str], list[str]] = defaultdict(list)
    stated = set()
    for name, (id_, facts) in read(texts).items():
        stated |= {(name, key) for key in facts}
        for key, value in facts.items():
            listed[key, value].append(id_)
    for task in environment.tasks:
        question = question_of(task)
        if task.meta["kind"] == "counting":
            counted = counted_in(question)
            assert counted is not None
            assert listed[counted] == sorted(task.meta["support"])
            assert task.reference[0] == str(len(task.meta["support"]))
        elif task.meta["kind"] == "unanswerable":
            last = facts_in(texts[task.meta["gap"][-1]])[0]
            _, path = PLAYERS.chain_in(question)
            assert (last, path[-1]) not in stated
            assert len(path) == len(task.meta["gap"]) == task.meta["hops"]


@pytest.mark.parametrize("documents", [50, 1500])
def test_answers_rest_on_all_their_gold_documents_and_on_nothing_else(documents: int) -> None:
    environment, texts = made(documents, 6) if documents > 50 else made(50, 1)
    check_exact(environment, texts)
    check_complete(environment, texts)


@pytest.mark.slow
def test_so_they_do_in_a_world_of_20_000_documents() -> None:
    environment, texts = made(20_000, 100)
    assert len(environment.tasks) == 2_000
    assert environment.validate().problems == ()
    check_exact(environment, texts)
    check_complete(environment, texts)
    check_no_leak(environment)


def check_no_leak(environment: Worlds) -> None:
    for task in environment.tasks:
        question = f" {normalise(question_of(task))} "
        held = [right for right in task.reference if f" {normalise(right)} " in question]
        assert bool(held) is (task.meta["kind"] == "comparison")


def test_no_question_holds_its_answer_but_comparisons_which_hold_both(world: tuple[Worlds, Texts]) -> None:
    check_no_leak(world[0])


def test_no_chain_of_a_small_world_meets_a_document_twice_or_gives_its_answer_away() -> None:
    world = Worlds(documents=50).world
    texts = {thing: f" {normalise(text_of(world, thing))} " for thing in world.all()}
    asked = 0
    for start in world.all():
        for path in (path for hops in (1, 2, 4) for path in paths(world.kind(start), hops)):
            made = [question for split in SPLITS if (question := chain(world, start, path, split)) is not None]
            assert len(made) <= 1
            for question in made:
                asked += 1
                answer = f" {normalise(question.answers[0])} "
                assert len(set(question.things)) == len(question.things) == len(path)
                assert answer not in f" {normalise(question.text)} "
                assert [answer in texts[thing] for thing in question.things] == [False] * (len(path) - 1) + [True]
    assert asked > 1000


def test_chains_name_none_of_the_things_that_lead_to_the_answer(world: tuple[Worlds, Texts]) -> None:
    environment, texts = world
    for task in environment.tasks:
        for id_ in (task.meta["support"] or task.meta["gap"])[1:] if task.meta["hops"] else ():
            assert facts_in(texts[id_])[0] not in question_of(task)


def test_splits_are_what_the_gold_documents_are(world: tuple[Worlds, Texts]) -> None:
    environment, _ = world
    taught = {id_ for id_, _ in environment.lessons()}
    assert 0.4 < len(taught) / 1500 < 0.6
    for task in environment.tasks:
        gold = set(task.meta["support"] or task.meta["gap"])
        assert task.meta["split"] == ("known" if gold <= taught else "mixed" if gold & taught else "document")


def test_unanswerable_questions_are_phrased_like_the_others() -> None:
    wanted = {"hops": 250, "unanswerable": 100}
    made = {kind: Worlds(kind=kind, hops=[1, 2], split="known", tasks=n) for kind, n in wanted.items()}
    asked = {kind: [question_of(task) for task in environment.tasks] for kind, environment in made.items()}
    paths = {kind: {tuple(PLAYERS.chain_in(text)[1]) for text in texts} for kind, texts in asked.items()}
    words = {kind: {word for text in texts for word in re.findall(r"\b[a-z]+", text)} for kind, texts in asked.items()}
    assert {len(path) for path in paths["unanswerable"]} == {1, 2}
    assert {path for path in paths["unanswerable"] if len(path) == 1} <= paths["hops"]
    assert words["unanswerable"] <= words["hops"]


def test_comparisons_are_right_half_the_time_by_chance_and_often_between_namesakes() -> None:
    tasks = Worlds(kind="comparison", tasks=150).tasks
    pairs = [[bare(name) for name in question_of(task).partition(", ")[2][:-1].split(" or ")] for task in tasks]
    first = [task.reference[0] == pair[0] for task, pair in zip(tasks, pairs, strict=True)]
    assert 0.4 < sum(first) / len(first) < 0.6
    shared = [bool(set(re.findall(r"[A-Z]\w{4,}", one)) & set(re.findall(r"[A-Z]\w{4,}", two))) for one, two in pairs]
    assert 0.3 < sum(shared) / len(shared) < 0.8


@pytest.mark.parametrize("split", ["known", "document", "mixed"])
def test_no_count_is_right_for_most_questions(split: str) -> None:
    counts = Counter(task.reference[0] for task in Worlds(kind="counting", split=split, tasks=60).tasks)
    assert max(counts.values()) < 0.5 * 60
    assert len(counts) >= 4


def test_a_family_has_the_same_questions_whatever_else_is_asked() -> None:
    alone = Worlds(kind="hops", hops=2, split="mixed", tasks=5).tasks
    every = [task for task in Worlds(tasks=5).tasks if task.meta["family"] == "mixed 2 hops"]
    assert list(alone) == every


def test_questions_of_a_family_share_no_document_while_the_world_is_large_and_else_a_cluster() -> None:
    large = Worlds(tasks=5)
    for environment in (large, Worlds(documents=300, tasks=4, known=0.6)):
        groups: dict[str, list[Task]] = defaultdict(list)
        for task in environment.tasks:
            groups[task.cluster].append(task)
        owners: dict[str, set[str]] = defaultdict(set)
        for task in environment.tasks:
            for id_ in task.meta["support"] or task.meta["gap"]:
                owners[id_].add(task.cluster or task.hash)
        assert all(len(clusters) == 1 for clusters in owners.values())
        assert all(len(tasks) > 1 for cluster, tasks in groups.items() if cluster)
    rests = [(t.meta["family"], id_) for t in large.tasks for id_ in t.meta["support"] or t.meta["gap"]]
    assert len(set(rests)) == len(rests)


# -- teaching ----------------------------------------------------------------------------------------------------------


def test_what_is_taught_is_every_known_fact_and_no_other(world: tuple[Worlds, Texts]) -> None:
    environment, texts = world
    taught = dict(environment.lessons())
    assert taught.items() <= texts.items()
    learnt = read(taught)
    facts = sum(len(facts) for _, facts in learnt.values())
    drills = dict(environment.drills())
    assert 0.9 * facts < len(drills) <= facts  # an answer that stands in the question, such as a namesake town's
    hidden = read({id_: text for id_, text in texts.items() if id_ not in taught})
    for prompt, answer in drills.items():
        question = prompt.partition("\n")[0]
        assert solve(question, learnt)[0] == answer
        assert solve(question, hidden)[0] == ""
    known = [task for task in environment.tasks if task.meta["family"] == "known 1 hop"]
    assert all(drills[task.prompt] == task.reference[0] for task in known)
    others = [task for task in environment.tasks if task.meta["split"] != "known"]
    assert not any(task.prompt in drills for task in others)


def test_known_documents_can_be_left_out_of_the_corpus(world: tuple[Worlds, Texts]) -> None:
    environment, texts = world
    hidden = Worlds(documents=1500, tasks=6, hide_known=True)
    kept = dict(hidden.documents())
    assert kept.keys() == texts.keys() - dict(environment.lessons()).keys()
    assert [task.hash for task in hidden.tasks] == [task.hash for task in environment.tasks]
    mixed = [task for task in hidden.tasks if task.meta["family"] == "mixed 2 hops"]
    assert all(solve(question_of(task), read(kept))[0] != task.reference[0] for task in mixed)
