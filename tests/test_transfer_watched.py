"""A value that occurs in no record of a log was misspelt: it must not turn into failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done

HEADER = "task,arm,outcome,state\n"
IMPORT = ("import", "logs.csv", "--run", "logs", "--task", "task", "--arm", "arm")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    rows = [f"q{n},bare,{'correct' if n % 3 else 'wrong'},ok\n" for n in range(12)]
    (tmp_path / "logs.csv").write_text(HEADER + "".join(rows), encoding="utf-8")
    return tmp_path


def test_a_misspelt_success_is_refused_and_the_runs_name_stays_free(testbed: Callable[..., Done], logs: Path) -> None:
    refused = testbed(*IMPORT, "--success", "outcome=corect")
    assert refused.code == 2
    for words in ("outcome is never 'corect'", "it is 'wrong' or 'correct'", "Did you mean 'correct'?", "logs.csv"):
        assert words in refused.err, refused.err
    done = testbed(*IMPORT, "--success", "outcome=correct")
    assert (done.code, "8 successes" in done.out, done.err) == (0, True, "")


def test_a_misspelt_failure_is_refused_too(testbed: Callable[..., Done], logs: Path) -> None:
    refused = testbed(*IMPORT, "--success", "outcome!=wrogn")
    assert refused.code == 2
    assert "outcome is never 'wrogn'" in refused.err
    assert "Did you mean 'wrong'?" in refused.err


def test_a_misspelt_condition_is_answered_with_the_values_that_there_are(
    testbed: Callable[..., Done], logs: Path
) -> None:
    refused = testbed(*IMPORT, "--success", "outcome=correct", "--where", "arm=bare", "--where", "state=o")
    assert refused.code == 2
    assert "no record has arm=bare and state=o. state is never 'o'; it is 'ok'." in refused.err
    assert "arm is never" not in refused.err


def test_a_file_that_is_imported_again_says_that_nothing_was_new(testbed: Callable[..., Done], logs: Path) -> None:
    assert "before" not in testbed(*IMPORT, "--success", "outcome=correct").out
    assert "12 of them were there before" in testbed(*IMPORT, "--success", "outcome=correct").out


def test_a_log_without_a_success_is_imported_by_what_a_failure_is(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text(HEADER + "q1,bare,wrong,ok\nq2,bare,wrong,ok\n", encoding="utf-8")
    refused = testbed(*IMPORT, "--success", "outcome=correct")
    assert refused.code == 2
    assert "outcome!=VALUE" in refused.err
    assert "0 successes" in testbed(*IMPORT, "--success", "outcome!=wrong").out


def test_a_value_of_missing_attempts_that_no_record_has_is_warned_of(testbed: Callable[..., Done], logs: Path) -> None:
    done = testbed(*IMPORT, "--success", "outcome=correct", "--missing", "state=eror")
    assert done.code == 0
    assert done.err == "warning: --missing state=eror: state is never 'eror'; it is 'ok'.\n"


def test_a_log_whose_attempts_are_all_missing_is_not_called_misspelt(testbed: Callable[..., Done], logs: Path) -> None:
    done = testbed(*IMPORT, "--success", "outcome=correct", "--missing", "state=ok")
    assert (done.code, "12 missing" in done.out, done.err) == (0, True, "")
