"""Slips of the hand on the command line: each is answered with what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.command import Done

EXPERIMENT = """
name = "small"
samples = 2
[model]
id = "oracle"
[[env]]
id = "Addition-v0"
digits = 2
tasks = 2
[[arm]]
name = "bare"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "mult.toml").write_text(EXPERIMENT, encoding="utf-8")
    (tmp_path / "mytool.py").write_text("", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["plan", "mult.tml"], "Did you mean 'mult.toml'?"),
        (["run", "multi.toml"], "Did you mean 'mult.toml'?"),
        (["run", "mult"], "Did you mean 'mult.toml'?"),
        (["run", "dmo"], "Did you mean 'demo'?"),
        (["run", "mult.toml", "--plugin", "mytol.py"], "Did you mean 'mytool.py'?"),
        (["show", "small", "3f2a91"], "give only the id: testbed show 3f2a91"),
    ],
)
def test_what_was_meant_is_said(testbed: Callable[..., Done], files: Path, words: list[str], meant: str) -> None:
    done = testbed(*words)
    assert done.code == 2
    assert meant in done.err


def test_a_path_that_is_like_none_there_is_guesses_nothing(testbed: Callable[..., Done], files: Path) -> None:
    assert "Did you mean" not in testbed("run", "elsewhere/quite-different.toml").err


def test_the_placebo_is_called_inert(testbed: Callable[..., Done], files: Path) -> None:
    arm = '[[arm]]\nname = "pill"\ntools = ["python"]\ncontrol = "placebo"\n'
    (files / "mult.toml").write_text(EXPERIMENT + arm, encoding="utf-8")
    assert "The placebo is 'inert'." in testbed("run", "mult.toml").err


def test_an_unknown_run_is_told_before_a_file_that_exists(testbed: Callable[..., Done], files: Path) -> None:
    assert testbed("run", "mult.toml").code == 0
    (files / "out.parquet").write_bytes(b"old")
    done = testbed("export", "smal", "out.parquet")
    assert done.code == 2
    assert "Did you mean 'small'?" in done.err
    assert "exists" not in done.err


def test_the_exported_rows_are_read_as_the_docs_show(testbed: Callable[..., Done], files: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    example = page.rpartition("```python\n")[2].partition("```")[0]
    assert testbed("run", "mult.toml").code == 0
    assert testbed("export", "small", "out.parquet").code == 0
    names: dict[str, object] = {}
    exec(example, names)
    rows = names["rows"]
    assert isinstance(rows, list)
    assert len(rows) == pq.read_metadata(files / "out.parquet").num_rows == 4
    assert {(row["arm"], row["success"]) for row in rows} == {("bare", True)}


@pytest.mark.parametrize("tool", [[], ["--retrieve"]])
def test_a_corpus_search_prints_what_a_model_is_shown(
    testbed: Callable[..., Done], tmp_path: Path, tool: list[str]
) -> None:
    notes = tmp_path / "notes.jsonl"
    notes.write_text(
        '{"id": "a", "text": "The lamp stands in the hall."}\n{"id": "b", "text": "Kettles boil water for tea."}\n',
        encoding="utf-8",
    )
    done = testbed("corpus", "search", "notes.jsonl", "where is the lamp", "--k", "1", *tool)
    assert done.code == 0, done.err
    assert "The lamp stands in the hall." in done.out
    assert "Kettles" not in done.out
    unknown = testbed("corpus", "search", "note.jsonl", "lamp")
    assert unknown.code == 2
    assert "Did you mean 'notes.jsonl'?" in unknown.err
