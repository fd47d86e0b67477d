"""What a program in a sandbox finds around it, to compare sandboxes."""

from __future__ import annotations

# Everything that a program can see of what confines it. Paths and numbers of its own user differ from one to the next.
PICTURE = """
import json, os, resource, signal, socket, stat, sys
def table(path):
    return dict(line.strip().split(":", 1) for line in open(path))
def looks(path):
    found = os.lstat(path)
    link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
    return [oct(found.st_mode), found.st_rdev, found.st_uid == os.getuid(), link]
mounts = [line.split() for line in open("/proc/self/mountinfo")]
mine = str(os.getuid())
facts = ["Uid", "Umask", "Threads", "SigBlk", "SigIgn", "SigCgt", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters",
         "NSpid", "NSsid", "PPid", "CoreDumping", "Cpus_allowed"]
facts += [name for name in table("/proc/self/status") if name.startswith("Cap")]
def depth(so_far=0):
    try:
        return depth(so_far + 1)
    except RecursionError:
        return so_far
kinds = [name for name in dir(resource) if name.startswith("RLIMIT_")]
places = ["/", "/tmp", "/proc", "/python", *("/dev/" + name for name in os.listdir("/dev"))]
print(json.dumps({
    "mounts": sorted([*row[3:6], *row[row.index("-") + 1:]] for row in mounts),
    "status": {name: table("/proc/self/status")[name].replace(mine, "me") for name in facts},
    "worker": {name: table("/proc/1/status")[name].replace(mine, "me") for name in facts},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in kinds},
    "user": [open(f"/proc/self/{name}_map").read().replace(mine, "me").split() for name in ("uid", "gid")],
    "groups": open("/proc/self/setgroups").read(),
    "cgroups": open("/proc/self/cgroup").read(),
    "streams": [os.readlink(f"/proc/self/fd/{number}").split(":")[0] for number in range(3)],
    "descriptors": len(os.listdir("/proc/self/fd")),
    "environment": dict(os.environ),
    "folders": {path: sorted(os.listdir(path)) for path in ("/", "/dev", "/tmp", "/python/so", "/python/worker")},
    "looks": {path: looks(path) for path in places},
    "room": {path: [*os.statvfs(path)[:7], os.statvfs(path).f_flag] for path in ("/", "/tmp", "/dev/null")},
    "proc": [name for name in os.listdir("/proc") if not name.isdecimal()],
    "names": [socket.gethostname(), os.uname().nodename, os.getcwd()],
    "numbers": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.getppid()],
    "python": [sys.path, list(sys.flags), sys.argv, hash("x"), sys.getrecursionlimit(), depth(), sorted(sys.modules)],
    "signals": [str(signal.getsignal(number)) for number in range(1, 32)],
    "priority": [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), open("/proc/self/oom_score_adj").read()],
}))
"""
