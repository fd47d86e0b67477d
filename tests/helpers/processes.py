"""Processes that tests start, and processes as this machine sees them, also those of a sandbox."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def talking(command: Sequence[str], **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it prints, once it does; killed at the end of the block if it is still there.

    Args:
        command: program and arguments; what it prints later is read from its `stdout`.
        options: of `subprocess.Popen`, beside `stdout` and `text`.

    Yields:
        The process, and the line with its end; nothing of a line where the process ends without one.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def end(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """Asks a process to end and waits; after some seconds it is no longer asked."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def processes_in_namespace_of(pid: int) -> set[int]:
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.add(int(name))
            except OSError:
                continue
    return found


async def programs_of(worker: int, count: int = 1, seconds: float = 20.0) -> set[int]:
    """The processes beside its worker in a sandbox, once there are so many."""
    end = time.monotonic() + seconds
    while len(programs := processes_in_namespace_of(worker) - {worker}) != count and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return programs


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def gone(pids: set[int], seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return not any(map(alive, pids))
