from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of public data files; tests that read real logs skip where it is absent."""
    folder = Path(os.environ.get("TESTBED_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set TESTBED_DATA to one that holds game24, gsm8k, …")
    return folder
