"""One process at a run: a second one of this machine would make the same attempts, and pay for them, in vain.

What tells is a socket in Linux's abstract names, which is the kernel's and no file: it is gone the moment its process
ends, however that ends, and there is nothing to clear away. Only processes of one machine see it, so that another host
at the same store, on a shared disk or a server, is never refused by mistake; there the first of each attempt is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from testbed.errors import UsageError

_WAITING = 4096  # processes that may ask who holds a run before asking does no more tell


@contextlib.contextmanager
def alone_at(store: str, run: str) -> Iterator[None]:
    """Holds a run of a store for this process, or does nothing where it cannot be known who else is at it.

    Args:
        store: path or URL of the store, which need not exist yet.
        run: the run's name.

    Raises:
        UsageError: another process of this machine and user is at it; names the process.
    """
    name = _name(store, run)
    if name is None:
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(name)
            held.listen(_WAITING)
        except OSError as error:  # any other fault: where there are no such names, nothing is sure
            if error.errno == errno.EADDRINUSE and (who := _ours_at(name)):
                raise UsageError(
                    f"{who} is making run {run!r} in this store. Two would make the same attempts twice: wait until it "
                    "ends, or stop it; then this command goes on from there."
                ) from None
        yield


def _name(store: str, run: str) -> bytes | None:
    """The socket's name: one for each run of a store, however the store's path is written."""
    where = _place(store)
    return where and b"\0testbed-run-" + hashlib.sha256(where + b"\0" + run.encode()).hexdigest().encode()


def _place(store: str) -> bytes | None:
    """What a store is to this machine: a name in a folder, by the folder's number, or the address of a database."""
    path = Path(store)
    if "://" in store:
        try:
            url = sa.make_url(store)
        except sa.exc.ArgumentError:  # opening it will say so
            return None
        if url.get_backend_name() != "sqlite":
            return url.render_as_string(hide_password=True).encode()
        path = Path(url.database or "")
    file = os.path.realpath(path)
    try:
        folder = os.stat(os.path.dirname(file))
    except OSError:
        return None
    return b"%d:%d:%s" % (folder.st_dev, folder.st_ino, os.fsencode(os.path.basename(file)))


def _ours_at(name: bytes) -> str:
    """The process that holds a name, where it is this user's, else nothing: anybody may take a name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            peer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return ""
    process, user, _ = struct.unpack("3i", peer)
    if user != os.getuid():
        return ""
    return f"process {process}" if process else "a process of another container"
