"""Cgroups: what the kernel itself counts and limits for all processes of a sandbox together.

They are used where this process may make them: as root, or in a subtree that was delegated to it. Elsewhere a sandbox
works without, and `Sandbox.capabilities` says so.

File formats: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids}.rst and scheduler/sched-bwc.rst in the
kernel's sources.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterable
from typing import Literal

from testbed.sandbox.base import Limits
from testbed.sandbox.cgroup_tree import (
    CONTROLLERS,
    Hierarchy,
    divided,
    explain,
    hierarchies,
    new_name,
    read,
    remove,
    sweep,
    write,
)

ROOM_MIB = 128  # beside memory and scratch: the worker with its preloaded modules, the kernel's inodes, stacks, buffers
ROOM_PROCESSES = 8  # the worker, and processes of the last call that the kernel has not quite forgotten
PERIOD = 20_000  # µs between refills of CPU time: the longest that a worker can be made to wait by its program
SHORTEST_QUOTA = 1_000  # µs; the kernel takes no less
PRECEDENCE = 10  # times the weight of other cgroups, while the remains of a call are cleared away
PAGES_AT_ONCE = 1 << 20  # bytes; a process is killed when the pages that it asks for do not fit under the limit


class Cgroup:
    """The cgroup of one sandbox, made by `Cgroups.create`: a folder in each hierarchy.

    Attributes:
        folders: path of the folder that limits a controller.
    """

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self._memory_version = 0
        self._cpu: tuple[int, float] | None = None  # version and limit
        self._hurries = False
        self._kills = 0  # as of the last time somebody asked
        self._final: tuple[int, bool] | None = None

    def make(self, places: Iterable[Hierarchy], name: str, limits: Limits) -> None:
        """Makes the folders and sets the limits.

        Raises:
            OSError: one of them cannot be; nothing is left behind.
        """
        try:
            for place in places:
                folder = f"{place.folder}/{name}"
                os.mkdir(folder)
                self.folders |= dict.fromkeys(place.controllers, folder)
                if "memory" in place.controllers:
                    self._memory_version = place.version
                if "cpu" in place.controllers:
                    self._cpu = place.version, limits.cpus
                _write_limits(place, folder, limits)
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Moves a process in; its later children are born inside. The kernel may take some milliseconds.

        Raises:
            OSError: it cannot be moved, or has ended.
        """
        for folder in sorted(set(self.folders.values())):
            write(f"{folder}/cgroup.procs", str(pid))

    def hurry(self, wanted: bool) -> None:
        """Lifts the limit on CPU time and gives precedence, or takes both back.

        Ending a call takes CPU time too, and most of it where a bomb has made the processes many: held to the program's
        share, the end would come late on a busy machine.
        """
        if self._cpu is None or wanted == self._hurries:
            return
        self._hurries = wanted
        version, cpus = self._cpu
        quota, period = cpu_time(cpus)
        with contextlib.suppress(FileNotFoundError):  # it has been removed meanwhile
            (_limit_cpu_1 if version == 1 else _limit_cpu_2)(self.folders["cpu"], None if wanted else quota, period)
            weight = ("cpu.shares", 1024) if version == 1 else ("cpu.weight", 100)  # what every cgroup begins with
            write(f"{self.folders['cpu']}/{weight[0]}", str(weight[1] * (PRECEDENCE if wanted else 1)))

    def out_of_memory(self) -> Literal["limit", "machine"] | None:
        """Whether the kernel killed a process inside for lack of memory since this was last asked; also when removed.

        Returns:
            "limit" if the sandbox had reached its own limit; "machine" if it had not, but the machine (or whatever the
            host is limited by) had no memory left; None if nobody was killed, or no cgroup limits memory.
        """
        kills, at_limit = self._final or self._memory_events()
        killed, self._kills = kills > self._kills, kills
        return None if not killed else "limit" if at_limit else "machine"

    def remove(self) -> bool:
        """Removes it if its processes are gone; False if some are not. Removing twice is harmless."""
        self._final = self._final or self._memory_events()
        return all([remove(folder) for folder in set(self.folders.values())])

    def _memory_events(self) -> tuple[int, bool]:
        """How many processes inside were killed for memory, and whether the sandbox's own limit has ever been met."""
        if self._memory_version == 2:
            events = _table(f"{self.folders['memory']}/memory.events")
            return events.get("oom_kill", 0), events.get("oom", 0) > 0
        if self._memory_version == 1:
            folder = self.folders["memory"]
            kills = _table(f"{folder}/memory.oom_control").get("oom_kill", 0)
            if kills == self._kills:
                return kills, False  # spares every call that went well two files
            # `memory.failcnt` would tell it, but stands still in some kernels (seen in 6.18).
            most, limit = (int(read(f"{folder}/memory.{name}_in_bytes") or 0) for name in ("max_usage", "limit"))
            return kills, most >= limit - PAGES_AT_ONCE
        return 0, False


