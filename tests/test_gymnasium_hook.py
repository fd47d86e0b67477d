"""When the environments become known to Gymnasium; each case in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MADE = "print(gymnasium.make('testbed/Addition-v0').unwrapped.id)"


def output(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ORDERS = (
    "import testbed, gymnasium",
    "import gymnasium, testbed",
    "import testbed.env, gymnasium",
    "import gymnasium; gymnasium.make('testbed:testbed/Facts-v0')",
    "import testbed, importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
    "import testbed; from gymnasium.envs import registration; import gymnasium",
)
# What both need and neither is, loaded once: all else begins anew in each case.
EACH_IN_A_FORK = """
import json, os, sys
import langsmith.run_trees, numpy
from langchain_core.tools import BaseTool
assert not {"testbed", "gymnasium"} & set(sys.modules)
for code in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def made() -> dict[str, list[str]]:
    """What is made after each order of imports, and the exit code."""
    codes = json.dumps([f"{code}; {MADE}" for code in ORDERS])
    lines = output(EACH_IN_A_FORK, codes).splitlines()
    assert len(lines) == 2 * len(ORDERS), lines
    return {code: lines[2 * n : 2 * n + 2] for n, code in enumerate(ORDERS)}


@pytest.mark.parametrize("code", ORDERS)
def test_environments_are_known_whichever_is_imported_first(made: dict[str, list[str]], code: str) -> None:
    assert made[code] == ["Addition-v0", "0"]


def test_gymnasium_is_not_loaded_by_importing_the_testbed() -> None:
    assert output("import sys, testbed; print({'gymnasium', 'numpy'} & set(sys.modules))") == "set()"


def test_gymnasium_looks_as_if_nobody_had_watched_its_import() -> None:
    look = "import gymnasium as g; print(type(g.__loader__), type(g.__spec__.loader), g.__file__, len(sys.meta_path))"
    assert output(f"import sys, testbed; {look}") == output(f"import sys; {look}")


def test_where_gymnasium_is_missing_its_import_fails_as_ever() -> None:
    hide = "sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, '__name__', '') != 'PathFinder']"
    ask = "try:\n import gymnasium\nexcept ModuleNotFoundError as e: print(e)"
    assert output(f"import sys, testbed\n{hide}\n{ask}") == "No module named 'gymnasium'"
