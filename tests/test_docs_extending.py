"""The example of docs/extending.md that tries a tool, and what a report says of a tool that nobody calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.command import Done
from helpers.runs import registered

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The page's files; what they register is gone afterwards."""
    for name, text in zip(("reverse.py", "shout.py", "policy.py"), blocks("python"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "try.toml").write_text(blocks("toml")[-1], encoding="utf-8")
    with registered():
        yield tmp_path


def test_both_examples_keep_the_contract_that_the_page_recommends(testbed: Callable[..., Done], folder: Path) -> None:
    done = testbed("check", "--plugin", "reverse.py", "--plugin", "shout.py")
    assert (done.code, "FAILS" in done.out) == (0, False), done.out
    assert {"Reverse-v0", "shout"} <= set(done.out.splitlines())


def test_the_example_calls_the_tool_and_gains_by_it(testbed: Callable[..., Done], folder: Path) -> None:
    assert testbed("run", "try.toml").code == 0
    report = testbed("report", "try", "--json").data
    assert {arm["name"]: arm["successes"] for arm in report["arms"]} == {"bare": 0, "shout": 16}
    assert not any("called in none" in warning for warning in report["warnings"])
    assert "shout" in testbed("show", "try", "--arm", "shout").out


def test_a_tool_that_nobody_called_is_warned_of(testbed: Callable[..., Done], folder: Path) -> None:
    (folder / "policy.py").write_text("def answer(request):\n    return '<answer>no</answer>'\n", encoding="utf-8")
    assert testbed("run", "try.toml").code == 0
    said = "Arm 'shout': its tools were called in none of 16 attempts; its gain is that of offering them."
    warnings = testbed("report", "try", "--json").data["warnings"]
    assert [w for w in warnings if "called in none" in w] == [said]
