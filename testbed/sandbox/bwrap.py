"""The bubblewrap backend: a Python in new namespaces on a read-only root of its own, no daemon and no image.

Two ways of becoming nobody. Started by a user, bwrap makes a user namespace that maps only that user. Started by root,
bwrap uses root's rights to build the namespaces (the interpreter may lie in a folder that only root can enter), and the
worker then becomes a user that exists nowhere else, a different one for every live sandbox, and enters a user namespace
that maps only it. Either way it holds no capability when it runs the first program.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import shutil
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from testbed.errors import SandboxDied
from testbed.sandbox import image
from testbed.sandbox.base import Limits, Probe, Session
from testbed.sandbox.cgroup import Cgroups
from testbed.sandbox.fork_link import ForkedLink, ForkServers
from testbed.sandbox.link import INODES, Evidence, Link, cores_of, handshake
from testbed.sandbox.process import BwrapLink
from testbed.sandbox.root import PythonRoot, python_root
from testbed.sandbox.session import WorkerSession

POLICY = "4"  # raise it when a program could tell the difference

_DEVICES = ("null", "zero", "full", "random", "urandom")
_FAR_UIDS = range(1_900_000_000, 2_000_000_000)  # above every range that systemd and containers hand out


class Bwrap:
    """Opens sandboxes with bubblewrap.

    Args:
        program: the bwrap executable.
        packages: third-party packages that programs may import.
        forks: whether to fork workers from one Python, where that works; else bubblewrap is started for each.
    """

    name = "bwrap"

    def __init__(self, program: str = "bwrap", packages: tuple[str, ...] = (), *, forks: bool = True) -> None:
        self._program = program
        self._packages = packages
        self._forks: bool | None = None if forks else False  # None: not tried yet
        self._why_not_forked = "as it was asked for"
        self._root: PythonRoot | None = None
        self._servers: WeakKeyDictionary[asyncio.AbstractEventLoop, ForkServers] = WeakKeyDictionary()
        self._uids: set[int | None] = set()
        self._evidence: Evidence | None = None
        self._with_proc = True
        self._cgroups: Cgroups | None = None

    @property
    def identity(self) -> str:
        """Backend, policy version, version of the Python inside and the image's digest."""
        return image.identity(f"bwrap/{POLICY}", python_root(self._packages))

    async def open(self, limits: Limits) -> Session:
        """Starts a sandbox with its worker.

        Raises:
            SandboxDied: it did not start, or did not prove its confinement.
        """
        return await WorkerSession(lambda: self._start(limits), limits).open()

    def self_test(self) -> list[Probe]:
        """Launches a sandbox and attacks it, see `testbed.sandbox.probes`."""
        from testbed.sandbox.probes import probe

        return probe(self)

    def capabilities(self) -> dict[str, str]:
        """What is enforced and how; complete once a sandbox has been started."""
        facts = {
            "network": "none: a network namespace of its own; only local sockets can be made",
            "file system": "a read-only Python and one sized scratch folder",
            "system calls": "filtered",
            "user": "one unused uid per sandbox" if _unused_uids() else "the caller's, alone in a user namespace",
            "CPU": "time per process by rlimits",
            "processes": "by rlimits",
        }
        seen, cgroups = self._evidence, self._cgroups
        if seen is None or cgroups is None:
            return facts
        limited = cgroups.controllers
        counts = ["the worker's count, every 25 ms"] if seen.proc else ["no count: /proc cannot be mounted here"]
        counts += ["cgroup"] if "memory" in limited else []
        started = "a fork of one Python" if self._forks else f"bubblewrap for each: {self._why_not_forked}"
        return facts | {
            "start": started,
            "CPU": facts["CPU"] + ("; cores by cgroup" if "cpu" in limited else "; the number of cores is not limited"),
            "processes": facts["processes"] + (" and cgroup" if "pids" in limited else ""),
            "memory": f"per process by rlimits; all together by {' and '.join(counts)}",
            "sockets": _who_counts_sockets(seen.proc, "memory" in limited),
            "cgroup": str(cgroups),
            "user namespace": "yes" if seen.user_namespace else "no: not allowed here",
            "files in scratch": f"at most {INODES}" if seen.inode_limit else "bounded by size only",
            "devices": "read-only" if seen.devices_read_only else "their times can be changed",
            "machine in /proc": "hidden" if seen.proc_only_pids else "visible",
        }

    async def _start(self, limits: Limits) -> Link:
        """A worker: a fork where that works, which the first one proves, else one with a bubblewrap of its own."""
        if self._forks is not False:
            try:
                link = await self._begin(limits, forked=True)
            except SandboxDied as error:
                if self._forks:
                    raise
                self._why_not_forked = str(error)
            else:
                self._forks = True
                return link
        try:
            link = await self._begin(limits, forked=False)
        except SandboxDied as error:
            if not (self._with_proc and "mount proc" in str(error)):
                raise
            self._with_proc = False  # as inside most containers; it costs the count of memory, see `capabilities`
            link = await self._begin(limits, forked=False)
        if self._forks is None:
            self._forks = False
        return link

    async def _begin(self, limits: Limits, *, forked: bool) -> Link:
        """A worker that has proven its confinement.

        Raises:
            SandboxDied: there is none.
        """
        program = shutil.which(self._program)
        if program is None:
            raise SandboxDied(f"{self._program} is not installed.")
        uid = self._take_uid()
        free = functools.partial(self._uids.discard, uid)
        scratch = limits.scratch_mib << 20
        by_server = None
        try:
            with contextlib.ExitStack() as undo:  # if cancelled too
                undo.callback(free)
                self._cgroups = self._cgroups or Cgroups.find()
                cgroup = self._cgroups.create(limits)
                if cgroup is not None:
                    undo.callback(cgroup.remove)
                if self._root is None:
                    self._root = await asyncio.to_thread(python_root, self._packages)  # reads many files
                root = self._root
                if forked:
                    servers = self._servers_of_this_loop(program, root, uid)
                    link: Link = (by_server := await ForkedLink.launch(servers, scratch, free, cgroup))
                else:
                    words = command(program, root, scratch, uid, self._with_proc)
                    link = await BwrapLink.launch(words, list(root.command), free, cgroup)
                undo.pop_all()
        except OSError as error:  # no descriptors, no memory, no cgroups left
            raise SandboxDied(f"cannot start a sandbox: {error}") from error
        cores = cores_of(limits, os.cpu_count() or 1, limited="cpu" in self._cgroups.controllers)
        alone = forked or uid is not None  # else bwrap has made the worker a user namespace
        evidence = await handshake(link, limits, uid, root.preload, cores, user_namespace=alone)
        if by_server is not None:
            await by_server.prove(evidence)
        self._evidence = evidence
        return link

    def _servers_of_this_loop(self, program: str, root: PythonRoot, uid: int | None) -> ForkServers:
        """Those of this loop: a bwrap dies with the thread that started it, and must serve no other's sandboxes."""
        loop = asyncio.get_running_loop()
        if loop not in self._servers:
            self._servers[loop] = ForkServers(command(program, root, None, uid), list(root.fork_command))
        return self._servers[loop]

    def _take_uid(self) -> int | None:
        """A user that no other sandbox has (another host's by chance only), so that process limits count apart."""
        unused = _unused_uids()
        if unused is None:
            return None
        while (uid := secrets.choice(unused)) in self._uids:
            pass
        self._uids.add(uid)
        return uid


