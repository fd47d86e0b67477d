"""The system-call filter: well formed, and refusing what it names, also on machines that this one is not.

The filter is run here by an interpreter of its own, so that every architecture's table is tested on every machine; the
kernel's own reading of it is tested by the attacks in test_sandbox_hostile.py.
"""

from __future__ import annotations

import errno
import struct

import pytest

from testbed.sandbox.seccomp import architectures, denied_calls, program

ALLOW, KILL, DONE = 0x7FFF0000, 0x80000000, 0x00050000
REFUSED, MISSING = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {  # numbers from the kernel's tables
    "read": {"x86_64": 0, "aarch64": 63},
    "openat": {"x86_64": 257, "aarch64": 56},
    "execve": {"x86_64": 59, "aarch64": 221},
    "socket": {"x86_64": 41, "aarch64": 198},
    "socketpair": {"x86_64": 53, "aarch64": 199},
    "clone": {"x86_64": 56, "aarch64": 220},
    "clone3": {"x86_64": 435, "aarch64": 435},
    "prctl": {"x86_64": 157, "aarch64": 167},
    "prlimit64": {"x86_64": 302, "aarch64": 261},
    "sched_setaffinity": {"x86_64": 203, "aarch64": 122},
    "ioctl": {"x86_64": 16, "aarch64": 29},
    "fcntl": {"x86_64": 72, "aarch64": 25},
    "mmap": {"x86_64": 9, "aarch64": 222},
    "io_setup": {"x86_64": 206, "aarch64": 0},
    "sync": {"x86_64": 162, "aarch64": 81},
    "syncfs": {"x86_64": 306, "aarch64": 267},
    "fsync": {"x86_64": 74, "aarch64": 82},
}


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter says to a call: classic BPF over `struct seccomp_data`, as in the kernel's documentation."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *words)
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    at = loaded = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            true = {0x15: loaded == value, 0x25: loaded > value, 0x45: bool(loaded & value)}[code]
            at += yes if true else no


pytestmark = pytest.mark.parametrize("machine", architectures())


def test_filter_is_well_formed(machine):
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    assert len(steps) < 4096
    assert all(at + 1 + max(yes, no) < len(steps) for at, (code, yes, no, _) in enumerate(steps) if code & 7 == 5)
    assert steps[-1][0] == 0x06


def test_every_named_call_is_refused(machine):
    assert {name for name, number in denied_calls(machine).items() if verdict(machine, number) != REFUSED} == set()


def test_ordinary_calls_pass(machine):
    for name in ("read", "openat", "execve", "clone"):
        assert verdict(machine, CALLS[name][machine]) == ALLOW


@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_only_local_sockets_pass(machine, call):
    number = CALLS[call][machine]
    assert [family for family in range(64) if verdict(machine, number, family) != REFUSED] == [1]
    assert verdict(machine, number, 1) == ALLOW


def test_no_flag_of_clone_makes_a_namespace(machine):
    number = CALLS["clone"][machine]
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, number, flag | 17) == REFUSED
    assert verdict(machine, number, 0x3D0F00) == ALLOW  # a thread


def test_calls_whose_flags_cannot_be_seen_and_new_calls_do_not_exist(machine):
    for number in (CALLS["clone3"][machine], 451, 600, 0x40000000 | 39):
        assert verdict(machine, number) == MISSING


def test_foreign_architectures_are_killed(machine):
    for audit in (0x40000003, 0x40000028, 0, *(own for name, own in AUDIT.items() if name != machine)):
        assert verdict(machine, 0, audit=audit) == KILL


@pytest.mark.parametrize("call", ["prlimit64", "sched_setaffinity"])
def test_only_oneself_can_be_changed(machine, call):
    assert [verdict(machine, CALLS[call][machine], process) for process in (0, 1, 2)] == [ALLOW, REFUSED, REFUSED]


def test_nobody_becomes_unreadable(machine):
    number = CALLS["prctl"][machine]
    assert [verdict(machine, number, 4, flag) for flag in (0, 1, 2)] == [REFUSED, ALLOW, REFUSED]
    assert verdict(machine, number, 15) == ALLOW  # a thread's name


def test_terminals_take_no_injected_input(machine):
    number = CALLS["ioctl"][machine]
    assert [verdict(machine, number, 0, request) for request in (0x5412, 0x541C, 0x5423)] == [REFUSED] * 3
    assert verdict(machine, number, 0, 0x5401) == ALLOW  # whether it is a terminal


def test_nothing_is_sent_leased_or_watched_by_fcntl(machine):
    number = CALLS["fcntl"][machine]
    assert [verdict(machine, number, 0, command) for command in (10, 1024, 1026)] == [REFUSED] * 3
    assert [verdict(machine, number, 0, command) for command in (1, 2, 3, 4, 6, 1030)] == [ALLOW] * 6


def test_no_memory_comes_from_the_machines_pool_of_huge_pages(machine):
    number = CALLS["mmap"][machine]
    assert [verdict(machine, number, 0, 4096, 3, flags) for flags in (0x40022, 0x54040022, 0x40021)] == [REFUSED] * 3
    assert [verdict(machine, number, 0, 4096, 3, flags) for flags in (0x22, 0x21, 0x2, 0x20022)] == [ALLOW] * 4


def test_no_context_of_the_old_asynchronous_io_is_made(machine):
    assert verdict(machine, CALLS["io_setup"][machine], 1) == REFUSED


def test_flushing_a_disk_for_everybody_does_nothing(machine):
    assert [verdict(machine, CALLS[name][machine]) for name in ("sync", "syncfs")] == [DONE, DONE]
    assert verdict(machine, CALLS["fsync"][machine]) == ALLOW
