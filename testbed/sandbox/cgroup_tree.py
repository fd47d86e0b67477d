"""The machine's trees of cgroups: where this process stands in them, and where it may make more.

A sandbox's cgroup always lies below the host's own, so that whatever limits the host limits its sandboxes too. Each
controller is used where the machine has mounted it: in a hierarchy of its own (version 1) or in the unified one
(version 2).

Version 2 lets no cgroup but the root have both processes and children with controllers. Elsewhere the host therefore
moves itself into a leaf `testbed-host` of its cgroup first; only if it shares that cgroup with nobody but its own
children.

File formats: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/cgroups.rst in the kernel's sources, proc(5).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

CONTROLLERS = ("memory", "pids", "cpu")

_HOST = "testbed-host"
_SANDBOX = "testbed-sandbox"
_OWNER = re.compile(_SANDBOX + r"-(\d+-\d+-\d+)-\d+")
_DELEGATE = "start the testbed with `systemd-run --user --scope -p Delegate=yes`, as root without --user"

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted tree of cgroups.

    Attributes:
        version: 1 or 2.
        controllers: those of `CONTROLLERS` to use here; the mount of a version 2 does not tell.
        folder: this process's own cgroup, below which those of sandboxes are made.
    """

    version: int
    controllers: tuple[str, ...]
    folder: str


def hierarchies(mounts: str, membership: str) -> list[Hierarchy]:
    """The hierarchies that hold controllers of use, those of version 1 first, with this process's place in them.

    Args:
        mounts: text of /proc/self/mountinfo.
        membership: text of /proc/self/cgroup.
    """
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        own |= dict.fromkeys(names.split(","), path)  # version 2 has no names: ""
    found: dict[tuple[str, ...], Hierarchy] = {}
    writable = set()
    for line in mounts.splitlines():
        mount, _, kind = line.partition(" - ")
        root, top, options = mount.split(" ")[3:6]
        system, _, details = kind.split(" ")[:3]
        controllers = tuple(name for name in CONTROLLERS if system == "cgroup" and name in details.split(","))
        if not (controllers or system == "cgroup2") or controllers in writable:
            continue
        below = _relative(own.get(controllers[0] if controllers else "", "/.."), root)
        if below is None:
            continue
        found[controllers] = Hierarchy(1 if controllers else 2, controllers, f"{_unescape(top)}{below}".rstrip("/"))
        if "rw" in options.split(","):
            writable.add(controllers)
    return sorted(found.values(), key=lambda hierarchy: hierarchy.version)


def divided(own: Hierarchy, wanted: tuple[str, ...]) -> Hierarchy:
    """The place in a version 2 hierarchy below which cgroups can be made, with those of the wanted controllers it has.

    Raises:
        OSError: there is none.
    """
    folder = os.path.dirname(own.folder) if os.path.basename(own.folder) == _HOST else own.folder
    available = read(f"{folder}/cgroup.controllers").split()
    controllers = tuple(name for name in wanted if name in available)
    if set(controllers) - set(read(f"{folder}/cgroup.subtree_control").split()):
        if os.path.exists(f"{folder}/cgroup.type"):  # only the root has none
            _move_to_leaf(folder)
        write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
    if controllers and not os.access(f"{folder}/cgroup.procs", os.W_OK):  # to move a worker, both ends are asked
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return replace(own, controllers=controllers, folder=folder)


def explain(error: OSError | None) -> str:
    """Why a hierarchy cannot be used, and what to do; None if it lacks a controller."""
    if error is None:
        return f"it is not delegated to this process; {_DELEGATE}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"this process may not make cgroups ({error.strerror}); {_DELEGATE}"
    return str(error.strerror)


def new_name() -> str:
    """A name for a sandbox's cgroup that nobody else uses and that tells whose it is."""
    return f"{_SANDBOX}-{_owner(os.getpid())}-{next(_numbers)}"


def sweep(folder: str) -> None:
    """Removes cgroups of hosts that were killed: below a folder, and below those beside it."""
    for place in (folder, *_subfolders(os.path.dirname(folder))):
        for leftover in _subfolders(place):
            owner = _OWNER.fullmatch(os.path.basename(leftover))
            if owner and not _is_alive(owner[1]):
                remove(leftover)


def remove(folder: str) -> bool:
    """Removes a cgroup, if it is there; False if processes are in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def read(path: str) -> str:
    """A file of the kernel's; empty if there is none, such as that of a process that has ended."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def write(path: str, text: str) -> None:
    """Writes to a file of the kernel's, in one piece.

    Raises:
        OSError: there is no such file, or the kernel refuses.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _relative(path: str, root: str) -> str | None:
    """Path of a cgroup below the cgroup that is mounted; None if the mount, or this namespace, does not show it."""
    if root != "/" and not f"{path}/".startswith(f"{root}/"):
        return None
    below = path if root == "/" else path.removeprefix(root)
    return None if below.startswith("/..") else below


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def _move_to_leaf(folder: str) -> None:
    leaf = f"{folder}/{_HOST}"
    while pids := {int(pid) for pid in read(f"{folder}/cgroup.procs").split()}:
        if pids - _family():
            raise OSError(errno.EBUSY, f"other processes share the cgroup of this one; {_DELEGATE}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(leaf)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                write(f"{leaf}/cgroup.procs", str(pid))


def _family() -> set[int]:
    """This process and all that descend from it."""
    running = {name: _stat(name) for name in os.listdir("/proc") if name.isdecimal()}
    parents = {int(name): int(fields[1]) for name, fields in running.items() if fields}
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


@functools.cache
def _owner(pid: int) -> str:
    """Identifies this process for as long as the machine runs: its namespace of process numbers, number, start."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{_stat('self')[19]}"


def _is_alive(owner: str) -> bool:
    namespace, pid, started = owner.split("-")
    if int(namespace) != os.stat("/proc/self/ns/pid").st_ino:
        return True  # for all that can be seen from here
    fields = _stat(pid)
    return bool(fields) and fields[19] == started


def _stat(pid: str) -> list[str]:
    """Fields of /proc/PID/stat from the state on (its third); none if there is no such process."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _subfolders(folder: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path
