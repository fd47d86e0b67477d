"""`scripts/with-engine`: a command with a docker engine, its own where none answers."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "with-engine"
ASK = 'test -S "${DOCKER_HOST#unix://}" && echo "$DOCKER_HOST"'

needs_dockerd = pytest.mark.skipif(
    shutil.which("dockerd") is None or os.geteuid() != 0 or os.path.exists("/var/run/docker.sock"),
    reason="needs root, dockerd (apt install docker.io) and no engine at the default socket",
)


@pytest.fixture(autouse=True)
def no_engine_yet(monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("TESTBED_NO_ENGINE", raising=False)


def processes_with(text: str) -> list[str]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if text.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(name)
        except OSError:
            continue
    return found


def nothing_is_left_of(host: str) -> bool:
    home = os.path.dirname(host.strip().removeprefix("unix://"))
    assert os.path.basename(home).startswith("testbed-engine-")
    mounts = Path("/proc/mounts").read_text()
    return not (os.path.exists(home) or processes_with(home) or home in mounts)


def test_without_an_engine_the_command_is_told_why():
    environment = os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    command = [SCRIPT, "sh", "-c", 'echo "$TESTBED_NO_ENGINE"; exit 7']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 7
    assert "/nowhere/docker.sock" in done.stdout
    assert "skipped" in done.stderr


def test_every_folder_has_a_name_that_containerd_takes_for_a_namespace(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loader = importlib.machinery.SourceFileLoader("with_engine", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("with_engine", loader))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    for _ in range(200):
        with module.folder() as home:
            assert home.parent == tmp_path
            assert home.stat().st_mode & 0o777 == 0o700
            assert re.fullmatch(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", home.name)
        assert not home.exists()


@needs_dockerd
def test_an_engine_of_its_own_answers_and_is_gone_afterwards():
    done = subprocess.run([SCRIPT, "sh", "-c", f"{ASK}; exit 5"], capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert nothing_is_left_of(done.stdout)


@needs_dockerd
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_an_engine_of_its_own_is_gone_after_an_interruption(number):
    command = [SCRIPT, "sh", "-c", f"{ASK}; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        host = process.stdout.readline()
        began = time.monotonic()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        process.wait(60)
    assert time.monotonic() - began < 50
    assert process.returncode != 0
    assert nothing_is_left_of(host)
