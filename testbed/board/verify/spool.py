"""Attempts between their check and the transaction that stores them: on disk, since there may be a million."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import zstandard

from testbed.board.bundle import attempt_line
from testbed.closing import Closing
from testbed.types import Attempt, Cost, Status


class Spool(Closing):
    """A pile of attempts: add them all, then read them once. A context manager."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="testbed-entry-")  # noqa: SIM115 (closed by __exit__)
        self._writer: IO[bytes] = zstandard.ZstdCompressor(level=1).stream_writer(self._file, closefd=False)
        self.count = 0

    def close(self) -> None:
        """Gives its place on disk back."""
        self._file.close()

    def add(self, attempt: Attempt) -> None:
        """Puts an attempt on the pile."""
        self._writer.write(attempt_line(attempt))
        self.count += 1

    def __iter__(self) -> Iterator[Attempt]:
        self._writer.close()
        self._file.seek(0)
        reader = zstandard.ZstdDecompressor().stream_reader(self._file, closefd=False)
        for line in io.BufferedReader(reader):
            yield _attempt(json.loads(line))


def _attempt(values: dict[str, Any]) -> Attempt:
    return Attempt(**{**values, "status": Status(values["status"]), "cost": Cost(**values["cost"])})
