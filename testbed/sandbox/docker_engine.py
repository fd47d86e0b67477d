"""A container engine as the docker backend uses it: found once, checked once, given the image once.

Everything here blocks (the docker SDK does) and runs in threads; the one stream that is read during a call is
`testbed.sandbox.docker_link`'s.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from testbed.errors import SandboxDied
from testbed.sandbox import docker_door, image
from testbed.sandbox.cgroup import PERIOD, SHORTEST_QUOTA
from testbed.sandbox.docker_owner import OWNER, Owner
from testbed.sandbox.root import PythonRoot

_UNIX = "http+unix://"
ANSWER_SECONDS = 60.0  # for one request; an engine under load takes its time to answer


class Engine:
    """A connection to the engine that the environment names (DOCKER_HOST and its kin), else the local one.

    Args:
        root: what the image holds.

    Attributes:
        api: the docker SDK's client.
        info: what the engine says of itself.
        address: where it is, see `connection`.
        shows_folders: whether its containers may see folders of this machine and the sockets in them; not, once seen.
    """

    api: Any
    info: Mapping[str, Any]
    address: tuple[str, Any]
    shows_folders: bool

    def __init__(self, root: PythonRoot) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._ready = False

    def connect(self) -> None:
        """Connects, sweeps up what dead owners left, and sees to the image; the first time only.

        Raises:
            SandboxDied: the SDK is missing, no engine answers, or it cannot run the image.
        """
        with self._lock:
            if self._ready:
                return
            self.api, self.info, self.address = _client()
            self.shows_folders = self.address[0].startswith(_UNIX)
            with _as_sandbox_died("the docker engine refused"):
                here, there = os.uname().machine, self.info.get("Architecture", "")
                if there not in (here, ""):
                    raise SandboxDied(
                        f"the docker engine's machine is {there}, but the image holds this machine's Python ({here})."
                    )
                self.sweep()
                self._have_image()
            self._ready = True

    @property
    def limits_memory(self) -> bool:
        """Whether the engine's machine has cgroups that limit memory."""
        return bool(self.info.get("MemoryLimit"))

    @property
    def limits_processes(self) -> bool:
        """Whether the engine's machine has cgroups that limit processes."""
        return bool(self.info.get("PidsLimit"))

    @property
    def limits_cpu(self) -> bool:
        """Whether the engine's machine has cgroups that limit CPU time."""
        return bool(self.info.get("CpuCfsQuota"))

    @property
    def cores(self) -> int:
        """The cores of the engine's machine."""
        return int(self.info.get("NCPU") or 1)

    @property
    def maps_users(self) -> bool:
        """Whether containers have a user namespace, in which only the lower user ids exist."""
        return any(f"name={kind}" in option for kind in ("userns", "rootless") for option in self._security)

    @property
    def filters_calls(self) -> bool:
        """Whether the engine adds a system-call filter of its own."""
        return any("name=seccomp" in option for option in self._security)

    @property
    def description(self) -> str:
        """The engine in a few words."""
        return f"docker {self.info.get('ServerVersion')} on {self.info.get('OperatingSystem')}"

    @property
    def _security(self) -> list[str]:
        return self.info.get("SecurityOptions") or []

    def create(self, name: str, settings: Mapping[str, Any]) -> None:
        """Makes a container that waits to be started.

        Args:
            name: its name.
            settings: what `docker.APIClient.create_container` takes but for image, name and labels; `host_config` as
                the engine's own JSON.

        Raises:
            SandboxDied: the engine refuses.
        """
        from docker.errors import ImageNotFound

        def create() -> None:
            labels = {OWNER: str(Owner.this_process())}
            self.api.create_container(image.tag(self._root), name=name, labels=labels, **settings)

        with _as_sandbox_died("the docker engine cannot make a container"):
            try:
                create()
            except ImageNotFound:  # somebody has removed it meanwhile
                self._have_image()
                create()

    def start(self, name: str) -> None:
        """Starts a container.

        Raises:
            SandboxDied: the engine refuses.
        """
        with _as_sandbox_died("the docker engine cannot start a container"):
            self.api.start(name)

    def set_cpus(self, name: str, cpus: float | None) -> None:
        """Limits a running container to so many cores' worth of CPU time, or to the machine's; it may be gone."""
        from docker.errors import DockerException

        with contextlib.suppress(DockerException, OSError):
            self.api.update_container(name, cpu_quota=max(SHORTEST_QUOTA, round((cpus or self.cores) * PERIOD)))

    def remove(self, name: str) -> str:
        """Kills a container and waits until it is gone, if it is not yet; returns what went wrong."""
        from docker.errors import APIError, DockerException, NotFound

        try:
            try:
                self.api.remove_container(name, force=True)
            except APIError as error:
                if error.status_code != 409:  # removing it already: it was to be removed at its end
                    raise
                self.api.wait(name, condition="removed")
        except NotFound:
            return ""
        except (DockerException, OSError) as error:  # its input ends with our connection, and so does it
            return _words(error)
        return ""

    def ran_out_of_memory(self, name: str) -> bool:
        """Whether the kernel ended a process of a container for its memory; takes about a second. It may be gone."""
        from docker.errors import DockerException

        try:
            clock = re.sub(r"\.\d+", "", self.api.info()["SystemTime"])
            until = int(datetime.datetime.fromisoformat(clock).timestamp()) + 1  # what is not reported yet comes then
            return any(self.api.events(since=1, until=until, filters={"container": [name], "event": ["oom"]}))
        except (DockerException, OSError):
            return False

    def sweep(self) -> list[str]:
        """Removes the containers of owners on this machine that have ended, and returns their names."""
        docker_door.sweep()
        here = Owner.this_process()
        swept = []
        for found in self.api.containers(all=True, filters={"label": OWNER}):
            owner = Owner.read(found["Labels"].get(OWNER, ""))
            if owner is not None and owner.is_dead(here):
                self.remove(found["Id"])
                swept.append(found["Names"][0].lstrip("/"))
        return swept

    def _have_image(self) -> None:
        from docker.errors import ImageNotFound

        try:
            self.api.inspect_image(image.tag(self._root))
        except ImageNotFound:
            import_image(self.api, self._root)