def _who_counts_sockets(proc: bool, cgroup: bool) -> str:
    """What bounds connections that nobody has taken: they need no descriptor, and keep what was sent on them."""
    kept = "what they keep is limited by cgroup" if cgroup else "what they keep is limited by a call's time only"
    return "by the worker's count" if proc else f"not counted: /proc cannot be mounted here; {kept}"


def command(program: str, root: PythonRoot, scratch: int | None, uid: int | None, with_proc: bool = True) -> list[str]:
    """The bwrap command line, up to its descriptors.

    Args:
        program: the bwrap executable.
        root: files to show.
        scratch: size of the scratch folder, in bytes; None if there is to be an empty one that nobody can write to.
        uid: the user that the worker will become if this process is root, else None.
        with_proc: mount /proc.
    """
    return [
        program,
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *_identity(uid),
        *_file_system(root, scratch, with_proc),
        *("--clearenv", "--chdir", "/tmp"),
        *(word for name, value in root.environment.items() for word in ("--setenv", name, value)),
    ]


def _identity(uid: int | None) -> list[str]:
    """Capabilities are for the worker's first moments only: it limits its mounts, changes its user, and drops them."""
    words = ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    if uid is None:
        return [*words, "--unshare-user", "--uid", "1000", "--gid", "1000"]
    return [*words, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]


def _file_system(root: PythonRoot, scratch: int | None, with_proc: bool) -> list[str]:
    words: list[str] = []
    for folder in ("/dev", *_folders(inside for _, inside in root.files)):
        words += ["--perms", "0755", "--dir", folder]  # those that bwrap makes by itself are for their owner only
    for here, inside in (*root.files, *([root.compiled] if root.compiled else [])):
        words += ["--ro-bind", here, inside]
    for folder in root.hidden:
        words += ["--tmpfs", folder, "--remount-ro", folder]
    words += ["--proc", "/proc"] if with_proc else []
    for device in _DEVICES:
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    links = {"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"}
    links |= {"/dev/fd": "/proc/self/fd", "/dev/shm": "/tmp"}  # one folder to size and to wipe
    for inside, target in links.items():
        words += ["--symlink", target, inside]
    sized = ["--dir"] if scratch is None else ["--size", str(scratch), "--tmpfs"]
    return [*words, "--perms", "0777", *sized, "/tmp", "--remount-ro", "/"]


def _folders(paths: Iterable[str]) -> list[str]:
    """Every folder above the paths, outermost first."""
    found: set[str] = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            found.add(path)
    return sorted(found)


def _unused_uids() -> range | None:
    """Users that this process can become and nobody is likely to be; None if it is not root, or maps no such user."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as file:
        spans = [range(start, start + count) for start, _, count in (map(int, line.split()) for line in file)]
    if any(span.start <= _FAR_UIDS.start and _FAR_UIDS.stop <= span.stop for span in spans):
        return _FAR_UIDS
    widest = max(spans, key=len)  # a container's own map, usually of 65,536 users
    return widest[len(widest) // 2 :] if len(widest) >= 1000 else None
