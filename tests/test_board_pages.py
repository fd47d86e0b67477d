"""The pages: what they show, what they never show, and that nothing which somebody else wrote can act in them."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.board_entries import HOSTILE, boarded, place, said
from helpers.board_pages import Served, Tags, addresses
from helpers.boards import a_board, a_database, a_run, client
from testbed.board.accounts import create_token
from testbed.board.limits import POLICY
from testbed.board.service import Worker
from testbed.board.serving import Address
from testbed.board.submit import submit
from testbed.store import Store

QUICK_IN_POSTGRESQL = ("test_every_link_of_every_page_leads_somewhere",)

UNCHECKED = [{"check": "tools", "level": "unchecked", "text": "the corpus of search is not here"}]
WRONG = [{"check": "grades", "level": "wrong", "text": "attempt 0123 says success, and its answer is wrong"}]
CHECKED = [{"check": "grades", "level": "ok", "text": "all answers graded again"}]
BIG = "0123456789abcdef" * 330_000  # 5.3 MB


@pytest.fixture(scope="module")
def served(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    db, board, ids = boarded(
        tmp_path_factory.mktemp("pages"),
        where_shared,
        entries_=[
            {"title": "Plain", "reasons": CHECKED, "model": "model-one", "manifest": {"run": "r", "accuracy": 0.98765}},
            {
                "title": f"{HOSTILE}\x00\ud800",
                "state": "partly",
                "reasons": UNCHECKED,
                "rewrite": said(HOSTILE),
                "model": HOSTILE,
            },
            {"title": "Large", "skill": 0.9, "rewrite": said(BIG, sample=0), "model": "model-two"},
            {"title": "Forged", "state": "rejected", "reasons": WRONG},
            {"title": "Too new", "state": "waiting"},
        ],
    )
    with client(db) as http:
        yield Served(db, board, ids, http)
    db.close()


# ---- escaping --------------------------------------------------------------------------------------------------------


def test_nothing_that_somebody_wrote_becomes_part_of_a_page(served: Served) -> None:
    for address in addresses(served):
        text = served.page(address)
        assert "<script>document" not in text, address
        assert "<img src=x" not in text, address
        assert "</textarea>" not in text, address
        assert "\u202e" not in text, address
        assert "\x1b" not in text, address
        assert "owned'49" not in text, address


def test_what_was_planted_is_shown_as_text(served: Served) -> None:
    text = served.page(served.attempt(served.ids[1], "bare"))
    assert "&lt;script&gt;document.title" in text
    assert "U+202E" in text
    assert "{{ 7*7 }}" in html.unescape(text)


def test_pages_need_no_inline_script_or_style_and_carry_the_policy(served: Served) -> None:
    for address in addresses(served):
        answer = served.http.get(address)
        assert answer.headers["content-security-policy"] == POLICY
        assert "'unsafe" not in POLICY
        for tag, attributes in Tags.of(answer.text):
            assert tag != "style", address
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/"), address
            assert not [name for name in attributes if name == "style" or name.startswith("on")], address
            assert not (attributes.get("href") or "").lower().startswith(("javascript:", "data:")), address


def test_what_pages_load_is_of_this_server_and_there(served: Served) -> None:
    loaded = set()
    for address in addresses(served):
        text = served.page(address)
        assert not re.search(r"""(?:src|srcset)="https?:|<link[^>]+href="https?:""", text)
        loaded |= {html.unescape(a) for a in re.findall(r'(?:src|srcset|<link[^>]+href)="([^"]+)"', text)}
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert len(loaded) > 20
    for address in loaded:
        answer = served.http.get(address)
        assert answer.status_code == 200, address
        ending = address.partition("?")[0].rsplit(".", 1)[-1]
        assert answer.headers["content-type"].startswith(kinds[ending]), address
        assert "<script" not in answer.text or ending == "js"


def test_every_link_of_every_page_leads_somewhere(served: Served) -> None:
    links = set()
    for address in addresses(served):
        links |= {
            html.unescape(a).partition("#")[0] for a in re.findall(r'<a[^>]* href="([^"]+)"', served.page(address))
        }
    for link in {link for link in links if link}:
        assert served.http.get(link).status_code == 200, link


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_only_accepted_entries_are_listed(served: Served) -> None:
    text = served.page("/boards/sums")
    assert "Plain" in text
    assert "Large" in text
    assert "Forged" not in text
    assert "Too new" not in text
    assert "3 entries, ranked by reach." in text
    assert "3 entries" in served.page("/")


def test_a_rejected_entry_has_reasons_and_no_figures(served: Served) -> None:
    text = served.page(f"/entries/{served.ids[3]}")
    assert "Rejected: it has no results" in text
    assert WRONG[0]["text"] in text
    for absent in ('id="arms"', "<img", "Generated tokens", "/attempts/"):
        assert absent not in text


def test_an_entry_that_waits_says_so(served: Served) -> None:
    text = served.page(f"/entries/{served.ids[4]}")
    assert "waits to be checked" in text
    assert 'id="arms"' not in text


def test_partly_verified_says_what_could_not_be_checked(served: Served) -> None:
    text = served.page(f"/entries/{served.ids[1]}")
    assert "Partly verified: what could not be checked" in text
    assert UNCHECKED[0]["text"] in text
    assert "all answers graded again" in served.page(f"/entries/{served.ids[0]}")


def test_figures_of_authors_are_shown_nowhere(served: Served) -> None:
    for address in addresses(served):
        assert "0.98765" not in served.page(address), address


def test_filters_of_the_ranking_work_as_a_plain_form(served: Served) -> None:
    text = served.page("/boards/sums?model=model-two")
    assert "Large" in text
    assert "Plain" not in text
    assert "1 entry of 3" in text
    assert "No entry passes these filters." in served.page("/boards/sums?model=none-such")


def test_the_page_of_an_entry_leads_from_each_task_and_arm_to_a_transcript(served: Served) -> None:
    text = served.page(f"/entries/{served.ids[0]}")
    for arm in ("bare", "calculator"):
        for task in range(len(served.board.tasks)):
            assert served.attempt(served.ids[0], arm, task) in text


def test_tasks_can_be_filtered_by_verdict(served: Served) -> None:
    texts = [served.page(f"/entries/{served.ids[0]}?verdict={code}") for code in ("", *"PELOU")]
    counts = [int(re.findall(r'role="status">(\d+) task', text)[0]) for text in texts]
    assert counts[0] == len(served.board.tasks)
    assert sum(counts[1:]) >= counts[0]


def test_a_comparison_is_paired_and_its_mirror_has_the_other_sign(served: Served) -> None:
    one, other = (f"{id_}:0" for id_ in (served.ids[0], served.ids[2]))
    there, back = served.page(f"/compare?left={one}&right={other}"), served.page(f"/compare?arm={other}&arm={one}")

    def difference(text: str) -> str:
        found = re.findall(r'paired over 6 tasks:.*?<span class="value">([+-][\d.]+)</span>', text, re.DOTALL)
        return str(found[0])

    assert difference(there)[1:] == difference(back)[1:]
    assert {difference(there)[0], difference(back)[0]} == {"+", "-"}
    assert there.count("side by side</a>") == len(served.board.tasks)


def test_a_tasks_page_says_who_solves_it_and_at_what_cost(served: Served) -> None:
    text = served.page(f"/tasks/{served.board.tasks[0].hash}?board=sums")
    assert served.board.tasks[0].prompt in html.unescape(text)
    assert "of 6 arms solve it" in text
    assert text.count("/attempts/") == 6


# ---- large transcripts -----------------------------------------------------------------------------------------------


def test_a_transcript_of_five_megabytes_is_sent_in_pieces_and_whole(served: Served) -> None:
    with served.http.stream("GET", served.attempt(served.ids[2], "bare")) as answer:
        pieces = list(answer.iter_raw())
    assert len(pieces) > 50
    assert "content-length" not in answer.headers
    assert BIG[-1000:] in b"".join(pieces).decode()


def test_no_answer_waits_for_its_beginning_to_be_acknowledged() -> None:
    with Address(port=0).listen() as listening, socket.create_connection(listening.getsockname()[:2]):
        served, _ = listening.accept()
        with served:
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_pages_other_than_transcripts_stay_small(served: Served) -> None:
    for address in addresses(served):
        if not address.startswith("/attempts/"):
            assert len(served.page(address)) < 500_000


# ---- what is asked wrongly -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/boards/none", 404),
        ("/boards/sums?page=2", 404),
        ("/boards/sums?page=0", 422),
        ("/boards/sums?page=x", 422),
        ("/boards/sums?by=luck", 422),
        ("/boards/sums?tokens=many", 400),
        ("/boards/sums?tokens=nan", 400),
        ("/boards/sums?model=%00", 400),
        ("/boards/sums?tools=%ff", 200),
        (f"/boards/sums?model={'m' * 501}", 422),
        ("/boards/sums/tasks/0", 404),
        ("/boards/sums/tasks/7", 404),
        ("/boards/sums/pareto?axis=usd", 200),
        ("/boards/sums/pareto/usd.svg", 404),
        ("/boards/sums/mechanisms?tools=none-such", 404),
        ("/boards/sums/mechanisms/9.svg", 404),
        ("/boards/sums/mechanisms/-1.svg", 404),
        ("/entries/none", 404),
        (f"/entries/{'0' * 32}", 404),
        ("/entries/%00", 400),
        (f"/attempts/{'0' * 32}", 404),
        ("/attempts/'--", 404),
        (f"/tasks/{'0' * 32}", 404),
        ("/compare", 400),
        ("/compare?arm=a&arm=b&arm=c", 400),
        ("/compare?left=x:0&right=y:0", 404),
        ("/static/../schema.py", 404),
        ("/static/none.css", 404),
    ],
)
def test_a_wrong_address_gets_a_page_that_says_why(served: Served, address: str, status: int) -> None:
    text = served.page(address, status)
    assert "<html" in text
    assert "Traceback" not in text


def test_attempts_of_entries_that_were_not_accepted_cannot_be_read(served: Served) -> None:
    for entry in served.ids[3:]:
        for attempt in served.db.store.attempts(f"entry-{entry}", texts=False):
            assert served.http.get(f"/attempts/{attempt.id}").status_code == 404
            break


def test_arms_of_two_boards_are_not_compared(where: str, tmp_path: Path) -> None:
    made = a_board(tmp_path), a_board(tmp_path, slug="others", seed=5)
    with a_database(where, *made) as db, client(db) as http:
        for board, entry in zip(made, "ab", strict=True):
            place(db, board, entry, [{"share": 0.5}])
        answer = http.get(f"/compare?left={'a' * 32}:0&right={'b' * 32}:0")
        assert (answer.status_code, "two boards" in answer.text) == (400, True)


def test_a_query_that_is_no_text_is_answered(served: Served) -> None:
    served.page("/boards/sums?model=%ff&tools=%ff")


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_sent_stands_in_the_ranking_once_the_worker_has_checked_it(where: str, tmp_path: Path) -> None:
    db, board, _ = boarded(tmp_path, where, entries_=())
    a_run(tmp_path / "mine.sqlite", board, helped=1.0)
    with db, client(db) as http, Store.open(tmp_path / "mine.sqlite") as store:
        http.base_url = "http://127.0.0.1"  # type: ignore[assignment]
        token = create_token(db, "ann", ["submit"])
        sent = submit(store, "mine", "http://127.0.0.1/boards/sums", token, title="Sent", wait=0, client=http)
        assert "No entry has been verified yet." in http.get("/boards/sums").text
        assert "waits to be checked" in http.get(f"/entries/{sent.entry}").text
        Worker(db).run_once()
        text = http.get("/boards/sums").text
        assert f"/entries/{sent.entry}" in text
        assert "1 entry, ranked by reach." in text
        page = http.get(f"/entries/{sent.entry}").text
        assert 'id="arms"' in page
        (attempt,) = set(re.findall(r'href="(/attempts/[0-9a-f]{32})"', page)[:1])
        assert http.get(attempt).status_code == 200
