"""Plug-in of the tests: sandboxes, and what they are made with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testbed.sandbox.bwrap import Bwrap
    from testbed.sandbox.cgroup import Cgroups
    from testbed.sandbox.docker_engine import Engine
    from testbed.sandbox.grade import Grader


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The docker engine that is used here; skips where there is none."""
    from helpers.docker_engine import fault
    from testbed.sandbox.docker_engine import Engine
    from testbed.sandbox.root import python_root

    if fault():
        pytest.skip(fault())
    engine = Engine(python_root())
    engine.connect()
    return engine


@pytest.fixture
def cgroups() -> Cgroups:
    """All controllers, of whichever version this machine has; skips where they cannot be used."""
    from testbed.sandbox.cgroup import CONTROLLERS, Cgroups

    found = Cgroups.find()
    if set(found.controllers) != set(CONTROLLERS):
        pytest.skip(f"this process may not make cgroups here: {found}")
    return found


@pytest.fixture
def bwrap(cgroups: Cgroups) -> Bwrap:
    """Bubblewrap whose sandboxes have cgroups."""
    from testbed.sandbox.bwrap import Bwrap

    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    return Bwrap()


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """Grades two programs at once in bubblewrap's sandboxes."""
    from testbed.sandbox import Bwrap
    from testbed.sandbox.grade import Grader

    with Grader(Bwrap(), 2) as grader:
        yield grader
