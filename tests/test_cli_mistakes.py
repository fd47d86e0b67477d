"""Slips of the hand on the command line: each is answered with what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.command import Done

EXPERIMENT = """
name = "small"
samples = 2
[model]
id = "oracle"
[[env]]
id = "Addition-v0"
digits = 2
tasks = 2
[[arm]]
name = "bare"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "mult.toml").write_text(EXPERIMENT, encoding="utf-8")
    (tmp_path / "mytool.py").write_text("", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["plan", "mult.tml"], "Did you mean 'mult.toml'?"),
        (["run", "multi.toml"], "Did you mean 'mult.toml'?"),
        (["run", "mult"], "Did you mean 'mult.toml'?"),
        (["run", "dmo"], "Did you mean 'demo'?"),
        (["run", "mult.toml", "--plugin", "mytol.py"], "Did you mean 'mytool.py'?"),
        (["show", "small", "3f2a91"], "give only the id: testbed show 3f2a91"),
    ],
)
def test_what_was_meant_is_said(testbed: Callable[..., Done], files: Path, words: list[str], meant: str) -> None:
    done = testbed(*words)
    assert done.code == 2
    assert meant in done.err


def test_a_path_that_is_like_none_there_is_guesses_nothing(testbed: Callable[..., Done], files: Path) -> None:
    assert "Did you mean" not in testbed("run", "elsewhere/quite-different.toml").err


def test_the_placebo_is_called_inert(testbed: Callable[..., Done], files: Path) -> None:
    arm = '[[arm]]\nname = "pill"\ntools = ["python"]\ncontrol = "placebo"\n'
    (files / "mult.toml").write_text(EXPERIMENT + arm, encoding="utf-8")
    assert "The placebo is 'inert'." in testbed("run", "mult.toml").err


def test_an_unknown_run_is_told_before_a_file_that_exists(testbed: Callable[..., Done], files: Path) -> None:
    assert testbed("run", "mult.toml").code == 0
    (files / "out.parquet").write_bytes(b"old")
    done = testbed("export", "smal", "out.parquet")
    assert done.code == 2
    assert "Did you mean 'small'?" in done.err
    assert "exists" not in done.err


def test_the_exported_rows_are_read_as_the_docs_show(testbed: Callable[..., Done], files: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    example = page.rpartition("```python\n")[2].partition("```")[0]
    assert testbed("run", "mult.toml").code == 0
    assert testbed("export", "small", "out.parquet").code == 0
    names: dict[str, object] = {}
    exec(example, names)
    rows = names["rows"]
    assert isinstance(rows, list)
    assert len(rows) == pq.read_metadata(files / "out.parquet").num_rows == 4
    assert {(row["arm"], row["success"]) for row in rows} == {("bare", True)}


@pytest.mark.parametrize("tool", [[], ["--retrieve"]])
def test_a_corpus_search_prints_what_a_model_is_shown(
    testbed: Callable[..., Done], tmp_path: Path, tool: list[str]
) -> None:
    notes = tmp_path / "notes.jsonl"
    notes.write_text(
        '{"id": "a", "text": "The lamp stands in the hall."}\n{"id": "b", "text": "Kettles boil water for tea."}\n',
        encoding="utf-8",
    )
    done = testbed("corpus", "search", "notes.jsonl", "where is the lamp", "--k", "1", *tool)
    assert done.code == 0, done.err
    assert "The lamp stands in the hall." in done.out
    assert "Kettles" not in done.out
    unknown = testbed("corpus", "search", "note.jsonl", "lamp")
    assert unknown.code == 2
    assert "Did you mean 'notes.jsonl'?" in unknown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", ""], "'' is no attempt"),
        (["show", "smaller"], "'smaller' is no attempt and no run"),
        (["show", "smaller"], "The runs here: 'small'."),
        (["show", "small", "--task", "zzz"], "no task of run 'small' has 'zzz' in its prompt"),
        (["show", "small", "--arm", "bare", "--failed"], "No attempt of run 'small' matches --arm bare --failed."),
        (["runs", "delete", "smal"], "Did you mean 'small'?"),
    ],
)
def test_what_finds_nothing_says_so(testbed: Callable[..., Done], files: Path, words: list[str], said: str) -> None:
    assert testbed("run", "mult.toml").code == 0
    done = testbed(*words)
    assert said in done.out + done.err
    assert "attempt " not in done.out.splitlines()[:1]


