from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from testbed.envs.scifact_rules import (
    Evidence,
    abstract_is_right,
    f1,
    read_evidence,
    right_sentences,
    sentence_f1,
)
from testbed.errors import DataError, UnknownName, UsageError
from testbed.registry import make_corpus, make_env, make_tool

# The scoring example of the benchmark's own doc/evaluation.md.
GOLD = {"11": Evidence("SUPPORT", ((0, 1), (11,))), "15": Evidence("SUPPORT", ((4,),))}
SAID = {"11": Evidence("SUPPORT", ((1, 11, 13),)), "16": Evidence("CONTRADICT", ((18, 20),))}

CLAIMS: list[dict[str, Any]] = [
    {
        "id": 1,
        "claim": "Moths eat wool.",
        "evidence": {
            "11": [{"sentences": [0, 1], "label": "SUPPORT"}, {"sentences": [3], "label": "SUPPORT"}],
            "15": [{"sentences": [2], "label": "SUPPORT"}],
        },
        "cited_doc_ids": [15, 11],
    },
    {"id": 3, "claim": "Moths sing.", "evidence": {}, "cited_doc_ids": [11]},
    {
        "id": 5,
        "claim": "Owls are deaf.",
        "evidence": {"16": [{"sentences": [1], "label": "CONTRADICT"}]},
        "cited_doc_ids": [16],
    },
]
ABSTRACTS = [
    {"doc_id": int(doc), "title": f"On {doc}", "abstract": [f"One of {doc}.", 'It\'s "two".', "Three.", "Four."]}
    for doc in ("11", "15", "16")
]


def official(folder: Path, claims: list[dict[str, Any]] = CLAIMS) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("claims_dev.jsonl", claims), ("corpus.jsonl", ABSTRACTS)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def flat(claims: list[dict[str, Any]] = CLAIMS) -> list[dict[str, Any]]:
    """The claims as tables have them: a row for each set of evidence."""
    rows = []
    for claim in claims:
        sets = [(doc, one) for doc, many in claim["evidence"].items() for one in many] or [("", {})]
        for doc, one in sets:
            rows.append(
                {
                    "id": claim["id"],
                    "claim": claim["claim"],
                    "evidence_doc_id": doc,
                    "evidence_label": one.get("label", ""),
                    "evidence_sentences": one.get("sentences", []),
                    "cited_doc_ids": claim["cited_doc_ids"],
                }
            )
    return rows


def zipped(path: Path) -> Path:
    """The tables as CSV, with lists printed as numpy prints them."""

    def printed(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return f"[{chr(10).join(map(repr, value))}]" if value and isinstance(value[0], str) else str(value)

    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in (("claims_validation.csv", flat()), ("corpus_train.csv", ABSTRACTS)):
            text = io.StringIO()
            table = csv.DictWriter(text, list(rows[0]))
            table.writeheader()
            table.writerows({key: printed(value) for key, value in row.items()} for row in rows)
            archive.writestr(
                f"data/{name}", text.getvalue().replace(", ", " ") if "claims" in name else text.getvalue()
            )
    return path


def hashes(env: Any) -> list[str]:
    return [task.hash for task in env.tasks]


# -- the benchmark's rule ----------------------------------------------------------------------------------------------


def test_abstracts_are_scored_as_in_the_published_example() -> None:
    right = sum(doc in GOLD and abstract_is_right(said, GOLD[doc]) for doc, said in SAID.items())
    assert (right, len(SAID), len(GOLD), f1(right, len(SAID), len(GOLD))) == (1, 2, 2, 1 / 2)


def test_sentences_are_scored_as_in_the_published_example() -> None:
    assert right_sentences(SAID["11"], GOLD["11"]) == 1
    assert sentence_f1(SAID, GOLD) == pytest.approx(2 / 9)


def test_a_sentence_of_two_sets_of_evidence_counts_once() -> None:
    gold, said = Evidence("SUPPORT", ((1, 2), (2, 3))), Evidence("SUPPORT", ((1, 2, 3),))
    assert right_sentences(said, gold) == 3
    assert sentence_f1({"7": said}, {"7": gold}) == 1.0


@pytest.mark.parametrize(
    ("label", "sentences", "right"),
    [
        ("SUPPORT", (11,), True),
        ("SUPPORT", (1, 0), True),
        ("SUPPORT", (0,), False),  # half a set
        ("SUPPORT", (1, 13, 11), True),
        ("SUPPORT", (1, 13, 14, 11), False),  # only the first three count
        ("SUPPORT", (1, 1, 1, 11), False),  # said thrice, counted thrice
        ("SUPPORT", (), False),
        ("CONTRADICT", (11,), False),
    ],
)
def test_one_complete_set_among_the_first_three_sentences_is_needed(
    label: str, sentences: tuple[int, ...], right: bool
) -> None:
    assert abstract_is_right(Evidence(label, (sentences,)), GOLD["11"]) is right


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("NOINFO", {}),
        (" noinfo\n", {}),
        ("11 SUPPORT 1 11", {"11": Evidence("SUPPORT", ((1, 11),))}),
        (
            "11 SUPPORT 1, 11; 16 CONTRADICT",
            {"11": Evidence("SUPPORT", ((1, 11),)), "16": Evidence("CONTRADICT", ((),))},
        ),
        ("", None),
        ("11", None),
        ("11 REFUTES 1", None),
        ("11 support 1", None),
        ("11 SUPPORT 1\n11 SUPPORT 2", None),
        ("11 SUPPORT one", None),
        ("11 SUPPORT 1 because", None),
        ("11 SUPPORT " + "9" * 5000, None),
        ("11 SUPPORT\n" * 500, None),
    ],
)
def test_answers_are_read_strictly(answer: str, found: Any) -> None:
    assert read_evidence(answer) == found