class Cgroups:
    """Where cgroups for sandboxes can be made.

    Args:
        places: where making one has been tried.
        missing: why, for every controller that cannot be used.
    """

    def __init__(self, places: list[Hierarchy], missing: dict[str, str]) -> None:
        self._places = places
        self.missing = missing

    @classmethod
    def find(cls) -> Cgroups:
        """Looks for places, in the way that `testbed.sandbox.cgroup_tree` describes, and sweeps them.

        Cgroups that a killed host left there are removed.
        """
        places: list[Hierarchy] = []
        missing = dict.fromkeys(CONTROLLERS, "this machine has not mounted it")
        for own in hierarchies(read("/proc/self/mountinfo"), read("/proc/self/cgroup")):
            wanted = tuple(name for name in own.controllers or CONTROLLERS if name in missing)
            try:
                place = divided(own, wanted) if own.version == 2 else own
                if place.controllers:
                    trial = Cgroup()
                    trial.make([place], new_name(), Limits())
                    trial.remove()
                    places.append(place)
            except OSError as error:
                missing |= dict.fromkeys(wanted, explain(error))
                continue
            missing |= dict.fromkeys(wanted, explain(None))
            missing = {name: why for name, why in missing.items() if name not in place.controllers}
        for place in places:
            sweep(place.folder)
        return cls(places, missing)

    def __str__(self) -> str:
        """What is limited, by which version, and why the rest is not."""
        limited = [f"{name} (version {version})" for name, version in self.controllers.items()]
        reasons: dict[str, list[str]] = {}
        for name, why in self.missing.items():
            reasons.setdefault(why, []).append(name)
        missing = [f"not {', '.join(names)}: {why}" for why, names in reasons.items()]
        return "; ".join([", ".join(limited) or "none", *missing])

    @property
    def controllers(self) -> dict[str, int]:
        """Controllers in use, and the version of their hierarchy."""
        return {name: place.version for place in self._places for name in place.controllers}

    def create(self, limits: Limits) -> Cgroup | None:
        """Makes a sandbox's cgroup; None where no controller can be used.

        Raises:
            OSError: it cannot be made now.
        """
        if not self._places:
            return None
        cgroup = Cgroup()
        cgroup.make(self._places, new_name(), limits)
        return cgroup


def _write_limits(place: Hierarchy, folder: str, limits: Limits) -> None:
    """Sets the limits of a cgroup that has just been made.

    Raises:
        OSError: the kernel refuses one.
    """
    if "memory" in place.controllers:
        # Scratch is memory too, and has a limit of its own beside the program's.
        memory = (limits.memory_mib + limits.scratch_mib + ROOM_MIB) << 20
        (_limit_memory_1 if place.version == 1 else _limit_memory_2)(folder, str(memory))
    if "pids" in place.controllers:
        write(f"{folder}/pids.max", str(limits.processes + ROOM_PROCESSES))
    if "cpu" in place.controllers:
        (_limit_cpu_1 if place.version == 1 else _limit_cpu_2)(folder, *cpu_time(limits.cpus))


def cpu_time(cpus: float) -> tuple[int, int]:
    """Microseconds of CPU time, and in how many microseconds of the clock; a tiny share has a longer period."""
    period = min(1_000_000, max(PERIOD, math.ceil(SHORTEST_QUOTA / cpus)))
    return max(SHORTEST_QUOTA, round(cpus * period)), period


def _limit_memory_1(folder: str, limit: str) -> None:
    write(f"{folder}/memory.limit_in_bytes", limit)
    try:
        write(f"{folder}/memory.memsw.limit_in_bytes", limit)
    except FileNotFoundError:  # a kernel that does not count swap
        write(f"{folder}/memory.swappiness", "0")


def _limit_memory_2(folder: str, limit: str) -> None:
    write(f"{folder}/memory.max", limit)
    with contextlib.suppress(FileNotFoundError):  # a kernel without swap
        write(f"{folder}/memory.swap.max", "0")


def _limit_cpu_1(folder: str, quota: int | None, period: int) -> None:
    write(f"{folder}/cpu.cfs_period_us", str(period))
    try:
        write(f"{folder}/cpu.cfs_quota_us", str(-1 if quota is None else quota))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Version 1 refuses a child more than its parent has: the host itself is held to less, and so is all below it.


def _limit_cpu_2(folder: str, quota: int | None, period: int) -> None:
    write(f"{folder}/cpu.max", f"{'max' if quota is None else quota} {period}")


def _table(path: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in read(path).splitlines())}
