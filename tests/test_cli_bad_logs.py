"""Logs with mistakes, through `testbed import` and `testbed report`: exit code 2, names, and nothing half-written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers.command import Done
from testbed import transfer
from testbed.store import Store
from testbed.transfer.files import Record, read_records

IMPORT = ("--run", "logs", "--task", "task", "--arm", "arm", "--success", "won", "--cost", "usd=usd")
HEADER = "task,arm,sample,won,usd\n"


def rows_stored(folder: Path) -> int:
    file = folder / "testbed.sqlite"
    if not file.exists():
        return 0
    with sqlite3.connect(file) as store:
        return sum(
            store.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("runs", "attempts", "tasks", "arms")
        )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sum-3,python,1,1,-0.5", ["'usd'", "-0.5", "at least 0"]),
        ("sum-3,python,1,1,nan", ["'usd'", "nan"]),
        ("sum-3,python,1,1,inf", ["'usd'", "inf"]),
        ("sum-3,python,1,1,", ["'usd'"]),
        ("sum-3,python,1,nan,1", ["'won'", "nan"]),
        ("sum-3,python,1,0.5,1", ["'won'", "0.5"]),
        ("sum-3,python,1,,1", ["'won'"]),
        ("sum-3,python,0,1,1", ["a second attempt", "sample 0"]),
        ("sum-3,python,-1,1,1", ["'sample'", "-1"]),
    ],
)
def test_a_bad_line_is_refused_naming_arm_task_and_line_and_nothing_is_stored(
    testbed: Callable[..., Done], tmp_path: Path, line: str, words: list[str]
) -> None:
    good = "".join(f"sum-{i},{arm},0,1,0.1\n" for arm in ("bare", "python") for i in range(300))
    (tmp_path / "logs.csv").write_text(f"{HEADER}{good}{line}\n", encoding="utf-8")
    done = testbed("import", "logs.csv", *IMPORT, "--sample", "sample")
    assert done.code == 2
    assert "Traceback" not in done.err
    for word in ("logs.csv:602", "python", "sum-3", *words):
        assert word in done.err, (word, done.err)
    assert rows_stored(tmp_path) == 0


def test_a_refused_file_leaves_no_store_behind_and_one_that_was_there_as_it_was(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(f"{HEADER}sum-1,bare,0,2,1\n", encoding="utf-8")
    for file in ("bad.csv", "none.csv"):
        assert testbed("import", file, *IMPORT).code == 2
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("testbed.sqlite")] == []
    (tmp_path / "good.csv").write_text(f"{HEADER}sum-1,bare,0,1,1\n", encoding="utf-8")
    assert testbed("import", "good.csv", *IMPORT).code == 0
    before = rows_stored(tmp_path)
    assert testbed("import", "bad.csv", *IMPORT).code == 2
    assert rows_stored(tmp_path) == before > 0


@pytest.mark.parametrize("where", ["testbed.sqlite", "sqlite:///testbed.sqlite"])
@pytest.mark.parametrize("run", ["logs", "lo\ngs"])
def test_a_refused_file_or_name_makes_no_store(
    testbed: Callable[..., Done], tmp_path: Path, where: str, run: str
) -> None:
    outcome = "1" if run != "logs" else "2"
    (tmp_path / "bad.csv").write_text(f"{HEADER}sum-1,bare,0,{outcome},1\n", encoding="utf-8")
    assert testbed("import", "bad.csv", *IMPORT, "--run", run, "--store", where).code == 2
    assert not (tmp_path / "testbed.sqlite").exists()


def test_a_store_that_somebody_else_begins_to_use_meanwhile_is_not_taken_away(
    testbed: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.csv").write_text(f"{HEADER}sum-1,bare,0,2,1\n", encoding="utf-8")
    (tmp_path / "good.csv").write_text(f"{HEADER}sum-1,bare,0,1,1\n", encoding="utf-8")
    with ExitStack() as others:
        opened: list[Store] = []

        def read(path: Path) -> Iterator[Record]:
            if path.name == "bad.csv":
                opened.append(others.enter_context(Store.open("testbed.sqlite")))
            return read_records(path)

        monkeypatch.setattr(transfer, "read_records", read)
        assert testbed("import", "bad.csv", *IMPORT).code == 2
        columns = transfer.Columns.parse(task="task", arm="arm", success="won")
        transfer.import_outcomes(opened[0], "good.csv", "logs", columns)
    assert rows_stored(tmp_path) > 0


@pytest.mark.parametrize("line", [",python,1,1,1", "sum-3,,1,1,1"])
def test_a_line_without_a_task_or_an_arm_is_refused(testbed: Callable[..., Done], tmp_path: Path, line: str) -> None:
    (tmp_path / "logs.csv").write_text(f"{HEADER}sum-1,bare,0,1,1\n{line}\n", encoding="utf-8")
    done = testbed("import", "logs.csv", *IMPORT)
    assert done.code == 2
    assert "logs.csv:3" in done.err
    assert rows_stored(tmp_path) == 0


def test_attempts_that_were_imported_with_another_outcome_are_refused_and_the_store_stays_as_it_was(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "logs.csv").write_text(f"{HEADER}sum-1,bare,0,1,1\n", encoding="utf-8")
    assert testbed("import", "logs.csv", *IMPORT).code == 0
    before = rows_stored(tmp_path)
    (tmp_path / "logs.csv").write_text(f"{HEADER}sum-1,bare,0,0,1\nsum-2,bare,0,1,1\n", encoding="utf-8")
    done = testbed("import", "logs.csv", *IMPORT)
    assert done.code == 2
    assert "bare" in done.err
    assert "sum-1" in done.err
    assert rows_stored(tmp_path) == before


def logs(tmp_path: Path, rows: list[tuple[str, str, int]]) -> None:
    text = "".join(f"{task},{arm},{i},{won},1\n" for i, (task, arm, won) in enumerate(rows))
    (tmp_path / "logs.csv").write_text(HEADER + text, encoding="utf-8")


def test_arms_without_a_common_task_are_not_compared(testbed: Callable[..., Done], tmp_path: Path) -> None:
    logs(tmp_path, [(f"{arm}-{i}", arm, 1) for arm in ("bare", "python") for i in range(4) for _ in range(3)])
    assert testbed("import", "logs.csv", *IMPORT).code == 0
    done = testbed("report", "logs", "--html", "page.html")
    assert done.code == 2
    for word in ("'bare'", "'python'", "no task in common", "bare-0", "python-0"):
        assert word in done.err, done.err
    assert done.out == ""
    assert not (tmp_path / "page.html").exists()


def test_a_report_on_one_cluster_has_no_interval_and_says_why(testbed: Callable[..., Done], tmp_path: Path) -> None:
    logs(tmp_path, [(f"t{i}", arm, i % 2) for arm in ("bare", "python") for i in range(4) for _ in range(4)])
    text = (tmp_path / "logs.csv").read_text().replace("\n", ",same\n").replace("usd,same", "usd,kind")
    (tmp_path / "logs.csv").write_text(text)
    assert testbed("import", "logs.csv", *IMPORT, "--cluster", "kind").code == 0
    done = testbed("report", "logs")
    assert done.code == 0
    assert "[no interval]" in done.out
    assert "one cluster" in done.out


def test_an_arm_whose_attempts_are_all_missing_is_left_out_by_name(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    rows = [(f"t{i}", arm, 1) for arm in ("bare", "python") for i in range(4) for _ in range(4)]
    logs(tmp_path, rows)
    text = (tmp_path / "logs.csv").read_text()
    (tmp_path / "logs.csv").write_text(
        "\n".join(f"{x},{'error' if ',python,' in x else 'ok'}" for x in text.splitlines()).replace(
            "usd,ok", "usd,status"
        )
    )
    assert testbed("import", "logs.csv", *IMPORT, "--missing", "status=error").code == 0
    done = testbed("report", "logs")
    assert done.code == 0
    assert "Arm 'python' has no scored attempt and is left out" in done.out
    named = testbed("report", "logs", "--bare", "python")
    assert named.code == 2
    assert "python" in named.err


def test_a_ratio_that_missing_attempts_leave_undefined_is_left_blank(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    rows = [(f"t{i}", arm, 0) for arm in ("bare", "python") for i in range(12) for _ in range(4)]
    logs(tmp_path, rows)
    text = (tmp_path / "logs.csv").read_text().replace("t1,bare,4,0", "t1,bare,4,error")
    (tmp_path / "logs.csv").write_text(text)
    assert testbed("import", "logs.csv", *IMPORT, "--missing", "won=error").code == 0
    report, data = testbed("report", "logs"), testbed("report", "logs", "--json")
    assert (report.code, data.code) == (0, 0), report.err + data.err
    assert "NaN" not in data.out
    assert "nan" not in report.out
    assert json.loads(data.out)["arms"][0]["missing"] == 1


def test_a_run_without_any_scored_attempt_is_refused(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text(f"{HEADER}sum-1,bare,0,,\n", encoding="utf-8")
    assert testbed("import", "logs.csv", *IMPORT, "--missing", "arm=bare").code == 0
    done = testbed("report", "logs")
    assert done.code == 2
    assert "no scored attempt" in done.err
