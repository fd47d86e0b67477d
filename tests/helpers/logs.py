"""Other people's outcomes to import."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from testbed.store import Outcomes, Store
from testbed.transfer import Columns, Imported, import_outcomes

PLAIN = Columns.parse(task="question", arm="mode", sample="trial", success="won")
HEADER = "question,mode,trial,won\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def load(store: Store, folder: Path, text: str | bytes, columns: Columns = PLAIN, name: str = "log.csv") -> Imported:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return import_outcomes(store, folder / name, "r", columns)


def cells(outcomes: Outcomes) -> dict[tuple[str, str, int], int]:
    """Success by task, arm and sample."""
    rows = zip(outcomes.task, outcomes.arm, outcomes.sample, outcomes.success, strict=True)
    return {(outcomes.tasks[t].prompt, outcomes.arms[a].name, int(s)): int(won) for t, a, s, won in rows}
