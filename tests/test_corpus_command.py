from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli import app
from testbed.errors import DataError

LINES = '{"id": "a", "text": "grey stone"}\n{"id": "b", "text": "salt"}\n'


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["corpus", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "x.jsonl").write_text(LINES)
    return tmp_path / "x.jsonl"


def test_build_info_verify(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    code, text = invoke("build", source, out)
    assert (code, text.startswith(f"{out}: 2 documents, 2 indexed, hash ")) == (0, True)
    content_hash = text.split()[-1]
    code, text = invoke("info", out)
    assert code == 0
    assert text.splitlines()[:2] == ["documents  2", f"hash       {content_hash}"]
    assert text.splitlines()[-1] == "first      [a] grey stone"
    assert invoke("verify", out, "--hash", content_hash) == (0, f"{out}: 2 documents as they were written\n")
    with pytest.raises(DataError, match="not 00"):
        invoke("verify", out, "--hash", "00")


def test_verify_fails_on_damage(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    invoke("build", source, out)
    data = out / json.loads((out / "corpus.json").read_text())["data"]
    (data / "documents.jsonl").write_text(LINES)
    code, text = invoke("verify", out)
    assert (code, "documents.jsonl is not what was written" in text) == (1, True)


def test_a_second_build_indexes_what_is_new(source: Path, tmp_path: Path) -> None:
    invoke("build", source, tmp_path / "c")
    assert ": 2 documents, 0 indexed" in invoke("build", source, tmp_path / "c")[1]
    source.write_text(LINES + '{"id": "0", "text": "moss"}\n')
    assert ": 3 documents, 1 indexed" in invoke("build", source, tmp_path / "c")[1]


def test_a_format_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("id,text\na,b\n")
    assert invoke("build", tmp_path / "table", tmp_path / "c", "--format", "csv")[0] == 0


def test_a_source_that_is_missing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        invoke("build", tmp_path / "nowhere", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_file_in_the_way_of_a_corpus_is_named(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "c"):
        with pytest.raises(DataError, match=f"corpus in {folder}: {file} is a file: give another path"):
            invoke("build", source, folder)
