"""The hand-made server of `openai_server.py`, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from helpers.processes import talking

SERVER = Path(__file__).parents[1] / "openai_server.py"
running = ExitStack()  # closed when the tests end, see `collecting`


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._seen = f"http://127.0.0.1:{port}/seen"
        self._before = len(self._all())

    def requests(self, model: str) -> list[dict[str, Any]]:
        return [request for request in self._all()[self._before :] if request["model"] == model]

    def _all(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(self._seen) as response:
            found: list[dict[str, Any]] = json.load(response)
            return found


@contextmanager
def openai_server() -> Iterator[Server]:
    """One process for all files of a worker, since it loads a model; each knows only of requests made in its block."""
    yield Server(_port())


@cache
def _port() -> int:
    _, port = running.enter_context(talking([sys.executable, str(SERVER)], preexec_fn=_end_with_parent))
    for _ in range(200):
        try:
            Server(int(port))
        except OSError:
            time.sleep(0.05)
        else:
            return int(port)
    raise AssertionError("the server does not answer")


def _end_with_parent() -> None:
    """Also where that is killed."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
