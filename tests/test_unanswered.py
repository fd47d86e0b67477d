"""An arm none of whose attempts came to an answer: the report says what its model wrote instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.answering import answer, served
from helpers.command import Done
from testbed.experiment_file import parse_experiment
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.store import Store

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
    assert "all of them failed, whatever limit ended them. The first" in told  # more turns would not help


def test_an_arm_with_wrong_answers_is_not(testbed: Callable[..., Done], tmp_path: Path) -> None:
    assert "No message in" not in report(testbed, tmp_path, "<answer>x</answer>")


async def test_of_a_served_model_it_says_that_tags_may_be_lost(tmp_path: Path) -> None:
    id_ = "chat:openai:x"
    experiment = {
        "name": "run",
        "samples": 2,
        "model": {"id": id_},
        "budget": {"turns": 1},
        "env": [{"id": "Addition-v0", "tasks": 2}],
        "arm": [{"name": "bare"}],
    }
    with Store.open(tmp_path / "s.sqlite") as store:
        async with served(answer({"role": "assistant", "content": "4"})) as model:
            await Runner(parse_experiment(experiment), store, models={id_: model}).run()
        (told,) = [line for line in analyse_run(store, "run").warnings if line.startswith("No message")]
    assert "special tokens, its server may leave them out" in told
    assert told.endswith("The first message begins: 4")
