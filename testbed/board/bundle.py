"""Bundles: a run as one file that can be sent, zstd-compressed JSON lines.

The first line is the manifest, which says how many lines of each kind follow: arms, tasks (hashes and prompts, never
references), attempts with their transcripts, by arm, task and sample. The same run gives the same bytes, so that the
hash of the file names its content. Reading streams, trusts nothing, and is bounded in memory and in time: who reads a
bundle has it from a stranger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import zstandard
from pydantic import ValidationError

from testbed.board.bundle_lines import ClaimedArm, ClaimedAttempt, ClaimedTask, Line, Manifest, sent_of
from testbed.errors import DataError, StoreError
from testbed.experiment import MOST_ATTEMPTS
from testbed.store import Run, Store
from testbed.store.schema import pack
from testbed.types import Attempt, Task

FORMAT: Literal[1] = 1
_LEVEL = 9  # of compression: sent once, read often
_WINDOW = 2**27  # bytes of memory that a reader's decompressor may take, at most
_BLOCK = 2**16
_RATIO_FROM = 2**22  # bytes from which on the ratio counts: a short text of one letter is no bomb
_SHOWN = 120

T = TypeVar("T", bound="Line")


@dataclass(frozen=True)
class Limits:
    """How much of a stranger's bundle is read.

    Attributes:
        size: bytes of the file.
        expanded: bytes of its lines.
        ratio: bytes of lines to a byte of the file. Ids alone keep honest ones far below it.
        line: bytes of a line.
        described: bytes of all arms' lines. These are held parsed, which takes twenty times as much memory.
        listed: bytes of all tasks' lines, which are held as well.
        arms: lines of this kind.
        tasks: lines of this kind.
        attempts: lines of this kind.
    """

    size: int = 2**29
    expanded: int = 2**33
    ratio: int = 1000
    line: int = 2**25
    described: int = 2**23
    listed: int = 2**28
    arms: int = 64
    tasks: int = 100_000
    attempts: int = MOST_ATTEMPTS


@dataclass(frozen=True)
class Written:
    """A bundle that was written.

    Attributes:
        path: the file.
        content: SHA-256 of its bytes.
        size: its bytes.
        attempts: how many it holds.
    """

    path: Path
    content: str
    size: int
    attempts: int


def write_bundle(store: Store, run: Run, tasks: Sequence[Task], samples: Mapping[str, int], path: Path) -> Written:
    """Writes a run's attempts at some tasks.

    Args:
        store: where the run is.
        run: the run.
        tasks: of the run; attempts at others are left out.
        samples: by name of the arm, attempts at each task: the first so many.
        path: the file to make.

    Raises:
        StoreError: the run lacks attempts: it was not finished.
    """
    listed = {task.hash for task in tasks}
    digest, count = hashlib.sha256(), 0
    manifest = Manifest(
        bundle=FORMAT,
        run=run.name,
        seed=run.seed,
        created=run.created,
        testbed=version("capability-testbed"),
        arms=len(run.arms),
        tasks=len(tasks),
        attempts=len(tasks) * sum(samples[arm.name] for arm in run.arms),
    )
    with path.open("wb") as file, _compressing(_Hashing(file, digest)) as out:
        out.write(_line(manifest.model_dump()))
        for arm in run.arms:
            out.write(
                _line({"hash": arm.hash, "name": arm.name, "samples": samples[arm.name], "spec": sent_of(arm.spec)})
            )
        for task in tasks:
            out.write(_line({"hash": task.hash, "environment": task.environment, "prompt": task.prompt}))
        for arm in run.arms:
            for attempt in store.attempts(run.name, arm=arm.name):
                if attempt.task in listed and attempt.sample < samples[arm.name]:
                    out.write(attempt_line(attempt))
                    count += 1
    if count < manifest.attempts:
        raise StoreError(
            f"run {run.name!r} has {count:,} of the {manifest.attempts:,} attempts: finish it with `testbed run` first."
        )
    return Written(path, digest.hexdigest(), path.stat().st_size, count)


class _Hashing:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self._file, self._digest = file, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)


def _compressing(file: Any) -> Any:
    """Compresses what is written to whatever has `write`; zstandard's types want a whole file."""
    return zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file)


def _line(value: Mapping[str, Any]) -> bytes:
    return pack(value).encode() + b"\n"


def attempt_line(a: Attempt) -> bytes:
    """An attempt as a line."""
    known = ("id", "task", "arm", "sample", "seed", "ended", "success", "score", "answer")
    claim = {name: getattr(a, name) for name in known}
    cost = {**a.cost.as_dict(), "seconds": float(a.cost.seconds), "usd": float(a.cost.usd)}
    told = {"status": a.status.value, "cost": cost, "faults": dict(a.faults)}
    return _line({**claim, **told, "transcript": [_said(message) for message in a.transcript]})


