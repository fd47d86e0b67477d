"""What stands before the application: how often it answers, whose tokens it checks, how many wait, and its headers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from testbed.board.faults import boundary
from testbed.board.refusals import NotSignedIn, Overloaded, TooMany
from testbed.board.settings import Settings

if TYPE_CHECKING:
    from testbed.board.accounts import Verified

log = logging.getLogger("testbed.board.requests")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MOST_BUCKETS = 20_000
_OF_SESSIONS = "/api/sessions/"  # steps of sessions wait for tools, and hardly for the database
_PATIENCE = 20.0  # seconds that a request waits for its turn
_CHECKS = 2  # tokens that are checked at one time: each takes 19 MiB and a core
_WRONG_TOKENS = 10  # that an address may try at once; after that one in _WRONG_WAIT seconds
_WRONG_WAIT = 5.0


class Answering:
    """Gives every request an id, every answer its headers, every error an answer, and all of them a line in the log.

    Args:
        app: what comes next.
        answer: makes the answer to an error.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Scope, Exception], ASGIApp]) -> None:
        self._app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = id_ = secrets.token_hex(8)
        began, status, method = time.monotonic(), 0, scope.get("method", "WebSocket")
        # Proxies and those who check links ask for pages by HEAD: it is GET without the body.
        bodiless = method == "HEAD" and not scope["path"].startswith("/api")
        if bodiless:
            scope = {**scope, "method": "GET"}

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                _add_headers(message, scope["path"], id_)
            elif message["type"] == "websocket.accept":
                status = 101
            elif bodiless and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            with boundary() as fault:
                await self._app(scope, receive, with_headers)
            if fault.error is not None and status:  # too late for another answer: the server breaks the connection off
                raise fault.error
            if fault.error is not None:  # a bug is answered like any error, with the headers of any answer
                await self._answer(scope, fault.error)(scope, receive, with_headers)
        finally:
            # The path alone: addresses of other people's making may hold anything after it.
            path, spent = scope["path"].encode("unicode_escape").decode(), time.monotonic() - began
            log.info("%s %s %s %d %.0f ms", id_, method, path[:200], status, 1000 * spent)


def _add_headers(message: Message, path: str, id_: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store" if path.startswith("/api") else "no-cache")
    headers["X-Request-ID"] = id_


class Buckets:
    """A bucket for each sender, full at first: what it sends takes from it, and time fills it again.

    Args:
        rate: what comes back in a second.
        size: what a full one holds.
    """

    def __init__(self, rate: float, size: float) -> None:
        self._rate, self._size = rate, size
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when it was
        self._lock = threading.Lock()

    def wait(self, who: str) -> float:
        """Seconds until this one may send something; 0 takes it now."""
        with self._lock:
            left = self._now(who)
            granted = left >= 1
            self._keep(who, left - 1 if granted else left)
        return 0.0 if granted else self._until(left)

    def ahead(self, who: str) -> float:
        """Seconds until this one may send something; takes nothing."""
        with self._lock:
            left = self._now(who)
            self._keep(who, left)
        return max(0.0, self._until(left))

    def put_back(self, who: str) -> None:
        """What was taken last does not count."""
        with self._lock:
            self._keep(who, min(self._size, self._now(who) + 1))

    def _now(self, who: str) -> float:
        at = time.monotonic()
        left, last = self._left.pop(who, (self._size, at))
        return min(self._size, left + (at - last) * self._rate)

    def _keep(self, who: str, left: float) -> None:
        self._left[who] = (left, time.monotonic())
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)

    def _until(self, left: float) -> float:
        return (1 - left) / self._rate


