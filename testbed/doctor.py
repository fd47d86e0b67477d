"""`testbed doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PACKAGES = ("torch", "transformers", "gymnasium", "langchain-core", "sqlalchemy", "tantivy", "altair", "reasoning-gym")
OPTIONAL = {
    "docker": "pip install 'capability-testbed[docker]'",
    "ray": "pip install 'capability-testbed[ray]'",
    "langchain-openai": "pip install 'capability-testbed[chat]'",
    "datasets": "pip install 'capability-testbed[datasets]'",
    "fastapi": "pip install 'capability-testbed[board]'",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        what: the part looked at.
        state: "ok", "missing" (something will not work) or "absent" (optional).
        detail: version, size, or the remedy.
    """

    what: str
    state: str
    detail: str


def examine() -> list[Finding]:
    """Looks at the machine. Starts sandboxes for a moment; a docker engine is given their image if it lacks it."""
    return [_testbed(), _python(), *_packages(), _memory(), _cores(), *_sandboxes(), _gpu(), _disk()]


def print_findings(findings: Sequence[Finding]) -> bool:
    """Prints the findings; False when something needed is missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    style = {"ok": "green", "missing": "bold red", "absent": "yellow"}
    for finding in findings:
        table.add_row(finding.what, f"[{style[finding.state]}]{finding.state}[/]", escape(finding.detail))
    Console(highlight=False).print(table)
    return all(finding.state != "missing" for finding in findings)


def _testbed() -> Finding:
    from testbed import __version__

    return Finding("testbed", "ok", __version__)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.release()}")


def _packages() -> Iterable[Finding]:
    for name in PACKAGES:
        found = _version(name)
        yield Finding(name, "ok" if found else "missing", found or f"pip install {name}")
    for name, remedy in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, "ok" if found else "absent", found or f"optional: {remedy}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _memory() -> Finding:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").exists() else []
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.split()[-1] == "kB"}
    if not sizes:
        return Finding("memory", "absent", "cannot be read on this system")
    return Finding("memory", "ok", f"{sizes['MemTotal']:.1f} GiB, {sizes['MemAvailable']:.1f} GiB available")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok", f"{usable} usable")


def _sandboxes() -> Iterable[Finding]:
    """One line per backend: what it enforces here, or why it does not work. One that works is enough."""
    from testbed.sandbox import backends

    found = [(backend, [probe for probe in backend.self_test() if not probe.passed]) for backend in backends().values()]
    lacking = "missing" if all(failed for _, failed in found) else "absent"
    for backend, failed in found:
        causes = "\n".join(f"{probe.name}: {probe.detail}\nremedy: {probe.remedy}" for probe in failed)
        enforced = "\n".join(f"{what}: {how}" for what, how in backend.capabilities().items())
        yield Finding(
            f"sandbox {backend.name}",
            lacking if failed else "ok",
            causes or f"withstands its self-test\n{enforced}",
        )


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "absent", f"optional: none that torch {torch.__version__} can use; models run on the CPU")
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return Finding("gpu", "ok", f"{torch.cuda.device_count()} × {', '.join(sorted(names))}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "ok" if free > 1 else "missing"
    return Finding("disk", state, f"{free:.1f} GiB free here" + ("" if state == "ok" else "; the store needs room"))
