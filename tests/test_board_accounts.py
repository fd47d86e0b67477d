"""Tokens: who may do what, what is kept of a token, and that nothing tells it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import Depends
from starlette.testclient import TestClient

from helpers.boards import FREE
from testbed.board import accounts, audit
from testbed.board.accounts import (
    SCOPES,
    Principal,
    Verified,
    check,
    create_token,
    list_tokens,
    principal,
    revoke_token,
    visitor,
)
from testbed.board.app import create_app
from testbed.board.database import BoardDatabase
from testbed.board.limits import TokenLimit
from testbed.board.refusals import NotSignedIn, Overloaded, TooMany
from testbed.board.schema import tokens
from testbed.errors import StoreError, UnknownName, UsageError

QUICK_IN_POSTGRESQL = (
    "test_a_revoked_token_is_refused_at_once_by_a_server_that_remembers_it",
    "test_no_secret_is_kept_of_a_token_but_its_argon2_hash",
)


def forget(db: BoardDatabase) -> None:
    """As in a server that was started just now."""
    db.verified = accounts.Verified()


@pytest.fixture
def as_outside(how_tokens_are_hashed: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tokens are hashed as they are outside of tests."""
    monkeypatch.setattr(accounts, "_hasher", how_tokens_are_hashed)
    accounts._nobodys_hash.cache_clear()
    yield
    accounts._nobodys_hash.cache_clear()


def everything(db: BoardDatabase) -> str:
    """All that the board's tables of accounts hold, as text."""
    with db.reading() as connection:
        rows = [connection.execute(sa.select(table)).all() for table in (tokens, accounts.accounts)]
    return repr(rows) + repr(audit.read(db))


def not_quite(token: str) -> str:
    """A wrong token that differs from a right one in its last character only, whatever that is."""
    return token[:-1] + ("A" if token[-1] != "A" else "B")


# -- what a token is


def test_a_token_says_whose_it_is_and_what_it_allows(db: BoardDatabase) -> None:
    found = check(db, create_token(db, "ann", ["submit", "read"]))
    assert found == Principal("ann", frozenset({"read", "submit"}))


@pytest.mark.parametrize(("own", "may"), [("read", ["read"]), ("submit", ["read", "submit"]), ("admin", [*SCOPES])])
def test_a_greater_scope_allows_what_a_lesser_one_does_and_no_more(own: str, may: list[str]) -> None:
    who = Principal("ann", frozenset({own}))
    assert [scope for scope in SCOPES if who.may(scope)] == may


def test_no_secret_is_kept_of_a_token_but_its_argon2_hash(db: BoardDatabase) -> None:
    secret = create_token(db, "ann", ["submit"]).split("_", 2)[2]
    kept = everything(db)
    assert secret not in kept
    assert kept.count("$argon2id$") == 1


@pytest.mark.usefixtures("as_outside")
def test_a_hash_takes_the_work_that_owasp_asks_for(db: BoardDatabase) -> None:
    create_token(db, "ann", ["submit"])
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in everything(db)


def test_two_tokens_share_nothing(db: BoardDatabase) -> None:
    left, right = (create_token(db, "ann", ["read"]).split("_", 2)[1:] for _ in range(2))
    assert not set(left) & set(right)
    assert [token.account for token in list_tokens(db)] == ["ann", "ann"]


def test_a_record_of_a_token_holds_no_hash(db: BoardDatabase) -> None:
    create_token(db, "ann", ["read"])
    assert "argon2" not in repr(list_tokens(db))


# -- what is refused


def test_anything_else_than_the_token_is_refused_in_the_same_words(db: BoardDatabase) -> None:
    token = create_token(db, "ann", ["submit"])
    others = ["", "tb_", token[:-1], token + "A", not_quite(token), f"tb_000000000000_{token.split('_', 2)[2]}"]
    others += [token.upper(), token + "\n", " " + token, "\ud800", "tb_%' OR 1=1 --_" + "A" * 43]
    for other in others:
        with pytest.raises(NotSignedIn, match="wrong, expired or revoked"):
            check(db, other)
    assert check(db, token).account == "ann"


def test_a_token_expires_also_where_it_is_remembered(db: BoardDatabase, monkeypatch) -> None:
    token = create_token(db, "ann", ["submit"], days=10)
    check(db, token)
    monkeypatch.setattr(accounts, "now", lambda: (datetime.now(UTC) + timedelta(days=9.9)).isoformat())
    check(db, token)
    monkeypatch.setattr(accounts, "now", lambda: (datetime.now(UTC) + timedelta(days=10.1)).isoformat())
    with pytest.raises(NotSignedIn):
        check(db, token)


