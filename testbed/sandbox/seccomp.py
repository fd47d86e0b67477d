"""The system-call filter that the worker installs before any program runs.

The host compiles the policy to classic BPF for the worker's architecture and sends it in; the worker only installs it
(host > worker). The policy is a list of what is refused: everything that reaches for namespaces, other processes'
memory, the kernel's own machinery, the network, or memory that no limit counts. Refused calls fail with EPERM;
those that would flush a disk for everybody do nothing and succeed; calls newer than the table, and `clone3` (whose
flags a filter cannot see, so that libc falls back on `clone`), fail with ENOSYS; a foreign architecture's calls kill
the process.

Numbers are from the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import functools
import struct
from typing import NamedTuple

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # namespaces, mounts, roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # priorities: the worker has the same user, so a program could starve the clock that stops it
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # memory that outlives a process or escapes the limits
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "get_mempolicy": (239, 236),
    "remap_file_pages": (216, 234),
    "vmsplice": (278, 75),
    # news of what others do, and signals of the kernel's own: a timer that sends SIGCONT would wake a stopped REPL
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "timer_create": (222, 107),
    # memory and numbers that all users of the machine share (fs.aio-max-nr)
    "io_setup": (206, 0),
    # machinery with a record of holes
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    # the machine: modules, clocks, power, devices, accounting
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "query_module": (178, None),
    "get_kernel_syms": (177, None),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
}

# Nothing that is written here needs a disk; what they would flush is the host's, and may take it minutes.
_DONE_ALREADY: dict[str, tuple[int, int]] = {
    "sync": (162, 81),
    "syncfs": (306, 267),
}


class _Architecture(NamedTuple):
    column: int
    audit: int  # AUDIT_ARCH_*: the machine's ELF number, 64-bit, little-endian
    socket: int
    socketpair: int
    clone: int
    clone3: int
    prctl: int
    prlimit64: int
    sched_setaffinity: int
    ioctl: int
    fcntl: int
    mmap: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0, 0xC000003E, 41, 53, 56, 435, 157, 302, 203, 16, 72, 9),
    "aarch64": _Architecture(1, 0xC00000B7, 198, 199, 220, 435, 167, 261, 122, 29, 25, 222),
}
_NEWEST_CALL = 450  # set_mempolicy_home_node, Linux 5.17; also below x86_64's bit for the x32 calls

_AF_UNIX = 1
_CLONE_NEW = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_PR_SET_DUMPABLE = 4
_F_SETSIG, _F_SETLEASE, _F_NOTIFY = 10, 1024, 1026  # SIGCONT by way of a pipe, a hold on a file, news of a folder
_MAP_HUGETLB = 0x40000  # from a pool of the machine's, which no limit counts
_TERMINAL_INJECTION = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data; argument i's low word lies at 16 + 8i

_Step = tuple[int, int, int, int]


def architectures() -> tuple[str, ...]:
    """Machine names (as of `platform.machine()`) that have a table here."""
    return tuple(_ARCHITECTURES)


def denied_calls(machine: str) -> dict[str, int]:
    """Number of every call that is refused outright on a machine; for tests and documentation.

    Raises:
        KeyError: no table for the machine.
    """
    column = _ARCHITECTURES[machine].column
    return {name: number for name, row in _DENIED.items() if (number := row[column]) is not None}


@functools.cache
def program(machine: str) -> bytes:
    """Compiles the policy to an array of `struct sock_filter`.

    Args:
        machine: architecture of the worker, such as "x86_64".

    Raises:
        KeyError: no table for the machine.
    """
    arch = _ARCHITECTURES[machine]
    refuse, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 0, 1, _NEWEST_CALL),
        (_RETURN, 0, 0, unknown),
        *_when(arch.clone3, [(_RETURN, 0, 0, unknown)]),
    ]
    for number in denied_calls(machine).values():
        steps += _when(number, [(_RETURN, 0, 0, refuse)])
    for row in _DONE_ALREADY.values():
        steps += _when(row[arch.column], [(_RETURN, 0, 0, _ERRNO)])
    for number in (arch.socket, arch.socketpair):
        steps += _when(number, _only_if(_EQUAL, argument=0, value=_AF_UNIX))
    for number in (arch.prlimit64, arch.sched_setaffinity):  # of oneself (0), never of the worker
        steps += _when(number, _only_if(_EQUAL, argument=0, value=0))
    steps += _when(arch.clone, _unless(_ANY_BIT, argument=0, values=(_CLONE_NEW,)))
    steps += _when(arch.ioctl, _unless(_EQUAL, argument=1, values=_TERMINAL_INJECTION))
    steps += _when(arch.fcntl, _unless(_EQUAL, argument=1, values=(_F_SETSIG, _F_SETLEASE, _F_NOTIFY)))
    steps += _when(arch.mmap, _unless(_ANY_BIT, argument=3, values=(_MAP_HUGETLB,)))
    # A process that is not dumpable would hide its memory from the worker's count; becoming dumpable is fine.
    hide = [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, _PR_SET_DUMPABLE), (_RETURN, 0, 0, _ALLOW)]
    steps += _when(arch.prctl, hide + _only_if(_EQUAL, argument=1, value=1))
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _when(number: int, body: list[_Step]) -> list[_Step]:
    """Runs the body, which returns on every path, for one call; expects that call's number in the accumulator."""
    return [(_EQUAL, 0, len(body), number), *body]


def _only_if(test: int, argument: int, value: int) -> list[_Step]:
    return [
        (_LOAD, 0, 0, 16 + 8 * argument),
        (test, 1, 0, value),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _unless(test: int, argument: int, values: tuple[int, ...]) -> list[_Step]:
    steps: list[_Step] = [(_LOAD, 0, 0, 16 + 8 * argument)]
    for value in values:
        steps += [(test, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]