class RateLimit:
    """Refuses requests of whoever sends too many: a bucket for each address, and for each right token.

    Messages over a WebSocket are counted as requests, and wait instead. A token that was never found right counts as
    none: else new ones could be made up for every request.
    """

    def __init__(self, app: ASGIApp, settings: Settings, verified: Verified) -> None:
        self._app, self._verified = app, verified
        self._buckets = Buckets(settings.requests, settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it with `TooMany`."""
        if scope["type"] != "lifespan" and (wait := self._wait(scope)) > 0:
            raise TooMany(f"too many requests; wait {wait:.1f} s.", retry_after=wait)
        await self._app(scope, self._paced(scope, receive) if scope["type"] == "websocket" else receive, send)

    def _paced(self, scope: Scope, receive: Receive) -> Receive:
        """What a WebSocket receives, each message counted as a request; those that are too many wait."""

        async def paced() -> Message:
            message = await receive()
            while message["type"] == "websocket.receive" and (wait := self._wait(scope)) > 0:
                await asyncio.sleep(wait)
            return message

        return paced

    def _wait(self, scope: Scope) -> float:
        token = _token(scope)
        right = token in self._verified
        return self._buckets.wait(f"token {token.split('_')[1]}" if right else f"address {_address(scope)}")


class TokenLimit:
    """Checks tokens that were not found right lately before their requests take a thread, a few at one time.

    Whoever tries wrong ones is soon told to wait, so that others with new tokens, and readers with none, are not held
    up by them. Tokens found right are let through; what they allow is for the application to say.

    Args:
        app: what comes next.
        check: raises `NotSignedIn` for a wrong token, and has right ones remembered.
        verified: those that it remembers.
    """

    def __init__(self, app: ASGIApp, check: Callable[[str], object], verified: Verified) -> None:
        self._app, self._check, self._verified = app, check, verified
        self._turns = asyncio.Semaphore(_CHECKS)
        self._wrong = Buckets(1 / _WRONG_WAIT, _WRONG_TOKENS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on whose token is right, or that has none.

        Raises:
            NotSignedIn: its token is wrong.
            TooMany: its address has tried too many wrong ones.
            Overloaded: too many others are being checked.
        """
        if scope["type"] != "lifespan" and (token := _token(scope)) and token not in self._verified:
            _told_to_wait(self._wrong.ahead(_address(scope)))  # whoever has to wait holds up nobody's turn
            async with _turn(self._turns, "too many tokens are being checked; try again."):
                await self._find_out(token, _address(scope))
        await self._app(scope, receive, send)

    async def _find_out(self, token: str, address: str) -> None:
        if token in self._verified:  # found right while this one waited
            return
        _told_to_wait(self._wrong.wait(address))  # others from there have had their turn meanwhile
        wrong = False
        try:
            await asyncio.to_thread(self._check, token)  # in no thread of those that requests are worked on in
        except NotSignedIn:
            wrong = True
            raise
        finally:
            if not wrong:  # that a database does not answer is nobody's wrong token
                self._wrong.put_back(address)


class WriteLimit:
    """Lets so many requests at one time have the database changed; the others wait their turn, and hold no thread.

    The database has one writer at a time. Without this, those who wait for it would leave no thread to readers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._turns = app, asyncio.Semaphore(settings.writers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on when it is its turn.

        Raises:
            Overloaded: its turn did not come in time.
        """
        waits = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")
        if not waits or scope["path"].startswith(_OF_SESSIONS):
            await self._app(scope, receive, send)
            return
        async with _turn(self._turns, "too many are waiting to write; try again."):
            await self._app(scope, receive, send)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, otherwise: str) -> AsyncIterator[None]:
    """One of some turns, waited for without a thread.

    Raises:
        Overloaded: none came in time.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            await turns.acquire()
    except TimeoutError:
        raise Overloaded(otherwise, retry_after=_PATIENCE) from None
    try:
        yield
    finally:
        turns.release()


def _told_to_wait(seconds: float) -> None:
    if seconds > 0:
        raise TooMany(f"too many wrong tokens; wait {seconds:.1f} s.", retry_after=seconds)


def _token(scope: Scope) -> str:
    """What a request gives as its token; "" if it gives none."""
    kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


def _address(scope: Scope) -> str:
    return _network((scope.get("client") or ("unknown", 0))[0])


def _network(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the network that an IPv6 one chooses its addresses from."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket in the file system, or a test's client
        return address
    return found.exploded[:19] if isinstance(found, IPv6Address) else str(found)
