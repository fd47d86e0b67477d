"""What is installed is what is in the repository: every package and data file is listed, and a wheel holds them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed() -> None:
    listed = set(SETTINGS["tool"]["setuptools"]["packages"])
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "testbed").rglob("__init__.py")}
    of_data = {"testbed.board.pages", "testbed.board.static", "testbed.models.reference", "testbed.experiments"}
    assert listed == there | {"testbed.envs", "testbed.tools"} | of_data


def test_every_folder_of_data_is_listed_as_setuptools_wants_it() -> None:
    listed = set(SETTINGS["tool"]["setuptools"]["packages"])
    data = SETTINGS["tool"]["setuptools"]["package-data"]
    assert not [pattern for patterns in data.values() for pattern in patterns if "/" in pattern]  # it warns of each
    files = [path for path in (ROOT / "testbed").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in files} <= listed & set(data)


def test_every_extra_that_messages_name_exists() -> None:
    assert {"chat", "docker", "ray", "board", "dev", "postgres"} <= set(SETTINGS["project"]["optional-dependencies"])


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    project = SETTINGS["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {w.partition(">")[0].partition("[")[0].lower() for w in wanted}
    assert names - {"capability-testbed"} <= pinned


@pytest.mark.slow
def test_a_wheel_holds_the_model_the_page_the_experiments_and_nothing_at_top_level(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "testbed/envs/facts.py",
        "testbed/tools/search.py",
        "testbed/models/reference/model.safetensors",
        "testbed/models/reference/chat_template.jinja",
        "testbed/report/page.html.j2",
        "testbed/board/pages/entry.html.j2",
        "testbed/board/static/board.css",
        "testbed/experiments/demo.toml",
        "testbed/sandbox/worker.py",
        "testbed/py.typed",
    } <= names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"testbed"}
    assert wheel.stat().st_size < 8_000_000
