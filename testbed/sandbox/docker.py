"""The docker backend: a container without network, privileges or anything to write but two sized folders.

Containers run the same Python as the bubblewrap backend's, from an image made of this machine's (no registry is
asked). The engine's limits also hold for what the worker cannot count; the worker's own limits come on top.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from typing import Any

from testbed.sandbox import docker_door, image
from testbed.sandbox.base import Limits, Probe, Session
from testbed.sandbox.cgroup import PERIOD, ROOM_MIB, ROOM_PROCESSES, SHORTEST_QUOTA
from testbed.sandbox.docker_engine import Engine
from testbed.sandbox.docker_link import DockerLink
from testbed.sandbox.link import INODES, Evidence, Link, cores_of, handshake
from testbed.sandbox.root import PythonRoot, python_root
from testbed.sandbox.session import WorkerSession

POLICY = "3"  # raise it when a program could tell the difference

_FAR_UIDS = range(1_900_000_000, 2_000_000_000)  # above every range that systemd and containers hand out
_MAPPED_UIDS = range(30_000, 60_000)  # of the 65,536 that an engine with a user namespace maps
_SHM_MIB = 16  # for the semaphores of multiprocessing, and shared memory
_SHM_INODES = 1024

# What speaks of the machine, covered with nothing. Of /sys only the sandbox's own cgroup stays: there the worker sees
# whether the kernel ended a process for its memory. /etc holds the engine's resolv.conf and hosts.
_PROC = """
    acpi asound buddyinfo bus cgroups cmdline config.gz consoles cpuinfo crypto devices diskstats dma driver
    dynamic_debug execdomains fb filesystems fs interrupts iomem ioports irq kallsyms kcore key-users keys kmsg
    kpagecgroup kpagecount kpageflags latency_stats loadavg locks mdstat meminfo misc modules mtrr pagetypeinfo
    partitions pressure sched_debug schedstat scsi slabinfo softirqs stat swaps sys sysvipc timer_list timer_stats tty
    uptime version version_signature vmallocinfo vmstat zoneinfo
"""
_SYS = """
    block bus class dev devices firmware hypervisor kernel module power
    fs/bcache fs/bcachefs fs/bpf fs/btrfs fs/erofs fs/ext4 fs/f2fs fs/fuse fs/gfs2 fs/nfs fs/nilfs2 fs/ocfs2
    fs/orangefs fs/pstore fs/resctrl fs/selinux fs/smackfs fs/virtiofs fs/xfs fs/zfs
