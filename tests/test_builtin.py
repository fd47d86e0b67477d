"""Files dropped into the folders of built-in environments and tools that cannot be read or run.

Each test works on a copy of the package, in processes of its own, which are forks of one that has not imported it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import registry

ROOT = Path(__file__).parents[1]
SYNTAX = 'class Mine:\n    id = "Mine-v0"\n    name: str = "mine"\n    def (:\n'
RAISES = 'import sys\n\nprint(undefined)\n\nclass Mine:\n    id = "Mine-v0"\n    name: str = "mine"\n'


# Has imported what the package stands on, which takes most of a second, and nothing of the package. For each line, with
# arguments of Python, it forks, and tells how that fork ended.
WARM = """
import json, os, runpy, sys
import gymnasium, jsonschema, langchain_core.messages.utils, langchain_core.tools.base, langsmith.run_trees, typer.main
assert not any(name.partition(".")[0] == "testbed" for name in sys.modules)
for line in sys.stdin:
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
how, what, *sys.argv[1:] = json.loads(line)
if how == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    exec(what, {"__name__": "__main__"})
"""
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, but for the reference model."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("reference")  # what is compiled stays valid: the files keep their times
    shutil.copytree(ROOT / "testbed", folder / "testbed", ignore=ignored)
    for group in ("envs", "tools"):
        shutil.copytree(ROOT / group, folder / "testbed" / group, ignore=ignored)
    return folder


@pytest.fixture
def drop(package: Path):
    """Puts a file into one of the copy's folders, for one test."""
    dropped: list[Path] = []

    def drop(name: str, text: str | bytes) -> Path:
        path = package / "testbed" / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        dropped.append(path)
        return path

    yield drop
    for path in dropped:
        path.unlink()


@pytest.fixture(scope="module")
def python(package: Path) -> Iterator[Python]:
    """Runs Python on the copy, which stands first on the path."""
    with subprocess.Popen(
        [sys.executable, "-c", WARM],
        cwd=package,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "300"},
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        to, back = warm.stdin, warm.stdout

        def python(*arguments: str) -> subprocess.CompletedProcess[str]:
            print(json.dumps(arguments), file=to, flush=True)
            code = int(back.readline())
            out, err = ((package / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
            return subprocess.CompletedProcess(arguments, code, out, err)

        yield python


@pytest.mark.parametrize("group", ["envs", "tools"])
def test_broken_files_are_listed_with_their_lines_beside_the_others(
    package: Path, python: Python, drop, group: str
) -> None:
    lines = {"syntax": 4, "raises": 3, "bytes": 1, "nul": 1}
    drop(f"{group}/syntax.py", SYNTAX)
    drop(f"{group}/raises.py", RAISES)
    drop(f"{group}/bytes.py", b'x = 1\n\xff\n"')
    drop(f"{group}/nul.py", "x = '\0'")
    done = python("-m", "testbed", "list", group)
    assert done.returncode == 0, done.stderr
    assert {"envs": "Addition-v0", "tools": "search"}[group] in done.stdout
    for name, line in lines.items():
        assert f"cannot be used: {package}/testbed/{group}/{name}.py:{line}: " in done.stdout


@pytest.mark.parametrize(("text", "line"), [(SYNTAX, 4), (RAISES, 3)])
def test_making_a_broken_environment_through_gymnasium_names_file_and_line(
    package: Path, python: Python, drop, text: str, line: int
) -> None:
    drop("envs/mine.py", text)
    done = python("-c", "import gymnasium; gymnasium.make('testbed:testbed/Mine-v0')")
    assert f"DataError: {package}/testbed/envs/mine.py:{line}: " in done.stderr


def test_beside_a_broken_file_another_environment_works(package: Path, python: Python, drop) -> None:
    drop("envs/mine.py", SYNTAX)
    drop("tools/mine.py", SYNTAX)
    made = "print(gymnasium.make('testbed:testbed/Addition-v0', tools=['python']).reset(seed=0)[0]['text'])"
    done = python("-c", f"import gymnasium, testbed; {made}; print(testbed.__file__)")
    assert done.stdout.startswith("What is "), done.stderr
    assert f"{package}/testbed/__init__.py" in done.stdout


def test_an_experiment_that_uses_a_broken_tool_is_refused_with_file_and_line(
    package: Path, python: Python, drop
) -> None:
    drop("tools/mine.py", RAISES)
    (package / "e.toml").write_text(
        'model = "oracle"\n[[env]]\nid = "Addition-v0"\n[[arm]]\nname = "a"\ntools = ["mine"]'
    )
    done = python("-m", "testbed", "run", "e.toml")
    assert done.returncode == 2
    assert "e.toml:6: " in done.stderr
    assert f"{package}/testbed/tools/mine.py:3: NameError" in done.stderr


def test_an_unknown_name_is_told_of_files_whose_names_could_not_be_read(package: Path, python: Python, drop) -> None:
    drop("envs/mine.py", "def (:\n")
    done = python("-c", "from testbed.registry import make_env; make_env('Mine-v0')")
    assert "unknown environment 'Mine-v0'" in done.stderr
    assert f"{package}/testbed/envs/mine.py:1: not a Python file" in done.stderr


def test_an_environment_with_an_impossible_id_hurts_no_other(package: Path, python: Python, drop) -> None:
    drop("envs/mine.py", 'class Mine:\n    id = "how long?"\n')
    done = python("-m", "testbed", "list", "envs")
    assert "'how long?' cannot be an environment's id" in done.stdout
    assert "Facts-v0" in done.stdout


def test_a_name_that_two_files_define_is_refused_and_names_both(package: Path, python: Python, drop) -> None:
    drop("envs/mine.py", (ROOT / "envs" / "facts.py").read_text())
    done = python("-c", "from testbed.registry import make_env as m; m('Addition-v0'); m('Facts-v0')")
    assert "DataError: 'Facts-v0' is defined in " in done.stderr
    assert "facts.py and in " in done.stderr


def test_a_broken_copy_does_not_take_the_name_of_the_file_it_was_copied_from(
    package: Path, python: Python, drop
) -> None:
    drop("envs/mine.py", (ROOT / "envs" / "facts.py").read_text() + "\ndef (:\n")
    done = python("-c", "from testbed.registry import make_env as m; print(len(m('Facts-v0', tasks=2).tasks))")
    assert done.stdout.strip().isdigit(), done.stderr


def test_a_class_that_only_looks_like_a_tool_is_none(package: Path, python: Python, drop) -> None:
    drop("tools/mine.py", 'class Mine:\n    name: str = "mine"\n')
    done = python("-c", "from testbed.registry import make_tool; make_tool('mine')")
    assert "is no BaseTool" in done.stderr


@pytest.mark.parametrize("group", ["envs", "tools"])
def test_every_file_that_ships_can_be_read(group: str) -> None:
    assert registry.unread(group) == {}
