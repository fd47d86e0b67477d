"""Sandboxes for programs that a model wrote.

There is no way to run one without: either a backend passes its self-test, or it is an error.
"""

from __future__ import annotations

from testbed.errors import SandboxUnavailable, UnknownName
from testbed.sandbox.base import Limits, Probe, Result, Sandbox, Session
from testbed.sandbox.bwrap import Bwrap
from testbed.sandbox.pool import Pool

__all__ = ["Bwrap", "Limits", "Pool", "Probe", "Result", "Sandbox", "Session", "backends", "pick"]


def backends() -> dict[str, Sandbox]:
    """Every backend by name, in the order in which `auto` tries them."""
    return {"bwrap": Bwrap()}


def pick(name: str = "auto") -> Sandbox:
    """The backend of that name, or the first that works; its self-test has passed.

    Args:
        name: "auto" or a backend's name.

    Raises:
        UnknownName: there is no such backend.
        SandboxUnavailable: none passed; the message gives each cause and its remedy.
    """
    known = backends()
    if name != "auto" and name not in known:
        raise UnknownName("sandbox", name, ["auto", *known])
    causes = []
    for backend in known.values() if name == "auto" else [known[name]]:
        failed = [probe for probe in backend.self_test() if not probe.passed]
        if not failed:
            return backend
        causes += [f"{backend.name}: {probe.name}: {probe.detail}\n    remedy: {probe.remedy}" for probe in failed]
    raise SandboxUnavailable("no sandbox works here, and programs are never run without one.\n  " + "\n  ".join(causes))
