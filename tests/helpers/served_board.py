"""`testbed board serve` in a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from helpers.processes import end


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def nobodys_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody can begin to: connections to it are refused."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@contextmanager
def board_process(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the folder's board.sqlite, once it answers."""
    log = folder / "server.log"
    with log.open("ab") as file:
        line = [sys.executable, "-m", "testbed", "board", "serve", "--port", str(port)]
        process = subprocess.Popen(line, cwd=folder, stdout=file, stderr=file, env=dict(os.environ))
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/openapi.json", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process
    finally:
        end(process, 20)
        said = log.read_text(encoding="utf-8")
        assert not re.search("Traceback", said), said
