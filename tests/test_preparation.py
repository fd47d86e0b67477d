"""What is loaded for a run, and when."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helpers.command import Done
from helpers.tiny_models import TEMPLATE
from testbed.models.hf import HuggingFace

EXPERIMENT = """
samples = {samples}
[model]
id = "hf:{model}"
max_tokens = 8
[budget]
turns = 1
[measure]
elicitation = 2
alpha = 0.1
[[env]]
id = "Addition-v0"
digits = 2
tasks = 2
[[arm]]
name = "bare"
"""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded so far."""
    names: list[str] = []
    load = HuggingFace.start

    async def start(model: HuggingFace) -> None:
        names.append(model.name)
        await load(model)

    monkeypatch.setattr(HuggingFace, "start", start)
    return names


def write(folder: Path, model: Path, samples: str = "2") -> None:
    (folder / "run.toml").write_text(EXPERIMENT.format(model=model, samples=samples), encoding="utf-8")


def forget_one(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM attempts WHERE id IN (SELECT max(id) FROM attempts)")


@pytest.mark.parametrize("samples", ["2", '{ min = 2, max = 64, stop = "verdict" }'])
def test_a_run_with_nothing_left_to_do_loads_no_model(
    testbed: Callable[..., Done], tmp_path: Path, llama: Path, loaded: list[str], samples: str
) -> None:
    write(tmp_path, llama, samples)
    assert testbed("run", "run.toml").code == 0
    assert loaded == [f"hf:{llama}"]
    again = testbed("run", "run.toml")
    assert again.code == 0, again.err
    assert " attempts are stored: 0 new" in again.err
    assert len(loaded) == 1
    forget_one(tmp_path / "testbed.sqlite")
    assert " attempts are stored: 1 new" in testbed("run", "run.toml").err
    assert len(loaded) == 2


def test_a_changed_experiment_is_refused_before_its_model_is_loaded(
    testbed: Callable[..., Done], tmp_path: Path, llama: Path, loaded: list[str]
) -> None:
    write(tmp_path, llama)
    assert testbed("run", "run.toml").code == 0
    loaded.clear()
    write(tmp_path, llama, "3")
    changed = testbed("run", "run.toml")
    assert (changed.code, loaded) == (2, [])
    assert "the experiment changed since run 'run' was started" in changed.err


def test_a_model_that_cannot_be_loaded_leaves_no_store_behind(
    testbed: Callable[..., Done], tmp_path: Path, llama: Path
) -> None:
    write(tmp_path, llama)
    text = (tmp_path / "run.toml").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(text.replace("max_tokens", "context = 1000000\nmax_tokens"), encoding="utf-8")
    refused = testbed("run", "run.toml")
    assert refused.code == 2
    assert "run.toml:5: " in refused.err
    assert "context = 1000000 was asked for" in refused.err
    assert not (tmp_path / "testbed.sqlite").exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}", "cannot be read, in its line 1: "),
        ("{{ raise_exception('No!') }}", "refuses this conversation: No!"),
        ("{{ 1 / (messages | length - 1) }}", "refuses this conversation: division by zero."),
        (TEMPLATE + "{% if messages | length > 3 %}{{ raise_exception('No more!') }}{% endif %}", "No more!"),
    ],
)
def test_a_chat_template_with_a_fault_is_told_with_its_file_and_the_models_line(
    testbed: Callable[..., Done], tmp_path: Path, llama: Path, template: str, said: str
) -> None:
    faulty = Path(shutil.copytree(llama, tmp_path / "faulty"))
    (faulty / "chat_template.jinja").write_text(template, encoding="utf-8")
    write(tmp_path, faulty)
    text = (tmp_path / "run.toml").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(text.replace("turns = 1", "turns = 3"), encoding="utf-8")
    refused = testbed("run", "run.toml")
    assert refused.code == 2
    assert f"run.toml:4: the chat template of hf:{faulty} " in refused.err
    assert said in refused.err
    assert f"The template stands in {faulty / 'chat_template.jinja'}." in refused.err
