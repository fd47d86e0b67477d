"""Corpora of entries: what tools found is found again here, and questions with their answers in them are a leak."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.boards import FEW, a_board, an_experiment
from helpers.bundles import Lines, bundle_of, examine
from testbed.board import boards
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.verify import Means
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.registry import make_corpus
from testbed.runner import Runner
from testbed.store import Store

QUICK_IN_POSTGRESQL = (
    "test_a_corpus_with_leaks",
    "test_another_corpus_than_the_board_says",
)

FACTS = f"""\
slug = "facts"
title = "Facts in documents"
seed = 1

{FEW}
[[env]]
id = "Facts-v0"
kind = "document"
tasks = 3
"""


def searches(request: Request, rng: np.random.Generator) -> str:
    """Searches for the question, and answers the last word of what it was shown."""
    last = request.messages[-1]
    if request.tools and last["role"] == "user":
        return write_call("search", {"query": last["content"][:200]})
    return write_answer(last["content"].split()[-1])


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return a_board(tmp_path_factory.mktemp("board"), FACTS)


@pytest.fixture
def facts(db: BoardDatabase, board: Board) -> BoardDatabase:
    boards.create(db, board)
    return db


def searched(board: Board, where: Path, corpus: Any) -> bytes:
    """The bundle of a run whose arm searches a corpus."""
    source = an_experiment(board, arms=[{"name": "bare"}, {"name": "search", "tools": ["search"]}]).source
    experiment = parse_experiment({**source, "tool": {"search": {"corpus": corpus}}})
    with Store.open(where) as store:
        asyncio.run(Runner(experiment, store, models={"scripted": Scripted(searches)}).run())
    return bundle_of(where, experiment.name, board)


@pytest.fixture(scope="module")
def documents(board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run that searched the corpus which the server has."""
    return searched(board, tmp_path_factory.mktemp("documents") / "run.sqlite", "Facts-v0")


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of its author's own."""
    own = tmp_path_factory.mktemp("weather") / "own.jsonl"
    own.write_text("".join(json.dumps({"id": f"d{n}", "text": f"weather {n} is fine"}) + "\n" for n in range(30)))
    return str(own)


@pytest.fixture(scope="module")
def of_weather(board: Board, weather: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run that searched it."""
    return searched(board, tmp_path_factory.mktemp("searched") / "run.sqlite", weather)


def test_what_was_found_in_a_corpus_of_the_server_is_found_again(facts: BoardDatabase, documents: bytes) -> None:
    found = examine(facts, "facts", documents)
    assert found.state == "partly"  # a policy is its author's program
    assert [text.split(":")[0] for text in found.of("unchecked")] == ["model"]
    assert any("tool results of 6 of 6 attempts" in text for text in found.of("ok"))


TOWNS = {town: str(1800 + n) for n, town in enumerate(("Vornal", "Quill", "Sarn", "Dreve"))}
ASKED = {town: f"In which year did the keeper of the lighthouse of {town} die?" for town in TOWNS}


class Towns:
    """A board of questions that are long enough for the guard, a corpus that holds the answers, and a run with it.

    Args:
        folder: where they are.
        leaks: whether the corpus has the questions beside the answers.
    """

    def __init__(self, folder: Path, *, leaks: bool) -> None:
        self.leaks = leaks
        tasks = [{"prompt": ASKED[town], "answer": year} for town, year in TOWNS.items()]
        (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
        env = f'[[env]]\nid = "Questions-v0"\npath = {json.dumps(str(folder / "tasks.jsonl"))}\n'
        self.board = a_board(folder, FACTS.partition("[[env]]")[0] + env)
        about = (f"The keeper of the lighthouse of {town} died in {year}." for town, year in TOWNS.items())
        quiz = (f"Q: {ASKED[town]} A: {year}" for town, year in TOWNS.items())
        rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(quiz if leaks else about)]
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
        self.corpus = str(folder / "corpus.jsonl")
        self.bundle = searched(self.board, folder / "run.sqlite", self.corpus)


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Towns:
    return Towns(tmp_path_factory.mktemp("fair"), leaks=False)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Towns:
    return Towns(tmp_path_factory.mktemp("leaking"), leaks=True)


@pytest.mark.parametrize(("towns", "state"), [("fair", "partly"), ("leaking", "rejected")])
def test_a_corpus_with_leaks(db: BoardDatabase, request: pytest.FixtureRequest, towns: str, state: str) -> None:
    made: Towns = request.getfixturevalue(towns)
    boards.create(db, made.board)
    found = examine(db, "facts", made.bundle, Means(corpora=(made.corpus,)))
    assert found.state == state
    assert ("leaks: attempt" in found.wrong) == made.leaks
    assert found.wrong.count("together with its answer") == 8 * made.leaks


def test_what_a_leaking_corpus_showed_in_attempts_that_are_said_to_be_missing(
    db: BoardDatabase, leaking: Towns
) -> None:
    boards.create(db, leaking.board)
    lines = Lines.of(leaking.bundle)
    for lost in lines.of_arm("search"):
        lost.update(status="missing", ended="missing:transport_error", success=None, score=None, answer=None)
    assert examine(db, "facts", lines.sealed()).wrong.count("together with its answer") == 8


@pytest.mark.parametrize("place", ["tool", "system"])
def test_answers_in_what_the_model_is_told_of_itself_and_its_tools(db: BoardDatabase, fair: Towns, place: str) -> None:
    boards.create(db, fair.board)
    lines = Lines.of(fair.bundle)
    told = f"Mind that {ASKED['Sarn']} has the answer {TOWNS['Sarn']}."
    if place == "tool":
        lines.arms[1]["spec"]["tools"][0]["schema"]["function"]["description"] += told
        lines.arms[1]["spec"]["schemas"] = ""
    else:
        for arm in lines.arms:
            arm["spec"]["model"]["system"] = told
    assert "tells the answer of task" in examine(db, "facts", lines.sealed()).wrong


def test_passages_that_no_search_of_the_corpus_finds(facts: BoardDatabase, documents: bytes) -> None:
    lines = Lines.of(documents)
    attempt = lines.first("search", sample=1)
    result, task = attempt["transcript"][2], attempt["task"]
    other = next(a for a in lines.of_arm("search") if a["task"] != task)["transcript"][2]
    result.update(content=other["content"], tokens=other["tokens"])
    attempt["cost"]["prompt_tokens"] += -1  # whichever way: what the tool returns is compared all the same
    assert examine(facts, "facts", lines.sealed()).state == "rejected"


def test_a_corpus_that_is_not_on_the_server_is_not_believed_to_have_been_checked(
    facts: BoardDatabase, weather: str, of_weather: bytes
) -> None:
    found = examine(facts, "facts", of_weather)
    assert found.state == "partly"
    assert "is not on this server" in "\n".join(found.of("unchecked"))
    again = Lines.of(of_weather)
    again.manifest["created"] = "again"  # other bytes, so that it is another entry
    known = examine(facts, "facts", again.sealed(), Means(corpora=(weather,)))
    assert "is not on this server" not in "\n".join(known.of("unchecked"))


def test_another_corpus_than_the_board_says(
    db: BoardDatabase, tmp_path: Path, documents: bytes, of_weather: bytes
) -> None:
    wanted = make_corpus("Facts-v0").hash
    rules = f'\n[rules]\ntools = ["search"]\ncorpora = {{ search = "{wanted}" }}\n'
    boards.create(db, a_board(tmp_path, FACTS + rules))
    assert examine(db, "facts", documents).state == "partly"
    assert f"and the board says {wanted}" in examine(db, "facts", of_weather).wrong
