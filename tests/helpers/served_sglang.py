"""SGLang's own server, where the command `sglang` is installed."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from helpers.asked_elsewhere import NAME
from helpers.served_elsewhere import served_elsewhere

SGLANG = shutil.which("sglang")
needs_sglang = pytest.mark.skipif(
    SGLANG is None, reason="sglang is not on the PATH: pip install sglang, elsewhere, and sgl-kernel for processors"
)
# On a processor: one thread, nothing fetched. Its kernels for processors know no float32; torch's own attention does.
_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_ON_A_PROCESSOR = ("--device", "cpu", "--attention-backend", "torch_native", "--disable-cuda-graph")


def served_sglang(model: Path, log: Path, *options: str) -> AbstractContextManager[str]:
    """The base URL of a server with a model in float32, which is there until the end of the block."""
    assert SGLANG is not None
    command = [SGLANG, "serve", "--model-path", str(model), "--served-model-name", NAME, "--dtype", "float32"]
    return served_elsewhere([*command, *_ON_A_PROCESSOR, *options], log, _ENVIRONMENT)
