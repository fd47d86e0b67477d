"""The reference model: a small causal language model that this project trains itself and ships with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from testbed.errors import ModelError
from testbed.models.hf import HuggingFace


def reference_path() -> Path:
    """The directory with the shipped weights, tokenizer, chat template and model card.

    Raises:
        ModelError: the package was installed without them.
    """
    path = Path(str(resources.files("testbed.models") / "reference"))
    if not (path / "config.json").is_file():
        raise ModelError(
            "the reference model's files are missing from this installation; "
            "reinstall the package, or train them: python scripts/train_reference.py."
        )
    return path


def reference(
    *, dtype: str = "float32", device: str = "cpu", replicas: int | str = "auto", batch: int = 256, threads: int = 1
) -> HuggingFace:
    """The reference model, asked as it was trained: by its own template, with no system text.

    Args:
        dtype: as in `HuggingFace`.
        device: as in `HuggingFace`; the CPU by default, where a model of this size is fastest and repeats exactly.
        replicas: as in `HuggingFace`.
        batch: as in `HuggingFace`.
        threads: as in `HuggingFace`.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "replicas": replicas, "batch": batch}
    return HuggingFace(reference_path(), system="", name="reference", threads=threads, **options)
