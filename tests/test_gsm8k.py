from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.envs.gsm8k import GSM8K
from testbed.errors import DataError, UsageError
from testbed.question_env import read_number


def write(folder: Path, *rows: object) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        (" 18\n", "18"),
        ("$1,234.50", "1234.5"),
        ("1,234.500", "1234.5"),
        ("1234,567", None),
        ("-3", "-3"),
        ("-$3", "-3"),
        ("$-3", "-3"),
        ("\u22123", "-3"),
        ("+3.0", "3"),
        ("70000.", "70000"),
        ("007", "7"),
        ("0", "0"),
        ("-0.0", "0"),
        ("1,450,000", "1450000"),
    ],
)
def test_ways_to_write_a_number(text: str, value: str | None) -> None:
    assert read_number(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "eighteen",
        "18 dollars",
        "18%",
        "12 or 13",
        "12 13",
        "1,23",
        "1,2345",
        ",123",
        "12,",
        "1e3",
        "1/2",
        "\u00bd",
        "\u0661\u0668",
        "--3",
        *("-$-3", "$", ".", "-", "3..", "1.2.3", "0x10", "nan", "inf", "#### 18", "1_000", "9" * 10_000, "18\n19"),
    ],
)
def test_what_is_not_one_number(text: str) -> None:
    assert read_number(text) is None


@given(value=st.integers(-(10**12), 10**12), zeros=st.integers(0, 3))
def test_every_spelling_of_a_number_is_the_same_number(value: int, zeros: int) -> None:
    tail = "." + "0" * zeros if zeros else ""
    sign = "-" if value < 0 else ""
    for text in (f"{value}{tail}", f"{value:,}{tail}", f"{sign}${abs(value):,}{tail}", f" {value} "):
        assert read_number(text) == value


@given(
    a=st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
    digit=st.integers(1, 9),
)
def test_another_number_is_never_right(a: Decimal, digit: int) -> None:
    assert read_number(f"{a:f}") == a
    assert read_number(f"{a:f}{digit}") != a


def test_a_problem_becomes_a_task(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"})
    (task,) = GSM8K(path).tasks
    assert task.prompt == "How many?\nAnswer with the number alone."
    assert task.reference == "1,004"
    env = GSM8K(str(path))
    assert env.grade(task, "$1004.00").success
    assert not env.grade(task, "1004 apples").success
    assert env.grade(task, "1005").detail == "read as 1005"
    assert not env.validate().problems


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("#### 1,004", True),
        ("It is 1004.\n#### 1004", True),
        ("1003 #### 1004", True),  # the benchmark reads what follows its mark
        ("1004 #### 1003", False),
        ("#### 1004\n#### 1004", False),
        ("#### 1004 or 1005", False),
        ("####", False),
    ],
)
def test_the_benchmarks_own_form_of_an_answer_is_read(tmp_path: Path, answer: str, right: bool) -> None:
    env = GSM8K(write(tmp_path, {"question": "q", "answer": "#### 1,004"}))
    assert env.grade(env.tasks[0], answer).success is right
    assert "Graded by" in env.card


def test_validate_notices_a_lenient_grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_number(text: str) -> Decimal | None:
        found = re.search(r"[0-9.]+", text.replace(",", ""))
        return Decimal(found.group()) if found else None

    env = GSM8K(write(tmp_path, {"question": "q", "answer": "#### 1,004"}))
    assert not env.validate().problems
    monkeypatch.setattr("testbed.envs.gsm8k.read_number", first_number)
    assert any("1004 or 1005" in problem for problem in env.validate().problems)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q"}, "problems.jsonl:2: .*'question' and 'answer'"),
        ({"question": 3, "answer": "#### 4"}, "problems.jsonl:2: .*'question' and 'answer'"),
        ({"question": "q", "answer": "4"}, "problems.jsonl:2: .*must end with '####' and a number"),
        ({"question": "q", "answer": "#### four"}, "problems.jsonl:2: .*must end with"),
        ("{", "problems.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        _ = GSM8K(write(tmp_path, {"question": "a", "answer": "#### 1"}, row)).tasks


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"gsm8k/test\.jsonl: No such file"):
        _ = GSM8K().tasks


def test_without_a_path_it_says_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    with pytest.raises(UsageError, match=r"give its path, or set TESTBED_DATA.*openai/grade-school-math"):
        GSM8K()


def test_limit_takes_the_first_problems_and_must_be_positive(tmp_path: Path) -> None:
    path = write(tmp_path, *({"question": f"q{n}", "answer": f"#### {n}"} for n in range(5)))
    assert [task.reference for task in GSM8K(path, limit=2).tasks] == ["0", "1"]
    with pytest.raises(UsageError, match="limit must be at least 1"):
        GSM8K(path, limit=0)


def test_all_1319_graders_are_right(data_dir: Path) -> None:
    found = GSM8K(data_dir / "gsm8k" / "test.jsonl").validate()
    assert found.checked == 1319
    assert found.problems == ()
