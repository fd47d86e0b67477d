"""What the page on leaderboards shows works as it stands there."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.board import board_file
from testbed.board.accounts import SCOPES
from testbed.board.boards import read_board_file
from testbed.board.limits import HEADERS
from testbed.board.service import Worker
from testbed.board.settings import KIB, MIB, Settings
from testbed.cli import app
from testbed.experiment_file import parse_experiment

TEXT = (Path(__file__).parents[1] / "docs" / "board.md").read_text(encoding="utf-8")


def test_the_boards_file_reads(tmp_path: Path) -> None:
    found = re.search(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "board.toml").write_text(found[1], encoding="utf-8")
    board = read_board_file(tmp_path / "board.toml")
    assert "$ testbed board create board.toml " in TEXT
    assert "This one, `board.toml`, is whole:" in TEXT
    assert (board.slug, len(board.tasks), board.samples) == ("sums", 100, {"bare": 32, "tools": 16})


def test_the_experiment_for_it_reads_and_fits() -> None:
    board, mine = map(tomllib.loads, re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    parsed = parse_experiment(mine)
    assert [mine[key] for key in ("seed", "budget", "env")] == [board[key] for key in ("seed", "budget", "env")]
    wanted = {arm.name: board["samples"]["tools" if arm.tools else "bare"] for arm in parsed.arms}
    assert {arm.name: arm.samples for arm in parsed.arms} == wanted
    assert {name for arm in parsed.arms for name in arm.tools} <= set(board["rules"]["tools"])


def test_every_key_of_a_boards_file_is_named() -> None:
    keys = {*board_file.KEYS, *board_file.PRIVATE_KEYS, *board_file.ARM_KEYS, *board_file.RULES_KEYS}
    for key in {*keys, *board_file.SAMPLES_KEYS, board_file.SECRET_VARIABLE}:
        assert re.search(rf"`\[*{key}\]*`", TEXT), key


@pytest.mark.parametrize("line", sorted(set(re.findall(r"testbed board [a-z][^`\n#]*", TEXT))))
def test_every_command_exists_with_its_options(line: str) -> None:
    words = line.split()[1:]
    command = words[: 3 if words[1] == "token" else 2]
    helped = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300"})
    assert helped.exit_code == 0, line
    for option in re.findall(r"--[a-z]+", line):
        assert option in helped.output, (line, option)


def test_limits_are_those_of_the_settings() -> None:
    usual = Settings()
    assert (usual.body, usual.chunk, usual.body_seconds) == (256 * KIB, 4 * MIB, 120)
    assert (usual.upload, usual.unpacked, usual.ratio, usual.attempts) == (512 * MIB, 4096 * MIB, 1000, 1_000_000)
    assert (usual.held, usual.writers) == (256 * MIB, 24)
    assert (usual.depth, usual.requests, usual.burst, usual.open_uploads) == (100, 20, 200, 16)
    for said in (
        "256 KiB; 4 MiB",
        "120 s",
        "| 100 |",
        "20 per second, 200 at once",
        "512 MiB, 4 GiB unpacked, 1,000 times",
        "1,000,000",
    ):
        assert said in TEXT, said
    assert "Settings(requests=100, upload=64 * 1024**2)" in TEXT
    assert {"requests", "upload"} <= {field.name for field in fields(Settings)}


def test_scopes_and_headers_are_those_of_the_code() -> None:
    assert [scope for scope in SCOPES if f"\n| `{scope}` |" in TEXT] == list(SCOPES)
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_waits_after_a_failure_are_those_of_the_worker(db) -> None:
    pause = Worker(db)._pause
    assert [pause * 8**n for n in (1, 2)] == [40, 320]
    assert "after 40 s and after 5 minutes" in TEXT


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", TEXT, re.M)
    }
    assert {target for target in re.findall(r"\]\(#([^)]*)\)", TEXT)} <= headings
