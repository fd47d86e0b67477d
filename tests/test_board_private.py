"""The pages of a private board: neither prompts, answers and transcripts nor what a guess could be tried against."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.board_entries import boarded, said
from helpers.board_pages import Served
from helpers.boards import client


@pytest.fixture(scope="module")
def private(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    hidden = [{"rewrite": said("the model's own words")}, {}]
    db, board, ids = boarded(tmp_path_factory.mktemp("private"), where_shared, private=True, entries_=hidden)
    with client(db) as http:
        yield Served(db, board, ids, http)
    db.close()


def test_private_boards_show_no_prompt_reference_hash_or_transcript(private: Served) -> None:
    one, other = private.ids
    wanted: list[Any] = [
        "/", "/boards/sums", "/boards/sums/pareto", "/boards/sums/mechanisms", "/boards/sums/tasks",
        "/boards/sums/tasks/1", f"/entries/{one}", f"/compare?left={one}:0&right={other}:1",
    ]  # fmt: skip
    attempts = [a.id for a in private.db.store.attempts(f"entry-{one}", texts=False)]
    pages = [private.page(address) for address in wanted]
    pictures = {a for text in pages for a in re.findall(r'src="(/[^"]+\.svg[^"]*)"', text)}
    assert len(pictures) > 4
    for text in [*pages, *(private.page(picture) for picture in pictures)]:
        for task in private.board.tasks:
            assert task.prompt not in html.unescape(text)
            assert task.hash not in text
        assert "own words" not in text
        assert "/attempts/" not in text
        assert not [id_ for id_ in attempts if id_ in text]


def test_addresses_of_a_private_boards_attempts_and_tasks_lead_nowhere(private: Served) -> None:
    address = private.attempt(private.ids[0], "bare")
    assert private.db.store.find(address.rsplit("/", 1)[-1]) is not None
    private.page(address, 404)
    private.page(f"{address}?beside={address.rsplit('/', 1)[-1]}", 404)
    for task in private.board.tasks:
        private.page(f"/tasks/{task.hash}", 404)
        private.page(f"/tasks/{task.hash}?board=sums", 404)
