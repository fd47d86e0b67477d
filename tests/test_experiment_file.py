from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from testbed.allocation import recorded_rules, rule_of
from testbed.errors import ExperimentError
from testbed.experiment import Cell, Measure
from testbed.experiment_file import read_experiment, shipped
from testbed.types import Control

SMALL = """\
name = "small"
seed = 3
samples = 4

[model]
id = "scripted"
replies = ["<answer>1</answer>"]

[[env]]
id = "Addition-v0"
digits = 2
tasks = 3

[[arm]]
name = "bare"
samples = 6

[[arm]]
name = "python"
tools = ["python"]
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(ExperimentError) as caught:
        read_experiment(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_becomes_arms_environments_and_budgets(write) -> None:
    experiment = read_experiment(write(SMALL + "[budget]\nturns = 3\ncalls = { python = 2 }\n"))
    assert [arm.name for arm in experiment.arms] == ["bare", "python"]
    assert [arm.samples for arm in experiment.arms] == [6, 4]
    assert [arm.control for arm in experiment.arms] == [Control.ABSENT, Control.LIVE]
    assert experiment.environments[0].options == {"digits": 2, "tasks": 3}
    assert experiment.arms[1].budget.calls == {"python": 2}
    assert experiment.arms[0].model_options == {"replies": ["<answer>1</answer>"]}
    assert experiment.measure == Measure()


def test_the_name_is_the_files_when_none_is_given(write) -> None:
    assert read_experiment(write(SMALL.replace('name = "small"\n', "", 1))).name == "small"


def test_every_shipped_experiment_reads() -> None:
    assert "demo" in shipped()
    for name in shipped():
        assert read_experiment(name).source["description"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = 3", "sead = 3", ["small.toml:2:", "'sead'", "Did you mean 'seed'?"]),
        ("samples = 4", "samples = -4", ["small.toml:3:", "at least 1", "-4"]),
        ("samples = 4", "samples = true", ["small.toml:3:", "whole number"]),
        ("seed = 3", "seed = -1", ["small.toml:2:", "at least 0"]),
        ('id = "scripted"', 'id = "scriptd"', ["small.toml:6:", "'scriptd'", "Did you mean 'scripted'?"]),
        ("Addition-v0", "Adition-v0", ["small.toml:10:", "'Adition-v0'", "Did you mean 'Addition-v0'?"]),
        ("digits = 2", "digit = 2", ["small.toml:11:", "'digit'", "Did you mean 'digits'?"]),
        ('tools = ["python"]', 'tools = ["pyton"]', ["small.toml:20:", "'pyton'", "Did you mean 'python'?"]),
        ('tools = ["python"]', 'tools = "python"', ["small.toml:20:", "list of strings"]),
        ('tools = ["python"]', 'tool = ["python"]', ["small.toml:20:", "'tool'", "Did you mean 'tools'?"]),
        ('tools = ["python"]', 'tools = ["python"]\ncontrol = "absent"', ["small.toml:19:", "is bare", "python"]),
        ('tools = ["python"]', 'control = "inert"', ["small.toml:19:", "needs tools"]),
        ('tools = ["python"]', 'tools = ["python"]\ncontrol = "inertt"', ["small.toml:21:", "Did you mean 'inert'?"]),
        ('name = "python"\ntools', 'name = "bare"\ntools', ["two arms are named 'bare'"]),
        ("samples = 6", "samples = 6\nbudget = { turns = 0 }", ["small.toml:17:", "turns", "positive", "0"]),
        ("samples = 6", "samples = 6\nbudget = { turn = 1 }", ["small.toml:17:", "Did you mean 'turns'?"]),
        ('tools = ["python"]', 'tools = ["python"]\n[measure]\nrho = 2', ["small.toml:22:", "rho", "between 0 and 1"]),
        ("seed = 3", "seed = = 3", ["small.toml:2:", "not valid TOML"]),
        ('name = "small"', 'name = "a/b"', ["small.toml:1:", "name must be"]),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_line_and_the_nearest_name(write, old: str, new: str, says) -> None:
    assert old in SMALL
    message = refusal(write(SMALL.replace(old, new, 1)))
    for part in says:
        assert part in message


def test_a_budget_of_zero_is_refused_with_its_line(write) -> None:
    message = refusal(write(SMALL + "\n[budget]\ngenerated_tokens = 0\n"))
    assert "small.toml:23:" in message
    assert "generated_tokens" in message


def test_limits_on_tools_that_no_arm_offers_are_refused(write) -> None:
    assert "Did you mean 'python'?" in refusal(write(SMALL + "\n[budget]\ncalls = { pyton = 2 }\n"))
    own = SMALL.replace('tools = ["python"]', 'tools = ["python"]\nbudget = { calls = { search = 2 } }')
    assert "small.toml:21:" in refusal(write(own))


def test_options_of_tools_are_checked(write) -> None:
    message = refusal(write(SMALL + "\n[tool.python]\nsanbox = 'bwrap'\n"))
    assert "small.toml:23:" in message
    assert "Did you mean 'sandbox'?" in message


@pytest.mark.parametrize(("source", "said"), [("nowhere.toml", r"nowhere\.toml.*no such file"), (".", "is a folder;")])
def test_what_is_no_file_is_named(source: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        read_experiment(source)


def test_a_misspelt_shipped_experiment_gets_the_nearest_name() -> None:
    with pytest.raises(ExperimentError, match="Did you mean 'demo'"):
        read_experiment("dmeo")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"name = '\xff'")
    assert "not valid UTF-8" in refusal(path)


def test_a_file_nested_too_deeply_is_refused(write) -> None:
    assert "nested too deeply" in refusal(write("a = " + "[" * 100_000))


def test_a_byte_order_mark_before_the_first_key_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_experiment(path).name == "small"


def test_lines_of_equal_keys_in_several_tables_are_told_apart(write) -> None:
    second = '\n[[env]]\nid = "Multiplication-v0"\ndigits = "x"\n'
    assert "small.toml:24:" in refusal(write(SMALL + second))


def test_replicates_that_would_fill_the_memory_are_refused(write) -> None:
    assert "from 100 to 100,000" in refusal(write(SMALL + "[measure]\nreplicates = 10_000_000_000\n"))


def test_an_experiment_without_arms_or_tasks_says_so(write) -> None:
    assert "no arms" in refusal(write('[[env]]\nid = "Addition-v0"\n'))
    assert "no tasks" in refusal(write('[[arm]]\nname = "bare"\n'))


YOKED = SMALL + '\n[[arm]]\nname = "yoked"\ntools = ["python"]\ncontrol = "yoked"\n'


def test_a_yoked_arm_finds_the_live_arm_with_its_tools(write) -> None:
    assert read_experiment(write(YOKED)).arm("yoked").yoke == "python"


def test_a_yoked_arm_without_a_live_arm_is_refused(write) -> None:
    message = refusal(write(YOKED.replace('tools = ["python"]\ncontrol', 'tools = ["search"]\ncontrol')))
    assert "needs a live arm" in message


def test_a_yoked_arm_needs_two_live_samples(write) -> None:
    assert "at least 2" in refusal(write(YOKED.replace("samples = 4", "samples = 1", 1)))


def test_a_yoked_arm_may_not_replay_an_attempt_twice(write) -> None:
    assert "more than once" in refusal(write(YOKED + "samples = 5\n"))


@pytest.mark.parametrize("value", ["3", '"a"', "[1]", "{ a = 1 }", "true"])
@pytest.mark.parametrize(
    "key",
    ["name", "description", "plugins", "model", "budget", "measure", "env", "tool", "arm", "samples", "seed"]
    + [f"measure.{k}" for k in ("operating", "elicitation", "rho", "alpha", "replicates", "seed", "bare")]
    + [f"model.{k}" for k in ("temperature", "top_p", "max_tokens", "id")]
    + ["tool.python", "budget.calls", "budget.turns"],
)
def test_a_value_of_any_other_type_is_refused_or_right_but_never_a_crash(write, key: str, value: str) -> None:
    lines = [line for line in SMALL.splitlines() if not line.startswith(f"{key} =")]
    top = f"{key} = {value}\n"
    text = top + "\n".join(lines)
    for table in ("[model]", "[[env]]", "[[arm]]"):
        if key.split(".")[0] in table:
            text = top + "\n".join(block for block in SMALL.split("\n\n") if not block.startswith(table))
    message = ""
    try:
        read_experiment(write(text))
    except ExperimentError as error:
        message = str(error)
    assert "not supported between" not in message  # Python's own words are no message
    assert "argument" not in message


def test_cells_hold_every_attempt_once_with_yoked_arms_last(write) -> None:
    experiment = read_experiment(write(YOKED))
    cells = list(experiment.cells(tasks=3, block=2))
    assert len(cells) == len(set(cells)) == 3 * (6 + 4 + 4)
    yoked = [n for n, cell in enumerate(cells) if cell.arm == 2]
    assert min(yoked) == len(cells) - len(yoked)
    assert cells[:2] == [Cell(0, 0, 0), Cell(0, 0, 1)]  # samples of one prompt stand together


def test_arms_of_one_model_take_turns_and_models_do_not(write) -> None:
    experiment = read_experiment(write(SMALL))
    tools = replace(experiment.arms[1], name="other", model="oracle")
    three = replace(experiment, arms=(*experiment.arms, tools, replace(tools, name="more")))
    cells = list(three.cells(tasks=2, block=8))
    turns = [(arm, task) for (arm, task), _ in groupby(cells, key=lambda cell: (cell.arm, cell.task))]
    assert turns == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1)]


def test_the_digest_changes_with_the_content_and_only_with_it(write) -> None:
    first = read_experiment(write(SMALL)).digest
    assert read_experiment(write("# a comment\n" + SMALL)).digest == first
    assert read_experiment(write(SMALL.replace("seed = 3", "seed = 4"))).digest != first


STOPPING = SMALL.replace("samples = 4", 'samples = { min = 32, max = 256, stop = "verdict" }')


def test_samples_may_stop_early_in_all_arms_or_in_some(write) -> None:
    experiment = read_experiment(write(STOPPING))
    assert [(arm.fixed, arm.samples, arm.adaptive) for arm in experiment.arms] == [(6, 6, False), (32, 256, True)]
    own = SMALL.replace("samples = 6", "samples = { min = 20, max = 200 }")
    assert [(arm.fixed, arm.samples) for arm in read_experiment(write(own)).arms] == [(20, 200), (4, 4)]
    same = SMALL.replace("samples = 4", "samples = { min = 9, max = 9 }")
    assert not any(arm.adaptive for arm in read_experiment(write(same)).arms)


def test_cells_hold_the_fixed_part_of_arms_that_stop_early(write) -> None:
    cells = list(read_experiment(write(STOPPING)).cells(tasks=2))
    assert len(cells) == 2 * (6 + 32)


@pytest.mark.parametrize(
    ("samples", "parts"),
    [
        ("{ min = 300, max = 256 }", ["small.toml:3:", "min = 300 is more than max = 256"]),
        ('{ min = 32, max = 256, stop = "verdikt" }', ["small.toml:3:", "Did you mean 'verdict'?"]),
        ("{ min = 32, max = 256, stop = 3 }", ["small.toml:3:", "stop of samples", "verdict"]),
        ("{ min = 0, max = 256 }", ["min of samples must be a whole number of at least 1, not 0"]),
        ("{ min = -3, max = 256 }", ["at least 1, not -3"]),
        ("{ min = 3, max = true }", ["max of samples must be a whole number", "True"]),
        ("{ min = 3.5, max = 256 }", ["whole number", "3.5"]),
        ("{ min = 32 }", ["samples needs max", "min = 32, max = 256"]),
        ("{}", ["samples needs min"]),
        ("{ min = 32, mx = 256 }", ["small.toml:3:", "Did you mean 'max'?"]),
        ("{ min = 32, max = 139 }", ["small.toml:3:", "max = 139", "out of reach", "140 straight failures"]),
        ("[32, 256]", ["samples must be a whole number"]),
    ],
)
def test_wrong_stopping_is_refused_with_its_line(write, samples: str, parts: list[str]) -> None:
    message = refusal(write(SMALL.replace("samples = 4", f"samples = {samples}")))
    for part in parts:
        assert part in message


def test_the_attempts_that_settle_a_task_follow_the_measure(write) -> None:
    strict = STOPPING + "\n[measure]\nelicitation = 64\n"
    assert "that takes 627 straight failures" in refusal(write(strict))
    certain = STOPPING + "\n[measure]\nelicitation = 1\nrho = 0.999\n"
    assert "straight successes" in refusal(write(certain))
    assert read_experiment(write(STOPPING + "\n[measure]\nelicitation = 8\n")).arms[1].adaptive


def test_a_yoked_arm_asks_for_no_more_than_its_live_arm_is_sure_to_have(write) -> None:
    stopping = YOKED.replace("samples = 4", "samples = { min = 32, max = 256 }")
    assert read_experiment(write(stopping)).arm("yoked").fixed == 32
    assert "replay the 32" in refusal(write(stopping + "samples = 33\n"))
    assert "made in any case" in refusal(write(stopping + "samples = { min = 40, max = 200 }\n"))
    assert "replay the 256" in refusal(write(stopping + "samples = { min = 4, max = 300 }\n"))


def test_a_stop_for_discoveries_asks_for_four_times_the_evidence(write) -> None:
    own = 'samples = { min = 32, max = 256, stop = "discovery" }'
    experiment = read_experiment(write(SMALL.replace("samples = 4", own)))
    rule = rule_of(experiment, experiment.arms[1])
    assert rule is not None
    assert rule.alpha == experiment.measure.alpha / 4
    assert rule.least_to_settle()[0] == 174
    assert recorded_rules(experiment.source) == {"python": rule}
    short = own.replace("256", "173")
    assert "stop = 'discovery' that takes 174 straight failures" in refusal(write(SMALL.replace("samples = 4", short)))
