"""The sessions that the hostile programs meet, what those programs may know, and what they must not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed.sandbox import Bwrap, Limits, Result, Sandbox, backends
from testbed.sandbox.base import Session
from testbed.sandbox.link import INODES
from testbed.sandbox.seccomp import denied_calls

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
SMALL = Limits(wall_seconds=6.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8)

# Everything that a program can tell of what others left behind.
FINGERPRINT = """
def fingerprint():
    import builtins, json, os, resource, signal, stat, sys, threading
    folders = ("/tmp", "/dev/shm")
    umask = os.umask(0o22)
    with open("/tmp/room", "wb") as file:
        file.write(bytes(1 << 20))
    os.unlink("/tmp/room")
    print(json.dumps({
        "files": [os.listdir(folder) for folder in folders],
        "attributes": [os.listxattr(folder) for folder in folders],
        "modes": [oct(os.stat(folder).st_mode) for folder in folders],
        "processes": [n for n in os.listdir("/proc") if n.isdecimal() and n not in ("1", str(os.getpid()))],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": sys.path,
        "modules": sorted(sys.modules),
        "builtins": [f"{name}: {type(value)} {getattr(value, '__module__', '')}"
                     for name, value in vars(builtins).items() if name != "_"],
        "types": ["x".upper(), str([1]), len((1, 2)), isinstance(True, int)],
        "umask": umask,
        "handlers": [str(type(signal.getsignal(number))) for number in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "limits": [resource.getrlimit(kind) for kind in range(16) if kind != resource.RLIMIT_CPU],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "recursion": sys.getrecursionlimit(),
        "threads": threading.active_count(),
    }))
fingerprint()
del fingerprint
"""


def kinds() -> dict[str, Sandbox]:
    """Every kind of sandbox: those of the backends, and bubblewrap's where nothing can be forked."""
    return backends() | {"bwrap-each": Bwrap(forks=False)}


@functools.cache
def faults(name: str) -> str:
    """Why a backend does not work here; empty if it does."""
    probes = kinds()[name].self_test()
    return "; ".join(f"{probe.name}: {probe.detail} ({probe.remedy})" for probe in probes if not probe.passed)


def facts_of(secret_file: Path, abstract_socket: str) -> dict[str, Any]:
    """What an attacker may know: this source code, and the machine."""
    paths = [
        "/etc/passwd",
        "/etc/shadow",
        "/bin/sh",
        "/usr/bin/env",
        "/usr/bin/python3",
        "/root",
        "/home",
        "/var/run/docker.sock",
    ]
    paths += map(str, (secret_file, PROJECT / "pyproject.toml", Path.home(), Path.cwd(), Path(sys.executable)))
    return {
        "processes": SMALL.processes,
        "scratch": SMALL.scratch_mib << 20,
        "file": SMALL.file_mib << 20,
        "output": SMALL.output_kib << 10,
        "inodes": INODES,
        "calls": denied_calls(os.uname().machine),
        "tgkill": {"x86_64": 234, "aarch64": 131}[os.uname().machine],
        "home": str(Path.home()),
        "secret_variable": "TESTBED_HOSTILE_SECRET",
        "host_paths": [path for path in paths if path != "/"],
        "abstract_socket": abstract_socket,
        "honest_frame": {"type": "result", "seq": 1, "verdict": "exited", "exit_code": 0, "stdout": "", "stderr": ""},
    }


@dataclass
class Arena:
    """The sessions that all attacks on a backend share."""

    backend: str
    facts: dict[str, Any]
    folder: Path  # of the host
    sessions: dict[str, Session] = field(default_factory=dict)
    first_day: dict[str, dict[str, Any]] = field(default_factory=dict)
    secret_results: list[Result] | None = None

    async def open(self) -> None:
        sandbox = kinds()[self.backend]
        for role in ("run", "repl", "neighbour"):
            self.sessions[role] = await sandbox.open(SMALL)
            self.first_day[role] = await self.look(role)

    @contextlib.asynccontextmanager
    async def blame(self):
        """New sessions for whatever comes after a failure, so that one attack is not blamed for another's."""
        try:
            yield
        except BaseException:
            await self.close()
            await self.open()
            raise

    async def close(self) -> None:
        while self.sessions:
            await self.sessions.popitem()[1].close()

    def program(self, code: str, mode: str) -> str:
        if "FACTS" not in code:
            return code
        return f"FACTS = __import__('json').loads({json.dumps(self.facts | {'mode': mode})!r})\n{code}"

    async def call(self, role: str, mode: str, code: str, timeout: float | None = None) -> Result:
        session = self.sessions[role]
        return await (session.repl(code, timeout) if mode == "repl" else session.run(code, timeout=timeout))

    async def look(self, role: str) -> dict[str, Any]:
        """What an honest program sees; of a REPL, after a reset."""
        if role == "repl":
            await self.sessions[role].reset()
        result = await self.call(role, "repl" if role == "repl" else "run", FINGERPRINT)
        assert result.status == "ok", result
        return json.loads(result.stdout)

    async def of_a_host_with_secrets(self, calls: list[tuple[str, str, float]]) -> list[Result]:
        """What becomes of calls in a host that has a reference answer in memory, environment, folder, arguments, files.

        One host makes all of them, the first time that any is asked for.
        """
        if self.secret_results is None:
            self.secret_results = await asyncio.to_thread(self._ask_a_host_with_secrets, calls)
        return self.secret_results

    def _ask_a_host_with_secrets(self, calls: list[tuple[str, str, float]]) -> list[Result]:
        secret = f"REFERENCE-ANSWER-{os.urandom(4).hex()}"
        folder = self.folder / secret
        folder.mkdir()
        (folder / "secret").write_text(secret)
        limits = asdict(SMALL) | {"wall_seconds": max(timeout for _, _, timeout in calls)}
        host = subprocess.run(
            [sys.executable, HERE / "host_with_secrets.py", secret],
            input=json.dumps({"backend": self.backend, "limits": limits, "calls": calls}),
            cwd=folder,
            env={**os.environ, "TESTBED_HOSTILE_SECRET": secret},
            capture_output=True,
            text=True,
        )
        assert host.returncode == 0, host.stderr
        results = [Result(**fields) for fields in json.loads(host.stdout)]
        assert all((honest.status, honest.stdout) == ("ok", "42\n") for honest in results[1::2])
        assert not any(secret in result.stdout + result.stderr for result in results)
        return results[::2]

    async def check_nothing_is_left(self, role: str) -> None:
        assert await self.look(role) == self.first_day[role]
