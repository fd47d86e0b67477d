"""Serves a board with uvicorn."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from testbed.board import boards
from testbed.board.app import create_app
from testbed.board.database import BoardDatabase
from testbed.board.settings import Settings
from testbed.errors import UsageError

GRACE = 30  # seconds that requests under way have when the server is told to end
_WAITING = 1000  # connections that are open at one time; more are told to come again


@dataclass(frozen=True)
class Address:
    """Where a board is served.

    Attributes:
        host: name or number of the address to listen at.
        port: 0 for any that is free.
        certificate: file with the server's certificate (PEM); without, it speaks plain HTTP.
        key: file with the certificate's key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    def listen(self) -> socket.socket:
        """A socket at the address.

        Raises:
            UsageError: nothing can listen there.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            raise UsageError(f"cannot listen at {self.host}, port {self.port}: {error.strerror or error}.") from error
        # Else the end of every answer on a connection that was used before waits 40 ms for its beginning to be
        # acknowledged: asyncio sees to that only where it makes the socket itself.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening


def serve(where: str | Path, settings: Settings, address: Address) -> None:
    """Serves the boards of a database until the process is told to end.

    Args:
        where: path of an SQLite file, or a SQLAlchemy URL.
        settings: the board's limits.
        address: where.

    Raises:
        StoreError: the database cannot be opened.
        UsageError: nothing can listen at the address, or there is no such certificate.
    """
    for file in (address.certificate, address.key):
        if file is not None and not file.is_file():
            raise UsageError(f"there is no file {file}.")
    with address.listen() as listening, BoardDatabase.open(where) as db:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        scheme = "http" if address.certificate is None else "https"
        known = f", known as {settings.public_url}" if settings.public_url else ""
        logging.getLogger("testbed.board").info("serving %s at %s://%s:%d%s", db.label, scheme, shown, port, known)
        if not boards.list_(db):  # perhaps a mistyped --store, which was made just now
            told = "there is no board in %s yet: make one there with `testbed board create`, or give another --store"
            logging.getLogger("testbed.board").warning(told, db.label)
        uvicorn.Server(config(create_app(db, settings), settings, address)).run([listening])


def config(app: FastAPI, settings: Settings, address: Address) -> uvicorn.Config:
    """How uvicorn serves a board."""
    return uvicorn.Config(
        app,
        access_log=False,  # it would hold query strings; the application writes its own
        log_config=None,
        server_header=False,
        limit_concurrency=_WAITING,
        timeout_graceful_shutdown=GRACE,
        ws_max_size=settings.body,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
