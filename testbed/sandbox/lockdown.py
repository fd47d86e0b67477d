"""Runs inside the sandbox: how the worker gives up every privilege for good. Only the standard library is there.

Order matters. Mounts are limited while there is still a capability for it; then the user changes, the capabilities go,
and last comes the system-call filter, which would refuse all that was done before it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

SCRATCH = "/tmp"

_libc = ctypes.CDLL(None, use_errno=True)

# prctl(2)
_SET_PDEATHSIG, _SET_DUMPABLE, _DROP_BOUND, _SET_NO_NEW_PRIVS, _AMBIENT = 1, 4, 24, 38, 47
_GET_DUMPABLE, _GET_SECCOMP, _GET_NO_NEW_PRIVS = 3, 21, 39
_AMBIENT_CLEAR_ALL = 4
# seccomp(2)
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER, _FOR_ALL_THREADS = 1, 1
# mount(2), unshare(2), capset(2)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_CLONE_NEWUSER, _CLONE_NEWCGROUP = 0x10000000, 0x02000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_BYTES = 24
# sched_setattr(2)
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK = 1
SHORT_TURN = 100_000  # ns, the least that the kernel takes


class _FilterProgram(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def lock_down(start: dict[str, Any], start_threads: Callable[[], None]) -> dict[str, Any]:
    """Gives up every privilege and returns the evidence, which the host checks.

    Args:
        start: the host's policy: `uid` to become (None if already an ordinary user), whether to enter a
            `user_namespace`, `scratch` bytes, `inodes`, and the `filter` as hexadecimal `struct sock_filter`s.
        start_threads: starts the worker's other threads; called when all privileges are gone, before the filter is
            installed, which is for all threads.

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
        "devices_read_only": _make_devices_read_only(),
        "user_namespace": _in_user_namespace(),
    }
    if start["uid"] is not None:
        _drop_bounding_set()  # while it may: where no user namespace can be entered, this is the only time
        _become(start["uid"])
    if start["user_namespace"]:
        evidence["user_namespace"] = _enter_user_namespace(os.getuid())
    _drop_capabilities()
    _check(_libc.prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "pdeathsig")  # a change of user had cleared it
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    _leave_no_core()
    _come_first(0)  # for threads
    start_threads()
    _come_first(_RESET_ON_FORK)
    steps = bytes.fromhex(start["filter"])
    program = _FilterProgram(len(steps) // 8, steps)
    install = _SECCOMP[os.uname().machine], _SECCOMP_SET_MODE_FILTER, _FOR_ALL_THREADS
    _check(_libc.syscall(*install, ctypes.byref(program)), "seccomp")
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


def _leave_no_core() -> None:
    """Forbids core dumps: below a page there is room for no file, and at 1 the kernel feeds none to a program either.

    At 0 it would: a `core_pattern` that begins with "|" is run by root, outside of every sandbox.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = 1 if hard == resource.RLIM_INFINITY else min(1, hard)  # below 1, the host itself may have none
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))


def _come_first(flags: int) -> None:
    """Asks for short turns on the CPU, which come soon: among 60 busy processes, a worker with long ones is late.

    With `_RESET_ON_FORK`, what it starts does not inherit it, nor a real-time policy of the host's, nor its precedence.
    Whoever has given the host a low priority gives it to the worker too, which may not raise its own. Kernels before
    6.12 have no turns of one's own; there, and under SCHED_IDLE, it does nothing.
    """
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE):
        policy = os.SCHED_OTHER
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, 0, SHORT_TURN, 0, 0)
    _libc.syscall(_SCHED_SETATTR[os.uname().machine], 0, attributes, 0)


def _make_devices_read_only() -> bool:
    """Lets nobody set the times of a device, which may be the machine's own: whoever may write to it could.

    It can be written to all the same. Where this is refused, whoever made the devices may have seen to it.
    """
    for entry in os.scandir("/dev"):
        if stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode):
            flags = os.statvfs(entry.path).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)  # none may be taken back
            _remount(entry.path, _MS_BIND | _MS_RDONLY | flags)
    devices = [entry for entry in os.scandir("/dev") if stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode)]
    return all(os.statvfs(entry.path).f_flag & os.ST_RDONLY for entry in devices)


def _remount(target: str, flags: int, options: str = "") -> bool:
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
