"""The walk-throughs of docs/remote.md, against a server in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from typer.testing import CliRunner

from helpers.served_board import board_process, free_port, nobodys_port
from testbed.cli import app
from testbed.errors import TransportError, UnknownName, UsageError
from testbed.remote_client import RemoteClient

PAGE = (Path(__file__).parents[1] / "docs" / "remote.md").read_text(encoding="utf-8")
CURL = pytest.mark.skipif(not all(map(shutil.which, ("curl", "jq"))), reason="curl or jq is not installed")
MORE = {"bare = 2": "bare = 40", "seconds = 600": "seconds = 600\ncalls = { calculator = 2 }"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


class Site:
    """The page's board, served."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "hidden.toml").write_text(blocks("toml")[0], encoding="utf-8")
        many = blocks("toml")[0].replace("hidden-sums", "many-sums")
        for old, new in MORE.items():
            many = many.replace(old, new)
        (folder / "many.toml").write_text(many, encoding="utf-8")
        for line in (f"create {folder}/hidden.toml", f"create {folder}/many.toml", "token create ann --scope submit"):
            done = CliRunner().invoke(app, ["board", *line.split(" "), "--store", str(folder / "board.sqlite")])
            assert done.exit_code == 0, done.output
        self.token = done.stdout.strip()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def shell(self, text: str) -> str:
        """What commands of the page print."""
        environ = {**os.environ, "TESTBED_TOKEN": self.token}
        done = subprocess.run(
            ["bash", "-e", "-s"],
            input=text.replace(":8000", f":{self.port}"),
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The lines that a program of the page prints."""
        monkeypatch.setenv("TESTBED_TOKEN", self.token)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(text.replace(":8000", f":{self.port}"), {})
        return printed.getvalue().splitlines()

    def attempts(self, success: int = 1) -> int:
        with sqlite3.connect(self.folder / "board.sqlite") as db:
            return int(db.execute("SELECT count(*) FROM attempts WHERE success = ?", (success,)).fetchone()[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with board_process(made.folder, made.port):
        yield made


@CURL
def test_the_walk_through_with_curl_makes_and_closes_an_entry(site: Site) -> None:
    before = site.attempts()
    said = site.shell("\n".join(blocks("bash")))
    assert said.splitlines()[0] == '["bare",{"0":2,"1":2,"2":2,"3":2}]'
    assert json.loads((site.folder / "last.json").read_text(encoding="utf-8"))["reward"] == 1
    assert '"state":"closed"' in said
    assert site.attempts() == before + 4 * 2 + 4 * 2


def test_the_walk_through_with_python_goes_over_websockets(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said = site.python(blocks("python")[0], monkeypatch)
    assert [line.split()[0] for line in said[:-1]] == ["bare"] * 8 + ["calculator"] * 8
    assert {line.split()[2] for line in said[:-1]} == {"1.0"}
    assert "closed" in said[-1]


def test_the_walk_through_with_gymnasium(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said = site.python(blocks("python")[1], monkeypatch)
    assert len(said[:-1]) == 16
    assert {line.split()[1] for line in said[:-1]} == {"1.0"}
    assert "'state': 'closed'" in said[-1]


@pytest.mark.parametrize("websocket", [False, True])
@pytest.mark.filterwarnings("ignore:.*render_fps.*")
def test_gymnasiums_own_check_passes(site: Site, websocket: bool) -> None:
    made = gymnasium.make(
        "testbed:testbed/Remote-v0",
        url=site.url,
        token=site.token,
        arm="bare",
        board="many-sums",
        model="random",
        websocket=websocket,
    )
    check_env(made.unwrapped, skip_render_check=True)
    env = made.unwrapped
    first, _ = env.reset(seed=1, options={"task": 1})
    assert first in env.observation_space
    assert env.observation_space["remaining"].shape == (7,)
    assert list(first["remaining"][-1:]) == [2]
    for _ in range(4):
        seen, reward, terminated, truncated, info = env.step("I wonder \ud83d.")
        assert seen in env.observation_space
    assert (reward, terminated, truncated, info) == (0, False, True, {"task": 1, "limit": "turns"})
    assert np.all(seen["remaining"][5:6] == 0)
    with pytest.raises(UsageError, match="has ended"):
        env.step("again")
    made.close()


def test_an_environment_that_cannot_be_is_refused(site: Site) -> None:
    common = {"url": site.url, "token": site.token}
    with pytest.raises(UsageError, match="id of an entry"):
        gymnasium.make("testbed:testbed/Remote-v0", arm="bare", **common)
    with pytest.raises(UnknownName, match="bare"):
        gymnasium.make("testbed:testbed/Remote-v0", arm="bear", board="many-sums", model="m", **common)
    with pytest.raises(UsageError, match="token"):
        gymnasium.make("testbed:testbed/Remote-v0", arm="bare", board="many-sums", model="m", url=site.url, token="x")
    env = gymnasium.make("testbed:testbed/Remote-v0", arm="bare", board="many-sums", model="m", **common).unwrapped
    with pytest.raises(UsageError, match="reset"):
        env.step("x")
    with pytest.raises(UnknownName, match="task"):
        env.reset(options={"tusk": 1})
    env.close()


def test_an_arm_that_the_board_has_not_begins_no_entry(site: Site) -> None:
    def begun() -> int:
        with contextlib.closing(sqlite3.connect(site.folder / "board.sqlite")) as db:
            return int(db.execute("SELECT count(*) FROM remote_entries").fetchone()[0])

    before, common = begun(), {"board": "hidden-sums", "model": "m", "url": site.url, "token": site.token}
    with pytest.raises(UnknownName, match=r"unknown arm 'nope'\. There are: bare, calculator\."):
        gymnasium.make("testbed:testbed/Remote-v0", arm="nope", **common)
    assert begun() == before


def test_what_remains_is_in_the_order_of_the_page(site: Site) -> None:
    common = {"board": "hidden-sums", "model": "m", "url": site.url, "token": site.token}
    env = gymnasium.make("testbed:testbed/Remote-v0", arm="bare", **common)
    observation, _ = env.reset()
    env.close()
    told = re.search(r"the first one is `(\[.*?\])`", PAGE)
    assert told is not None
    assert list(observation["remaining"]) == json.loads(told[1])


def test_leaving_an_attempt_ends_it_as_a_failure(site: Site) -> None:
    before = site.attempts(success=0)
    env = gymnasium.make(
        "testbed:testbed/Remote-v0", arm="bare", board="many-sums", model="m", url=site.url, token=site.token
    ).unwrapped
    env.reset()
    env.reset()
    env.close()
    assert site.attempts(success=0) == before + 2


def test_a_server_that_is_not_there_is_told_so() -> None:
    with (
        nobodys_port() as port,
        RemoteClient(f"http://127.0.0.1:{port}", "tb_x", retries=1) as board,
        pytest.raises(TransportError, match="does not answer"),
    ):
        board.entry("0" * 32)


@pytest.mark.slow
@pytest.mark.parametrize("websocket", [False, True])
def test_sessions_survive_a_killed_server(tmp_path: Path, websocket: bool) -> None:
    site = Site(tmp_path)
    with RemoteClient(site.url, site.token, retries=12) as board:
        with board_process(tmp_path, site.port) as process:
            entry = board.begin_entry("hidden-sums", title="x", model="m")["entry"]
            session = board.begin(entry, "calculator", websocket=websocket)
            numbers = re.findall(r"\d+", session.prompt)
            call = json.dumps({"name": "calculator", "arguments": {"expression": "+".join(numbers)}})
            reply = session.step(f"<tool_call>{call}</tool_call>")
            process.kill()
            process.wait()
        with board_process(tmp_path, site.port):
            again = board.session(session.id)
            assert (again.last, again.steps) == (reply, 1)
            assert session.step(f"<answer>{reply['observation']['text']}</answer>")["reward"] == 1
            session.hang_up()
    assert site.attempts() == 1
