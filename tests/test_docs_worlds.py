"""Every command and example of docs/worlds.md, run in order in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.corpus_store import open_corpus
from testbed.envs.worlds import Worlds
from testbed.store import Store

PAGE = (Path(__file__).parents[1] / "docs" / "worlds.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "testbed").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m testbed "$@"\n')
    (commands / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for file in commands.iterdir():
        file.chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
        )
        assert done.returncode == 0, block + done.stderr.decode()
    with Store.open(str(tmp_path / "lookup.sqlite"), create=False) as store:
        (summary,) = store.runs()
    assert (summary.name, summary.attempts) == ("lookup", 4 * 20 * 2 * 4)
    assert len(open_corpus(tmp_path / "private")) == 500


def test_the_python_example_writes_lessons_and_drills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "worlds.md", "exec"), {})
    lessons, drills = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("lessons", "drills")
    )
    world = Worlds(documents=2000, world=3)
    assert [(row["id"], row["text"]) for row in lessons] == list(world.lessons())
    assert {row["prompt"]: row["answer"] for row in drills} == dict(world.drills())


@pytest.mark.parametrize("option", ["kind", "hops", "split", "tasks", "documents", "known", "hide_known", "secret"])
def test_the_page_names_every_option(option: str) -> None:
    assert f"| `{option}` |" in PAGE