def import_image(api: Any, root: PythonRoot) -> None:
    """Gives an engine the image of a root.

    Args:
        api: a `docker.APIClient`.
        root: what the image holds.

    Raises:
        SandboxDied: the image cannot be made or imported.
    """
    repository, _, tag = image.tag(root).rpartition(":")
    with _as_sandbox_died("the image cannot be imported"), tempfile.TemporaryFile(prefix="testbed-image-") as file:
        image.write_tar(root, file)
        file.seek(0)
        api.import_image(src=file, repository=repository, tag=tag)
        api.inspect_image(image.tag(root))  # what went wrong stands in the answer's text only


def connection() -> tuple[str, Any]:
    """Where the engine is: a URL (http+unix, http, https or ssh) and the SDK's TLS settings or None."""
    from docker.utils import kwargs_from_env, parse_host

    found = kwargs_from_env()
    tls = found.get("tls") or None
    return str(parse_host(found.get("base_url"), tls=bool(tls))), tls


def _client() -> tuple[Any, Mapping[str, Any], tuple[str, Any]]:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise SandboxDied(f"the docker SDK for Python is not installed: {error}") from error
    address = "the default socket"
    try:
        address, tls = connection()
        if address.startswith(_UNIX):
            with socket.socket(socket.AF_UNIX) as knock:  # the SDK would leave its socket open if nobody is there
                knock.connect(unquote(address.removeprefix(_UNIX)))
        api = docker.APIClient(**docker.utils.kwargs_from_env(), version="auto", timeout=ANSWER_SECONDS)
        api.headers["Connection"] = "close"  # the SDK would keep 25 of them, and never use one again
        return api, api.info(), (address, tls)
    except (DockerException, OSError) as error:
        where = os.environ.get("DOCKER_HOST") or address
        raise SandboxDied(f"no docker engine can be used at {where}: {_words(error)}") from error


@contextlib.contextmanager
def _as_sandbox_died(what: str) -> Iterator[None]:
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, OSError) as error:
        raise SandboxDied(f"{what}: {_words(error)}") from error


def _words(error: Exception) -> str:
    """What an error of the SDK says, without its HTTP part."""
    text = getattr(error, "explanation", None) or str(error)
    return str(text).strip()[:500]
