"""Answers that are programs, with real sandboxes; attacks on grading are in test_sandbox_grade_attacks.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import testbed.sandbox
from testbed.env import Environment
from testbed.errors import DataError, SandboxUnavailable, UnknownName, UsageError
from testbed.experiment_file import parse_experiment
from testbed.models.scripted import Scripted
from testbed.program_env import program_in
from testbed.protocol import write_answer
from testbed.registry import make_env
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.sandbox import pick
from testbed.sandbox_tool import backend
from testbed.store import Store

try:
    pick("auto")
except SandboxUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n    assert f(-1, 1) == 0\n",
}
SQUARE = {
    "task_id": 11,
    "text": "Write a function to square a number.",
    "code": "def square(x):\r\n  return x * x",
    "test_setup_code": "",
    "test_list": ["assert square(3) == 9", "assert square(-2) == 4", "assert square(0) == 0"],
}


def write(folder: Path, *rows: object) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def humaneval(tmp_path: Path) -> Iterator[Environment]:
    made = make_env("HumanEval-v0", path=write(tmp_path, ADD))
    yield made
    made.close()


@pytest.fixture
def mbpp(tmp_path: Path) -> Iterator[Environment]:
    made = make_env("MBPP-v0", path=write(tmp_path, SQUARE), shown=1)
    yield made
    made.close()


def test_sandboxes_are_tested_once_for_all_that_grade(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(testbed.sandbox, "pick", lambda *wanted: asked.append(wanted) or pick(*wanted))
    backend.cache_clear()
    for name, row in (("HumanEval-v0", ADD), ("MBPP-v0", SQUARE)):
        made = make_env(name, path=write(tmp_path, row))
        assert made.validate().problems == ()
        made.close()
    assert asked == [("auto", ())]


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("  ```\nx = 1\n```\n ", "x = 1"),
        ("```py\r\nx = 1\r\ny = 2\r\n```", "x = 1\ny = 2"),
        ("\n\n    return 1\n", "    return 1"),
        ("Here:\n```python\nx = 1\n```", "Here:\n```python\nx = 1\n```"),
        ("```python\n```", ""),
    ],
)
def test_a_fence_around_the_whole_program_is_taken_off(answer: str, program: str) -> None:
    assert program_in(answer) == program


@pytest.mark.parametrize(
    "answer",
    [
        "def add(a, b):\n    return b + a",
        "```python\ndef add(a, b):\n    return b + a\n```",
        "    return b + a",
        "    c = a\n    return c + b\n\ndef unused():\n    pass",
        "add = lambda a, b: a + b",
        "import operator\nadd = operator.add",
    ],
)
def test_whole_functions_and_completions_of_the_prompt_pass(humaneval: Environment, answer: str) -> None:
    assert humaneval.grade(humaneval.tasks[0], answer).success


@pytest.mark.parametrize(
    ("begins", "answer"),
    [
        ("import operator\n\n\n", "def add(a, b):\n    return operator.add(a, b)"),
        ("def plus(a, b):\n    return a + b\n\n\n", "def add(a, b):\n    return plus(a, b)"),
        ("import operator\n\n\n", "from __future__ import annotations\n\ndef add(a: int, b: int):\n    return a + b"),
    ],
)
def test_an_answer_runs_after_the_prompt_and_may_use_what_it_defines(tmp_path: Path, begins: str, answer: str) -> None:
    env = make_env("HumanEval-v0", path=write(tmp_path, {**ADD, "prompt": begins + ADD["prompt"]}))
    assert env.grade(env.tasks[0], answer).success
    assert not env.grade(env.tasks[0], answer.replace("def add", "def sub")).success
    env.close()


@pytest.mark.parametrize(
    "answer",
    ["", "    return a - b", "def add(a, b):\n    return 3", "print('hm')", "import os; os._exit(0)", "(", "\0"],
)
def test_what_fails_a_test_is_wrong(humaneval: Environment, answer: str) -> None:
    assert not humaneval.grade(humaneval.tasks[0], answer).success


def test_prompts_show_what_the_benchmarks_show(humaneval: Environment, mbpp: Environment, tmp_path: Path) -> None:
    assert ADD["prompt"].strip() in humaneval.tasks[0].prompt
    assert "assert" not in humaneval.tasks[0].prompt
    assert SQUARE["test_list"][0] in mbpp.tasks[0].prompt
    assert SQUARE["test_list"][1] not in mbpp.tasks[0].prompt
    whole = make_env("MBPP-v0", path=write(tmp_path, SQUARE))
    assert all(one in whole.tasks[0].prompt for one in SQUARE["test_list"])


def test_a_table_of_the_shown_values_fails_where_others_are_hidden(mbpp: Environment) -> None:
    assert not mbpp.grade(mbpp.tasks[0], "def square(x): return {3: 9}[x]").success
    assert mbpp.grade(mbpp.tasks[0], "def square(x): return x ** 2").success


def test_parts_of_mbpp_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, *({**SQUARE, "task_id": n, "text": f"{n}."} for n in (1, 10, 11, 510, 511, 601, 974)))
    found = {
        split: [task.meta["id"] for task in make_env("MBPP-v0", path=path, split=split).tasks]
        for split in ("prompt", "test", "validation", "train")
    }
    assert found == {
        "prompt": ["MBPP/1", "MBPP/10"],
        "test": ["MBPP/11", "MBPP/510"],
        "validation": ["MBPP/511"],
        "train": ["MBPP/601", "MBPP/974"],
    }


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("HumanEval-v0", {**ADD, "test": 3}, ":2: there is no text 'test'"),
        ("HumanEval-v0", {"prompt": "x"}, ":2: there is no text 'task_id'"),
        ("HumanEval-v0", "nonsense", ":2: not JSON"),
        ("MBPP-v0", {**SQUARE, "test_list": []}, ":2: an object with a number 'task_id'"),
        ("MBPP-v0", {**SQUARE, "task_id": "11"}, ":2: an object with a number 'task_id'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, row: Any, says: str) -> None:
    first = ADD if name == "HumanEval-v0" else SQUARE
    with pytest.raises(DataError, match=says):
        _ = make_env(name, path=write(tmp_path, first, row)).tasks


@pytest.mark.parametrize("name", ["HumanEval-v0", "MBPP-v0"])
def test_senseless_options_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ADD)
    for options, says in (
        ({"limit": 0}, "limit must be at least 1"),
        ({"at_once": 0}, "at_once must be at least 1"),
        ({"timeout": 0.0}, "timeout must be above 0"),
    ):
        with pytest.raises(UsageError, match=says):
            make_env(name, path=path, **options)
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    with pytest.raises(UsageError, match="give its path, or set TESTBED_DATA"):
        make_env(name)


def test_an_unknown_split_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'test'"):
        make_env("MBPP-v0", path=write(tmp_path, SQUARE), split="tset")


def test_a_damaged_gzip_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00 this is no gzip")
    with pytest.raises(DataError, match=r"cannot read .*HumanEval\.jsonl\.gz"):
        _ = make_env("HumanEval-v0", path=path).tasks


async def test_a_run_grades_programs_several_at_once_and_forgets_no_attempt(tmp_path: Path) -> None:
    """The second answer is right: with two answers every attempt succeeds, with one none does."""

    def write_program(request: Any) -> str:
        wrong = any("That is wrong." in message["content"] for message in request.messages)
        return write_answer("def add(a, b): return a + b" if wrong else "def add(a, b): return a - b")

    experiment = parse_experiment(
        {
            "name": "programs",
            "samples": 4,
            "model": "scripted",
            "budget": {"seconds": 60.0},
            "env": [{"id": "HumanEval-v0", "path": str(write(tmp_path, ADD))}],
            "arm": [{"name": "bare"}, {"name": "again", "budget": {"answers": 2}}],
        }
    )
    with Store.open(f"{tmp_path}/store.sqlite") as store:
        progress = await Runner(experiment, store, models={"scripted": Scripted(write_program)}).run()
        assert (progress.done, progress.missing) == (8, 0)
        analysis = analyse_run(store, "programs")
    assert {arm.name: arm.successes for arm in analysis.arms} == {"bare": 0, "again": 4}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "file", "tasks"),
    [("HumanEval-v0", "humaneval/HumanEval.jsonl.gz", 164), ("MBPP-v0", "mbpp/mbpp.jsonl", 500)],
)
def test_every_task_accepts_its_solution_and_refuses_near_misses(
    data_dir: Path, name: str, file: str, tasks: int
) -> None:
    made = make_env(name, path=data_dir / file, timeout=60.0)
    found = made.validate()
    made.close()
    assert (found.checked, found.problems) == (tasks, ())