def test_a_revoked_token_is_refused_at_once_by_a_server_that_remembers_it(where: str) -> None:
    with BoardDatabase.open(where) as server, BoardDatabase.open(where) as command_line:
        token = create_token(command_line, "ann", ["submit"])
        check(server, token)
        revoke_token(command_line, token.split("_")[1])
        with pytest.raises(NotSignedIn):
            check(server, token)


def test_a_token_stays_revoked_at_the_time_it_was(db: BoardDatabase) -> None:
    token = create_token(db, "ann", ["submit"])
    revoke_token(db, token)
    first = list_tokens(db)[0].revoked
    revoke_token(db, token)
    assert list_tokens(db)[0].revoked == first


@pytest.mark.usefixtures("as_outside")
def test_an_unknown_token_takes_as_long_to_refuse_as_a_wrong_one(db: BoardDatabase) -> None:
    right = create_token(db, "ann", ["submit"])
    secret = "A" * 43

    def spent(token: str) -> float:
        best = 9.0
        for _ in range(5):
            began = time.process_time()
            with pytest.raises(NotSignedIn):
                check(db, token)
            best = min(best, time.process_time() - began)
        return best

    spent(f"tb_000000000000_{secret}")  # the first one makes the hash that it is compared with
    wrong, unknown = spent(f"tb_{right.split('_')[1]}_{secret}"), spent(f"tb_000000000000_{secret}")
    assert 0.5 < unknown / wrong < 2


def test_a_token_that_was_found_right_needs_no_second_argon2(db: BoardDatabase, monkeypatch) -> None:
    token = create_token(db, "ann", ["submit"])
    check(db, token)
    monkeypatch.setattr(accounts, "_is_right", lambda *_: pytest.fail("hashed again"))
    assert check(db, token).account == "ann"
    with pytest.raises(pytest.fail.Exception):
        check(db, not_quite(token))


def test_what_is_remembered_of_tokens_is_bounded_and_holds_none(monkeypatch) -> None:
    monkeypatch.setattr(accounts, "_MOST_REMEMBERED", 10)
    found = accounts.Verified()
    for n in range(100):
        found.add(f"token {n}")
    assert len(found._until) <= 10
    assert "token 99" in found
    assert b"token" not in b"".join(found._until)


def test_a_token_is_forgotten_after_a_while(monkeypatch) -> None:
    monkeypatch.setattr(accounts, "REMEMBERED", 0.0)
    found = accounts.Verified()
    found.add("token")
    assert "token" not in found


def test_an_account_with_an_odd_name_is_refused(db: BoardDatabase) -> None:
    for account in ("", "Ann", "a b", "-ann", "a" * 65, "ann\n", "änn", "../x"):
        with pytest.raises(UsageError, match="small letters"):
            create_token(db, account, ["read"])


def test_an_unknown_scope_is_refused_with_the_nearest(db: BoardDatabase) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'submit'"):
        create_token(db, "ann", ["sumbit"])
    with pytest.raises(UsageError, match="needs a scope"):
        create_token(db, "ann", [])
    assert list_tokens(db) == []


def test_days_that_are_none_are_refused(db: BoardDatabase) -> None:
    for days in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(UsageError, match="days"):
            create_token(db, "ann", ["read"], days=days)


def test_revoking_what_is_no_token_is_refused(db: BoardDatabase) -> None:
    create_token(db, "ann", ["read"])
    with pytest.raises(UnknownName, match="unknown token"):
        revoke_token(db, "nothing")


# -- over HTTP


@pytest.fixture
def served(db: BoardDatabase) -> TestClient:
    """An application with an address for each scope."""
    app = create_app(db, FREE)

    def account(who: Principal) -> str:
        return who.account

    for scope in SCOPES:
        account.__annotations__["who"] = Annotated[Principal, Depends(principal(scope))]
        app.get(f"/api/needs/{scope}")(account)
    app.get("/api/open")(visited)
    return TestClient(app)


def visited(who: Annotated[Principal | None, Depends(visitor)]) -> str:
    return who.account if who else "nobody"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_each_scope_is_asked_for_by_the_endpoints_that_need_it(db: BoardDatabase, served: TestClient) -> None:
    headers = bearer(create_token(db, "ann", ["submit"]))
    got = [served.get(f"/api/needs/{scope}", headers=headers) for scope in SCOPES]
    assert [answer.status_code for answer in got] == [200, 200, 403]
    assert "scope 'admin'" in got[2].json()["error"]


def test_what_is_open_needs_no_token_and_refuses_a_wrong_one(db: BoardDatabase, served: TestClient) -> None:
    assert served.get("/api/open").json() == "nobody"
    assert served.get("/api/open", headers=bearer(create_token(db, "ann", ["read"]))).json() == "ann"
    wrong = served.get("/api/open", headers=bearer("tb_000000000000_" + "A" * 43))
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")


