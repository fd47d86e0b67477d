"""An arm none of whose attempts came to an answer: the report says what its model wrote instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.command import Done

EXPERIMENT = """
samples = 2
[budget]
turns = 2
[[env]]
id = "Addition-v0"
tasks = 2
[[arm]]
name = "bare"
model = "scripted"
model_options = {{ replies = ["{}"] }}
"""


def report(testbed: Callable[..., Done], folder: Path, reply: str) -> str:
    text = EXPERIMENT.format(reply).replace('model = "scripted"\nmodel_options = {', 'model = { id = "scripted",')
    (folder / "run.toml").write_text(text, encoding="utf-8")
    assert testbed("run", "run.toml").code == 0
    return " ".join(testbed("report", "run").out.split())


def test_an_arm_without_any_answer_is_told_with_what_it_wrote(testbed: Callable[..., Done], tmp_path: Path) -> None:
    told = report(testbed, tmp_path, "The sum is, as one sees, 4. " + "So it is. " * 20)
    assert "No message in 4 attempts of arm 'bare' held an answer in the form that the prompt asks for" in told
    assert "The first message begins: The sum is, as one sees, 4. So it is." in told
    assert "ended by the limit on turns" in told


def test_an_arm_with_wrong_answers_is_not(testbed: Callable[..., Done], tmp_path: Path) -> None:
    assert "No message in" not in report(testbed, tmp_path, "<answer>x</answer>")
