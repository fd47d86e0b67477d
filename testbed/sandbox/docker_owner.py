"""Who started a container, written on its label: what a dead owner left may be swept away, and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass

OWNER = "capability-testbed.sandbox.owner"  # label: who started a container


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that starts sandboxes, told apart from every other of all times.

    Attributes:
        machine: the kernel's boot and the namespace in which `pid` counts.
        pid: its number there.
        started: when it was started, in clock ticks since boot: a number may be used again.
    """

    machine: str
    pid: int
    started: int

    @classmethod
    def this_process(cls) -> Owner:
        """The owner that this process is."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return cls(f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}", os.getpid(), _start_of(os.getpid()) or 0)

    @classmethod
    def read(cls, label: str) -> Owner | None:
        """Reads a label; None if it is not one of ours."""
        machine, _, rest = label.partition("/")
        pid, _, started = rest.partition("/")
        return cls(machine, int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None

    def __str__(self) -> str:
        return f"{self.machine}/{self.pid}/{self.started}"

    def is_dead(self, here: Owner) -> bool:
        """Whether it has ended for certain; nobody can say that of another machine's, or another container's."""
        return self.machine == here.machine and _start_of(self.pid) != self.started


def _start_of(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None if it does not exist or is over."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
