"""The experiment file that a board offers: it runs as it is, and what it makes fits the board."""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from helpers.boards import FREE, SUMS, VAULTS, a_board, a_database, client, listening
from helpers.command import Done
from testbed.board.accounts import create_token
from testbed.board.app import create_app
from testbed.board.board_file import RULES_KEYS
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.entry_file import entry_file
from testbed.board.refusals import NotFound
from testbed.board.schema import entries
from testbed.board.submit import submit
from testbed.board.verify import verify_entry
from testbed.experiment_file import parse_experiment
from testbed.store import Store

HERE = "https://board.example.org"
ODD = """\
slug = "odd-1"
title = "Tables in tables, \\"quoted\\" and \\\\"
seed = 9_007_199_254_740_993

[samples]
bare = 3
tools = 2

[budget]
turns = 4
seconds = 0.00001
calls = { "python" = 2, calculator = 1 }

[[env]]
id = "Oracle-v0"
digits = [4, 5]
told = [2, 2]
vaults = 3

[[env]]
id = "Addition-v0"
digits = 2
tasks = 2
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[BoardDatabase, Board, TestClient]]:
    board, private = a_board(tmp_path), a_board(tmp_path, VAULTS)
    with a_database(tmp_path / "board.sqlite", board, private) as db, client(db) as http:
        yield db, board, http


def with_rules(**rules: Any) -> str:
    head, _, rest = SUMS.partition("[rules]\n")
    assert set(rules) <= set(RULES_KEYS)
    lines = [f"{name} = {value}" for name, value in rules.items()]
    return "\n".join([f"{head}[rules]", *lines, *rest.splitlines()[1:]])


def test_the_file_that_is_offered_runs_and_its_entry_fits_the_board(
    served: tuple[BoardDatabase, Board, TestClient], testbed, tmp_path: Path
) -> None:
    db, _, http = served
    page = http.get("/submit").text
    assert 'href="/boards/sums/entry.toml"' in page
    sent = http.get("/boards/sums/entry.toml")
    assert sent.headers["content-disposition"] == 'attachment; filename="sums-entry.toml"'
    # A model that takes no time in the place of the reference model.
    text = sent.text.replace('id = "reference"', 'id = "scripted"\nreplies = ["<answer>7</answer>"]')
    (tmp_path / "sums-entry.toml").write_text(text, encoding="utf-8")
    done: Done = testbed("run", "sums-entry.toml", "--store", "mine.sqlite")
    assert done.code == 0, done.err
    with Store.open(tmp_path / "mine.sqlite") as store:
        token = create_token(db, "ann", ["submit"])
        said: dict[str, Any] = {"client": http, "say": str, "wait": 0.0}
        entry = submit(store, "sums-entry", "http://127.0.0.1/boards/sums", token, **said).entry
    assert verify_entry(db, entry) == "verified"


def test_a_private_board_offers_no_file_but_the_way_to_its_server(
    served: tuple[BoardDatabase, Board, TestClient],
) -> None:
    _, _, http = served
    assert http.get("/boards/vaults/entry.toml").status_code == 404
    page = http.get("/submit").text
    assert "/boards/vaults/entry.toml" not in page
    assert 'begin_entry("vaults"' in page
    assert http.get("/boards/nothing/entry.toml").status_code == 404


def test_the_program_for_a_private_board_makes_an_entry(
    served: tuple[BoardDatabase, Board, TestClient], capsys: pytest.CaptureFixture[str]
) -> None:
    db, _, _ = served
    token = create_token(db, "ann", ["submit"])
    with listening(create_app(db, FREE)) as port:
        page = httpx.get(f"http://127.0.0.1:{port}/submit").text
        (program,) = re.findall(r"<pre>(from testbed.*?)</pre>", page, re.DOTALL)
        exec(html.unescape(program), {"TOKEN": token})
    assert capsys.readouterr().out.count("'reward': 0.0") == 3 * 2 * 2  # tasks, arms, samples
    with db.reading() as connection:
        assert [row.kind for row in connection.execute(entries.select())] == ["remote"]


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        (SUMS, ["calculator"]),
        (ODD, ["python", "calculator"]),
        (with_rules(tools='["any"]'), ["calculator"]),
        (with_rules(tools='["search", "mcp:somewhere"]', corpora=f'{{ search = "{"ab" * 16}" }}'), ["search"]),
    ],
    ids=["sums", "odd", "any tool", "corpus"],
)
def test_everything_that_a_board_fixes_is_in_it(tmp_path: Path, text: str, tools: list[str]) -> None:
    board = a_board(tmp_path, text)
    read = tomllib.loads(entry_file(board, HERE))
    for key in ("budget", "measure", "env"):
        assert read.get(key) == board.spec.get(key), key
    assert read["seed"] == board.seed
    bare, helped = read["arm"]
    assert (bare["samples"], helped["samples"]) == (board.samples["bare"], board.samples["tools"])
    assert ("tools" in bare, helped["tools"]) == (False, tools)
    experiment = parse_experiment(read)
    assert all(arm.budget == board.budget for arm in experiment.arms)


def test_what_a_title_or_an_address_holds_stays_in_its_comment(tmp_path: Path) -> None:
    board = a_board(tmp_path)
    odd = replace(board, title='"""\nseed = 5\u2028\u202e\x07')
    read = tomllib.loads(entry_file(odd, 'https://x"\nseed = 4\n#'))
    assert (read["seed"], read["budget"]["turns"]) == (3, 4)


def test_a_private_board_has_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="private tasks"):
        entry_file(a_board(tmp_path, VAULTS), HERE)
