from __future__ import annotations

import io

import pytest

from testbed import doctor
from testbed.sandbox import backends


@pytest.fixture
def nothing_works(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def printed(findings: list[doctor.Finding], monkeypatch) -> tuple[bool, str]:
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    return doctor.print_findings(findings), out.getvalue()


def test_every_backend_has_a_line(nothing_works):
    assert [finding.what for finding in doctor._sandboxes()] == [f"sandbox {name}" for name in backends()]


def test_where_no_backend_works_each_says_why_and_what_to_do(nothing_works, monkeypatch):
    findings = list(doctor._sandboxes())
    assert {finding.state for finding in findings} == {"missing"}
    assert all("remedy: " in finding.detail for finding in findings)
    assert not printed(findings, monkeypatch)[0]


def test_one_backend_that_works_is_enough_and_says_what_it_enforces():
    findings = list(doctor._sandboxes())
    if {finding.state for finding in findings} == {"missing"}:
        pytest.skip(f"no sandbox works here: {findings}")
    assert {finding.state for finding in findings} <= {"ok", "absent"}
    working = next(finding for finding in findings if finding.state == "ok")
    for what in ("network", "memory", "CPU", "processes"):
        assert f"\n{what}: " in working.detail


def test_remedies_are_printed_as_they_are(monkeypatch):
    remedy = "pip install 'capability-testbed[docker]'"
    fine, text = printed([doctor.Finding("docker", "absent", remedy)], monkeypatch)
    assert fine
    assert remedy in text
