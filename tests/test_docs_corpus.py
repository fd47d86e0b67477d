"""Every command of docs/corpus.md, run in order in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "corpus.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[str]:
    """What each block of commands prints."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "testbed").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m testbed "$@"\n')
    (commands / "testbed").chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    texts = []
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True
        )
        assert done.returncode == 0, block + done.stderr.decode()
        texts.append(done.stdout.decode() + done.stderr.decode())
    return texts


def test_the_commands_do_what_the_page_says(printed: list[str]) -> None:
    first, added, notes, run = printed
    assert "towns: 2 documents, 2 indexed" in first
    assert "first      [t1] Draistor: Draistor is a harbour town." in first
    assert "Ibrak Zonn" in first.partition("first      ")[2]
    assert "towns: 3 documents, 1 indexed" in added
    assert "towns: 3 documents as they were written" in added
    assert "notes_corpus: 1 documents, 1 indexed" in notes
    assert run


def test_the_experiment_uses_the_tools(printed: list[str], folder: Path) -> None:
    from testbed.store import Store

    with Store.open(str(folder / "towns.sqlite"), create=False) as store:
        (summary,) = store.runs()
    assert (summary.name, summary.attempts) == ("towns", 8)


def test_the_python_example_runs(printed: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[t2] Kaplin: Kaplin lies on the river Wurmel. Its mayor is Ibrak Zonn.",
        "[t3]",
        "Wurmel is a river. It freezes in winter.",
    ]
