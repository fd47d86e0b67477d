"""Cgroups for tests: what is in them, and processes that are put there."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from testbed.sandbox import Limits
from testbed.sandbox.cgroup import Cgroup

SMALL = Limits(wall_seconds=60.0, memory_mib=64, processes=40, scratch_mib=16, output_kib=16, file_mib=8)


def processes_in(folder: str) -> set[int]:
    """None where the folder is gone: a cgroup must be empty to be removed, and any program may sweep a dead host's."""
    try:
        inside = Path(folder, "cgroup.procs").read_text()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV}:  # removed before it was opened, or before it was read
            raise
        return set()
    return {int(pid) for pid in inside.split()}


async def until_inside(cgroup: Cgroup, count: int, seconds: float = 20.0) -> dict[str, set[int]]:
    """The processes in each folder, once there are so many."""
    end = time.monotonic() + seconds
    while True:
        inside = {name: processes_in(folder) for name, folder in cgroup.folders.items()}
        if all(len(pids) == count for pids in inside.values()) or time.monotonic() > end:
            return inside
        await asyncio.sleep(0.02)


def value(cgroup: Cgroup, controller: str, *names: str) -> str:
    """Contents of the first of the files that there is: the versions call them differently."""
    folder = Path(cgroup.folders[controller])
    return next(path for name in names if (path := folder / name).exists()).read_text().strip()


def start_inside(cgroup: Cgroup, code: str) -> subprocess.Popen[str]:
    """A Python outside of every sandbox that runs `code` once it is in the cgroup."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\ninput()\n{textwrap.dedent(code)}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    cgroup.add(process.pid)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process


HOG = """
hog = bytearray(400 << 20)
hog[::4096] = bytes([1]) * len(hog[::4096])
print("alive", flush=True)
"""


def remove_soon(cgroup: Cgroup, seconds: float = 2.0) -> bool:
    """Processes that have been waited for may take a moment to leave."""
    end = time.monotonic() + seconds
    while not (removed := cgroup.remove()) and time.monotonic() < end:
        time.sleep(0.01)
    return removed
