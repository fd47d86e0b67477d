"""Every block of the tutorials on environments and tools, in order, in an empty folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed import registry
from testbed.cli import app

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(\w+\.(?:py|toml|jsonl))`")


@dataclass
class Followed:
    """A tutorial that was followed: its folder, and what its commands printed, by command."""

    folder: Path
    printed: dict[str, str]


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Language and content of each block, and the file that the paragraph before it names, if any."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        names = NAME.findall(text[: block.start()].rstrip().rpartition("\n\n")[2])
        yield block[1], block[2], names[0] if names and block[1] != "sh" else ""


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    """Writes the files that a page names, then gives its commands."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    commands: list[str] = []
    examples: list[str] = []
    for language, block, file in blocks(page):
        if file:
            (folder / file).write_text(block, encoding="utf-8")
        else:
            {"sh": commands, "python": examples}[language] += block.splitlines() if language == "sh" else [block]
    printed = {}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "testbed"
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
        printed[command] = done.output
    for example in examples:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(example, page, "exec"), {"__name__": "example"})
        printed["python"] = said.getvalue()
    return Followed(folder, printed)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Plug-ins that a test loads are gone after it."""
    kept = [registry._plugins["envs"], registry._plugins["tools"], registry._owners, registry._loaded]
    before = [dict(table) for table in kept]
    yield
    for table, content in zip(kept, before, strict=True):
        table.clear()
        table.update(content)  # type: ignore[arg-type]


def test_the_tutorial_on_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    done = follow("tutorial_environment.md", tmp_path, monkeypatch)
    assert re.search(r"Bills-v0 +Bills to add up", done.printed["testbed list envs --plugin bills.py"])
    checked = done.printed["testbed check --plugin bills.py"]
    assert (checked.count("  holds "), checked.count("FAILS")) == (15, 0)
    assert done.printed["python"].startswith("Validation(checked=20, problems=())\nAdd up: ")
    assert done.printed["python"].endswith("0.0 True\n")
    report = done.printed["testbed report bills"]
    assert re.search(r"^  2 lines +8 +0\.2\d +0\.[123]\d +1\.00", report, re.MULTILINE), report
    assert re.search(r"^  12 lines +8 +0\.00 +0\.00 +1\.00", report, re.MULTILINE), report
    calculator = report.rpartition("\ncalculator\n")[2]
    creates, _, elicits = calculator.partition("elicits")
    assert "Bills, 12 lines: 8 of 8 tasks expanded" in creates
    assert "Bills, 2 lines" in elicits
    assert "calculator" in done.printed["testbed show bills --arm calculator --limit 1"]


def test_the_tutorial_on_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    done = follow("tutorial_tool.md", tmp_path, monkeypatch)
    assert re.search(r"price_of +Tells what a ware costs", done.printed["testbed list tools --plugin price_of.py"])
    for plugin in ("price_of.py", "shout.py"):
        checked = done.printed[f"testbed check --plugin {plugin}"]
        assert (checked.count("  holds "), checked.count("FAILS")) == (9, 0)
    assert done.printed["python"].splitlines() == ["A rope costs 7 crowns.", "{'prices': {'rope': 7}}"]
    report = done.printed["testbed report prices"]
    for step, separates, difference in (
        ("bare to inert", "scaffold", r"[+-]0\.0\d*"),
        ("inert to yoked", "information", r"\+(?:1\.00|0\.99\d*)"),
        ("yoked to live", "interaction", r"\+0\.00"),
    ):
        assert re.search(rf"^{step} +{separates} +3 +{difference}", report, re.MULTILINE), report
    assert "3 of 3 tasks expanded" in report.rpartition("\nlive\n")[2]
