"""The hand-made server of `openai_server.py`, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.processes import talking

SERVER = Path(__file__).parents[1] / "openai_server.py"


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._seen = f"http://127.0.0.1:{port}/seen"

    def requests(self, model: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(self._seen) as response:
            return [request for request in json.load(response) if request["model"] == model]


@contextmanager
def openai_server() -> Iterator[Server]:
    with talking([sys.executable, str(SERVER)]) as (_, port):
        server = Server(int(port))
        _wait_for(server)
        yield server


def _wait_for(server: Server) -> None:
    for _ in range(200):
        try:
            server.requests("none yet")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server does not answer")
