"""The one image of every backend: what a `PythonRoot` holds, its digest, and a tar of it for container engines.

The digest names the contents: path, type, mode and bytes of everything, as a program inside can read it. Compiled
modules and times are no part of it. The same files give the same digest on every machine and for every backend.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import posixpath
import py_compile
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from testbed.sandbox.root import PythonRoot

REPOSITORY = "capability-testbed/python"
FOLDERS = ("/dev", "/etc", "/proc", "/sys", "/tmp")  # for an engine to mount on, or to show empty


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the image.

    Attributes:
        inside: its path there, absolute.
        kind: "file", "folder" or "link".
        here: where its bytes lie on this machine; empty for a folder.
        target: what a link points to.
        executable: a file that may be executed.
        seconds: when a file was last changed here; a compiled module is valid for one such time only.
    """

    inside: str
    kind: str
    here: str = ""
    target: str = ""
    executable: bool = False
    seconds: int = 0


def entries(root: PythonRoot) -> list[Entry]:
    """Everything in the image but compiled modules, sorted by path; a folder comes before what is in it.

    Raises:
        OSError: a file cannot be read.
    """
    found = {folder: Entry(folder, "folder") for folder in FOLDERS}
    for here, inside in root.files:
        found.update((entry.inside, entry) for entry in _entries(here, inside, frozenset(root.hidden)))
    for inside in list(found):
        while (inside := posixpath.dirname(inside)) != "/":
            found.setdefault(inside, Entry(inside, "folder"))
    return [found[inside] for inside in sorted(found)]


@functools.cache
def digest(root: PythonRoot) -> str:
    """SHA-256 over the manifest, as 64 hexadecimal digits; takes about 0.2 s once per process.

    Raises:
        OSError: a file cannot be read.
    """
    manifest = hashlib.sha256()
    for entry in entries(root):
        content = entry.target
        if entry.kind == "file":
            with open(entry.here, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        manifest.update(f"{entry.inside}\0{entry.kind}\0{_mode(entry):o}\0{content}\n".encode(errors="surrogateescape"))
    return manifest.hexdigest()


def identity(policy: str, root: PythonRoot) -> str:
    """What programs may depend on: backend and policy, the machine's kind, version of the Python inside, the digest."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{policy} {os.uname().machine} python-{python} root-{digest(root)[:16]}"


def tag(root: PythonRoot) -> str:
    """The image's full name in an engine."""
    return f"{REPOSITORY}:{digest(root)}"


def write_tar(root: PythonRoot, file: IO[bytes]) -> None:
    """Writes the image as a tar: everything belongs to root, nothing is setuid, every module is compiled.

    Raises:
        OSError: a file cannot be read or written.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry in entries(root):
            info = tarfile.TarInfo(entry.inside.lstrip("/"))
            info.mode, info.mtime = _mode(entry), entry.seconds
            if entry.kind == "folder":
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif entry.kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
                tar.addfile(info)
            else:
                with open(entry.here, "rb") as content:
                    info.size = os.fstat(content.fileno()).st_size
                    tar.addfile(info, content)
        for entry in entries(root):
            if entry.inside.endswith(".py") and entry.kind == "file":
                _add_compiled(tar, entry)


def _entries(here: str, inside: str, hidden: frozenset[str]) -> Iterator[Entry]:
    here = os.path.realpath(here)
    if not os.path.isdir(here):
        yield _file(here, inside)
        return
    for folder, folders, files in os.walk(here):
        path = inside + folder[len(here) :]
        if path in hidden:
            folders.clear()
            files.clear()
        yield Entry(path, "folder")
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
        folders[:] = sorted(name for name in folders if name != "__pycache__" and name not in links)
        for name in sorted([*files, *links]):
            yield from _any_kind(f"{folder}/{name}", f"{path}/{name}")


def _any_kind(here: str, inside: str) -> Iterator[Entry]:
    mode = os.lstat(here).st_mode
    if stat.S_ISLNK(mode):
        yield Entry(inside, "link", here, os.readlink(here))
    elif stat.S_ISREG(mode):
        yield _file(here, inside)


def _file(here: str, inside: str) -> Entry:
    found = os.stat(here)
    return Entry(inside, "file", here, executable=bool(found.st_mode & 0o111), seconds=int(found.st_mtime))


def _mode(entry: Entry) -> int:
    if entry.inside == "/tmp":
        return 0o1777
    if entry.kind == "link":
        return 0o777
    return 0o755 if entry.kind == "folder" or entry.executable else 0o644


def _add_compiled(tar: tarfile.TarFile, source: Entry) -> None:
    """Adds a module's compiled form: the one that is here if it is still valid, else a new one."""
    folder, name = posixpath.split(source.inside)
    name = f"{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
    compiled = _compiled_here(source, name) or _compile(source)
    if compiled:
        info = tarfile.TarInfo(f"{folder}/__pycache__/{name}".lstrip("/"))
        info.mode, info.size = 0o644, len(compiled)
        tar.addfile(info, io.BytesIO(compiled))


def _compiled_here(source: Entry, name: str) -> bytes:
    try:
        with open(f"{os.path.dirname(source.here)}/__pycache__/{name}", "rb") as file:
            compiled = file.read()
    except OSError:
        return b""
    size = os.stat(source.here).st_size
    stamp = b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in (0, source.seconds, size))
    return compiled if compiled[4:16] == stamp else b""


def _compile(source: Entry) -> bytes:
    """An unchecked compiled module, valid as long as its source cannot change; none for a module with an error."""
    with tempfile.TemporaryDirectory(prefix="testbed-image-") as folder:
        target = f"{folder}/module.pyc"
        try:
            unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(source.here, target, source.inside, doraise=True, invalidation_mode=unchecked)
        except py_compile.PyCompileError:
            return b""
        with open(target, "rb") as file:
            return file.read()
