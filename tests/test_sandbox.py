"""Choosing a sandbox and its limits. Calls, sessions, backends and attacks have files of their own."""

from __future__ import annotations

import pytest

from testbed.errors import SandboxUnavailable, UnknownName, UsageError
from testbed.sandbox import Limits, pick


def test_without_a_working_backend_there_is_an_error_and_no_fallback(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap") as error:
        pick("auto")
    assert "docker: " in str(error.value)


def test_unknown_backend_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="bwrap"):
        pick("bwrp")


@pytest.mark.parametrize(
    "wrong",
    [
        {"wall_seconds": 0},
        {"wall_seconds": float("inf")},
        {"memory_mib": 8},
        {"memory_mib": 256.0},
        {"output_kib": 0.5},
        {"processes": True},
        {"cpus": 0.01},
        {"processes": -1},
        {"output_kib": 0},
        {"memory_mib": 10**23},
        {"wall_seconds": 1e9},
        {"wall_seconds": float("nan")},
        {"processes": 1 << 20},
        {"output_kib": (1 << 12) + 1},
    ],
)
def test_senseless_limits_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Limits(**wrong)
