"""The self-test: a real sandbox, attacked from inside, before anybody relies on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from testbed.errors import SandboxDied
from testbed.sandbox.base import Limits, Probe, Sandbox, Session
from testbed.sandbox.seccomp import denied_calls

_NETWORK = """
import json, socket
made = []
for family in (2, 10, 16, 17, 40):  # IPv4, IPv6, netlink, packet, vsock
    for kind in (1, 2, 3):
        try:
            socket.socket(family, kind).close()
            made.append([family, kind])
        except OSError:
            pass
print(json.dumps(made))
"""

_FILES = """
import json, os, sys
seen = []
for path in json.load(sys.stdin):
    try:
        os.stat(path)
        seen.append(path)
    except OSError:
        pass
for folder in ("/", "/dev", "/proc", "/etc", "/python", os.path.dirname(os.__file__)):
    try:
        os.close(os.open(folder + "/planted", os.O_CREAT | os.O_WRONLY))
        seen.append("wrote to " + folder)
    except OSError:
        pass
print(json.dumps(seen))
"""

_CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
allowed = []
for name, number in json.load(sys.stdin).items():
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
        allowed.append(name)
print(json.dumps(allowed))
"""

_PRIVILEGES = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
capabilities = ctypes.create_string_buffer(24)
libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), capabilities)
wrong = []
if os.getuid() == 0 or os.geteuid() == 0: wrong.append("is root")
if any(capabilities.raw): wrong.append("has capabilities")
if libc.prctl(39, 0, 0, 0, 0) != 1: wrong.append("may gain privileges")
if libc.prctl(21, 0, 0, 0, 0) != 2: wrong.append("has no system-call filter")
for name in ("mem", "environ", "fd", "maps"):
    try:
        os.listdir("/proc/1/fd") if name == "fd" else open("/proc/1/" + name, "rb").read(1)
        wrong.append("reads the worker's " + name)
    except OSError:
        pass
try:
    os.kill(os.getppid(), 9)
except OSError:
    pass
print(json.dumps(wrong))
"""

_REPORT = "this must not happen; do not use this sandbox, and report the machine's kernel and the backend's version"


@dataclass(frozen=True, slots=True)
class _Attack:
    name: str
    code: str
    stdin: Callable[[str], object]
    good: str
    bad: str


_ATTACKS = (
    _Attack("network", _NETWORK, lambda secret: None, "no socket but a local one can be made", "sockets could be made"),
    _Attack(
        "files",
        _FILES,
        lambda secret: [secret, "/etc/passwd", "/etc/shadow", "/bin/sh", "/usr/bin/env", *_private_folders()],
        "nothing of the host can be seen or written",
        "the host shows through",
    ),
    _Attack(
        "seccomp",
        _CALLS,
        lambda secret: denied_calls(os.uname().machine),
        "every refused call is refused",
        "calls went through",
    ),
    _Attack(
        "privileges", _PRIVILEGES, lambda secret: None, "no root, no capability, no way to the worker", "the program"
    ),
)


def _private_folders() -> list[str]:
    folders = {os.path.expanduser("~"), os.getcwd()}
    return sorted(
        folders - {"/", "/tmp", "/dev", "/proc", "/lib", "/lib64", "/python", "/etc", "/sys"}
    )  # these exist inside, with other contents


def probe(sandbox: Sandbox) -> list[Probe]:
    """Runs the self-test; works with and without a running event loop, and blocks for about 0.2 s.

    Args:
        sandbox: the backend to try.

    Returns:
        One probe each for launch, a call, network, files, seccomp and privileges; if the launch fails, only that.
    """
    # A thread of its own: the caller may sit in an event loop.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_probe(sandbox))).result()


async def _probe(sandbox: Sandbox) -> list[Probe]:
    try:
        session = await sandbox.open(Limits())
    except SandboxDied as error:
        return [Probe("launch", False, str(error), remedy(str(error)))]
    try:
        return [
            Probe("launch", True, f"{sandbox.identity} started"),
            await _ordinary(session),
            *[await _attack(session, a) for a in _ATTACKS],
        ]
    finally:
        await session.close()


async def _ordinary(session: Session) -> Probe:
    result = await session.run("print(6 * int(input()))", stdin="7")
    passed = (result.status, result.stdout) == ("ok", "42\n")
    return Probe(
        "call",
        passed,
        "a program ran" if passed else f"{result.status}: {result.reason}{result.stderr}",
        "" if passed else _REPORT,
    )


async def _attack(session: Session, attack: _Attack) -> Probe:
    with tempfile.NamedTemporaryFile("w", prefix="testbed-probe-") as secret:
        secret.write(secrets.token_hex())
        secret.flush()
        result = await session.run(attack.code, stdin=json.dumps(attack.stdin(secret.name)))
    if result.status != "ok":
        return Probe(
            attack.name,
            False,
            f"the probe itself failed: {result.status} {result.reason}{result.stderr[-300:]}",
            _REPORT,
        )
    found = json.loads(result.stdout)
    if found:
        return Probe(attack.name, False, f"{attack.bad}: {', '.join(map(str, found))}", _REPORT)
    return Probe(attack.name, True, attack.good)


_REMEDIES = (
    (r"docker SDK for Python is not installed", "install it: `pip install 'capability-testbed[docker]'`"),
    (r"no docker engine.*paramiko", "install what the SDK needs for ssh: `pip install 'docker[ssh]'`"),
    (
        r"no docker engine.*[Pp]ermission",
        "join the group docker (`sudo usermod -aG docker $USER`, then log in again), or run an engine of your own "
        "(rootless docker) and point DOCKER_HOST at it",
    ),
    (
        r"no docker engine",
        "start one (`systemctl start docker`; `apt install docker.io` on Debian and Ubuntu), or set DOCKER_HOST "
        "(unix://, tcp:// or ssh://) to one that runs",
    ),
    (
        r"docker engine.*runtime.*|docker engine.*runsc",
        "install the runtime on the engine's machine and register it (gVisor: `runsc install`, then restart docker); "
        "`docker info` lists what there is",
    ),
    (r"docker engine's machine is", "use an engine on a machine of the same kind, or the backend bwrap"),
    (
        r"image cannot be imported",
        "look at the engine's free space (`docker system df`) and log; `python scripts/sandbox_image.py` tries again",
    ),
    (r"docker engine", "look at the engine's log (`journalctl -u docker`)"),
    (
        r"not installed",
        "install bubblewrap: `apt install bubblewrap` (Debian, Ubuntu) or `dnf install bubblewrap` (Fedora)",
    ),
    (r"Unknown option|unrecognized option", "this bubblewrap is too old: version 0.8 or later is needed"),
    (r"system-call filter for|seccomp", "a Linux kernel with seccomp filters on x86_64 or aarch64 is needed"),
    (
        r"namespace|uid map|gid map|Permission denied|not permitted|No permissions",
        "allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1` (Debian), "
        "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and later), "
        "`sysctl user.max_user_namespaces=10000` (RHEL); in a container, start it with `--privileged` (or as root with "
        "`--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined`)",
    ),
)


def remedy(cause: str) -> str:
    """What to do about a launch that failed for this reason."""
    return next(
        (cure for pattern, cure in _REMEDIES if re.search(pattern, cause)),
        "run `testbed doctor` and look at the cause above",
    )
