from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers.command import Done
    from helpers.reported import Reported
    from testbed.board.boards import Board
    from testbed.board.database import BoardDatabase
    from testbed.sandbox.bwrap import Bwrap
    from testbed.sandbox.cgroup import Cgroups
    from testbed.sandbox.docker_engine import Engine
    from testbed.sandbox.grade import Grader
    from testbed.store import Store
    from testbed.tool import Toolbox, ToolSet

pytest.register_assert_rewrite("helpers")

# What counts the engine's containers, doors and mounts, or starts an engine: all of it by one worker of pytest-xdist.
OF_THE_ENGINE = ("test_sandbox_calls.py", "test_sandbox_docker*.py", "test_sandbox_hostile.py", "test_with_engine.py")

# Files that take longest: workers of pytest-xdist begin with them, so that none of them is what the others wait for.
LONGEST = (
    *("sandbox_hostile", "calibration_mutants", "board_openapi", "calibration", "contract", "board_browser"),
    *("mcp_calls", "calibration_mechanisms", "board_pages", "report_browser", "board_command", "cli", "models_hf"),
    *("models_chat_served", "builtin", "board_hostile", "models_chat_reading", "docs_remote", "board_results"),
    *("store_writer", "real_logs", "mechanisms", "report_text", "sandbox_grade_attacks", "board_killed", "mcp_tools"),
    *("runner_killed", "reasoning_gym", "models_chat", "remote_restarts", "sandbox_grade", "allocation", "maths"),
    *("board_sabotage", "board_forgeries", "gymnasium_hook", "board_submit", "planning", "board_honest"),
    *("board_uploads", "models_chat_runs", "sandbox_repl", "mcp_hostile", "stats_compare", "docs_worlds"),
    *("worlds_search", "models_hf_decode", "report_fronts", "report_design", "train_reference", "board_odd_names"),
    *("report_points", "board_verify_draws", "retrieve", "transfer", "python_tool", "models_hf_memory"),
)


def pytest_configure() -> None:
    """No property is held to a time: a machine has other work, too."""
    from hypothesis import HealthCheck, settings

    settings.register_profile("whatever time it takes", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("whatever time it takes")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What the tests import stays: nobody need look for garbage in it, neither meanwhile nor afterwards."""
    import hypothesis  # noqa: F401  which looks for who refers to its generators: not among what is frozen

    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, in a worker of pytest-xdist; two of three attacks on docker's sandboxes are slow tests.

    Its workers are bubblewrap's, whose tests make every attack; what only a container has is tried in files of its own.
    """
    in_docker = [item for item in items if item.name.startswith("test_attack[docker-")]
    for n, item in enumerate(in_docker):
        if n % 3:
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, as they share fixtures; so do those of the docker engine."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # which begins with the files of many tests: the longest have few

    class OneWorkerForTheEngine(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "the engine" if any(map(Path(path).match, OF_THE_ENGINE)) else path

    return OneWorkerForTheEngine(config, log)


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


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The docker engine that is used here; skips where there is none."""
    from helpers.docker_engine import fault
    from testbed.sandbox.docker_engine import Engine
    from testbed.sandbox.root import python_root

    if fault():
        pytest.skip(fault())
    engine = Engine(python_root())
    engine.connect()
    return engine


@pytest.fixture
def cgroups() -> Cgroups:
    """All controllers, of whichever version this machine has; skips where they cannot be used."""
    from testbed.sandbox.cgroup import CONTROLLERS, Cgroups

    found = Cgroups.find()
    if set(found.controllers) != set(CONTROLLERS):
        pytest.skip(f"this process may not make cgroups here: {found}")
    return found


@pytest.fixture
def bwrap(cgroups: Cgroups) -> Bwrap:
    """Bubblewrap whose sandboxes have cgroups."""
    from testbed.sandbox.bwrap import Bwrap

    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt install bubblewrap)")
    return Bwrap()


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """Grades two programs at once in bubblewrap's sandboxes."""
    from testbed.sandbox import Bwrap
    from testbed.sandbox.grade import Grader

    with Grader(Bwrap(), 2) as grader:
        yield grader


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of the tests' own; skips where there is no such program."""
    from helpers.postgres import server

    with server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_tables(postgres: str) -> Iterator[str]:
    """A place in PostgreSQL in which all tables are made, and empty between tests."""
    from helpers.postgres import place
    from testbed.board.database import BoardDatabase

    with place(postgres) as url:
        BoardDatabase.open(url).close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a new store, in each database."""
    if request.param == "postgresql" and "db" in request.fixturenames:  # who wants the tables need not make them
        from helpers.postgres import empty

        yield request.getfixturevalue("postgres_tables")
        empty(request.getfixturevalue("postgres_tables"))
        return
    yield from _place(request, tmp_path)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def where_shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A place for a store that the tests of a file share, in each database."""
    yield from _place(request, tmp_path_factory.mktemp("shared"))


def _place(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    from helpers.postgres import place

    if request.param == "sqlite":
        yield str(folder / "store.sqlite")
        return
    with place(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
def db(where: str) -> Iterator[BoardDatabase]:
    """A new database for boards, in each kind."""
    from testbed.board.database import BoardDatabase

    with BoardDatabase.open(where) as opened:
        yield opened


@pytest.fixture(scope="session")
def sums_board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board of sums; in no database yet."""
    from helpers.boards import a_board

    return a_board(tmp_path_factory.mktemp("sums"))


@pytest.fixture
def sums_db(db: BoardDatabase, sums_board: Board) -> BoardDatabase:
    """A new database with the board of sums, in each kind."""
    from testbed.board import boards

    boards.create(db, sums_board)
    return db


@pytest.fixture(scope="session")
def stranger_bundle(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run's bundle: its bare arm often fails, its other asks a calculator; its model is not on the server."""
    from helpers.boards import a_run
    from helpers.bundles import bundle_of

    store = tmp_path_factory.mktemp("stranger") / "store.sqlite"
    return bundle_of(store, a_run(store, sums_board), sums_board)


@pytest.fixture(scope="session")
def reference_bundle(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run's bundle, of the reference model, which the server has."""
    from helpers.bundles import bundle_of, ran

    store = tmp_path_factory.mktemp("reference") / "store.sqlite"
    return bundle_of(store, ran(store, sums_board, {"id": "reference", "max_tokens": 60}), sums_board)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of a run with hostile names, its page and its transcripts, in files."""
    from helpers.reported import reported

    return reported(tmp_path_factory.mktemp("report"))


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
def store(where: str) -> Iterator[Store]:
    """A new store, in each database."""
    from testbed.store import Store

    with Store.open(where) as opened:
        yield opened


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
