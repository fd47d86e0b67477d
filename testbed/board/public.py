"""The address at which people reach a board: where it is set, it stands in every link, whatever a request says."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from testbed.board.refusals import Refused
from testbed.errors import UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what a proxy, or whoever watches over a server, calls it on its machine
_NAMED_USER = re.compile("//.*@")
_LABEL = "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = rf"(?P<name>{_LABEL}(\.{_LABEL})*)|\[(?P<v6>[0-9a-f:.]+)\]"
_SERVER = re.compile(rf"(?:{_NAME})(?::(?P<port>[0-9]*))?", re.IGNORECASE)
_LONGEST_NAME = 253
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
    if wrong := _wrong(url):
        shown = _NAMED_USER.sub("//…@", url)  # a password is not repeated
        raise UsageError(
            f"{shown!r:.200} is no address of a server: {wrong}. Write https://example.org, with a port where it needs "
            "one, and no path."
        )
    return url.lower().rstrip("/")


def _wrong(url: str) -> str:
    """What keeps an address from being a server's; "" if nothing does."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "it holds a space, or a letter beyond ASCII, which is written as xn--…"
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _SCHEMES:
        return "it does not begin with http:// or https://"
    for sign, what in (("@", "a user's name"), ("?", "a query"), ("#", "a fragment"), ("\\", "a backslash")):
        if sign in rest:
            return f"it has {what}"
    server, _, path = rest.partition("/")
    if path.strip("/"):
        return "it has a path, and a board's pages begin at a server's root"
    return _wrong_server(server)


def _wrong_server(server: str) -> str:
    found = _SERVER.fullmatch(server)
    if found is None or len(found["name"] or "") > _LONGEST_NAME:
        return f"{server!r:.100} is no server's name, or IPv6 address in brackets"
    if found["port"] is not None and not 1 <= int(found["port"][:9] or 0) <= 65535:
        return f"{found['port']!r:.20} is no port, which is a number from 1 to 65535"
    last = (found["name"] or "").rsplit(".", 1)[-1]
    try:
        if found["v6"] is not None:
            IPv6Address(found["v6"])
        elif last.isdigit():  # browsers read whatever ends so as four numbers
            IPv4Address(found["name"])
    except ValueError:
        return f"{server!r:.100} is no IP address"
    return ""


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
