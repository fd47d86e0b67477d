"""Files that are written whole: a reader of one sees the old content or the new, never half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from testbed.errors import unwritable


def write_file(path: Path, data: bytes) -> None:
    """Writes a file in one step; a device or a pipe is written into, and stays what it is.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        target = path.resolve()  # a link is followed, not replaced
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, target)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