"""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_MASKED = ("/etc", *(f"/proc/{name}" for name in _PROC.split()), *(f"/sys/{name}" for name in _SYS.split()))


class Docker:
    """Opens sandboxes in the engine that DOCKER_HOST names, else in the local one.

    Args:
        runtime: the engine's runtime, such as "runsc" (gVisor); the engine's default if empty.
        packages: installed packages to show inside as well.
    """

    def __init__(self, runtime: str = "", packages: tuple[str, ...] = ()) -> None:
        self._runtime = runtime
        self._packages = packages
        self._engine: Engine | None = None
        self._evidence: Evidence | None = None
        self._uids: set[int] = set()

    @property
    def name(self) -> str:
        """The backend's name, with the runtime if one was asked for."""
        return f"docker:{self._runtime}" if self._runtime else "docker"

    @property
    def identity(self) -> str:
        """Backend, policy version, version of the Python inside and the image's digest."""
        return image.identity(f"{self.name}/{POLICY}", python_root(self._packages))

    async def open(self, limits: Limits) -> Session:
        """Starts a container with its worker.

        Raises:
            SandboxDied: it did not start, or did not prove its confinement.
            UsageError: a package is not installed here.
        """
        return await WorkerSession(lambda: self._start(limits), limits).open()

    def self_test(self) -> list[Probe]:
        """Launches a container and attacks it, see `testbed.sandbox.probes`."""
        from testbed.sandbox.probes import probe

        return probe(self)

    def capabilities(self) -> dict[str, str]:
        """What is enforced and how; complete once a sandbox has been started."""
        facts = {
            "network": "none: a network namespace of its own; only local sockets can be made",
            "file system": f"a read-only Python, a sized scratch folder, and {_SHM_MIB} MiB of shared memory",
            "system calls": "filtered",
            "user": "one unused uid per sandbox",
            "CPU": "time per process by rlimits",
            "processes": "by rlimits",
            "machine in /proc": "covered, file by file",
        }
        engine, seen = self._engine, self._evidence
        if engine is None or seen is None:
            return facts
        cgroup = f"cgroup v{engine.info.get('CgroupVersion') or 1}"
        together = f"{cgroup} and " if engine.limits_memory else ""
        cores = f"cores by {cgroup}" if engine.limits_cpu else "the number of cores is not limited"
        return facts | {
            "engine": f"{engine.description}, runtime {self._runtime or engine.info.get('DefaultRuntime')}",
            "system calls": f"filtered{', by the engine and by us' if engine.filters_calls else ''}",
            "CPU": f"{facts['CPU']}; {cores}",
            "processes": facts["processes"] + (f" and {cgroup}" if engine.limits_processes else ""),
            "memory": f"per process by rlimits; all together by {together}the worker's count, every 25 ms",
            "user namespace": "yes" if seen.user_namespace else "no: this engine uses none",
            "files in scratch": f"at most {INODES}",
            "devices": "read-only" if seen.devices_read_only else "their times can be changed",
        }

    async def _start(self, limits: Limits) -> Link:
        root, engine = await asyncio.to_thread(self._prepare)
        uid = self._take_uid(engine)
        name = f"testbed-sandbox-{secrets.token_hex(8)}"
        link = await DockerLink.launch(
            engine,
            name,
            container(root, limits, uid, self._runtime),
            functools.partial(self._uids.discard, uid),
        )
        cores = cores_of(limits, engine.cores, limited=engine.limits_cpu)
        self._evidence = await handshake(link, limits, None, root.preload, cores)
        return link

    def _prepare(self) -> tuple[PythonRoot, Engine]:
        root = python_root(self._packages)
        if self._engine is None:
            self._engine = Engine(root)
        self._engine.connect()
        return root, self._engine

    def _take_uid(self, engine: Engine) -> int:
        """A user that no other sandbox has (another host's by chance only), so that process limits count apart."""
        unused = _MAPPED_UIDS if engine.maps_users else _FAR_UIDS
        while (uid := secrets.choice(unused)) in self._uids:
            pass
        self._uids.add(uid)
        return uid


def container(root: PythonRoot, limits: Limits, uid: int, runtime: str = "") -> dict[str, Any]:
    """What to ask the engine for.

    Args:
        root: the image's contents.
        limits: for the engine to enforce.
        uid: user and group of everything inside.
        runtime: the engine's runtime; its default if empty.
    """
    memory = limits.memory_mib + limits.scratch_mib + _SHM_MIB + ROOM_MIB  # tmpfs and kernel memory count as well
    nothing = "ro,nosuid,nodev,noexec,size=4k,nr_inodes=2,mode=755"
    host = {
        "AutoRemove": True,
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "none",  # or the engine would mount a /dev/shm of its own size
        "CgroupnsMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "Memory": memory << 20,
        "MemorySwap": memory << 20,
        "PidsLimit": limits.processes + ROOM_PROCESSES,
        "CpuPeriod": PERIOD,
        "CpuQuota": max(SHORTEST_QUOTA, round(limits.cpus * PERIOD)),
        "Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}],  # see `lockdown`
        "Tmpfs": {
            "/tmp": f"rw,nosuid,nodev,noexec,size={limits.scratch_mib}m,nr_inodes={INODES},mode=1777",
            "/dev/shm": f"rw,nosuid,nodev,noexec,size={_SHM_MIB}m,nr_inodes={_SHM_INODES},mode=1777",
            docker_door.INSIDE: nothing,
            "/dev/pts": nothing,
        },
        "MaskedPaths": list(_MASKED),
        # A device that is read-only can be written to; what cannot be set is its times. Masked files are its null.
        "ReadonlyPaths": ["/proc/sysrq-trigger", *(f"/dev/{name}" for name in _DEVICES)],
    }
    if runtime:
        host["Runtime"] = runtime
    return {
        "command": [*root.command, "0", "1", f"{docker_door.INSIDE}/{docker_door.SOCKET}"],
        "environment": root.environment,
        "user": f"{uid}:{uid}",
        "working_dir": "/tmp",
        "hostname": "sandbox",
        "stdin_open": True,  # and, being attached, to be closed with the first connection that ends
        "host_config": host,
    }
