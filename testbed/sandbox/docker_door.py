"""A shorter way to a worker in a container: a socket that it finds in a folder of the host's.

What goes over the engine's attach stream passes through two more processes each way, and costs half of the CPU time of
a short call. Where the engine can show a folder of this machine, the worker comes in through a socket there. Elsewhere
(a remote engine, one in a virtual machine, gVisor, SELinux) it cannot, and speaks on the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from testbed.sandbox.link import streams_of

# An empty folder that nobody can write to, in place of one that is there without a door as well.
INSIDE = "/dev/mqueue"
SOCKET = "worker"

_PREFIX = "testbed-door-"
_ABANDONED_SECONDS = 3600.0  # no start takes that long


class Door:
    """A listening socket in a folder of its own; only for the start of one worker, before it runs any program.

    Only this user gets to the folder from outside, and only the container from inside.

    Raises:
        OSError: there is no room, or the folder's path is too long for a socket.
    """

    def __init__(self) -> None:
        self._parent = tempfile.mkdtemp(prefix=_PREFIX)
        self.folder = os.path.join(self._parent, "in")
        self._listener = socket.socket(socket.AF_UNIX)
        with contextlib.ExitStack() as undo:  # if interrupted too: the folder is nobody else's to remove
            undo.callback(self.close)
            os.mkdir(self.folder)
            path = os.path.join(self.folder, SOCKET)
            self._listener.bind(path)
            os.chmod(self.folder, 0o755)
            os.chmod(path, 0o666)
            self._listener.listen(1)
            self._listener.setblocking(False)
            undo.pop_all()

    def shown(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What to ask the engine for, with the folder.

        Args:
            settings: what to ask for without, see `Engine.create`.
        """
        host = dict(settings["host_config"])
        host["Tmpfs"] = {path: options for path, options in host["Tmpfs"].items() if path != INSIDE}
        host["Mounts"] = [{"Type": "bind", "Source": self.folder, "Target": INSIDE, "ReadOnly": True}]
        return {**settings, "host_config": host}

    async def accept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Waits for the worker."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        return await streams_of(connection)

    def close(self) -> None:
        """Lets nobody else in, and removes the folder: what the container sees is empty from then on."""
        self._listener.close()
        shutil.rmtree(self._parent, ignore_errors=True)


def sweep() -> None:
    """Removes the folders of hosts that were killed during a start."""
    for path in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            if found.st_uid == os.getuid() and found.st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
