"""Files and mappings that cannot be imported are refused by their place, and nothing is stored."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.logs import HEADER, PLAIN, load
from testbed.errors import DataError, StoreError, UsageError
from testbed.store import Store
from testbed.transfer import Columns, import_outcomes
from testbed.transfer.values import Path as Place

QUICK_IN_POSTGRESQL = ("test_a_task_in_two_clusters_is_refused",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


BAD = {
    "unknown task": ("task,mode,trial,won\nq1,bare,0,1\n", r"log\.csv:2: there is no column 'question'"),
    "near column": ("question,mood,trial,won\nq1,bare,0,1\n", r"no column 'mode'\. Did you mean 'mood'"),
    "success": (HEADER + "q1,bare,0,1\nq2,bare,0,maybe\n", r"log\.csv:3: 'won' is 'maybe'"),
    "duplicate": (
        HEADER + "q1,bare,0,1\nq2,bare,0,1\nq1,bare,0,1\n",
        r"log\.csv:4: a second attempt of arm 'bare' at task 'q1' with sample 0; the first is at .*log\.csv:2",
    ),
    "negative sample": (HEADER + "q1,bare,-1,1\n", r"log\.csv:2: 'trial' is '-1'"),
    "huge sample": (HEADER + "q1,bare,3000000000,1\n", r"log\.csv:2: 'trial' is '3000000000'"),
    "fraction": (HEADER + "q1,bare,.5,1\n", r"a whole number up to"),
    "no task": (HEADER + " ,bare,0,1\n", r"'question' is ' ', but a name is needed"),
    "short row": (HEADER + "q1,bare,0\n", r"log\.csv:2: 3 fields, but the header has 4"),
    "long row": (HEADER + "q1,bare,0,1,x\n", r"log\.csv:2: 5 fields"),
    "quote": (HEADER + '"q1\n', r"log\.csv:2: not a CSV record"),
    "double column": ("question,mode,won,won\nq1,bare,0,1\n", r"two columns are called 'won'"),
    "not UTF-8": (HEADER.encode() + b"q1,bare,0,1\nq\xe9,bare,0,1\n", r"log\.csv:3: not UTF-8 text \(byte 2 .* 0xe9\)"),
    "empty": ("", "has no records"),
    "header only": (HEADER, "has no records"),
    "arm name": (HEADER + '"q1","a\nb",0,1\n', "an arm's name must be printable"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused_by_line_and_nothing_is_stored(store: Store, folder: Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises((DataError, StoreError), match=message):
        load(store, folder, text)
    assert store.runs() == []


BAD_JSON = {
    "line": ("log.jsonl", '{"question": "q1"}\n{"question": \n', r"log\.jsonl:1: there is no column 'mode'"),
    "broken line": ("log.jsonl", '\n{"question": \n', r"log\.jsonl:2: not a JSON line"),
    "list line": ("log.jsonl", "[1]\n", r"log\.jsonl:1: a list where a JSON object"),
    "array": ("log.json", '[\n{"a": 1},\n{"a" 2}\n]', r"log\.json:3: not JSON"),
    "item": ("log.json", '[{"question": "q1", "mode": "m", "trial": 0, "won": 1}, 7]', r"item 2: a int where"),
    "half a pair": ("log.jsonl", '{"question": "\\ud800", "mode": "m", "trial": 0, "won": 1}', r":1: 'question' is"),
    "null task": ("log.jsonl", '{"question": null, "mode": "m", "trial": 0, "won": 1}', r":1: 'question' is None"),
    "empty array": ("log.json", " [ ]", "has no records"),
    "deep": ("log.jsonl", "[" * 100_000, r"log\.jsonl:1: not a JSON line"),
    "ending": ("log.xlsx", "x", "unknown file ending '.xlsx'"),
    "no ending": ("log", "x", "unknown file ending ''"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_by_line_and_nothing_is_stored(store: Store, folder: Path, case: str) -> None:
    name, text, message = BAD_JSON[case]
    with pytest.raises(UsageError, match=message):
        load(store, folder, text, name=name)
    assert store.runs() == []


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1.5", "", "many"])
def test_a_cost_that_is_none_is_refused_by_line_and_column(store: Store, folder: Path, value: str) -> None:
    columns = replace(PLAIN, costs={"generated_tokens": Place("tokens")})
    with pytest.raises(DataError, match=rf"log\.csv:2: 'tokens' is '{value}'"):
        load(store, folder, HEADER.replace("\n", ",tokens\n") + f"q1,bare,0,1,{value}\n", columns)
    assert store.runs() == []


def test_a_task_in_two_clusters_is_refused(store: Store, folder: Path) -> None:
    text = HEADER.replace("\n", ",topic\n") + "q1,bare,0,1,sums\nq1,bare,1,1,products\n"
    with pytest.raises(DataError, match=r"log\.csv:3: task 'q1' is in cluster 'products', above in 'sums'"):
        load(store, folder, text, replace(PLAIN, cluster=Place("topic")))


def test_a_file_that_is_not_there_is_named(store: Store, folder: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*/none\.csv"):
        import_outcomes(store, folder / "none.csv", "r", PLAIN)
    (folder / "first.csv.gz").write_text("")
    with pytest.raises(DataError, match=r"there is no file .*/firts\.csv\. Did you mean '.*/first\.csv\.gz'\?"):
        import_outcomes(store, folder / "firts.csv", "r", PLAIN)


@pytest.mark.parametrize(
    "data", [gzip.compress((HEADER + "q1,bare,0,1\n").encode())[:-9], b"plain text"], ids=["cut", "not gzip"]
)
def test_broken_gzip_is_refused(store: Store, folder: Path, data: bytes) -> None:
    (folder / "log.csv.gz").write_bytes(data)
    with pytest.raises(DataError, match="not whole gzip data"):
        import_outcomes(store, folder / "log.csv.gz", "r", PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arm": ""}, "name the arm"),
        ({"arm": "="}, "name the arm"),
        ({"task": " "}, "names no column"),
        ({"success": "a[].b[].c"}, "names no column"),
        ({"cost": ["turn=n"]}, "unknown cost component 'turn'. Did you mean 'turns'"),
        ({"cost": ["turns"]}, "Write component=column"),
        ({"where": ["infos[].r=1"]}, "conditions are on whole records"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Columns.parse(**{"task": "q", "success": "won", "arm": "m", **options})  # type: ignore[arg-type]
    assert message in str(caught.value)
