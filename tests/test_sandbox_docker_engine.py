"""Which docker engine is used, how it is reached, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helpers.docker_engine import SMALL, containers, output
from testbed.errors import SandboxDied
from testbed.sandbox.bwrap import Bwrap
from testbed.sandbox.docker import Docker
from testbed.sandbox.docker_engine import connection
from testbed.sandbox.image import tag
from testbed.sandbox.probes import remedy
from testbed.sandbox.root import python_root

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- its image and its address


async def test_image_that_somebody_removed_is_imported_again(engine):
    sandbox = Docker(packages=("packaging",))
    for _ in range(2):
        session = await sandbox.open(SMALL)
        try:
            assert await output(session, "import packaging.version as v; print(v.Version('1.10') > v.Version('1.9'))")
        finally:
            await session.close()
        engine.api.remove_image(tag(python_root(("packaging",))), force=True)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries a connection to the engine's socket."""
    path = connection_to_engine().removeprefix("http+unix://")
    inner_reader, inner_writer = await asyncio.open_unix_connection(path)

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))


@functools.cache
def connection_to_engine() -> str:
    """The engine's address before a test changes it."""
    return connection()[0]


@contextlib.asynccontextmanager
async def forwarder(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on the loopback that leads to the engine."""
    if not connection_to_engine().startswith("http+unix"):
        pytest.skip("the engine is a remote one already")
    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_an_engine_behind_tcp_works(engine, monkeypatch):
    async with forwarder() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        session = await Docker().open(SMALL)
        result = await session.run("import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000)
        await session.close()
    assert result.stdout == "1000000\n"
    assert not await asyncio.to_thread(containers, engine, os.getpid()) or session._link is None


async def test_an_engine_behind_tls_works_and_both_sides_prove_who_they_are(engine, monkeypatch, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    async with forwarder(context) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the SDK would prefer them to the engine's authority
            monkeypatch.delenv(name, raising=False)
        session = await Docker().open(SMALL)
        result = await session.run("import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000)
        await session.close()
        certify(tmp_path)  # somebody else's
        with pytest.raises(SandboxDied, match="no docker engine can be used"):
            await Docker().open(SMALL)
    assert result.stdout == "1000000\n"


def certify(folder: Path) -> None:
    """Makes a certificate for the loopback that is its own authority: ca.pem, cert.pem and key.pem."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")


# --- choosing


async def test_self_test_passes_and_the_capabilities_say_what_holds(engine):
    sandbox = Docker()
    probes = await asyncio.to_thread(sandbox.self_test)
    assert {probe.name for probe in probes} == {"launch", "call", "network", "files", "seccomp", "privileges"}
    assert [probe for probe in probes if not probe.passed] == []
    told = sandbox.capabilities()
    assert engine.info["ServerVersion"] in told["engine"]
    assert told["devices"] == "read-only"
    assert ("cgroup" in told["memory"]) == engine.limits_memory
    assert ("cgroup" in told["processes"]) == engine.limits_processes


async def test_identity_names_the_runtime_and_the_same_root_as_bubblewraps():
    assert Docker().identity.split()[-1] == Bwrap().identity.split()[-1]
    assert len({Docker().identity, Docker("runsc").identity, Docker(packages=("packaging",)).identity}) == 3
    assert Docker("runsc").name == "docker:runsc"


async def test_an_engine_that_lacks_the_runtime_is_named_with_the_remedy(engine):
    (probe,) = await asyncio.to_thread(Docker("no-such-runtime").self_test)
    assert not probe.passed
    assert "no-such-runtime" in probe.detail
    assert "register" in probe.remedy


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "gopher://x"])
async def test_an_engine_that_does_not_answer_is_named_with_the_remedy(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    (probe,) = await asyncio.to_thread(Docker().self_test)
    assert host in probe.detail
    assert "DOCKER_HOST" in probe.remedy


async def test_a_missing_sdk_is_named_with_the_remedy():
    code = """
    import sys; sys.modules["docker"] = None
    from testbed.sandbox.docker import Docker
    (probe,) = Docker().self_test(); print(probe.detail, "|", probe.remedy)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    detail, _, cure = done.stdout.partition("|")
    assert "not installed" in detail
    assert "capability-testbed[docker]" in cure


async def test_a_socket_that_may_not_be_used_is_named_with_the_remedy():
    assert "group docker" in remedy("no docker engine can be used at http+unix:///x: [Errno 13] Permission denied")
