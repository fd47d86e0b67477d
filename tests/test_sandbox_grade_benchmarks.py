"""Two public benchmarks over real sandboxes: canonical solutions pass, empty and spoilt ones fail."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.sandbox.grade import Grader, Tests

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)
PATIENCE = 60.0  # seconds; what is tested here is the verdict, and the machine may be busy


Problems = dict[str, tuple[Tests, str, dict[str, str]]]  # tests, canonical solution, wrong ones


WRONG = """
def _wrong(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1 if value - value == 0 else 0
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, "x"]
    if isinstance(value, tuple):
        return (*value, "x")
    if isinstance(value, (set, frozenset)):
        return value | {"x"}
    if isinstance(value, dict):
        return {**value, "x": "x"}
    return 0 if value is None else None

def _spoil(right):
    return lambda *args, **options: _wrong(right(*args, **options))
"""


def wrong_solutions(canonical: str, empty: str, functions: list[str]) -> dict[str, str]:
    """Solutions that say nothing, that return nothing, and that are always near the right answer and never at it."""
    return {
        "empty": empty,
        "None": empty + "".join(f"\ndef {name}(*args, **options):\n    return None\n" for name in functions),
        "wrong": f"{canonical}\n{WRONG}\n" + "".join(f"{name} = _spoil({name})\n" for name in functions),
    }


def humaneval(data_dir: Path) -> Problems:
    """Tests, canonical solution and wrong ones of every problem."""
    problems = {}
    with gzip.open(data_dir / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            right, name = row["prompt"] + row["canonical_solution"], row["entry_point"]
            tests = Tests(row["test"], setup=row["prompt"], entry_point=name)
            problems[row["task_id"]] = (tests, right, wrong_solutions(right, row["prompt"], [name]))
    assert len(problems) == 164
    return problems


def mbpp(data_dir: Path) -> Problems:
    """The same of the test split."""
    problems = {}
    with open(data_dir / "mbpp" / "mbpp.jsonl", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not 11 <= row["task_id"] <= 510:
                continue
            code = "\n".join([row["test_setup_code"], *row["test_list"]])
            made = re.findall(r"^def (\w+)", row["code"], re.MULTILINE)
            functions = [name for name in made if re.search(rf"\b{name}\b", code)]
            tests = Tests(code, required=tuple(functions))
            problems[f"MBPP/{row['task_id']}"] = (tests, row["code"], wrong_solutions(row["code"], "", functions))
    assert len(problems) == 500
    return problems


def reasons(grader: Grader, work: dict[str, tuple[str, Tests]]) -> dict[str, str]:
    with ThreadPoolExecutor(3) as threads:
        grades = threads.map(lambda job: grader.grade(*job, PATIENCE), work.values())
        return {name: grade.reason for name, grade in zip(work, grades, strict=True)}


def test_one_in_four_canonical_solutions_of_humaneval_passes(grader, data_dir):
    problems = list(humaneval(data_dir).items())[::4]
    work = {name: (right, tests) for name, (tests, right, _) in problems}
    assert {name: reason for name, reason in reasons(grader, work).items() if reason != "passed"} == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("benchmark", [humaneval, mbpp])
def test_every_canonical_solution_passes(grader, data_dir, benchmark):
    work = {name: (right, tests) for name, (tests, right, _) in benchmark(data_dir).items()}
    assert {name: reason for name, reason in reasons(grader, work).items() if reason != "passed"} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("benchmark", [humaneval, mbpp])
def test_every_empty_or_wrong_solution_fails(grader, data_dir, benchmark):
    work = {
        f"{name} {kind}": (program, tests)
        for name, (tests, _, wrong) in benchmark(data_dir).items()
        for kind, program in wrong.items()
    }
    found = reasons(grader, work)
    assert [name for name, reason in found.items() if reason == "passed"] == []
    assert [name for name, reason in found.items() if reason == "timeout"] == []
