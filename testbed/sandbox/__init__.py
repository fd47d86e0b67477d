"""Sandboxes for programs that a model wrote.

There is no way to run one without: either a backend passes its self-test, or it is an error.
"""

from __future__ import annotations

from testbed.errors import SandboxUnavailable, UnknownName
from testbed.sandbox.base import Limits, Probe, Result, Sandbox, Session
from testbed.sandbox.bwrap import Bwrap
from testbed.sandbox.docker import Docker
from testbed.sandbox.grade import GRADING_LIMITS, CodeGrade, Grader, Tests, grade_code
from testbed.sandbox.pool import Pool

__all__ = [
    "GRADING_LIMITS",
    "Bwrap",
    "CodeGrade",
    "Docker",
    "Grader",
    "Limits",
    "Pool",
    "Probe",
    "Result",
    "Sandbox",
    "Session",
    "Tests",
    "backends",
    "grade_code",
    "pick",
]


def backends(packages: tuple[str, ...] = ()) -> dict[str, Sandbox]:
    """Every backend by name, in the order in which `auto` tries them.

    Args:
        packages: third-party packages that programs may import, such as "numpy".
    """
    return {"bwrap": Bwrap(packages=packages), "docker": Docker(packages=packages)}


def pick(name: str = "auto", packages: tuple[str, ...] = ()) -> Sandbox:
    """The backend of that name, or the first that works; its self-test has passed.

    Args:
        name: "auto", a backend's name, or "docker:RUNTIME" such as "docker:runsc".
        packages: third-party packages that programs may import, such as "numpy"; they must be installed here.

    Raises:
        UnknownName: there is no such backend, or no such package.
        SandboxUnavailable: none passed; the message gives each cause and its remedy.
    """
    known = backends(packages)
    if name.startswith("docker:"):
        known[name] = Docker(name.removeprefix("docker:"), packages)
    if name != "auto" and name not in known:
        raise UnknownName("sandbox", name, ["auto", *known])
    causes = []
    for backend in known.values() if name == "auto" else [known[name]]:
        failed = [probe for probe in backend.self_test() if not probe.passed]
        if not failed:
            return backend
        causes += [f"{backend.name}: {probe.name}: {probe.detail}\n    remedy: {probe.remedy}" for probe in failed]
    raise SandboxUnavailable("no sandbox works here, and programs are never run without one.\n  " + "\n  ".join(causes))
