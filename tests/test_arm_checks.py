"""What is refused before a run of tables that no arm uses; what arms ask of models is tested with those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done

EXPERIMENT = """
samples = 1
model = "oracle"
[budget]
turns = 1
[tool.search]
corpus = {corpus}
[[env]]
id = "Addition-v0"
tasks = 2
[[arm]]
name = "bare"
"""


@pytest.mark.parametrize(
    ("corpus", "told"),
    [
        ('"none.jsonl"', "corpus 'none.jsonl' is neither a file nor an environment with documents. Did you mean 'nine"),
        ('{ path = "built" }', "corpus 'built' does not exist"),
        (
            '{ env = "Fact-v0" }',
            "corpus {'env': 'Fact-v0'} is neither a file nor an environment with documents. Did you",
        ),
        ('""', "corpus '' names nothing"),
    ],
)
def test_a_corpus_that_is_not_there_is_refused_also_where_no_arm_offers_it(
    testbed: Callable[..., Done], tmp_path: Path, corpus: str, told: str
) -> None:
    (tmp_path / "nine.jsonl").write_text('{"id": "a", "text": "A lamp."}\n', encoding="utf-8")
    (tmp_path / "run.toml").write_text(EXPERIMENT.format(corpus=corpus), encoding="utf-8")
    refused = testbed("run", "run.toml")
    assert refused.code == 2
    assert f"run.toml:7: {told}" in refused.err
    assert not (tmp_path / "testbed.sqlite").exists()


@pytest.mark.parametrize("corpus", ['"nine.jsonl"', '{ path = "nine.jsonl" }', '{ env = "Facts-v0" }', '"Facts-v0"'])
def test_one_that_is_there_is_not_in_the_way(testbed: Callable[..., Done], tmp_path: Path, corpus: str) -> None:
    (tmp_path / "nine.jsonl").write_text('{"id": "a", "text": "A lamp."}\n', encoding="utf-8")
    (tmp_path / "run.toml").write_text(EXPERIMENT.format(corpus=corpus), encoding="utf-8")
    assert testbed("run", "run.toml").code == 0
