"""When the environments become known to Gymnasium; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MADE = "print(gymnasium.make('testbed/Addition-v0').unwrapped.id)"


def output(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import testbed, gymnasium",
        "import gymnasium, testbed",
        "import testbed.env, gymnasium",
        "import gymnasium; gymnasium.make('testbed:testbed/Facts-v0')",
        "import testbed, importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
        "import testbed; from gymnasium.envs import registration; import gymnasium",
    ],
)
def test_environments_are_known_whichever_is_imported_first(code: str) -> None:
    assert output(f"{code}; {MADE}") == "Addition-v0"


def test_gymnasium_is_not_loaded_by_importing_the_testbed() -> None:
    assert output("import sys, testbed; print({'gymnasium', 'numpy'} & set(sys.modules))") == "set()"


def test_gymnasium_looks_as_if_nobody_had_watched_its_import() -> None:
    look = "import gymnasium as g; print(type(g.__loader__), type(g.__spec__.loader), g.__file__, len(sys.meta_path))"
    assert output(f"import sys, testbed; {look}") == output(f"import sys; {look}")


def test_where_gymnasium_is_missing_its_import_fails_as_ever() -> None:
    hide = "sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, '__name__', '') != 'PathFinder']"
    ask = "try:\n import gymnasium\nexcept ModuleNotFoundError as e: print(e)"
    assert output(f"import sys, testbed\n{hide}\n{ask}") == "No module named 'gymnasium'"