def test_a_header_that_is_no_token_is_refused(served: TestClient) -> None:
    for header in (b"Basic YTpi", b"Bearer", b"Bearer ", b"tb_1_2", b"", b"Bearer \xff"):
        for address in ("/api/open", "/api/needs/read"):
            assert served.get(address, headers={"Authorization": header}).status_code == 401


def test_no_token_gets_into_the_log_or_an_answer(db: BoardDatabase, served: TestClient, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    token = create_token(db, "ann", ["submit"])
    secret = token.split("_", 2)[2]
    wrong = not_quite(token)
    answers = [
        served.get("/api/needs/admin", headers=bearer(token)),
        served.get("/api/needs/read", headers=bearer(wrong)),
        served.get(f"/api/nothing?token={token}", headers=bearer(token)),
    ]
    assert [answer.status_code for answer in answers] == [403, 401, 404]
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("testbed"))
    assert secret[:40] not in told
    assert ours.count("/api/") == 3
    assert secret[:40] not in ours


# -- how many are checked


async def nothing(*_: object) -> None:
    """The application behind a limit, and what sends and receives."""


def with_token(token: str, address: str = "192.0.2.1") -> dict[str, Any]:
    return {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())], "client": (address, 1)}


async def test_wrong_tokens_are_soon_refused_unread_and_only_from_where_they_come() -> None:
    verified, checked = Verified(), []

    def check(token: str) -> None:
        checked.append(token)
        if token != "right":
            raise NotSignedIn("wrong")
        verified.add(token)

    limit = TokenLimit(nothing, check, verified)
    answers = await asyncio.gather(
        *(limit(with_token(f"wrong {n}"), nothing, nothing) for n in range(40)), return_exceptions=True
    )
    assert Counter(map(type, answers)) == {NotSignedIn: 10, TooMany: 30}
    assert len(checked) == 10
    await limit(with_token("right", "192.0.2.2"), nothing, nothing)
    for _ in range(40):
        await limit(with_token("right"), nothing, nothing)  # its own address is one of many behind a proxy, maybe
    assert checked[10:] == ["right"]


async def test_an_address_that_has_to_wait_is_told_so_at_once_and_holds_up_nobodys_turn() -> None:
    go_on = threading.Event()

    def check(token: str) -> None:
        if token == "slow":
            go_on.wait(20)
        raise NotSignedIn("wrong")

    limit = TokenLimit(nothing, check, Verified())
    wrong = (limit(with_token(f"wrong {n}"), nothing, nothing) for n in range(10))
    await asyncio.gather(*wrong, return_exceptions=True)
    slow = [asyncio.create_task(limit(with_token("slow", f"192.0.2.{n}"), nothing, nothing)) for n in (2, 3)]
    await asyncio.sleep(0)  # all turns are taken
    try:
        with pytest.raises(TooMany, match="too many wrong tokens"):
            await asyncio.wait_for(limit(with_token("wrong"), nothing, nothing), 5)
    finally:
        go_on.set()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_only_wrong_tokens_are_counted_as_such() -> None:
    def check(token: str) -> None:
        raise NotSignedIn("wrong") if token == "wrong" else StoreError("the database does not answer")

    limit = TokenLimit(nothing, check, Verified())
    for _ in range(20):
        with pytest.raises(StoreError):
            await limit(with_token("right"), nothing, nothing)
    for _ in range(10):
        with pytest.raises(NotSignedIn):
            await limit(with_token("wrong"), nothing, nothing)
    with pytest.raises(TooMany):
        await limit(with_token("wrong"), nothing, nothing)


async def test_a_right_token_that_many_requests_bring_at_once_is_checked_once_and_counts_for_nothing() -> None:
    verified, checked = Verified(), []

    def check(token: str) -> None:
        checked.append(token)
        time.sleep(0.02)
        verified.add(token)

    limit = TokenLimit(nothing, check, verified)
    for n in range(20):
        await asyncio.gather(*(limit(with_token(f"right {n}"), nothing, nothing) for _ in range(10)))
    assert len(checked) <= 2 * 20


async def test_no_more_tokens_are_checked_at_one_time_than_leave_room_for_others_and_waiting_ends(monkeypatch) -> None:
    monkeypatch.setattr("testbed.board.limits._PATIENCE", 0.05)
    go_on, at_once = threading.Event(), []

    def check(token: str) -> None:
        at_once.append(token)
        go_on.wait(20)

    limit = TokenLimit(nothing, check, Verified())
    first = [asyncio.create_task(limit(with_token(str(n)), nothing, nothing)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await limit(with_token("2"), nothing, nothing)
    await limit({"type": "http", "headers": []}, nothing, nothing)  # who has no token waits for nobody
    go_on.set()
    await asyncio.gather(*first)
    assert sorted(at_once) == ["0", "1"]
