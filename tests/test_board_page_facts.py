"""What a board's pages tell of entries that nobody gave a title, of decoding, and of how to take part."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from helpers.board_entries import boarded
from helpers.board_pages import Served, Tags
from helpers.boards import client
from testbed.board.schema import entry_arms


def decoding(temperature: float) -> list[dict[str, Any]]:
    model = {"id": "scripted", "replies": ["?"], "temperature": temperature}
    return [{"name": "bare", "model": model}, {"name": "calculator", "tools": ["calculator"], "model": model}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    same = [{"title": "", "arms": decoding(1.0)}, {"title": "  ", "arms": decoding(0.25)}]
    db, board, ids = boarded(tmp_path_factory.mktemp("facts"), entries_=same)
    with client(db) as http:
        yield Served(db, board, ids, http)
    db.close()


def linked(text: str, address: str) -> str:
    """The text of the link to an address."""
    found = re.search(rf'<a href="{re.escape(address)}">(.*?)</a>', text)
    assert found is not None, address
    return re.sub("<.*?>", "", found[1])


def test_an_entry_without_a_title_is_called_by_its_id_wherever_it_is_linked(served: Served) -> None:
    entry, other = served.ids
    task = f"/tasks/{served.board.tasks[0].hash}"
    for address in ("/boards/sums", task, f"/compare?left={entry}:0&right={other}:0", served.attempt(entry, "bare")):
        assert linked(served.page(address), f"/entries/{entry}") == f"entry {entry[:8]}", address
    text = served.page(f"/entries/{entry}")
    assert f"<title>entry {entry[:8]} ·" in text
    assert f"<h1><bdi>entry {entry[:8]}</bdi>" in text
    assert f">entry {other[:8]}: bare</option>" in served.page(f"/compare?left={entry}:0&right={other}:0")


def test_decoding_is_shown_and_exported(served: Served) -> None:
    entry, other = served.ids
    (told,) = re.findall("Decoding, in all arms: (.*?)<", served.page(f"/entries/{other}"))
    assert told == "max tokens 512, temperature 0.25, top p 1."
    assert "What differs: <bdi>temperature 1 → 0.25</bdi>." in served.page(f"/compare?left={entry}:0&right={other}:0")
    text = served.page(f"/compare?left={entry}:0&right={entry}:1")
    assert re.findall("What differs: (.*?)</p>", text) == ["<bdi>tools none → calculator</bdi>."]
    found = served.http.get("/api/boards/sums/results.json").json()["entries"]
    assert [one["arms"][0]["figures"]["decoding"]["temperature"] for one in found] == [1.0, 0.25]
    head, *rows = (line.split(",") for line in served.http.get("/api/boards/sums/results.csv").text.splitlines())
    assert {row[head.index("temperature")] for row in rows} == {"1.0", "0.25"}


def test_a_board_says_all_that_a_stranger_needs_to_take_part(served: Served) -> None:
    text = served.page("/boards/sums")
    assert "<dt><bdi>Addition-v0</bdi></dt><dd>digits = 1</dd>" in text
    assert "<dt>Seed</dt><dd>3</dd>" in text
    assert served.http.get("/api/boards/sums/terms").json()["env"] == [{"id": "Addition-v0", "digits": 1, "tasks": 6}]
    for form in ("json", "csv"):
        assert f'href="/api/boards/sums/results.{form}"' in text


def test_a_private_board_tells_no_options_and_the_names_of_its_arms(tmp_path_factory: pytest.TempPathFactory) -> None:
    db, _, _ = boarded(tmp_path_factory.mktemp("hidden"), private=True, entries_=[])
    with db, client(db) as http:
        assert "digits" not in http.get("/boards/sums").text
        terms = http.get("/api/boards/sums/terms").json()
    assert (terms["env"], terms["tasks"], terms["arms"]) == ([], [], [])


@pytest.mark.parametrize("samples", [32, 500])
def test_every_sample_of_an_arm_can_be_reached(served: Served, samples: int) -> None:
    address = served.attempt(served.ids[0], "bare")
    of_the_arm = (entry_arms.c.entry == served.ids[0], entry_arms.c.position == 0)
    with served.db.writing() as connection:
        figures = json.loads(connection.scalar(sa.select(entry_arms.c.figures).where(*of_the_arm)) or "")
        changed = json.dumps({**figures, "samples": samples})
        connection.execute(entry_arms.update().where(*of_the_arm).values(figures=changed))
    text = served.page(address)
    shown = [int(n) for n in re.findall(r'<li><a href="/attempts/[^"]+"(?: aria-current="page")?>(\d+)</a>', text)]
    assert {0, 1, samples - 1} <= set(shown)
    assert max(after - before for before, after in pairwise(shown)) <= 32  # on the way to what lies between
    assert samples > 64 or shown == list(range(samples))


def test_a_page_that_cannot_be_made_leads_back_to_its_board(served: Served) -> None:
    for address in ("/boards/sums?tokens=many", "/boards/sums?page=0", f"/compare?board=sums&arm={served.ids[0]}:0"):
        answer = served.http.get(address)
        assert answer.status_code in (400, 422)
        assert linked(answer.text, "/boards/sums") == "Back to the board", address
    assert "Back to" not in served.http.get("/compare?board=%22%3E%3Cscript%3E").text
    for page in ("/boards/sums", f"/entries/{served.ids[0]}"):
        assert ("input", {"type": "hidden", "name": "board", "value": "sums"}) in Tags.of(served.page(page))


def test_charts_are_drawn_without_being_scrolled_to(served: Served) -> None:
    text = html.unescape(served.page(f"/entries/{served.ids[0]}"))
    assert "<img" in text
    assert 'loading="lazy"' not in text
