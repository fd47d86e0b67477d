"""The commands of docs/report.md, as they stand there, and what the command line says of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from helpers.reported import ARMS, TASKS, reported
from testbed.store import Store

PAGE = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True)[2:] for line in re.findall(r"^\$ testbed .*", PAGE, re.MULTILINE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("docs"), "demo").page.parent


def commands(folder: Path) -> list[list[str]]:
    """The page's commands, with the id of an attempt of this run in place of the page's own."""
    with Store.open(folder / "testbed.sqlite") as store:
        beginning = next(iter(store.attempts("demo"))).id[:8]
    return [[beginning if re.fullmatch("[0-9a-f]{8}", word) else word for word in command] for command in COMMANDS]


def test_the_page_shows_every_form_of_the_report() -> None:
    said = " ".join(word for command in COMMANDS for word in command)
    for option in ("--html", "--transcripts", "--png", "--json", "--arm"):
        assert option in said


def test_the_page_with_transcripts_is_written_as_it_says(
    testbed: Callable[..., Done], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "testbed.sqlite").write_bytes((folder / "testbed.sqlite").read_bytes())
    for command in commands(tmp_path):
        if "--transcripts" in command or command[0] == "show":
            assert testbed(*command).code == 0
    assert (tmp_path / "demo.html").exists()
    assert len(list((tmp_path / "demo_transcripts").glob("task-*.html"))) == TASKS
    assert len(list((tmp_path / "demo_transcripts").glob("pair-*.html"))) == TASKS * (len(ARMS) - 1)


@pytest.mark.slow
def test_every_other_command_of_the_page_works(testbed: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "testbed.sqlite").write_bytes((folder / "testbed.sqlite").read_bytes())
    for command in commands(tmp_path):
        done = testbed(*command)
        assert done.code == 0, done.err
        if "--json" in command:
            assert len(json.loads(done.out)["map"]["tasks"]) == TASKS
    names = {path.name for path in (tmp_path / "charts").iterdir()}
    assert {"front_usd.png", "front_usd.svg", "map.png", "creation.svg", "frontier.png"} <= names


def test_transcripts_without_a_page_are_refused_before_any_work(testbed: Callable[..., Done], tmp_path: Path) -> None:
    done = testbed("report", "demo", "--transcripts", "2")
    assert done.code == 2
    assert "--html" in done.err
