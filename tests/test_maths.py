"""Comparing expressions, by the real library in a real sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed.sandbox
from testbed.env import Environment
from testbed.envs.maths import last_box
from testbed.errors import DataError, SandboxUnavailable, UsageError
from testbed.registry import make_env
from testbed.sandbox import pick
from testbed.sandbox_tool import backend

pytest.importorskip("math_verify", reason="math-verify is not installed (pip install capability-testbed[math])")
try:
    pick("auto")
except SandboxUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

ROWS = [
    {"problem": "Half?", "answer": "\\frac{1}{2}", "subject": "Fractions", "id": 3},
    {"problem": "Root?", "solution": "So \\boxed{1}, no, \\boxed{\\frac{\\sqrt{3}}{2}}.", "level": "Level 5",
     "type": "Roots"},
    {"prompt": "Square?", "answer": "x^2+2x+1"},
    {"problem": "Where?", "answer": "[0,1)"},
    {"problem": "AIME?", "answer": 73},
]  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    path = tmp_path_factory.mktemp("maths") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = make_env("Maths-v0", path=path)
    yield made
    made.close()


def test_files_of_the_usual_forms_are_read(env: Environment) -> None:
    assert [task.reference for task in env.tasks] == [
        "\\frac{1}{2}", "\\frac{\\sqrt{3}}{2}", "x^2+2x+1", "[0,1)", "73",
    ]  # fmt: skip
    assert [task.meta["family"] for task in env.tasks] == ["Fractions", "Roots", "", "", ""]
    assert (env.tasks[0].meta["id"], env.tasks[1].meta["level"]) == (3, "Level 5")


@pytest.mark.parametrize(
    ("task", "answer"),
    [(0, "1/2"), (0, "0.5"), (0, "$\\dfrac12$"), (1, "\\sqrt{3}/2"), (2, "(x+1)^2"), (3, "[0, 1)"), (4, "73"),
     (4, "073"), (4, "\\boxed{73}")],
)  # fmt: skip
def test_the_same_in_other_words_is_right(env: Environment, task: int, answer: str) -> None:
    assert env.grade(env.tasks[task], answer).success


@pytest.mark.parametrize(
    ("task", "answer"),
    [(0, "1/3"), (0, "2"), (2, "x^2+1"), (3, "(0,1]"), (4, "74"), (4, "73 or 74"), (4, "73, 74"),
     (4, "The answer is 73"),
     (4, "__import__('os')._exit(0)"), (4, "unread"), (4, "right")],
)  # fmt: skip
def test_anything_else_is_wrong(env: Environment, task: int, answer: str) -> None:
    assert not env.grade(env.tasks[task], answer).success


def test_what_no_machine_computes_is_wrong_in_time(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "timeout", 1.0)  # a processor is busy all the time
    found = env.grade(env.tasks[4], "9^{9^{9^9}}")
    assert not found.success
    assert "cannot be compared" in found.detail
    monkeypatch.undo()
    assert env.grade(env.tasks[4], "73").success


def test_sandboxes_are_tested_once_for_all_that_compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(testbed.sandbox, "pick", lambda *wanted: asked.append(wanted) or pick(*wanted))
    backend.cache_clear()
    (tmp_path / "problems.jsonl").write_text(json.dumps(ROWS[0]))
    for _ in range(2):
        made = make_env("Maths-v0", path=tmp_path / "problems.jsonl")
        assert made.grade(made.tasks[0], "0.5").success
        made.close()
    assert asked == [("auto", ("math-verify",))]


def test_graders_are_right_about_references_and_near_misses(env: Environment) -> None:
    assert env.validate().problems == ()


@pytest.mark.parametrize(
    ("text", "box"),
    [("\\boxed{1}", "1"), ("a \\boxed{\\frac{1}{2}} b", "\\frac{1}{2}"), ("\\boxed{1} \\boxed{ 2 }", "2"), ("none", ""),
     ("\\boxed{1", ""), ("is $\\boxed 5$. So", "5"), ("$\\boxed\\frac{1}{2}$", "\\frac{1}{2}"), ("\\boxed {7}", "7"),
     ("\\fbox{3}", "3"), ("\\boxed{4} \\fbox{3}", "4"), ("\\boxedly 5", "")],
)  # fmt: skip
def test_the_last_box_holds_the_answer(text: str, box: str) -> None:
    assert last_box(text) == box


@pytest.mark.parametrize(
    "row", [{"problem": "?"}, {"answer": "1"}, {"problem": "?", "solution": "none"}, {"problem": 1, "answer": "1"}]
)
def test_a_malformed_line_is_named(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"problems\.jsonl:1: a text 'problem'"):
        _ = make_env("Maths-v0", path=path).tasks


def test_senseless_options_are_refused() -> None:
    for options, says in (
        ({}, "give its path"),
        ({"path": "x", "limit": 0}, "limit"),
        ({"path": "x", "at_once": 0}, "at_once"),
    ):
        with pytest.raises(UsageError, match=says):
            make_env("Maths-v0", **options)
