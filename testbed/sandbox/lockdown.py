"""Runs inside the sandbox: how the worker gives up every privilege for good. Only the standard library is there.

Order matters. Mounts are limited while there is still a capability for it; then the user changes, the capabilities go,
and last comes the system-call filter, which would refuse all that was done before it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from typing import Any, ClassVar

SCRATCH = "/tmp"

_libc = ctypes.CDLL(None, use_errno=True)

# prctl(2)
_SET_PDEATHSIG, _SET_DUMPABLE, _DROP_BOUND, _SET_NO_NEW_PRIVS, _SET_SECCOMP, _AMBIENT = 1, 4, 24, 38, 22, 47
_GET_DUMPABLE, _GET_SECCOMP, _GET_NO_NEW_PRIVS = 3, 21, 39
_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 4, 2
# mount(2), unshare(2), capset(2)
_MS_REMOUNT, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 32, 2, 4, 8
_CLONE_NEWUSER, _CLONE_NEWCGROUP = 0x10000000, 0x02000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_BYTES = 24
# sched_setattr(2)
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_OTHER, _RESET_ON_FORK = 0, 1
SHORT_TURN = 100_000  # ns, the least that the kernel takes


class _FilterProgram(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def lock_down(start: dict[str, Any]) -> dict[str, Any]:
    """Gives up every privilege and returns the evidence, which the host checks.

    Args:
        start: the host's policy: `uid` to become (None if already an ordinary user), `scratch` bytes, `inodes`, and the
            `filter` as hexadecimal `struct sock_filter`s.

    Raises:
        OSError: a step that must not fail did.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the default of PID 1 is to ignore it
    scratch = f"size={start['scratch']},nr_inodes={start['inodes']}"
    # Not executable: a file that its user cannot read would, once executed, hide its memory from the worker's count.
    # Where this is refused, whoever mounted it has seen to it.
    _remount(SCRATCH, _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, scratch)
    _libc.unshare(_CLONE_NEWCGROUP)  # or /proc/self/cgroup would show the name of the host's; no harm where refused
    evidence: dict[str, Any] = {
        "inode_limit": os.statvfs(SCRATCH).f_files <= start["inodes"],
        "proc": os.path.exists("/proc/self/status"),
        "proc_only_pids": _remount("/proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "subset=pid"),
        "user_namespace": _in_user_namespace(),
    }
    if start["uid"] is not None:
        _drop_bounding_set()  # while it may: where no user namespace can be entered, this is the only time
        _become(start["uid"])
        evidence["user_namespace"] = _enter_user_namespace(start["uid"])
    _drop_capabilities()
    _check(_libc.prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "pdeathsig")  # a change of user had cleared it
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _come_first()
    steps = bytes.fromhex(start["filter"])
    program = _FilterProgram(len(steps) // 8, steps)
    _check(_libc.prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")
    return evidence | {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "seccomp": _libc.prctl(_GET_SECCOMP, 0, 0, 0, 0),
        "no_new_privs": _libc.prctl(_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "dumpable": _libc.prctl(_GET_DUMPABLE, 0, 0, 0, 0),
        "capabilities": _has_capabilities(),
    }


def let_memory_be_counted() -> None:
    """Makes a child of the worker dumpable again, without which the worker could not read how much memory it has."""
    _libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def _come_first() -> None:
    """Asks for short turns on the CPU, which come soon: among 60 busy processes, a worker with long ones is late.

    The program's processes do not inherit it. Kernels before 6.12 have no turns of one's own; there it does nothing.
    """
    attributes = struct.pack("=IIQiIQQQ", 48, _SCHED_OTHER, _RESET_ON_FORK, 0, 0, SHORT_TURN, 0, 0)
    _libc.syscall(_SCHED_SETATTR[os.uname().machine], 0, attributes, 0)


def _remount(target: str, flags: int, options: str) -> bool:
    return bool(_libc.mount(b"none", target.encode(), None, _MS_REMOUNT | flags, options.encode()) == 0)


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _enter_user_namespace(uid: int) -> bool:
    """Enters a user namespace that maps one user only; False where that is not allowed."""
    _libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # or the maps would belong to root
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{uid} {uid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return False
    return True


def _in_user_namespace() -> bool:
    """Whether some users of the machine do not exist here; without /proc, being an ordinary user means so."""
    try:
        with open("/proc/self/uid_map") as file:
            spans = [line.split() for line in file]
    except OSError:
        return os.getuid() != 0
    return spans != [["0", "0", "4294967295"]]


def _drop_bounding_set() -> None:
    for capability in range(64):
        _libc.prctl(_DROP_BOUND, capability, 0, 0, 0)


def _drop_capabilities() -> None:
    _drop_bounding_set()  # again: entering a user namespace has filled it
    _libc.prctl(_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    _check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(_CAPABILITY_BYTES)), "capset")


def _has_capabilities() -> bool:
    held = ctypes.create_string_buffer(_CAPABILITY_BYTES)
    _check(_libc.capget(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), held), "capget")
    return any(held.raw)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