def test_columns_with_long_texts_leave_the_others_whole(
    testbed: Callable[..., Done], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "long.jsonl").write_text(
        "".join(f'{{"prompt": "{n} {"word " * 90}", "answer": "{n}"}}\n' for n in range(2)), encoding="utf-8"
    )
    env = '[[env]]\nid = "Questions-v0"\npath = "long.jsonl"\n[[arm]]'
    text = EXPERIMENT.replace("[[arm]]", env)
    (files / "mult.toml").write_text(text, encoding="utf-8")
    assert testbed("run", "mult.toml").code == 0
    for width in ("80", "140"):
        monkeypatch.setenv("COLUMNS", width)
        listed = testbed("show", "small").out.splitlines()
        assert listed[0].split() == ["attempt", "arm", "n", "outcome", "answer", "task"]
        row = next(line for line in listed if "word" in line)
        assert row.split()[:4][1:] == ["bare", "0", "success"]
        assert row.rstrip().endswith("…")
        assert len(row) <= int(width)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[[env]]", "[budget]\ntokens = 100\n[[env]]", "'generated_tokens', 'observed_tokens' or 'prompt_tokens'?"),
        ("[[env]]", "[budget]\ntokens = 100\n[[env]]", "The limits are generated_tokens, prompt_tokens"),
        ('[[arm]]\nname = "bare"', '[arm]\nname = "bare"\n[arm]\nname = "b"', "mult.toml:12: write [[arm]], with two"),
        (
            'name = "bare"',
            'name = "s"\ntools = ["search"]',
            "tool search needs corpus: write in a table [tool.search] corpus = ",
        ),
        ("tasks = 2", "tasks = 0", "tasks"),
    ],
)
def test_slips_in_an_experiment_say_what_to_write(
    testbed: Callable[..., Done], files: Path, old: str, new: str, said: str
) -> None:
    (files / "mult.toml").write_text(EXPERIMENT.replace(old, new), encoding="utf-8")
    done = testbed("run", "mult.toml")
    assert done.code == 2
    assert said in done.err
    assert "from 0 to" not in done.err


def test_the_list_of_tools_says_what_they_need(testbed: Callable[..., Done]) -> None:
    assert "Needs corpus in [tool.search]." in " ".join(testbed("list", "tools").out.split())


def test_the_version_is_told(testbed: Callable[..., Done]) -> None:
    from testbed import __version__

    assert testbed("--version").out == f"testbed {__version__}\n"


def test_prompts_that_no_attempt_could_read_are_found_before_the_run(
    testbed: Callable[..., Done], files: Path, llama: Path
) -> None:
    model = f'id = "hf:{llama}"\ndevice = "cpu"\ncontext = 8'
    (files / "mult.toml").write_text(EXPERIMENT.replace('id = "oracle"', model), encoding="utf-8")
    done = testbed("run", "mult.toml")
    assert done.code == 2
    assert done.err.startswith("error: mult.toml:9: arm 'bare': the prompt 'What is ")
    assert (
        "takes 8 with the reply; raise context = 8 in the model's options (the model takes 512), or leave it out."
        in done.err
    )
    assert not (files / "testbed.sqlite").exists()


def test_one_of_something_is_said_in_the_singular(testbed: Callable[..., Done], files: Path) -> None:
    (files / "log.csv").write_text("q,arm,ok\na,bare,1\na,tool,0\nb,bare,1\n", encoding="utf-8")
    done = testbed("import", "log.csv", "--run", "log", "--task", "q", "--arm", "arm", "--success", "ok")
    assert "  tool: 1 task, 1 attempt, 0 successes\n" in done.out
    assert "  bare: 2 tasks, 2 attempts, 2 successes\n" in done.out
    assert "1 task has a scored attempt in one of the two arms only" in " ".join(testbed("report", "log").out.split())


AGENT = """
def solve(env):
    env.reset()
    return "7"
"""
WITH_AGENT = EXPERIMENT.replace('[model]\nid = "oracle"\n', "")


@pytest.mark.parametrize("named", ["absent.py:solve", "agent.py:slve", "agent.py", "no_such_module:solve"])
def test_a_wrong_agent_is_told_with_its_argument_and_not_with_a_line_of_the_file(
    testbed: Callable[..., Done], files: Path, named: str
) -> None:
    (files / "mult.toml").write_text(WITH_AGENT, encoding="utf-8")
    (files / "agent.py").write_text(AGENT, encoding="utf-8")
    done = testbed("run", "mult.toml", "--agent", named)
    assert (done.code, done.err.startswith(f"error: --agent {named}: ")) == (2, True)
    assert "mult.toml" not in done.err


def test_another_agent_than_the_run_was_started_with_is_told_in_a_sentence(
    testbed: Callable[..., Done], files: Path
) -> None:
    (files / "mult.toml").write_text(WITH_AGENT, encoding="utf-8")
    (files / "agent.py").write_text(AGENT, encoding="utf-8")
    assert testbed("run", "mult.toml", "--agent", "agent.py:solve").code == 0
    started = "error: run 'small' was started with --agent agent.py:solve, and "
    told = testbed("run", "mult.toml").err
    assert told == (
        f"{started}now it is model reference. To go on with it, give --agent agent.py:solve again; to measure the new "
        "one, give the experiment another name.\n"
    )
    (files / "agent.py").write_text(AGENT.replace("7", "8"), encoding="utf-8")
    changed = testbed("run", "mult.toml", "--agent", "agent.py:solve").err
    assert changed.startswith(f"{started}its file changed since. To go on with it, bring back what it was; ")
    (files / "mult.toml").write_text(WITH_AGENT.replace("samples = 2", "samples = 3"), encoding="utf-8")
    assert "Besides: samples 2 → 3" in testbed("run", "mult.toml").err
