from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers.command import Done
    from helpers.reported import Reported
    from testbed.tool import Toolbox, ToolSet

pytest.register_assert_rewrite("helpers")

pytest_plugins = ("helpers.collecting", "helpers.databases", "helpers.sandboxes")


@pytest.fixture(scope="session", autouse=True)
def _each_picture_once() -> Iterator[None]:
    """Boards of many tests have the same entries: what Vega has drawn of a chart is not drawn again."""
    import vl_convert

    @cache
    def drawn(spec: str, settings: str, draw: Callable[..., str] = vl_convert.vegalite_to_svg) -> str:
        return draw(json.loads(spec), **json.loads(settings))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "vegalite_to_svg", lambda spec, **more: drawn(json.dumps(spec), json.dumps(more)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_and_certificates_once() -> Iterator[None]:
    """Typer makes all commands anew for each call of one, and httpx reads all certificates for each client."""
    import ssl

    import typer.main
    import typer.testing

    made, trusted = cache(typer.main.get_command), cache(ssl.create_default_context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        patch.setattr(ssl, "create_default_context", trusted)
        yield


@pytest.fixture(scope="session", autouse=True)
def how_tokens_are_hashed() -> Iterator[Callable[[], Any] | None]:
    """How they are outside of tests; in these hundreds are made and looked at, and cheap hashes do as well."""
    accounts = sys.modules.get("testbed.board.accounts")
    if accounts is None:  # no test here makes a token
        yield None
        return
    cheap = accounts.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    outside = accounts._hasher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", lambda: cheap)
        yield outside


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of public data files; tests that read real logs skip where it is absent."""
    folder = Path(os.environ.get("TESTBED_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set TESTBED_DATA to one that holds game24, gsm8k, …")
    return folder


@pytest.fixture
def testbed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """Calls the command line, in a folder of the test's own."""
    from helpers.command import Done
    from testbed.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("testbed.__main__._leave", sys.exit)  # whatever else the tests' own process runs

    def testbed(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["testbed", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return testbed


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of random weights."""
    from helpers.tiny_models import make_tokenizer, random_model, save

    return save(random_model(), make_tokenizer(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of a run with hostile names, its page and its transcripts, in files."""
    from helpers.reported import reported

    return reported(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which runs of calibration cases stay for all tests that only read them."""
    return tmp_path_factory.mktemp("calibrated")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; skips where none is installed."""
    from helpers.browser import browser

    with browser() as driver:
        yield driver


@pytest.fixture
async def box(tools: ToolSet) -> AsyncIterator[Toolbox]:
    """What one attempt has of a file's own fixture `tools`."""
    from helpers.started import open_box

    opened = open_box(tools)
    yield opened
    await opened.aclose()


@pytest.fixture
def nothing_registered() -> Iterator[None]:
    """Forgets what a test registers."""
    import gymnasium as gym

    from helpers.runs import registered
    from testbed import registry

    known = set(gym.registry)
    with registered():
        yield
    registry._installed.cache_clear()
    for name in set(gym.registry) - known:
        del gym.registry[name]
    for name in [name for name in sys.modules if name.startswith("testbed_plugin_")]:
        del sys.modules[name]
