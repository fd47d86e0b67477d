"""Which files of this machine a Python inside a sandbox needs.

The interpreter, its standard library and their shared libraries; no shell, no /etc, no home, no installed packages.
They appear under /python, whatever their place here.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass

from testbed.errors import SandboxDied

PREFIX = "/python"
LIBRARIES = f"{PREFIX}/so"

# Extension modules that need a display or a terminal: no use inside, and a dozen libraries less to show.
_LEFT_OUT = ("_tkinter", "readline", "_curses", "_curses_panel", "ossaudiodev", "nis", "_gdbm", "_dbm")


@dataclass(frozen=True, slots=True)
class PythonRoot:
    """A minimal read-only file system with a Python.

    Attributes:
        executable: the interpreter's path inside.
        files: (path here, path inside) of everything to show, read-only.
        hidden: folders inside to cover with nothing.
    """

    executable: str
    files: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]


@functools.cache
def python_root() -> PythonRoot:
    """The root for the Python that runs this; a virtual environment's is its base's.

    Raises:
        SandboxDied: the interpreter's libraries cannot be listed.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    stdlib = os.path.realpath(
        sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})
    )
    inside = f"{PREFIX}/{sys.platlibdir}/{version}"
    extensions = [
        path
        for path in glob.glob(f"{stdlib}/lib-dynload/*.so")
        if os.path.basename(path).split(".")[0] not in _LEFT_OUT
    ]
    loader, libraries = _shared_libraries([executable, *extensions])
    files = [(executable, f"{PREFIX}/bin/{version}"), (stdlib, inside), (os.path.realpath(loader), loader)]
    files += [(path, f"{LIBRARIES}/{name}") for name, path in sorted(libraries.items())]
    hidden = [f"{inside}/{name}" for name in ("site-packages", "dist-packages") if os.path.isdir(f"{stdlib}/{name}")]
    return PythonRoot(f"{PREFIX}/bin/{version}", tuple(files), tuple(hidden))


def _shared_libraries(objects: list[str]) -> tuple[str, dict[str, str]]:
    """The program loader, and for every library that the objects need its real path, by the name they ask for it."""
    try:
        listing = subprocess.run(
            ["ldd", *objects], capture_output=True, text=True, timeout=60, env={"PATH": os.defpath, "LC_ALL": "C"}
        )
    except OSError as error:
        raise SandboxDied(f"cannot list the libraries of {objects[0]}: {error}") from error
    libraries = {
        name: os.path.realpath(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listing.stdout, re.MULTILINE)
    }
    loader = re.search(r"^\s*(/\S*ld-\S+)(?: => \S+)? \(", listing.stdout, re.MULTILINE)
    if loader is None:
        raise SandboxDied(
            f"{objects[0]} is not a dynamic Linux program: {(listing.stderr or listing.stdout).strip()[:200]}"
        )
    # libc loads this one by name when a thread is cancelled; nobody lists it.
    for path in glob.glob(f"{os.path.dirname(libraries.get('libc.so.6', '/lib/x'))}/libgcc_s.so.1"):
        libraries["libgcc_s.so.1"] = os.path.realpath(path)
    return loader.group(1), libraries
