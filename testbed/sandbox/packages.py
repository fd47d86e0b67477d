"""Installed packages to show inside a sandbox: where their files lie, and which other packages they need."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from testbed.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class Packages:
    """What there is to show of some installed packages.

    Attributes:
        names: "name-version" of the packages and of all that they need; sorted.
        paths: files and folders here that hold them; sorted. One that several packages share is shown whole.
        extensions: shared objects among them.
        folders: folders here that are shown as they are.
        modules: what `import` calls the packages that were asked for.
        notes: file here and its path beside the packages, for what `importlib.metadata` says of them: some packages
            ask for another one's version. Of pip's notes no more than that: they name paths of this machine.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    extensions: tuple[str, ...]
    folders: tuple[str, ...]
    modules: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]


def find(names: Iterable[str]) -> Packages:
    """Looks up installed packages with everything that they need, extras apart.

    Args:
        names: names of distributions, such as "numpy" or "scikit-learn".

    Raises:
        UnknownName: one is not installed here.
        UsageError: one is installed in a way that leaves no files to show, such as `pip install -e`.
    """
    asked = {_folded(name): _distribution(name) for name in names}
    found, waiting = dict(asked), list(asked.values())
    while waiting:
        for needed in _needs(waiting.pop()):
            if _folded(needed) not in found:
                found[_folded(needed)] = _distribution(needed)
                waiting.append(found[_folded(needed)])
    for name, distribution in asked.items():
        if not _paths(distribution):
            raise UsageError(f"package {name} cannot be shown: its files are not listed, or lie elsewhere (pip -e).")
    paths = sorted({path for distribution in found.values() for path in _paths(distribution)})
    return Packages(
        names=tuple(sorted(f"{name}-{distribution.version}" for name, distribution in found.items())),
        paths=tuple(paths),
        extensions=tuple(sorted(_extensions(paths))),
        folders=tuple(path for path in paths if os.path.isdir(path)),
        modules=tuple(sorted({name for distribution in asked.values() for name in _modules(distribution)})),
        notes=tuple(sorted(note for distribution in found.values() for note in _notes(distribution))),
    )


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        known = {str(found.metadata["Name"]) for found in metadata.distributions()}
        raise UnknownName("installed package", name, known, "A sandbox shows packages of this environment.") from None


def _needs(distribution: metadata.Distribution) -> list[str]:
    from packaging.requirements import Requirement

    needs = [Requirement(text) for text in distribution.requires or ()]
    return [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def _paths(distribution: metadata.Distribution) -> set[str]:
    """Top-level files and folders of a package, but for its scripts and pip's own notes; none if nobody noted them."""
    if not distribution.read_text("RECORD"):  # a folder of sources names files that are not the package's
        return set()
    tops = {
        file.parts[0]
        for file in distribution.files or ()
        if not file.parts[0].startswith(("..", "/", "__pycache__", "__editable__"))
        and not file.parts[0].endswith((".dist-info", ".egg-info", ".pth"))
    }
    paths = {os.path.realpath(str(distribution.locate_file(top))) for top in tops}
    return {path for path in paths if os.path.exists(path)}


def _notes(distribution: metadata.Distribution) -> list[tuple[str, str]]:
    found = [file for file in distribution.files or () if re.fullmatch(r"[^/]+\.dist-info/METADATA", str(file))]
    return [(os.path.realpath(str(distribution.locate_file(file))), str(file)) for file in found]


def _modules(distribution: metadata.Distribution) -> list[str]:
    """Names to import: its packages, or where it has none its single modules, that are not private."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for path in _paths(distribution):
        name = os.path.basename(path).split(".")[0]
        is_package = os.path.isfile(f"{path}/__init__.py")
        if name.isidentifier() and not name.startswith("_") and (is_package or re.search(r"\.(py|so)$", path)):
            names[is_package].append(name)
    return names[True] or names[False]


def _extensions(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        if os.path.isfile(path):
            inner = [path]
        else:
            inner = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        yield from (file for file in inner if re.search(r"\.so(\.|$)", os.path.basename(file)))


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
