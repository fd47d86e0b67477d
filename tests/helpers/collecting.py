"""Plug-in of the tests: which of them are slow, in which order they run, and which of them share a worker."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from testbed.__main__ import OBJECTS_BETWEEN_SEARCHES

# Files of which one worker of pytest-xdist makes all tests.
TOGETHER = {
    # counts the engine's containers, doors and mounts, or starts an engine
    "the engine": tuple(
        f"test_{part}.py" for part in ("sandbox_calls", "sandbox_docker*", "sandbox_hostile", "with_engine")
    ),
    # asks the server of openai_server.py: one worker starts one, which loads a model
    "the chat server": tuple(
        f"test_models_chat{part}.py" for part in ("", "_parts", "_reading", "_runs", "_tokenizer")
    ),
    # reads runs of calibration cases, wrongly or not: one worker makes them
    "the cases": tuple(f"test_calibration{part}.py" for part in ("", "_mutants")),
}

# Attacks that keep all processors busy for a second or more. What withstands them is the same for a script and for a
# session: the scripts are quick tests, the sessions slow ones.
DEAR_ATTACKS = (
    *("all_cores_in_c", "crowd_at_the_lock_of_its_maps", "memory_behind_dead_main_threads"),
    *("memory_in_many_processes", "noisy_neighbour_computes", "noisy_neighbour_forks", "noisy_neighbour_writes"),
    *("slow_memory_maps", "storm_of_orphans"),
)

# Files that take longest: workers of pytest-xdist begin with them, so that none of them is what the others wait for.
LONGEST = (
    *("sandbox_hostile", "contract", "calibration", "models_hf", "calibration_mechanisms", "models_chat_tokenizer"),
    *("imagined", "cli", "corpus_store", "board_pages", "mcp_calls", "leak_guard", "models_chat_reading"),
    *("models_hf_shared", "models_hf_score", "board_browser", "scoring", "docs_corpus", "show"),
    *("board_command", "report_page", "models_hf_out_of_memory", "mcp_tools", "builtin", "mechanisms", "report_map"),
    *("lookahead_measure", "reasoning_gym", "runner", "board_verify_draws", "report_browser", "retrieve"),
    *("models_chat", "runner_killed", "checkpoints", "report_text", "stats_extrapolate", "models_chat_answers"),
    *("board_openapi", "maths", "models_chat_served", "board_forgeries", "report_points", "store_writer"),
    *("remote_api", "docs_remote", "board_hostile", "board_submit", "corpus_safety", "report_fronts"),
    *("lookahead_tree", "board_sabotage", "stats_joint", "sandbox_grade_attacks", "board_killed", "report_design"),
    *("train_reference", "game24", "allocation", "board_honest", "models_hf_decode", "planning"),
    *("board_entry_changes",),
)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What the tests import stays: nobody need look for garbage in it, neither meanwhile nor afterwards.

    Afterwards it is looked for as seldom as when the command line runs.
    """
    import hypothesis  # which looks for who refers to its generators: not among what is frozen

    unhurried = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}  # beside other workers
    hypothesis.settings.register_profile("unhurried", **unhurried)
    hypothesis.settings.load_profile("unhurried")
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(OBJECTS_BETWEEN_SEARCHES, *gc.get_threshold()[1:])


def pytest_sessionfinish() -> None:
    """What the files of a worker share ends with it."""
    if server := sys.modules.get("helpers.openai_process"):
        server.running.close()


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, in a worker of pytest-xdist; what is tried a second time in another place is slow.

    Two of three attacks on docker's sandboxes: its workers are bubblewrap's, whose tests make every attack; what only a
    container has is tried in files of its own. In PostgreSQL, all tests but those that a file names in
    `QUICK_IN_POSTGRESQL`, where it has such a line: they send each kind of query that the others send too.
    """
    in_docker = [item for item in items if item.name.startswith("test_attack[docker-")]
    again = [item for n, item in enumerate(in_docker) if n % 3]
    dear = tuple(f"-{name}]" for name in DEAR_ATTACKS)
    again += [item for item in items if "-repl-" in item.name and item.name.endswith(dear)]
    again += [item for item in items if "[postgresql" in item.name and not _quick_in_postgresql(item)]
    for item in again:
        item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.name, len(places)))


def _quick_in_postgresql(item: pytest.Item) -> bool:
    module = getattr(item, "module", None)
    named = getattr(module, "QUICK_IN_POSTGRESQL", None)
    assert named is None or all(hasattr(module, name) for name in named), f"{module}: which of {named} is no test?"
    return named is None or item.name.partition("[")[0] in named


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, as they share fixtures; so do those of files that share what takes long."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # which begins with the files of many tests: the longest have few

    class OneWorkerForEach(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return next((name for name, files in TOGETHER.items() if any(map(Path(path).match, files))), path)

    return OneWorkerForEach(config, log)
