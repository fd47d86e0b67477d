"""Which files of this machine a Python inside a sandbox needs: the one root of every backend.

The interpreter, its standard library and their shared libraries; no shell, no /etc, no home; of the installed packages
only those that were asked for. They appear under /python, whatever their place here. bubblewrap binds them, and
`testbed.sandbox.image` makes a container image of them.
"""

from __future__ import annotations

import compileall
import functools
import glob
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass

from testbed.errors import SandboxDied

PREFIX = "/python"
LIBRARIES = f"{PREFIX}/so"
WORKER = f"{PREFIX}/worker"
PACKAGES = f"{PREFIX}/packages"

_HERE = os.path.dirname(os.path.abspath(__file__))
_INSIDE = ("worker", "boundary", "buffers", "child", "lockdown", "memory", "repl", "scratch", "watch", "forkserver")
#: (path here, path inside) of the worker; its modules keep their own import names, so that they read the same in both.
WORKER_FILES = tuple((f"{_HERE}/{name}.py", f"{WORKER}/testbed/sandbox/{name}.py") for name in _INSIDE)
# Not as a script or a folder: these are compiled at every start, and the latter loads half of the library. The worker
# collects no garbage, and begins with that before its modules are loaded.
_BEGIN = "import gc, sys; gc.disable(); sys.path.insert(0, {!r}); from testbed.sandbox.{} import main; main()"

# Extension modules that need a display or a terminal: no use inside, and a dozen libraries less to show.
_LEFT_OUT = ("_tkinter", "readline", "_curses", "_curses_panel", "ossaudiodev", "nis", "_gdbm", "_dbm")
# Folders of the standard library that hold no library: other people's packages, tests, programs with windows, a
# compiler's settings.
_HIDDEN = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3/tests")


@dataclass(frozen=True, slots=True)
class PythonRoot:
    """A minimal read-only file system with a Python. What it holds is named by `testbed.sandbox.image.digest`.

    Attributes:
        executable: the interpreter's path inside.
        files: (path here, path inside) of everything to show, read-only; a folder stands for all that is in it.
        hidden: folders inside to cover with nothing.
        packages: names and versions of the installed packages that were asked for, with those they need; sorted.
        preload: modules of the packages that were asked for, for the worker to import once.
        compiled: (path here, path inside) of the folder with the worker's compiled modules, if there is one; no part of
            the digest, and made anew for an image.
    """

    executable: str
    files: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    compiled: tuple[str, str] | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The worker's command line, but for the numbers of its two control descriptors.

        `-I` would ignore the hash seed too; with an environment of our making, -P -s -S isolate as well.
        """
        return self._start("worker")

    @property
    def fork_command(self) -> tuple[str, ...]:
        """The command line of the server that forks workers, but for the number of its connection to the host."""
        return self._start("forkserver")

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of the worker and of the programs."""
        found = {
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            "PATH": f"{PREFIX}/bin",
            "LD_LIBRARY_PATH": LIBRARIES,
            "MALLOC_ARENA_MAX": "2",  # one per thread would eat up the limit on addresses
            "PYTHONHASHSEED": "0",  # the same sets in the same order
        }
        return found | {"PYTHONPATH": PACKAGES} if self.packages else found  # for a program's own Pythons

    def _start(self, module: str) -> tuple[str, ...]:
        return (self.executable, "-P", "-s", "-S", "-X", "utf8", "-c", _BEGIN.format(WORKER, module))


@functools.cache
def python_root(packages: tuple[str, ...] = ()) -> PythonRoot:
    """The root for the Python that runs this; a virtual environment's is its base's.

    Args:
        packages: installed packages to show as well, with all that they need.

    Raises:
        SandboxDied: the interpreter's libraries cannot be listed.
        UsageError: a package is not installed here, or not in a way that can be shown.
    """
    from testbed.sandbox.packages import find

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
    asked = find(packages)
    loader, libraries = _shared_libraries([executable, *extensions, *asked.extensions], asked.folders)
    files = [(executable, f"{PREFIX}/bin/{version}"), (stdlib, inside), (os.path.realpath(loader), loader)]
    files += [(path, f"{LIBRARIES}/{name}") for name, path in sorted(libraries.items())]
    files += [(path, f"{PACKAGES}/{os.path.basename(path)}") for path in asked.paths]
    files += [(path, f"{PACKAGES}/{name}") for path, name in asked.notes]
    folders = [name for name in _HIDDEN if os.path.isdir(f"{stdlib}/{name}")]
    folders += sorted(os.path.basename(path) for path in glob.glob(f"{stdlib}/config-*"))
    return PythonRoot(
        executable=f"{PREFIX}/bin/{version}",
        files=(*files, *WORKER_FILES),
        hidden=tuple(f"{inside}/{name}" for name in folders),
        packages=asked.names,
        preload=asked.modules,
        compiled=_compiled_worker(),
    )


def _compiled_worker() -> tuple[str, str] | None:
    """The folder where Python keeps this package's compiled modules, with the worker's in it; None if it has no such.

    Nothing here imports them all, so that they would be compiled at every start of a sandbox: a fifth of its CPU time.
    """
    for here, _ in WORKER_FILES:
        compileall.compile_file(here, quiet=2)  # unless that was done; says False where the folder is not ours to write
    here, inside = WORKER_FILES[0]
    folder = os.path.dirname(importlib.util.cache_from_source(here))
    return (folder, f"{os.path.dirname(inside)}/__pycache__") if os.path.isdir(folder) else None


def _shared_libraries(objects: list[str], folders: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """The program loader, and the libraries that the objects need.

    Args:
        objects: programs and libraries; the first is a program.
        folders: folders that are shown as they are: what lies in them finds its own way.

    Returns:
        The loader, and for every other library its real path, by the name that the objects ask for.
    """
    try:
        listing = subprocess.run(
            ["ldd", *objects], capture_output=True, text=True, timeout=60, env={"PATH": os.defpath, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxDied(f"cannot list the libraries of {objects[0]}: {error}") from error
    libraries = {
        name: os.path.realpath(path)
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listing.stdout, re.MULTILINE)
        if not any(path.startswith(f"{folder}/") for folder in folders)
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
