"""A started worker as the host sees it: frames to and from it, and the policy that it must prove to have applied."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from testbed.errors import SandboxDied
from testbed.sandbox.base import Limits
from testbed.sandbox.seccomp import architectures, program

START_SECONDS = 20.0
PIECE = 1 << 18  # bytes of a file in one frame
LONGEST_FRAME = 1 << 16  # bytes of JSON in a frame of the worker's
INODES = 16_384  # files and folders in scratch; an inode costs kernel memory that its size limit does not count


class Reader(Protocol):
    """Where frames come from."""

    async def readexactly(self, size: int, /) -> bytes:
        """Reads that many bytes; raises EOFError or OSError if they do not come."""
        ...


class Link(Protocol):
    """A started worker."""

    @property
    def reader(self) -> Reader:
        """Frames of the worker."""
        ...

    @property
    def writer(self) -> asyncio.StreamWriter:
        """Frames for the worker."""
        ...

    async def kill(self) -> str:
        """Ends the worker and everything in its sandbox, waits until it is gone, and returns its last error output."""
        ...

    def out_of_memory(self) -> Literal["limit", "machine"] | None:
        """Whether the kernel has killed a process of the sandbox for lack of memory since this was last asked.

        Returns:
            "limit" if it was the sandbox's own limit; "machine" if the machine had none left; None if nothing is known.
        """
        ...

    def hurry(self, wanted: bool) -> None:
        """Lifts the limit on the sandbox's CPU time, so that a call that must be over ends soon, or sets it again."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a worker reported of its confinement, after it gave up its privileges and before it ran anything.

    Attributes:
        user_namespace: it is in a user namespace of its own.
        proc: /proc is mounted, so that the memory of a call can be counted.
        proc_only_pids: /proc shows processes only, not the machine.
        inode_limit: the number of files in scratch is limited.
        devices_read_only: no program can set the times of a device.
        python: version of the Python inside.
    """

    user_namespace: bool
    proc: bool
    proc_only_pids: bool
    inode_limit: bool
    devices_read_only: bool
    python: str


class BrokenProtocol(Exception):
    """The worker sent something that it never sends."""


async def handshake(
    link: Link,
    limits: Limits,
    uid: int | None,
    preload: Sequence[str] = (),
    cores: float = 1.0,
    *,
    user_namespace: bool = False,
) -> Evidence:
    """Sends the policy in and accepts the worker only if it proves that it applied it.

    Args:
        link: a worker that has just been started.
        limits: the session's limits.
        uid: user to become; None if the worker is not root.
        preload: modules that the worker imports once for all calls.
        cores: how many of them a call can keep busy at once, see `cores_of`.
        user_namespace: whether the worker enters one of its own, that maps its user only.

    Raises:
        SandboxDied: the worker did not start, or is not confined; it has been killed.
    """
    who = {"uid": uid, "user_namespace": user_namespace}
    try:
        async with asyncio.timeout(START_SECONDS):
            hello = await receive(link.reader, limits)
            machine = hello.get("machine")
            if hello.get("type") != "hello" or machine not in architectures():
                raise BrokenProtocol(
                    f"no system-call filter for a worker on {machine!r}; there is one for {', '.join(architectures())}"
                )
            await send(link.writer, _start_frame(str(machine), limits, preload, cores, who))
            ready = await receive(link.reader, limits)
    except TimeoutError:
        raise SandboxDied(
            f"the sandbox did not start within {START_SECONDS:g} s. {await link.kill()}".strip()
        ) from None
    except (BrokenProtocol, OSError, EOFError) as error:
        words = await link.kill()
        raise SandboxDied(f"the sandbox did not start: {words or error}") from error
    except asyncio.CancelledError:
        await link.kill()
        raise
    missing = _unproven(ready)
    if missing:
        await link.kill()
        raise SandboxDied(f"the sandbox worker is not confined: {missing}")
    return Evidence(
        user_namespace=ready.get("user_namespace") is True,
        proc=ready.get("proc") is True,
        proc_only_pids=ready.get("proc_only_pids") is True,
        inode_limit=ready.get("inode_limit") is True,
        devices_read_only=ready.get("devices_read_only") is True,
        python=str(hello.get("python")),
    )


def cores_of(limits: Limits, machine: int, *, limited: bool) -> float:
    """How many cores a call can keep busy at once, at least 1.

    Args:
        limits: for the cores' worth of CPU time that it may use.
        machine: the machine's cores.
        limited: whether that is enforced.
    """
    return max(1.0, min(limits.cpus, machine) if limited else machine)


def _start_frame(
    machine: str, limits: Limits, preload: Sequence[str], cores: float, who: dict[str, Any]
) -> dict[str, Any]:
    return {
        "op": "start",
        **who,
        "filter": program(machine).hex(),
        "preload": list(preload),
        "scratch": limits.scratch_mib << 20,
        "inodes": INODES,
        "limits": {
            "memory": limits.memory_mib << 20,
            "processes": limits.processes,
            "cores": cores,
            "output": limits.output_kib << 10,
            "file": limits.file_mib << 20,
        },
    }


def _unproven(ready: dict[str, Any]) -> str:
    if ready.get("type") != "ready":
        return str(ready.get("error") or "it did not say so")
    wanted = {"pid": 1, "seccomp": 2, "no_new_privs": 1, "dumpable": 0, "capabilities": False}
    wrong = [
        f"{name} is {ready.get(name)!r}, not {value!r}" for name, value in wanted.items() if ready.get(name) != value
    ]
    if not ready.get("uid"):
        wrong.append("it is still root")
    return "; ".join(wrong)


async def streams_of(connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Takes up a connection, which its writer closes from then on; if there will be none, it has been closed."""
    with contextlib.ExitStack() as undo:  # if cancelled too
        undo.callback(connection.close)
        streams = await asyncio.open_connection(sock=connection)
        undo.pop_all()
    return streams


async def send(writer: asyncio.StreamWriter, frame: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Writes one frame, and the parts that belong to it."""
    if parts:
        frame = {**frame, "parts": [len(part) for part in parts]}
    body = json.dumps(frame).encode("ascii")
    writer.write(b"".join((struct.pack(">I", len(body)), body, *parts)))
    await writer.drain()


async def receive(reader: Reader, limits: Limits) -> dict[str, Any]:
    """Reads one frame; its parts, if it has any, are under "parts" as bytes.

    Raises:
        BrokenProtocol: it is too long for these limits, or no JSON object.
        EOFError: the worker is gone; also as OSError.
    """
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if length > LONGEST_FRAME:
        raise BrokenProtocol(f"a frame of {length} bytes")
    try:
        frame = json.loads(await reader.readexactly(length))
    except (ValueError, RecursionError) as error:
        raise BrokenProtocol(f"a frame that is not JSON: {error}") from None
    if not isinstance(frame, dict):
        raise BrokenProtocol("a frame that is not an object")
    sizes = frame.get("parts", [])
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise BrokenProtocol("a frame with malformed parts")
    if sum(sizes) > max(2 * (limits.output_kib << 10), PIECE) + 4:  # of an odd number of bytes, one half is rounded up
        raise BrokenProtocol(f"a frame with parts of {sum(sizes)} bytes")
    return {**frame, "parts": [await reader.readexactly(size) for size in sizes]}
