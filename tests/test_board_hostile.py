"""What a hostile entry, reader or proxy tries at the pages: names that cannot be drawn, old pictures, long lists."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from helpers.board_entries import boarded, place
from helpers.boards import SUMS, a_board, client
from testbed.board import boards, ranking
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.limits import HEADERS
from testbed.board.reading import Filters, charts_of, ranked, summary
from testbed.board.schema import board_summaries, entry_arms, entry_run
from testbed.report.analyse import analyse_run
from testbed.report.page import write_png

QUICK_IN_POSTGRESQL = (
    "test_every_set_of_tools_has_a_page_whatever_its_names",
    "test_a_summary_that_was_made_before_still_has_its_pages",
)

TASKS = 40
UNSEEN = "m\x1b\x00\x0b\ud800\u202e"  # no XML holds the first four, and the last turns what follows around
NO_XML = "m\x1b\x0b\uffff\u202e"
LONG = [f"{'t' * 190}{n:03}" for n in range(64)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return a_board(tmp_path_factory.mktemp("board"), SUMS.replace("tasks = 6", f"tasks = {TASKS}"))


@pytest.fixture
def http(db: BoardDatabase, large: Board) -> Iterator[TestClient]:
    """What asks a board of forty sums."""
    boards.create(db, large)
    with client(db) as http:
        yield http


def entered(db: BoardDatabase, **arms: list[dict[str, Any]]) -> None:
    board = boards.get(db, "sums")
    for entry, listed in arms.items():
        place(db, board, entry, listed)
    ranking.recompute(db, board)


def with_tools(share: float = 0.8, **changes: Any) -> list[dict[str, Any]]:
    model = {"model": changes.pop("model", "model")}
    return [{"share": 0.2, **model}, {"share": share, "tools": ["t"], "gain": share - 0.2, **model, **changes}]


def ok(http: TestClient, address: str) -> str:
    answer = http.get(address)
    assert answer.status_code == 200, (address, answer.status_code)
    return answer.text


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_that_no_picture_can_hold_spoils_none(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools(model=UNSEEN, name=UNSEEN))
    for address in ("mechanisms/0.svg", "mechanisms/0.svg?theme=dark", "pareto/tokens.svg"):
        text = ok(http, f"/boards/sums/{address}")
        ElementTree.fromstring(text)
        assert "\u202e" not in text


@pytest.fixture(scope="module")
def entry(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BoardDatabase, str]]:
    """An entry with attempts, of a model whose name no picture can hold."""
    db, _, (id_,) = boarded(tmp_path_factory.mktemp("entry"), where_shared, private=True, entries_=[{"model": NO_XML}])
    with db:
        yield db, id_


def test_every_chart_of_an_entry_can_be_read_whatever_its_model_is_called(entry: tuple[BoardDatabase, str]) -> None:
    db, id_ = entry
    with db.reading() as connection:
        charts = charts_of(connection, id_)
    assert len(charts) > 4
    for chart in charts:
        ElementTree.fromstring(chart["svg"])


@pytest.mark.slow
def test_a_reports_pictures_can_be_drawn_whatever_a_model_is_called(
    entry: tuple[BoardDatabase, str], tmp_path: Path
) -> None:
    db, id_ = entry
    written = write_png(analyse_run(db.store, entry_run(id_)), tmp_path / "pictures")
    for path in written:
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))


def test_exports_of_a_private_board_tell_no_prompt_hash_or_attempt(entry: tuple[BoardDatabase, str]) -> None:
    db, id_ = entry
    board = boards.get(db, "sums")
    attempts = [attempt.id for attempt in db.store.attempts(entry_run(id_), texts=False)]
    addresses = ["boards/sums/results.json", "boards/sums/results.csv", "boards/sums/terms", f"entries/{id_}"]
    addresses += [f"entries/{id_}/every_eval_ever.json", f"entries/{id_}/eval_results.yaml?dataset=a/b"]
    with client(db) as http:
        for address in addresses:
            text = ok(http, f"/api/{address}")
            for task in board.tasks:
                assert task.prompt not in text, address
                assert task.hash not in text, address
            assert not [one for one in attempts if one in text], address


@pytest.mark.parametrize("tools", [["tool\ud800"], ["nul\x00"], LONG, ["a&b=c#d", "é"]])
def test_every_set_of_tools_has_a_page_whatever_its_names(
    db: BoardDatabase, http: TestClient, tools: list[str]
) -> None:
    entered(db, a=with_tools(tools=tools))
    text = ok(http, "/boards/sums/mechanisms")
    links = {html.unescape(a) for a in re.findall(r'href="(/boards/sums/mechanisms\?[^"]+)"', text)}
    assert len(links) == 1
    assert "What did" in ok(http, links.pop())


def test_an_entry_with_many_long_tools_does_not_make_pages_large(db: BoardDatabase, http: TestClient) -> None:
    entered(db, **{entry: with_tools(tools=LONG) for entry in "0123456789abcdef"})
    text = ok(http, "/boards/sums")
    assert len(text) < 100_000
    assert "and 58 more" in text
    assert len(ok(http, "/boards/sums/tasks/1")) < 150_000


# ---- figures that are not there --------------------------------------------------------------------------------------


def test_what_is_not_known_is_called_so_and_never_none(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=[{"share": 0.5}], b=[{"share": 0.4, "tokens": None}])
    for address in ("/boards/sums", "/boards/sums/tasks", f"/entries/{'a' * 32}", "/boards/sums/tasks/1"):
        text = ok(http, address)
        assert ">None<" not in text, address
    assert "n/a" in ok(http, "/boards/sums")


@pytest.mark.parametrize("usd", [None, 0.0, 0.25])
def test_a_column_of_usd_stands_only_where_some_entry_has_any(db: BoardDatabase, http: TestClient, usd: Any) -> None:
    entered(db, a=with_tools(usd=usd), b=with_tools())
    for address in ("/boards/sums", "/boards/sums/tasks/1", f"/compare?left={'a' * 32}:1&right={'b' * 32}:1"):
        assert (">USD" in ok(http, address)) is bool(usd), address


# ---- the order and the words -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("http")
def test_an_entry_of_which_little_is_known_does_not_stand_on_top(db: BoardDatabase) -> None:
    few = np.where(np.arange(TASKS) < 4, 4, 0)
    entered(db, a=[{"n": few, "c": few, "made": 4}], b=[{"share": 1.0}], c=[{"share": 0.5}], d=[{"share": 0.05}])
    with db.reading() as connection:
        rows = ranked(connection, "sums", Filters(), 0, 50)[1]
    assert [(row["entry"][0], row["low"], row["high"]) for row in rows][:1] == [("b", 1, 2)]
    assert next(row for row in rows if row["entry"][0] == "a")["high"] == 4


def test_the_ranking_by_gain_says_that_a_weak_bare_arm_makes_a_gain(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    warning = "A weak arm without tools makes a large gain"
    assert warning in ok(http, "/boards/sums?by=gain")
    assert warning in ok(http, "/boards/sums/mechanisms?tools=t")


def test_a_mechanisms_page_says_for_which_models_and_tasks_its_mean_holds(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    for address in ("/boards/sums/mechanisms", "/boards/sums/mechanisms?tools=t"):
        assert "for these models" in ok(http, address)
    assert "each by itself" in ok(http, "/boards/sums/mechanisms?tools=t")


def test_attempts_that_look_like_copies_are_not_in_a_mechanisms_mean(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools(0.6), b=with_tools(1.0, model="copies"))
    with db.writing() as connection:
        where = sa.and_(entry_arms.c.entry == "b" * 32, entry_arms.c.position == 1)
        figures = json.loads(connection.scalar(sa.select(entry_arms.c.figures).where(where)) or "")
        connection.execute(entry_arms.update().where(where).values(figures=json.dumps(figures | {"claims": False})))
    entered(db)
    with db.reading() as connection:
        (found,) = summary(connection, "sums", "mechanisms")
    assert found["mean"]["gain"]["value"] == pytest.approx(0.4)
    assert (found["models"], found["entries"], found["unclaimed"]) == (2, 2, 1)
    text = ok(http, "/boards/sums/mechanisms?tools=t")
    assert "left out of the mean" in text


# ---- asked in other ways ---------------------------------------------------------------------------------------------


def test_head_is_answered_like_get_without_a_body(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    for address in ("/", "/boards/sums", f"/entries/{'a' * 32}", "/boards/sums/pareto/tokens.svg", "/static/board.css"):
        head, got = http.head(address), http.get(address)
        assert (head.status_code, head.content) == (200, b""), address
        same = ("content-type", "cache-control", "content-length", *map(str.lower, HEADERS))
        assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}
    missing = http.head("/entries/none")
    assert (missing.status_code, missing.content) == (404, b"")
    assert http.post("/boards/sums").status_code == 405


def test_a_picture_that_changed_has_another_address(db: BoardDatabase, http: TestClient) -> None:
    def pictures(address: str) -> set[str]:
        return set(re.findall(r'<img src="([^"]+)"', ok(http, address)))

    entered(db, a=with_tools())
    before = {address: pictures(address) for address in ("/boards/sums/mechanisms", "/boards/sums/pareto")}
    assert all(before.values())
    entered(db, b=with_tools(0.5, model="other"))
    for address, old in before.items():
        assert pictures(address)
        assert not pictures(address) & old, address


def test_a_picture_has_its_place_before_it_is_loaded(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    for address in ("/boards/sums/mechanisms", "/boards/sums/pareto"):
        (image,) = re.findall(r"<img [^>]+>", ok(http, address))
        width, height = (int(re.findall(rf' {side}="(\d+)"', image)[0]) for side in ("width", "height"))
        assert width > 500
        assert height > 50


def test_no_page_sets_a_cookie_and_every_page_is_asked_for_again(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    for address in ("/", "/submit", "/boards/sums", "/boards/sums/mechanisms", f"/entries/{'a' * 32}", "/nothing"):
        answer = http.get(address)
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] in ("no-cache", "no-store"), address


def test_nothing_of_a_request_moves_a_reader_to_another_server(db: BoardDatabase, http: TestClient) -> None:
    for address in ("//evil.example/", "/boards//evil.example", "/%2f%2fevil.example/", "/\\evil.example/"):
        answer = http.get(f"http://testserver{address}", follow_redirects=False)
        assert "evil.example" not in answer.headers.get("location", ""), address
    for name in ("..%2fschema.py", "%2e%2e/schema.py", "....//board.css", "board.css%00", "/etc/passwd", "icon.svg/"):
        assert http.get(f"/static/{name}", follow_redirects=False).status_code in (307, 400, 404), name


def test_a_summary_that_was_made_before_still_has_its_pages(db: BoardDatabase, http: TestClient) -> None:
    entered(db, a=with_tools())
    with db.writing() as connection:
        connection.execute(board_summaries.delete())
    for address in ("", "/pareto", "/mechanisms", "/tasks", "/tasks/1"):
        ok(http, f"/boards/sums{address}")
