"""What is computed of an entry: the report's own figures, by the board's tasks, and nothing of private ones."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from helpers.board_entries import boarded, enter
from helpers.boards import a_run
from testbed.board.arm_rows import ArmRow, read_rows
from testbed.board.boards import Board
from testbed.board.chart_pictures import in_surroundings
from testbed.board.database import BoardDatabase
from testbed.board.expanding import too_few_samples
from testbed.board.reading import charts_of, warnings_of
from testbed.board.results import FIGURES, _warnings, compute_entry, unpacked
from testbed.board.schema import entries, entry_arms, entry_reports
from testbed.errors import UsageError
from testbed.report.analyse import analyse_run
from testbed.report.cautions import listing, mistaken
from testbed.report.copies import AGENTS_WORD, Drawn, repeats_told
from testbed.stats import ArmOutcomes, near_identical
from testbed.store import Store

QUICK_IN_POSTGRESQL = ("test_an_entry_that_is_rejected_loses_its_figures", "test_a_waiting_entry_has_no_figures")

Made = tuple[BoardDatabase, Board, list[str]]


@pytest.fixture(scope="module")
def made(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    db, board, ids = boarded(tmp_path_factory.mktemp("results"), where_shared, tasks=12)
    yield db, board, ids
    db.close()


def arms_of(db: BoardDatabase, board: Board) -> dict[str, ArmRow]:
    with db.reading() as connection:
        return {row.name: row for row in read_rows(connection, board.slug)}


def test_figures_are_those_of_the_report_of_the_run(made: Made, tmp_path: Path) -> None:
    db, board, _ = made
    run = a_run(tmp_path / "again.sqlite", board, "sums-0")
    with Store.open(tmp_path / "again.sqlite") as store:
        report = analyse_run(store, run)
    rows = arms_of(db, board)
    assert set(rows) == {"bare", "calculator"}
    for name, row in rows.items():
        assert row.reach == report.arm(name).operating.estimate.value
        assert row.tokens == report.arm(name).cost["generated_tokens"]
        assert set(row.figures) == set(FIGURES)
    (compared,) = report.comparisons
    assert compared.full is not None
    tool = rows["calculator"]
    assert (tool.bare, rows["bare"].bare) == (False, True)
    assert tool.gain == compared.gain.value
    assert tool.figures["creation"]["value"] == compared.full.figures.creation.value
    assert tool.figures["verdicts"] == {str(k): v for k, v in compared.full.figures.verdicts.counts.items()}


def test_a_page_advises_nothing_that_its_board_forbids(made: Made) -> None:
    db, board, ids = made
    with db.reading() as connection:
        warnings = " ".join(warnings_of(connection, ids[0]))
    assert "No task can count as expanded" in warnings
    assert "it takes 31 without a success" in warnings
    assert "it takes 31 attempts without tools" in too_few_samples(board)  # as whoever made it was told
    assert "samples =" not in warnings


def test_a_page_leads_to_transcripts_and_names_no_command() -> None:
    drawn, repeats = Drawn(known=False), near_identical(ArmOutcomes.from_counts("bare", "abcd", 5, [0, 0, 5, 5]))
    failed = SimpleNamespace(
        name="bare", ended={"agent:error": 3, "limit:context": 2}, attempts=6, drawn=drawn, repeats=repeats
    )
    told = (
        *mistaken("arm 'bare'", failed.ended, 6, listing("entry-1", "bare")),
        *repeats_told("Arm 'bare'", drawn, repeats, AGENTS_WORD),
        "Another.",
    )
    page = _warnings(SimpleNamespace(name="entry-1", arms=(failed,), comparisons=(), warnings=told))  # type: ignore[arg-type]
    assert sum("testbed show" in one for one in told) == 2
    assert sum("leads to" in one for one in page) == 2
    assert sum("nearly identical" in one and "say so" not in one for one in page) == 1
    assert (len(page), page[-1], "testbed" in " ".join(page)) == (4, "Another.", False)


def test_counts_and_verdicts_stand_in_the_order_of_the_boards_tasks(made: Made, tmp_path: Path) -> None:
    db, board, _ = made
    run = a_run(tmp_path / "again.sqlite", board, "sums-0")
    rows = arms_of(db, board)
    with Store.open(tmp_path / "again.sqlite") as store:
        for name, row in rows.items():
            for i, task in enumerate(board.tasks):
                made_there = list(store.attempts(run, task=task.hash, arm=name, texts=False))
                assert (row.n[i], row.c[i]) == (len(made_there), sum(bool(a.success) for a in made_there))
                mean = sum(a.cost.generated_tokens for a in made_there) / len(made_there)
                assert row.figures["task_tokens"][i] == pytest.approx(mean, rel=1e-5)
    assert len(rows["calculator"].figures["verdicts_by_task"]) == len(board.tasks)


def test_computing_again_changes_nothing(made: Made) -> None:
    db, _, (entry,) = made

    def rows() -> list[object]:
        with db.reading() as connection:
            return [*connection.execute(sa.select(entry_arms)), *connection.execute(sa.select(entry_reports))]

    before = rows()
    compute_entry(db, entry)
    assert rows() == before


def test_an_entry_that_is_rejected_loses_its_figures(where: str, tmp_path: Path) -> None:
    db, board, (entry,) = boarded(tmp_path, where)
    with db:
        with db.writing() as connection:
            connection.execute(entries.update().values(state="rejected"))
        assert arms_of(db, board) == {}  # at once, also before anything is computed again
        compute_entry(db, entry)
        with db.reading() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(entry_arms)) == 0
            assert connection.scalar(sa.select(sa.func.count()).select_from(entry_reports)) == 0


def test_an_entry_that_is_not_there_is_named(made: Made) -> None:
    with pytest.raises(UsageError, match="no entry has the id 'x'"):
        compute_entry(made[0], "x")


def test_every_chart_is_a_well_formed_picture_in_light_and_dark_with_a_description(made: Made) -> None:
    db, _, (entry,) = made
    with db.reading() as connection:
        charts = charts_of(connection, entry)
    assert {"gain", "verdicts", "reach_attempts"} <= {chart["key"] for chart in charts}
    for chart in charts:
        light, dark = (in_surroundings(chart["svg"], dark=dark) for dark in (False, True))
        assert light != dark
        assert chart["title"] in chart["description"]
        assert chart["table"] is not None, chart["key"]
        for picture in (light, dark):
            root = ET.fromstring(picture)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_of_a_private_boards_tasks_nothing_is_kept(where: str, tmp_path: Path) -> None:
    db, board, _ = boarded(tmp_path, where, private=True)
    with db:
        with db.reading() as connection:
            rows = connection.execute(sa.select(entry_arms)).all()
            kept = [str(dict(row._mapping)) for row in rows]
            for row in connection.execute(sa.select(entry_reports)):
                kept += [json.dumps(unpacked(row.data)), json.dumps(unpacked(row.charts))]
        assert charts_of_keys(db) >= {"gain", "verdicts"}
        for task in board.tasks:
            for secret in (task.hash, task.prompt, json.dumps(task.prompt)):
                assert not [text for text in kept if secret in text], secret


def charts_of_keys(db: BoardDatabase) -> set[str]:
    with db.reading() as connection:
        data = connection.scalar(sa.select(entry_reports.c.charts))
    return {chart["key"] for chart in unpacked(data)} if data else set()


def test_every_task_of_an_entry_has_its_number_of_attempts(made: Made) -> None:
    db, board, (entry,) = made
    rows = arms_of(db, board)
    assert [row.n.tolist() for row in rows.values()] == [[6] * 12, [4] * 12]
    assert {row.entry for row in rows.values()} == {entry}


def test_a_waiting_entry_has_no_figures(where: str, tmp_path: Path) -> None:
    db, board, _ = boarded(tmp_path, where, entries_=())
    with db:
        a_run(tmp_path / "source.sqlite", board)
        with Store.open(tmp_path / "source.sqlite") as source:
            entry = enter(db, board, source, "mine", state="waiting")
        compute_entry(db, entry)
        assert arms_of(db, board) == {}
