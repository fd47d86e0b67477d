from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import DataError, UnknownName, UsageError
from testbed.question_env import exact_match, normalise, token_f1
from testbed.registry import make_env


def write(folder: Path, *rows: object, name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# -- SQuAD's rule


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower.", "eiffel tower"),
        ("a an the", ""),
        ("Theodore  and\tAnna", "theodore and anna"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes before articles do
        ("14 December 1972 UTC", "14 december 1972 utc"),
        ("naïve", "naïve"),
        ("«Bonjour»", "«bonjour»"),  # ASCII punctuation only
    ],
)
def test_texts_are_normalised_as_squads_script_does(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("the cat sat", "cat sat", 1.0),
        ("cat", "cat sat", 2 / 3),
        ("dog", "cat", 0.0),
        ("cat cat", "cat", 2 / 3),  # a token counts as often as the reference has it
        ("yes", "yes", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "yes no", 0.0),
        ("", "cat", 0.0),
        ("the", "the", 0.0),
    ],
)
def test_token_f1_of_published_rules(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)


@given(st.text(max_size=30), st.text(max_size=30))
def test_f1_is_symmetric_and_1_for_equal_words(one: str, two: str) -> None:
    assert token_f1(one, two) == token_f1(two, one)
    assert 0 <= token_f1(one, two) <= 1
    if exact_match(one, two) and normalise(one):
        assert token_f1(one, two) == 1


def test_what_normalises_to_nothing_matches_itself_only() -> None:
    assert exact_match("The", "The")
    assert not exact_match("a", "The")
    assert not exact_match("", "The")
    assert not exact_match("", "")


# -- NQ open and HotpotQA


def test_any_of_several_answers_is_right_and_the_nearest_gives_the_score(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "who wrote it", "answer": ["Bobby Scott", "Bob Russell"]})
    env = make_env("NQOpen-v0", path=path)
    (task,) = env.tasks
    assert task.prompt.startswith("Who wrote it?")
    assert env.grade(task, "bob russell.").success
    near = env.grade(task, "Bob Scott")
    assert (near.success, near.score) == (False, 0.5)


OFFICIAL = [
    {
        "_id": "5a",
        "question": "Where is it?",
        "answer": "Kiel",
        "type": "bridge",
        "level": "hard",
        "context": [["Kiel", ["Kiel is a city.", " It is north."]], ["Ulm", ["Ulm is south."]]],
    },
    {"_id": "5b", "question": "Is it?", "answer": "yes", "context": [["Ulm", ["Ulm again."]], ["Blank", [" "]]]},
]


def test_hotpotqa_reads_the_official_file_with_its_documents(tmp_path: Path) -> None:
    path = tmp_path / "hotpot_dev_distractor_v1.json"
    path.write_text(json.dumps(OFFICIAL))
    env = make_env("HotpotQA-v0", path=path, limit=1)
    assert [task.meta["id"] for task in env.tasks] == ["5a"]
    assert env.tasks[0].meta["family"] == "bridge"
    assert dict(env.documents()) == {"Kiel": "Kiel Kiel is a city. It is north.", "Ulm": "Ulm Ulm is south."}


def test_hotpotqas_hundred_questions_have_their_thousand_documents(data_dir: Path) -> None:
    env = make_env("HotpotQA-v0", path=data_dir / "hotpot100" / "questions.jsonl")
    assert (len(env.tasks), len(list(env.documents()))) == (100, 1000)


def test_documents_that_are_missing_are_named(tmp_path: Path) -> None:
    env = make_env("HotpotQA-v0", path=write(tmp_path, {"question": "q?", "answer": "a"}))
    with pytest.raises(DataError, match=r"corpus\.jsonl is missing"):
        list(env.documents())


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("NQOpen-v0", {"question": "q"}, ":1: an object with a text 'question' and a list 'answer'"),
        ("NQOpen-v0", {"question": "q", "answer": [""]}, ":1: an object with"),
        ("HotpotQA-v0", {"question": "q", "answer": " "}, ":1: an object with texts"),
        ("Questions-v0", {"answer": "a"}, ":1: there is no text 'prompt'"),
        ("Questions-v0", {"prompt": "q"}, ":1: there is no 'answer'"),
        ("Questions-v0", {"prompt": "q", "answer": ["a", None]}, ":1: there is no 'answer'"),
        ("Questions-v0", {"prompt": "q", "answer": True}, ":1: there is no 'answer'"),
        ("Questions-v0", {"prompt": "q", "answer": "a", "grader": "nubmer"}, ":1: .*Did you mean 'number'"),
        ("Questions-v0", {"prompt": "q", "answer": "a", "grader": "number"}, ":1: the answer 'a' is not one number"),
        ("Questions-v0", "[1", ":1: not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        _ = make_env(name, path=write(tmp_path, row)).tasks


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\udcff"])
def test_an_official_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hotpot.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"hotpot\.json"):
        _ = make_env("HotpotQA-v0", path=path).tasks


@pytest.mark.parametrize("name", ["NQOpen-v0", "HotpotQA-v0", "Questions-v0"])
def test_senseless_options_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="limit must be at least 1"):
        make_env(name, path=tmp_path / "q.jsonl", limit=0)
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    with pytest.raises(UsageError, match="give its path"):
        make_env(name)


# -- questions of one's own


def test_questions_of_ones_own_with_every_field(tmp_path: Path) -> None:
    corpus = write(tmp_path, {"id": "d1", "text": "Nobody wrote it.", "title": "It"}, name="corpus.jsonl")
    path = write(
        tmp_path,
        {"prompt": "Who wrote it?", "answers": ["Nobody", "No one"], "cluster": "it", "family": "who", "id": 7},
        {"question": "How many?", "answer": 1200, "grader": "number"},
        {"prompt": "Spell it.", "answer": "IT", "grader": "exact"},
    )
    env = make_env("Questions-v0", path=path, corpus=corpus)
    who, many, spell = env.tasks
    assert (who.cluster, dict(who.meta)) == ("it", {"id": 7, "family": "who"})
    assert env.grade(who, "no one!").success
    assert env.grade(many, "1,200").success
    assert not env.grade(many, "1,2").success
    assert env.grade(spell, " IT ").success
    assert not env.grade(spell, "it").success
    assert list(env.documents()) == [("d1", "It Nobody wrote it.")]
    assert env.validate().problems == ()


def test_an_unknown_grader_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'exact'"):
        make_env("Questions-v0", path=write(tmp_path, {"prompt": "q", "answer": "a"}), grader="exakt")
