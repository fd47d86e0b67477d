"""Options with mistakes: told with the line of the experiment file, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done

OPTIONS = """\
name = "options"
samples = 1
[model]
id = "oracle"
accuracy = 1.0
[[env]]
id = "Addition-v0"
digits = 2
tasks = 2
[[env]]
id = "Multiplication-v0"
digits = 3
tasks = 2
[tool.python]
slots = 2
[tool.search]
corpus = { env = "Facts-v0", world = 7 }
k = 2
[[arm]]
name = "bare"
[[arm]]
name = "python"
tools = ["python"]
control = "inert"
[[arm]]
name = "search"
tools = ["search"]
control = "inert"
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("slots = 2", 'timeout = "x"', 15, "timeout: Input should be a valid number"),
        ("slots = 2", "timeout = -1", 15, "tool python: timeout must be above 0 and at most 86,400, not -1.0"),
        ("slots = 2", "timeout = nan", 15, "must be above 0 and at most 86,400, not nan"),
        ("slots = 2", "slots = true", 15, "slots: Input should be a valid integer"),
        ("slots = 2", "memory_mib = 1000000000000", 15, "at most 4,194,304"),
        ("slots = 2", "slots = 0", 15, "slots must be at least 1"),
        ("slots = 2", "memory_mib = 1", 15, "too small for Python"),
        ("slots = 2", 'sandbox = "bwarp"', 15, "Did you mean 'bwrap'?"),
        ("slots = 2", "solts = 2", 15, "Did you mean 'slots'?"),
        ("k = 2", "k = 0", 18, "k must be at least 1 passage"),
        ("k = 2", 'k = "many"', 18, "k: Input should be a valid integer"),
        ("k = 2", "timeout = 0", 18, "timeout must be above 0 seconds"),
        (
            'corpus = { env = "Facts-v0", world = 7 }',
            'corpus = "missing.jsonl"',
            17,
            "neither a file nor an environment",
        ),
        ('corpus = { env = "Facts-v0", world = 7 }', 'corpus = "Addition-v0"', 17, "has no documents"),
        ("world = 7", "wrld = 7", 17, "Did you mean 'world'?"),
        ("world = 7", 'name = "x"', 17, "unknown option of Facts-v0 'name'"),
        ('corpus = { env = "Facts-v0", world = 7 }\n', "", 16, "tool search needs corpus: write"),
        ('["search"]', '["search", "search"]', 27, "lists the tool 'search' twice"),
        ("digits = 3", "digits = 99", 12, "99 digits asked for"),
        ("digits = 3\ntasks = 2", "digits = 3\ntasks = -1", 13, "tasks must be a number from 1 to 500"),
        ("digits = 3\ntasks = 2", "digits = 3\ntasks = 0", 13, "has no tasks"),
        ("digits = 3", "n = -1", 12, "unknown option of Multiplication-v0 'n'"),
        ("digits = 3", 'digits = "x"', 12, "digits = 'x' does not fit"),
        ("accuracy = 1.0", "accuracy = 2", 5, "accuracy must be between 0 and 1"),
        ("accuracy = 1.0", "acuracy = 1", 5, "Did you mean 'accuracy'?"),
        ("accuracy = 1.0", "temperature = 99", 5, "temperature must be between 0 and 10"),
        ('"oracle"\naccuracy = 1.0', '"hf:./nowhere"', 4, "no model directory './nowhere'"),
        ('"oracle"\naccuracy = 1.0', '"reference"\nbatch = 0', 5, "batch must be a whole number"),
        ('"oracle"\naccuracy = 1.0', '"reference"\ndevice = "cdua"', 5, "Did you mean 'cuda'?"),
        ('"oracle"\naccuracy = 1.0', '"reference"\ndtype = 3', 5, "dtype must be text"),
        ('"oracle"\naccuracy = 1.0', '"scripted"\nreplies = []', 5, "replies must be a list"),
        ('"oracle"\naccuracy = 1.0', '"scripted"\npolicy = "gone.py:f"', 5, "no policy file 'gone.py'"),
        ('"oracle"\naccuracy = 1.0', '"chat:openai:x"\nusd_per_million = 3', 5, "usd_per_million must be a table"),
        ('"oracle"\naccuracy = 1.0', '"chat:openai:x"\nnative = "no"', 5, "native must be true or false"),
        ('name = "python"', 'name = "python"\nmodel = { accuracy = 7 }', 23, "accuracy must be between 0 and 1"),
        ('name = "python"\ntools = ["python"]\ncontrol = "inert"', 'name = "twin"', 22, "differ in nothing but"),
        ("samples = 1", "samples = 1000000000", 2, "this asks for 12,000,000,000 attempts"),
        ('name = "python"', 'name = "python"\nsamples = 1_000_000_000_000', 23, "At most 10,000,000 are made"),
        ("samples = 1", "samples = 1\nseed = 9223372036854775808", 3, "seed must be at most"),
        ("samples = 1", "samples = 1\nplugins = [\n'gone.py']", 4, "plug-in 'gone.py' does not exist"),
    ],
)
def test_a_wrong_option_is_told_with_its_line_and_leaves_nothing(
    testbed: Callable[..., Done], tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in OPTIONS
    (tmp_path / "e.toml").write_text(OPTIONS.replace(old, new, 1))
    done = testbed("run", "e.toml")
    assert done.err.startswith(f"error: e.toml:{line}: "), done.err
    assert says in done.err
    assert done.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["e.toml"]


def test_a_refused_size_says_how_many_samples_would_do(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(OPTIONS.replace("samples = 1", "samples = 833_334"))
    assert "lower samples to 833,333," in testbed("run", "e.toml").err


def test_two_environments_with_the_same_tasks_are_told_with_the_second_ones_line(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    twice = OPTIONS.replace('"Multiplication-v0"\ndigits = 3', '"Addition-v0"\ndigits = 2')
    (tmp_path / "e.toml").write_text(twice)
    done = testbed("run", "e.toml")
    assert done.err.startswith("error: e.toml:11: two [[env]] tables list the task"), done.err
    assert done.code == 2
