"""The address at which people reach a board: where it is set, it stands in every link, whatever a request says."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from testbed.board.refusals import Refused
from testbed.errors import UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what a proxy, or whoever watches over a server, calls it on its machine
_SCHEMES = {"http": {"http": "http", "websocket": "ws"}, "https": {"http": "https", "websocket": "wss"}}


def public_address(url: str) -> str:
    """An address as links begin with it: without a slash at its end, and in small letters.

    Args:
        url: such as https://example.org; "" for none.

    Raises:
        UsageError: it is no address of a server, or has a path: a board's pages begin at a server's root.
    """
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # raises where it is no number
    except ValueError:
        host, parts = None, urlsplit("")
    plain = url.isascii() and url.isprintable() and " " not in url
    rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username or "", parts.password or "")
    if not plain or parts.scheme not in ("http", "https") or not host or any(rest):
        raise UsageError(
            f"{url!r:.200} is no address of a server: write https://example.org, with a port where it needs one, and "
            "no path (letters beyond ASCII as xn--…)."
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def address_of(request: Request) -> str:
    """The server's address, for links that leave it: the public one where it is set, else what the request calls it."""
    return str(request.base_url).rstrip("/")


class PublicAddress:
    """Has an application believe that it was asked under one address, and refuses requests that name another server.

    Links, redirects and documents are made from what the Host header says, which anybody may send.

    Args:
        app: what comes next.
        address: from `public_address`.
    """

    def __init__(self, app: ASGIApp, address: str) -> None:
        self._app = app
        parts = urlsplit(address)
        self._address, self._host, self._schemes = address, parts.netloc.encode(), _SCHEMES[parts.scheme]
        self._known = (parts.hostname, *LOOPBACK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on as one to the address.

        Raises:
            Refused: it is meant for another server.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if _name(Headers(scope=scope).get("host", "")) not in self._known:
            raise Refused(f"this server answers at {self._address}; the request's Host header names another.")
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        asked = {**scope, "headers": [(b"host", self._host), *others], "scheme": self._schemes[scope["type"]]}
        await self._app(asked, receive, send)


def _name(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is no plain one."""
    if not set(host).isdisjoint("@/?#\\"):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