# -- the environment ---------------------------------------------------------------------------------------------------


def test_every_form_of_the_files_gives_the_same_tasks_and_documents(tmp_path: Path) -> None:
    by_file = make_env("SciFact-v0", path=official(tmp_path / "official"))
    by_zip = make_env("SciFact-v0", path=zipped(tmp_path / "scifact.zip"))
    assert hashes(by_zip) == hashes(by_file)
    assert list(by_zip.documents()) == list(by_file.documents())
    assert dict(by_file.documents())["11"] == 'On 11 (0) One of 11. (1) It\'s "two". (2) Three. (3) Four.'


def test_a_dataset_gives_the_same_tasks_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.Dataset.from_list(flat()).save_to_disk(tmp_path / "claims")
    (tmp_path / "abstracts").mkdir()
    datasets.Dataset.from_list(ABSTRACTS).to_parquet(tmp_path / "abstracts" / "train.parquet")
    by_file = make_env("SciFact-v0", path=official(tmp_path / "official"))
    by_hub = make_env("SciFact-v0", hub=str(tmp_path / "claims"), corpus={"name": str(tmp_path / "abstracts")})
    assert hashes(by_hub) == hashes(by_file)
    assert list(by_hub.documents()) == list(by_file.documents())
    assert "claims @ fingerprint" in by_hub.tasks[0].meta["source"]


def test_its_abstracts_are_a_corpus_by_name_and_path(tmp_path: Path) -> None:
    corpus = make_corpus({"env": "SciFact-v0", "path": str(official(tmp_path))})
    assert (
        make_tool("search", corpus=corpus, k=1).invoke({"query": "one of 15"}).startswith("[15] On 15 (0) One of 15.")
    )


def test_an_answer_names_every_abstract_and_no_other(tmp_path: Path) -> None:
    env = make_env("SciFact-v0", path=official(tmp_path))
    wool, sing, _ = env.tasks
    assert env.reference_answer(wool) == "11 SUPPORT 3 0 1\n15 SUPPORT 2"
    for answer, success in (
        ("15 SUPPORT 2; 11 SUPPORT 3", True),
        ("11 SUPPORT 3", False),
        ("15 SUPPORT 2; 11 SUPPORT 3; 16 SUPPORT 0", False),
        ("15 SUPPORT 2; 11 SUPPORT 0", False),
        ("15 CONTRADICT 2; 11 SUPPORT 3", False),
        ("NOINFO", False),
    ):
        assert env.grade(wool, answer).success is success, answer
    assert env.grade(wool, "11 SUPPORT 3").score == pytest.approx(2 / 5)  # one of one named, one of four wanted
    assert env.grade(sing, "NOINFO").success
    assert env.grade(sing, "11 SUPPORT") == env.grade(sing, "11 SUPPORT")
    assert (env.grade(sing, "11 SUPPORT").success, env.grade(sing, "11 SUPPORT").score) == (False, 0.0)


