"""Corpora of entries: what tools found is found again here, and questions with their answers in them are a leak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.boards import a_board, a_database, an_experiment
from helpers.bundles import Lines, bundle_of, examine
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

FACTS = """\
slug = "facts"
title = "Facts in documents"
seed = 1

[samples]
bare = 2
tools = 2

[budget]
turns = 4
tool_calls = 2

[measure]
elicitation = 2
replicates = 100

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
def facts(board: Board, tmp_path: Path) -> Iterator[BoardDatabase]:
    with a_database(tmp_path / "board.sqlite", board) as db:
        yield db


def searched(board: Board, where: Path, corpus: Any) -> bytes:
    """The bundle of a run whose arm searches a corpus."""
    source = an_experiment(board, arms=[{"name": "bare"}, {"name": "search", "tools": ["search"]}]).source
    experiment = parse_experiment({**source, "tool": {"search": {"corpus": corpus}}})
    with Store.open(where) as store:
        asyncio.run(Runner(experiment, store, models={"scripted": Scripted(searches)}).run())
    return bundle_of(where, experiment.name, board)


def test_what_was_found_in_a_corpus_of_the_server_is_found_again(
    board: Board, facts: BoardDatabase, tmp_path: Path
) -> None:
    found = examine(facts, "facts", searched(board, tmp_path / "run.sqlite", "Facts-v0"))
    assert found.state == "partly"  # a policy is its author's program
    assert [text.split(":")[0] for text in found.of("unchecked")] == ["model"]
    assert any("tool results of 6 of 6 attempts" in text for text in found.of("ok"))


TOWNS = {town: str(1800 + n) for n, town in enumerate(("Vornal", "Quill", "Sarn", "Dreve"))}
ASKED = {town: f"In which year did the keeper of the lighthouse of {town} die?" for town in TOWNS}


def towns_board(folder: Path) -> Board:
    """A board of questions that are long enough for the guard."""
    tasks = [{"prompt": ASKED[town], "answer": year} for town, year in TOWNS.items()]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    env = f'[[env]]\nid = "Questions-v0"\npath = {json.dumps(str(folder / "tasks.jsonl"))}\n'
    return a_board(folder, FACTS.partition("[[env]]")[0] + env)


def towns_corpus(folder: Path, *, leaks: bool) -> str:
    """A corpus that holds the answers, with the questions beside them or without."""
    about = (f"The keeper of the lighthouse of {town} died in {year}." for town, year in TOWNS.items())
    quiz = (f"Q: {ASKED[town]} A: {year}" for town, year in TOWNS.items())
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(quiz if leaks else about)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "corpus.jsonl")


@pytest.mark.parametrize(("leaks", "state"), [(False, "partly"), (True, "rejected")])
def test_a_corpus_with_leaks(tmp_path: Path, leaks: bool, state: str) -> None:
    board, corpus = towns_board(tmp_path), towns_corpus(tmp_path, leaks=leaks)
    with a_database(tmp_path / "board.sqlite", board) as db:
        data = searched(board, tmp_path / "run.sqlite", corpus)
        found = examine(db, "facts", data, Means(corpora=(corpus,)))
    assert found.state == state
    assert ("leaks: attempt" in found.wrong) == leaks
    assert found.wrong.count("together with its answer") == 8 * leaks


def test_what_a_leaking_corpus_showed_in_attempts_that_are_said_to_be_missing(tmp_path: Path) -> None:
    board, corpus = towns_board(tmp_path), towns_corpus(tmp_path, leaks=True)
    lines = Lines.of(searched(board, tmp_path / "run.sqlite", corpus))
    for lost in lines.of_arm("search"):
        lost.update(status="missing", ended="missing:transport_error", success=None, score=None, answer=None)
    with a_database(tmp_path / "board.sqlite", board) as db:
        assert examine(db, "facts", lines.sealed()).wrong.count("together with its answer") == 8


@pytest.mark.parametrize("place", ["tool", "system"])
def test_answers_in_what_the_model_is_told_of_itself_and_its_tools(tmp_path: Path, place: str) -> None:
    board, corpus = towns_board(tmp_path), towns_corpus(tmp_path, leaks=False)
    lines = Lines.of(searched(board, tmp_path / "run.sqlite", corpus))
    told = f"Mind that {ASKED['Sarn']} has the answer {TOWNS['Sarn']}."
    if place == "tool":
        lines.arms[1]["spec"]["tools"][0]["schema"]["function"]["description"] += told
        lines.arms[1]["spec"]["schemas"] = ""
    else:
        for arm in lines.arms:
            arm["spec"]["model"]["system"] = told
    with a_database(tmp_path / "board.sqlite", board) as db:
        assert "tells the answer of task" in examine(db, "facts", lines.sealed()).wrong


def test_passages_that_no_search_of_the_corpus_finds(board: Board, facts: BoardDatabase, tmp_path: Path) -> None:
    lines = Lines.of(searched(board, tmp_path / "run.sqlite", "Facts-v0"))
    attempt = lines.first("search", sample=1)
    result, task = attempt["transcript"][2], attempt["task"]
    other = next(a for a in lines.of_arm("search") if a["task"] != task)["transcript"][2]
    result.update(content=other["content"], tokens=other["tokens"])
    attempt["cost"]["prompt_tokens"] += -1  # whichever way: what the tool returns is compared all the same
    assert examine(facts, "facts", lines.sealed()).state == "rejected"


def test_a_corpus_that_is_not_on_the_server_is_not_believed_to_have_been_checked(
    board: Board, facts: BoardDatabase, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"id": f"d{n}", "text": f"weather {n} is fine"}) + "\n" for n in range(30)))
    data = searched(board, tmp_path / "run.sqlite", str(own))
    found = examine(facts, "facts", data)
    assert found.state == "partly"
    assert "is not on this server" in "\n".join(found.of("unchecked"))
    with a_database(tmp_path / "second.sqlite", board) as second:
        known = examine(second, "facts", data, Means(corpora=(str(own),)))
        assert "is not on this server" not in "\n".join(known.of("unchecked"))


def test_another_corpus_than_the_board_says(tmp_path: Path) -> None:
    wanted = make_corpus("Facts-v0").hash
    board = a_board(tmp_path, FACTS + f'\n[rules]\ntools = ["search"]\ncorpora = {{ search = "{wanted}" }}\n')
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"id": f"d{n}", "text": f"weather {n} is fine"}) + "\n" for n in range(30)))
    with a_database(tmp_path / "board.sqlite", board) as db:
        right = examine(db, "facts", searched(board, tmp_path / "right.sqlite", "Facts-v0"))
        assert right.state == "partly"
        wrong = examine(db, "facts", searched(board, tmp_path / "wrong.sqlite", str(own)))
        assert f"and the board says {wanted}" in wrong.wrong
