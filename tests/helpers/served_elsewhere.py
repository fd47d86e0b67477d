"""Servers of models that are installed elsewhere: they have other requirements than this project."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import end

PATIENCE = 300  # seconds until it must be up


@contextmanager
def served_elsewhere(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The base URL of a server, which is there until the end of the block.

    Args:
        command: that starts it, and takes a `--host` and a `--port`.
        log: the file for what it prints; it runs in the folder of this.
        environment: variables beside those of this process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *where], stdout=output, stderr=output, cwd=log.parent, env={**os.environ, **environment}
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/v1/models", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{process.args!r} is not up: {log.read_text()[-3000:]}")
