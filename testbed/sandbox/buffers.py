"""Runs inside the sandbox: where the worker holds what belongs to a program. Only the standard library is there.

The next program is a fork of the worker, and finds in its memory whatever lies there, also what the worker has freed.
So a program's text, input, output and files never become objects of the worker's: they lie in mappings of their own,
which are handed on as they are and emptied at the end of a call.
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK = 1 << 18  # bytes per read


class Payload:
    """What came with a request, in parts; a child that is forked while it is held can read it too.

    Args:
        sizes: bytes of each part.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._mapping = mmap.mmap(-1, sum(sizes) or 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def receive(self, descriptor: int) -> bool:
        """Fills it; False if the stream ends before."""
        rest = memoryview(self._mapping)[: sum(self._sizes)]
        while rest:
            if not (count := os.readv(descriptor, [rest])):
                return False
            rest = rest[count:]
        return True

    def part(self, number: int) -> memoryview:
        """One of the parts."""
        start = sum(self._sizes[:number])
        return memoryview(self._mapping)[start : start + self._sizes[number]]

    def forget(self) -> None:
        """Empties it, whoever still refers to it."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


class Capture:
    """The first and the last bytes of a stream, and how many there were; made once and emptied after each call.

    Args:
        limit: bytes to keep.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._mapping = mmap.mmap(-1, 3 * self._half + CHUNK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._mapping.madvise(mmap.MADV_DONTFORK)  # nothing for programs, whose memory it would count to
        self._view = memoryview(self._mapping)
        self._head = self._tail = self._total = 0

    def read_from(self, descriptor: int) -> bool:
        """Takes what is there to read; False at the end, or if nothing is there."""
        half = self._half
        if self._tail > 2 * half:
            self._mapping.move(half, self._tail, half)
            self._tail = half
        try:
            end = half + self._tail
            count = os.readv(descriptor, [self._view[self._head : half], self._view[end : end + CHUNK]])
        except BlockingIOError:
            return False
        first = min(count, half - self._head)
        self._head += first
        self._tail += count - first
        self._total += count
        return count > 0

    def parts(self) -> list[memoryview]:
        """What is kept: of the beginning and of the end."""
        end = self._half + self._tail
        return [self._view[: self._head], self._view[end - min(self._tail, self._half) : end]]

    def cut(self) -> int:
        """How many bytes between the two are missing."""
        return self._total - sum(map(len, self.parts()))

    def forget(self) -> None:
        """Empties it for the next call."""
        self._head = self._tail = self._total = 0
        self._mapping.madvise(mmap.MADV_DONTNEED)


class Captures:
    """Those of a worker: standard output and standard error.

    Args:
        limit: bytes to keep of each.
    """

    def __init__(self, limit: int) -> None:
        self._both = (Capture(limit), Capture(limit))

    def of(self, stdout: int, stderr: int) -> dict[int, Capture]:
        """For a call, by descriptor."""
        return dict(zip((stdout, stderr), self._both, strict=True))

    def parts(self) -> list[memoryview]:
        """Beginning and end of standard output, beginning and end of standard error."""
        return [part for capture in self._both for part in capture.parts()]

    def cuts(self) -> dict[str, int]:
        """Bytes missing of each."""
        return {"stdout_cut": self._both[0].cut(), "stderr_cut": self._both[1].cut()}

    def forget(self) -> None:
        """Empties them."""
        for capture in self._both:
            capture.forget()