def test_less_may_be_asked_for(tmp_path: Path) -> None:
    abstracts = make_env("SciFact-v0", path=official(tmp_path), answer="abstracts")
    assert abstracts.grade(abstracts.tasks[0], "11 SUPPORT\n15 SUPPORT").success
    assert abstracts.grade(abstracts.tasks[0], "11 SUPPORT").score == pytest.approx(2 / 3)
    label = make_env("SciFact-v0", path=official(tmp_path), answer="label")
    assert [task.reference for task in label.tasks] == ["SUPPORT", "NOINFO", "CONTRADICT"]
    assert label.grade(label.tasks[0], "support").success
    assert not label.grade(label.tasks[0], "11 SUPPORT").success
    assert len({env.tasks[0].hash for env in (abstracts, label)}) == 2


def test_claims_on_the_same_article_belong_together(tmp_path: Path) -> None:
    env = make_env("SciFact-v0", path=official(tmp_path))
    assert [task.cluster for task in env.tasks] == ["11", "11", "16"]


def test_a_claim_that_the_rule_cannot_take_is_left_out_and_one_said_twice_comes_once(tmp_path: Path) -> None:
    long = {
        **CLAIMS[2],
        "id": 7,
        "claim": "Owls.",
        "evidence": {"16": [{"sentences": [0, 1, 2, 3], "label": "SUPPORT"}]},
    }
    again = {**CLAIMS[2], "id": 9}
    path = official(tmp_path, [*CLAIMS, long, again])
    assert len(make_env("SciFact-v0", path=path).tasks) == 3
    assert len(make_env("SciFact-v0", path=path, answer="abstracts").tasks) == 4


def test_the_public_claims_and_their_abstracts(data_dir: Path) -> None:
    path = data_dir / "scifact" / "scifact.zip"
    if not path.is_file():
        pytest.skip(f"no {path}")
    for split, answer, tasks in (
        ("validation", "sentences", 300),
        ("train", "label", 807),
        ("train", "sentences", 806),
    ):
        found = make_env("SciFact-v0", path=path, split=split, answer=answer).validate()
        assert (found.checked, found.problems) == (tasks, ())


@pytest.mark.slow
def test_search_finds_evidence_and_open_reads_it(data_dir: Path) -> None:
    path = data_dir / "scifact" / "scifact.zip"
    env = make_env("SciFact-v0", path=path)
    corpus = make_corpus({"env": "SciFact-v0", "path": str(path)})
    search, open_ = make_tool("search", corpus=corpus, k=10), make_tool("open", corpus=corpus)
    assert "(0) Alterations of the architecture" in open_.invoke({"id": "4983"})
    asked = [task for task in env.tasks if task.reference]
    found = 0
    for task in asked:
        claim = task.prompt.partition("\n")[0].removeprefix("Claim: ")
        results = search.invoke({"query": claim})
        found += any(f"[{doc}]" in results for doc in task.reference)
    assert found / len(asked) > 0.75


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_the_test_split_is_refused_with_the_reason() -> None:
    with pytest.raises(UnknownName, match=r"'test'.*labels are not public"):
        make_env("SciFact-v0", path="x.zip", split="test")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "x.zip", "answer": "labels"}, "Did you mean 'label'"),
        ({"path": "x.zip", "limit": 0}, "limit must be at least 1 claim"),
        ({"path": "x.zip", "corpus": "y"}, "corpus goes with hub"),
        ({"path": "x.zip", "hub": "y"}, "give path or hub"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_env("SciFact-v0", **options)


def test_files_that_are_no_scifact_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.csv", "id\n1\n")
    for path, says in (
        (tmp_path / "text.zip", "cannot be read as SciFact's zip: File is not a zip"),
        (tmp_path / "other.zip", r"there is no claims_validation\.csv"),
        (tmp_path / "none", r"neither a zip nor a folder with claims_dev\.jsonl"),
        (official(tmp_path / "a", [{"id": 1, "evidence": {}}]), r"claims_dev\.jsonl:1: an 'id' and a text 'claim'"),
        (
            official(tmp_path / "b", [{**CLAIMS[0], "evidence": {"11": [{"sentences": [1], "label": "MAYBE"}]}}]),
            r"claims_dev\.jsonl:1: evidence of 11 needs",
        ),
    ):
        with pytest.raises(DataError, match=says):
            _ = make_env("SciFact-v0", path=path).tasks
