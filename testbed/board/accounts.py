"""Accounts and their tokens: what whoever sends a request may do.

A token is "tb_<id>_<secret>". Its secret part is random, is shown once, and is kept as an argon2 hash only. That hash
takes a while by design, so that a token which was found right is remembered for some minutes by its SHA-256; whether it
was revoked is asked of the database every time. How many are checked at one time is for `limits.TokenLimit` to say.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from testbed.board.audit import note, now
from testbed.board.database import BoardDatabase
from testbed.board.refusals import NotAllowed, NotSignedIn
from testbed.board.schema import accounts, tokens
from testbed.errors import UnknownName, UsageError

SCOPES = ("read", "submit", "admin")  # each may also do what those before it may
REMEMBERED = 300.0  # seconds for which a token that was found right needs no argon2
_MOST_REMEMBERED = 10_000
_TOKEN = re.compile(r"tb_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WRONG = "the token is wrong, expired or revoked; ask whoever runs the board for one."


@dataclass(frozen=True)
class Principal:
    """Who sends a request, and what they may do."""

    account: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether a scope, or a greater one, is among theirs."""
        return any(SCOPES.index(own) >= SCOPES.index(scope) for own in self.scopes)


@dataclass(frozen=True)
class TokenRecord:
    """A token as its lists show it, without anything that could be used in its place."""

    id: str
    account: str
    scopes: tuple[str, ...]
    created: str
    expires: str | None
    revoked: str | None


class Verified:
    """Tokens that were found right in the last minutes, by their SHA-256; for several threads."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def __contains__(self, token: str) -> bool:
        with self._lock:
            return self._until.get(_sha256(token), 0.0) > time.monotonic()

    def add(self, token: str) -> None:
        """Remembers a token."""
        with self._lock:
            if len(self._until) >= _MOST_REMEMBERED:
                self._until.clear()
            self._until[_sha256(token)] = time.monotonic() + REMEMBERED


def create_token(db: BoardDatabase, account: str, scopes: Iterable[str], days: float | None = None) -> str:
    """Makes a token, and its account where there is none of that name.

    Args:
        db: the board's database.
        account: whose: 1–64 small letters, digits, '.', '_' and '-'.
        scopes: of `SCOPES`.
        days: after which it expires; None for never.

    Returns:
        The token, which can not be shown again.

    Raises:
        UnknownName: a scope is none.
        UsageError: the account's name is none, there is no scope, or the days are not positive.
    """
    check_account(account)
    chosen = sorted(set(scopes), key=lambda scope: SCOPES.index(scope) if scope in SCOPES else -1)
    for scope in chosen:
        if scope not in SCOPES:
            raise UnknownName("scope", scope, SCOPES)
    if not chosen:
        raise UsageError(f"a token needs a scope: {', '.join(SCOPES)}.")
    if days is not None and not 0 < days <= 36_500:
        raise UsageError(f"a token's days must be more than 0 and at most 36500, not {days!r}.")
    id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    expires = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="milliseconds")
    row = {"id": id_, "account": account, "hash": _hasher().hash(secret), "scopes": " ".join(chosen)}
    with db.writing() as connection:
        if connection.scalar(sa.select(accounts.c.name).where(accounts.c.name == account)) is None:
            connection.execute(accounts.insert().values(name=account, created=now()))
        connection.execute(tokens.insert().values(**row, created=now(), expires=expires))
        note(connection, "", "token.create", id_, account=account, scopes=chosen, expires=expires)
    return f"tb_{id_}_{secret}"


def check_account(name: str) -> None:
    """Refuses what is no account's name.

    Raises:
        UsageError: says what a name is made of.
    """
    if not _ACCOUNT.fullmatch(name):
        raise UsageError(f"account {name!r:.80}: write 1–64 small letters, digits, '.', '_' and '-'.")


def list_tokens(db: BoardDatabase) -> list[TokenRecord]:
    """All tokens, oldest first."""
    with db.reading() as connection:
        rows = connection.execute(sa.select(tokens).order_by(tokens.c.created, tokens.c.id)).all()
    return [TokenRecord(r.id, r.account, tuple(r.scopes.split()), r.created, r.expires, r.revoked) for r in rows]


def revoke_token(db: BoardDatabase, token: str) -> str:
    """Revokes a token, at once and for good.

    Args:
        db: the board's database.
        token: the token, or its id.

    Returns:
        The token's id.

    Raises:
        UnknownName: there is none of that id.
    """
    whole = _TOKEN.fullmatch(token)
    id_ = whole.group(1) if whole else token
    with db.writing() as connection:
        known = list(connection.scalars(sa.select(tokens.c.id)))
        if id_ not in known:
            raise UnknownName("token", id_, known)
        query = tokens.update().where(tokens.c.id == id_, tokens.c.revoked.is_(None))
        connection.execute(query.values(revoked=now()))
        note(connection, "", "token.revoke", id_)
    return id_


def check(db: BoardDatabase, token: str) -> Principal:
    """Whose token it is.

    Raises:
        NotSignedIn: it is wrong, expired or revoked; all three say the same and take as long.
    """
    found = _TOKEN.fullmatch(token)
    id_, secret = found.groups() if found else ("", "")
    with db.reading() as connection:
        row = connection.execute(sa.select(tokens).where(tokens.c.id == id_)).first()
    if token not in db.verified or row is None:
        right = _is_right(row.hash if row is not None else _nobodys_hash(), secret)
        if row is None or not right:
            raise NotSignedIn(_WRONG)
        db.verified.add(token)
    if row.revoked is not None or (row.expires is not None and row.expires <= now()):
        raise NotSignedIn(_WRONG)
    return Principal(row.account, frozenset(row.scopes.split()))


_bearer = HTTPBearer(auto_error=False, description="A token that `testbed board token create` made.")


def visitor(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal | None:
    """FastAPI dependency: who asks; None for whoever gives no token. A wrong token is refused all the same."""
    if credentials is None:
        if "authorization" in request.headers:
            raise NotSignedIn("write the header as Authorization: Bearer TOKEN.")
        return None
    return check(request.app.state.db, credentials.credentials)


@cache
def principal(scope: str) -> Callable[..., Principal]:
    """FastAPI dependency: who asks, where they may do what a scope says; use `Depends(principal("submit"))`."""

    def allowed(who: Annotated[Principal | None, Depends(visitor)]) -> Principal:
        if who is None:
            raise NotSignedIn("this needs a token: send the header Authorization: Bearer TOKEN.")
        if not who.may(scope):
            raise NotAllowed(f"this needs a token of scope {scope!r}; yours has {', '.join(sorted(who.scopes))}.")
        return who

    return allowed


@cache
def _hasher() -> PasswordHasher:
    # The secret has 256 random bits, so that nobody will guess it from its hash: the least that OWASP names will do.
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_urlsafe(32))


def _is_right(hash: str, secret: str) -> bool:
    try:
        return _hasher().verify(hash, secret)
    except VerificationError:
        return False


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