def _said(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what nobody can check: log-probabilities are its author's word."""
    return {key: value for key, value in message.items() if key != "logprobs"}


class Bundle:
    """A bundle being read: the head at once, the attempts as they come. Read them once, in order.

    Args:
        parts: the file's bytes in any pieces.
        limits: how much is read.

    Attributes:
        manifest: its first line.
        arms: as claimed.
        tasks: as claimed.

    Raises:
        DataError: it is damaged, too large, or something else; names the line.
    """

    def __init__(self, parts: Iterable[bytes], limits: Limits = Limits()) -> None:
        self._lines = _Lines(parts, limits)
        self.manifest = self._lines.next(Manifest, "the manifest")
        for kind in ("arms", "tasks", "attempts"):
            if getattr(self.manifest, kind) > getattr(limits, kind):
                raise DataError(f"the bundle has more than {getattr(limits, kind):,} {kind}, which is not accepted.")
        self.arms = self._lines.several(ClaimedArm, "arm", self.manifest.arms, limits.described)
        self.tasks = self._lines.several(ClaimedTask, "task", self.manifest.tasks, limits.listed)

    def attempts(self) -> Iterator[ClaimedAttempt]:
        """The attempts, one at a time.

        Raises:
            DataError: as above.
        """
        for n in range(1, self.manifest.attempts + 1):
            yield self._lines.next(ClaimedAttempt, f"attempt {n}")
        self._lines.end()


class _Parts:
    """Pieces of bytes as the file that the decompressor reads."""

    def __init__(self, parts: Iterable[bytes], most: int) -> None:
        self._parts, self._left, self._most, self.taken = iter(parts), b"", most, 0

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._left = bytes(part)
        given, self._left = self._left[:size], self._left[size:]
        self.taken += len(given)
        if self.taken > self._most:
            raise DataError(f"the bundle has more than {self._most:,} bytes.")
        return given


class _Lines:
    """The lines of a bundle, never more than one of them in memory."""

    def __init__(self, parts: Iterable[bytes], limits: Limits) -> None:
        self._parts, self._limits = _Parts(parts, limits.size), limits
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._reader = decompressor.stream_reader(self._parts, read_size=_BLOCK, read_across_frames=True)  # type: ignore[arg-type]
        self._buffer, self._at, self._expanded, self._number = b"", 0, 0, 0

    def next(self, kind: type[T], what: str) -> T:
        return self._read(kind, what, self._text(what, self._limits.line))

    def several(self, kind: type[T], what: str, count: int, most: int) -> list[T]:
        """So many lines of a kind, of at most so many bytes together."""
        found = []
        for n in range(1, count + 1):
            text = self._text(f"{what} {n}", min(most, self._limits.line))
            most -= len(text)
            found.append(self._read(kind, f"{what} {n}", text))
        return found

    def _read(self, kind: type[T], what: str, text: bytes) -> T:
        self._number += 1
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(step) for step in first["loc"])[:_SHOWN]
            said = f"{where}: {first['msg']}" if where else first["msg"]
            raise DataError(f"line {self._number} of the bundle, {what}: {said[: 2 * _SHOWN]}.") from None

    def end(self) -> None:
        if self._at < len(self._buffer) or self._more():
            raise DataError(f"the bundle goes on after line {self._number}, its last by its manifest.")

    def _text(self, what: str, most: int) -> bytes:
        pieces: list[bytes] = []
        length = 0
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            pieces.append(self._buffer[self._at :])
            length += len(pieces[-1])
            if length > most:
                raise self._too_long(what, most)
            if not self._more():
                raise DataError(f"the bundle ends early: {what} is missing, or not whole.")
        pieces.append(self._buffer[self._at : end])
        if length + len(pieces[-1]) > most:
            raise self._too_long(what, most)
        self._at = end + 1
        return b"".join(pieces)

    def _too_long(self, what: str, most: int) -> DataError:
        return DataError(f"line {self._number + 1} of the bundle, {what}, has over {most:,} bytes, the most it may.")

    def _more(self) -> bool:
        try:
            self._buffer, self._at = self._reader.read(_BLOCK), 0
        except zstandard.ZstdError as error:
            raise DataError(f"the bundle is damaged, or no bundle at all ({error}).") from None
        self._expanded += len(self._buffer)
        most = max(_RATIO_FROM, self._limits.ratio * self._parts.taken)
        if self._expanded > min(most, self._limits.expanded):
            raise DataError(
                f"the bundle expands to over {self._expanded:,} bytes from {self._parts.taken:,}: no run does."
            )
        return bool(self._buffer)
