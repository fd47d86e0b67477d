"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from testbed import registry
from testbed.experiment_file import ARM_KEYS, KEYS, read_experiment

ROOT = Path(__file__).parents[1]
DOCS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_quickstarts_experiment_reads(tmp_path: Path) -> None:
    file = tmp_path / "products.toml"
    file.write_text(blocks("quickstart.md", "toml")[0], encoding="utf-8")
    assert [arm.name for arm in read_experiment(file).arms] == ["bare", "python"]


@pytest.mark.parametrize("page", ["../README.md", "quickstart.md"])
def test_the_first_experiment_of_a_page_has_the_attempts_that_its_verdicts_take(
    page: str, tmp_path: Path, testbed: Callable[..., Done]
) -> None:
    (tmp_path / "first.toml").write_text(blocks(page, "toml")[0], encoding="utf-8")
    planned = testbed("plan", "first.toml").out
    assert "needs at least 140 attempts at it" in " ".join(planned.split())
    assert "makes 160 per task: enough" in " ".join(planned.split())
    assert "To split the gain" not in planned


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_quickstarts_gymnasium_example_runs() -> None:
    done = subprocess.run([sys.executable, "-c", blocks("quickstart.md", "python")[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "What is" in done.stdout


def test_the_experiment_files_reference_names_every_key() -> None:
    text = (ROOT / "docs" / "experiment_file.md").read_text(encoding="utf-8")
    for key in (*KEYS, *ARM_KEYS):
        assert re.search(rf"`\[*{key}[\].`]", text), key


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_list_of_the_reports_tables_has_those_of_scores() -> None:
    listed = (ROOT / "docs" / "report.md").read_text(encoding="utf-8").partition("## Tables")[2].partition("\n## ")[0]
    for table in ("Checkpoints", "Nats, against"):
        assert re.search(rf"^\| {table}", listed, re.MULTILINE), table


def test_the_readme_names_environments_and_tools_that_exist() -> None:
    assert {"Addition-v0", "Multiplication-v0", "Facts-v0", "GSM8K-v0", "ReasoningGym-v0"} <= set(registry.env_names())
    assert {"python", "search", "retrieve"} <= set(registry.tool_names())
