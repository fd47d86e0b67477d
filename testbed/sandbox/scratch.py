"""Runs inside the sandbox: the scratch folder, the only place that can be written. Only the standard library is there.

Its contents are the program's: names, links and kinds of file are all hostile. Nothing here follows a link, blocks on
what is no regular file, or descends deeper than a name's own length allows.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import time

from testbed.sandbox.lockdown import SCRATCH

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Iterator

WIPE_SECONDS = 0.5

_libc = ctypes.CDLL(None)
_SHARED_MEMORY = "/dev/shm"
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS: what `lsattr` shows
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Every folder that can be written, as it is before any program has run."""

    def __init__(self) -> None:
        linked = os.path.islink(_SHARED_MEMORY) or not os.path.isdir(_SHARED_MEMORY)
        names = [SCRATCH] if linked else [SCRATCH, _SHARED_MEMORY]
        self._before = {name: (stat.S_IMODE(os.stat(name).st_mode), _flags(name)) for name in names}
        self._empty = {name: _files(name) for name in names}

    def wipe(self) -> bool:
        """Empties them and undoes what was done to them; False if that takes too long or fails.

        In that case, the sandbox must be replaced. Names are a program's words: where there are some, a process of its
        own reads them, whose memory the next program does not inherit.
        """
        with contextlib.suppress(OSError):
            os.unlink(f"{SCRATCH}/main.py")  # mostly the only file
        if all(_files(name) == files > 0 and not _has_attributes(name) for name, files in self._empty.items()):
            return self._wipe_all()
        try:
            child = os.fork()
        except OSError:
            return False
        if child == 0:
            wiped = False
            try:
                wiped = self._wipe_all()
            finally:
                os._exit(not wiped)
        return os.waitpid(child, 0)[1] == 0

    def _wipe_all(self) -> bool:
        deadline = time.monotonic() + WIPE_SECONDS
        try:
            return all(_wipe(name, deadline) and _restore(name, *before) for name, before in self._before.items())
        except OSError:
            return False


def _files(folder: str) -> int:
    """How many files a file system holds, without a look at their names; 0 where it does not count them."""
    found = os.statvfs(folder)
    return found.f_files - found.f_ffree


def _has_attributes(folder: str) -> bool:
    """Whether a folder has any, without a look at their names."""
    return bool(_libc.listxattr(folder.encode(), None, 0) > 0)


def _restore(folder: str, mode: int, flags: bytes) -> bool:
    """Takes back flags, attributes, mode and times, which could tell the next program something."""
    if _flags(folder) != flags:
        _set_flags(folder, flags)
    for name in os.listxattr(folder):
        os.removexattr(folder, name)
    try:
        os.chmod(folder, mode)
        os.utime(folder, (0, 0))
    except PermissionError:
        # The folder is somebody else's (also if both show as nobody): no program could change it either, but for its
        # times, which whoever may write to it can set to now.
        with contextlib.suppress(PermissionError):
            os.utime(folder)
    return True


def _flags(folder: str) -> bytes:
    """The flags of a folder, which its owner can set since Linux 6.6 (nodump, noatime); empty where there are none."""
    descriptor = os.open(folder, _FOLDER)
    try:
        return fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _set_flags(folder: str, flags: bytes) -> None:
    descriptor = os.open(folder, _FOLDER)
    try:
        fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    finally:
        os.close(descriptor)


def _wipe(folder: str, deadline: float) -> bool:
    """Folders are flattened level by level instead of descended into: no depth, mode or length of path can stop it."""
    moved = 0
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        os.chmod(folder, 0o700)
    while names := os.listdir(folder):
        for name in names:
            path = f"{folder}/{name}"
            if not _is_folder(path):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for inner in os.listdir(path):
                below = f"{path}/{inner}"
                if _is_folder(below):
                    os.chmod(below, 0o700)
                    moved += 1
                    os.rename(below, f"{folder}/.wipe-{moved}-{time.monotonic_ns()}")
                else:
                    os.unlink(below)
            os.rmdir(path)
            if time.monotonic() > deadline:
                return False
    return True


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def write(path: str, data: memoryview, start: bool) -> None:
    """Writes a part of a file, in folders that are made as needed.

    Args:
        path: relative to the scratch folder.
        data: the bytes.
        start: whether they are the first; what was there is replaced. Else they are appended.

    Raises:
        OSError: the path leads out of scratch, through a link or to something else than a file, or scratch is full.
    """
    with _parent(path, make=True) as (folder, name):
        if start:
            with contextlib.suppress(FileNotFoundError):  # a new file: never through a link, never into a pipe
                os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        flags |= os.O_CREAT | os.O_EXCL if start else os.O_APPEND
        with open(os.open(name, flags, 0o644, dir_fd=folder), "wb", buffering=0) as file:
            _require_file(file.fileno(), path)
            while data:
                data = data[file.write(data) :]


def read(path: str, offset: int, room: memoryview, largest: int) -> tuple[int, int]:
    """Reads a file from ``offset`` into ``room``, and returns how many bytes that were, and the file's length.

    Args:
        path: relative to the scratch folder.
        offset: where to begin, in bytes.
        room: where to put the bytes.
        largest: longest file that is read at all, in bytes; a sparse one counts in full.

    Raises:
        OSError: there is no such file, or the path leads out of scratch, through a link, or to something else.
    """
    with _parent(path, make=False) as (folder, name):
        # Without O_NONBLOCK, a named pipe would hold the worker until somebody writes.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            length = _require_file(descriptor, path)
            if length > largest:
                raise OSError(27, f"the file is {length} bytes long; at most {largest} are read", path)
            return os.preadv(descriptor, [room], offset), length
        finally:
            os.close(descriptor)


def _require_file(descriptor: int, path: str) -> int:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(22, "not a regular file", path)
    return found.st_size


@contextlib.contextmanager
def _parent(path: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """Opens the folder that a path lies in, one name at a time, following no link; gives (descriptor, last name)."""
    *folders, last = path.split("/")
    if any(name in ("", ".", "..") or "\0" in name for name in (*folders, last)):
        raise OSError(22, "not a plain path inside the scratch folder", path)
    descriptor = os.open(SCRATCH, _FOLDER)
    try:
        for name in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=descriptor)
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, last
    finally:
        os.close(descriptor)
