"""The command line as a user meets it: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.__main__ import main

PLUGIN = Path(__file__).parents[1] / "scripts" / "bench" / "episode.py"
REFERENCE = Path(__file__).parents[1] / "testbed" / "models" / "reference"

EXPERIMENT = """\
name = "small"
samples = 4
[model]
id = "scripted"
replies = ['<tool_call>{"name": "python", "arguments": {"code": "print(1)"}}</tool_call>', "<answer>1</answer>"]
[[env]]
id = "Addition-v0"
digits = 1
tasks = 6
[[arm]]
name = "bare"
[[arm]]
name = "inert"
tools = ["python"]
control = "inert"
"""


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def testbed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def testbed(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["testbed", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return testbed


@pytest.fixture
def made(testbed: Callable[..., Done], tmp_path: Path) -> Path:
    """A folder with a finished run "small" in testbed.sqlite."""
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    done = testbed("run", "small.toml")
    assert done.code == 0, done.err
    return tmp_path


def test_a_run_says_what_it_did_and_what_comes_next(made: Path, testbed: Callable[..., Done]) -> None:
    again = testbed("run", "small.toml")
    assert again.code == 0
    assert "0 attempts made, 48 were there, 0 missing." in again.err
    assert "testbed report small" in again.err


def test_a_report_prints_text_and_writes_a_page(made: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("report", "small", "--html", "page.html")
    assert done.code == 0, done.err
    assert "inert" in done.out
    assert "95%" in done.out
    assert (made / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_report_as_json_is_json(made: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("report", "small", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_a_report_can_be_read_at_other_spends(made: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("report", "small", "--operating", "2", "--elicitation", "3", "--json")
    assert done.code == 0, done.err
    settings = json.loads(done.out)["settings"]
    assert (settings["operating"], settings["elicitation"]) == (2, 3)
    wrong = testbed("report", "small", "--operating", "4", "--elicitation", "3")
    assert (wrong.code, wrong.out) == (2, "")
    assert "elicitation" in wrong.err


def test_show_lists_attempts_and_then_one_of_them(made: Path, testbed: Callable[..., Done]) -> None:
    listed = testbed("show", "small", "--arm", "inert", "--limit", "3")
    rows = listed.out.splitlines()[1:]
    assert len(rows) == 3
    shown = testbed("show", rows[0].split()[0])
    assert "tool · python" in shown.out
    assert "(no output)" in shown.out
    assert "ended" in shown.out
    assert "reference" in shown.out


def test_show_failed_leaves_successes_out(made: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("show", "small", "--failed", "--limit", "500")
    assert "success" not in done.out
    assert "failure" in done.out


@pytest.mark.parametrize("what", ["envs", "tools", "models", "experiments"])
def test_list_names_what_there_is(testbed: Callable[..., Done], what: str) -> None:
    names = {"envs": "Facts-v0", "tools": "retrieve", "models": "chat:PROVIDER:MODEL", "experiments": "demo"}
    done = testbed("list", what)
    assert done.code == 0, done.err
    assert names[what] in done.out


def test_list_runs_counts_attempts(made: Path, testbed: Callable[..., Done]) -> None:
    assert "48" in testbed("list", "runs").out


def test_list_shows_what_a_plugin_adds(testbed: Callable[..., Done]) -> None:
    done = testbed("list", "envs", "--plugin", str(PLUGIN))
    assert "Say-v0" in done.out


def test_export_and_import_go_round(made: Path, testbed: Callable[..., Done]) -> None:
    assert testbed("export", "small", "out.jsonl").code == 0
    done = testbed(
        *("import", "out.jsonl", "--run", "again", "--task", "task", "--arm", "arm", "--sample", "sample"),
        *("--success", "success", "--store", "other.sqlite"),
    )
    assert done.code == 0, done.err
    assert "imported 48 attempts at 6 tasks in 2 arms" in done.out
    assert "inert: 6 tasks, 24 attempts" in done.out


def test_an_experiment_may_not_take_the_name_of_an_import(made: Path, testbed: Callable[..., Done]) -> None:
    (made / "rows.csv").write_text("q,a,ok\nx,bare,1\n")
    testbed("import", "rows.csv", "--run", "taken", "--task", "q", "--arm", "a", "--success", "ok")
    (made / "taken.toml").write_text(EXPERIMENT.replace('"small"', '"taken"'))
    done = testbed("run", "taken.toml")
    assert done.code == 2
    assert "holds imported outcomes" in done.err


def test_doctor_finds_what_the_demo_needs(testbed: Callable[..., Done]) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    done = testbed("doctor")
    assert done.code == 0, done.out
    assert "sandbox" in done.out
    assert "memory" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.toml"], ["nowhere.toml", "no such file"]),
        (["run", "demoo"], ["Did you mean 'demo'?"]),
        (["report", "small", "--store", "nowhere.sqlite"], ["nowhere.sqlite"]),
        (["report", "smal"], ["'smal'", "Did you mean 'small'?"]),
        (["report", "small", "--bare", "bear"], ["'bear'", "Did you mean 'bare'?"]),
        (["show", "zzzz"], ["zzzz"]),
        (["show", "small", "--arm", "intert"], ["Did you mean 'inert'?"]),
        (["list", "env"], ["Did you mean 'envs'?"]),
        (["export", "small", "out.xlsx"], ["'.xlsx'", "parquet", "jsonl"]),
        (["run", "small.toml", "--plugin", "nowhere.py"], ["nowhere.py"]),
        (["run", "small.toml", "--store", "no/such/folder/s.sqlite"], ["no/such/folder"]),
        (["run", "small.toml", "--concurrency", "0"], ["concurrency"]),
        (["run", "small.toml", "--concurrency", "100000000"], ["concurrency", "10,000"]),
        (["show", "small", "--limit", "99999999999999999999999"], ["--limit"]),
        (["import", "nowhere.csv", "--run", "r", "--task", "t", "--arm", "a", "--success", "s"], ["nowhere.csv"]),
    ],
)
def test_bad_input_is_named_and_ends_with_code_2(
    made: Path, testbed: Callable[..., Done], arguments: list[str], says: list[str]
) -> None:
    done = testbed(*arguments)
    assert done.code == 2
    for part in says:
        assert part in done.err


def test_a_store_that_cannot_be_written_is_named(made: Path) -> None:
    # Root may write anywhere, so the store is one that not even root can: a file on a read-only pseudo file system.
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "run", "small.toml", "--store", "/proc/s.sqlite"],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "/proc/s.sqlite" in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [("digits = 1", "digits = 10"), ("tasks = 6", "tasks = 0"), ('id = "scripted"', 'id = "hf:nowhere"\nx = 1\n#')],
)
def test_an_experiment_that_cannot_run_leaves_no_store(
    testbed: Callable[..., Done], tmp_path: Path, old: str, new: str
) -> None:
    assert old in EXPERIMENT
    (tmp_path / "bad.toml").write_text(EXPERIMENT.replace(old, new))
    done = testbed("run", "bad.toml")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]


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
        ("slots = 2", "timeout = -1", 15, "must be above 0 and at most 86,400, not -1.0"),
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
        ('corpus = { env = "Facts-v0", world = 7 }\n', "", 16, "corpus: Field required"),
        ('["search"]', '["search", "search"]', 27, "lists the tool 'search' twice"),
        ("digits = 3", "digits = 99", 12, "99 digits asked for"),
        ("digits = 3\ntasks = 2", "digits = 3\ntasks = -1", 13, "tasks must be a number from 0 to 500"),
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


def test_a_store_of_a_newer_schema_is_refused(made: Path, testbed: Callable[..., Done]) -> None:
    with sqlite3.connect(made / "testbed.sqlite") as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.close()
    done = testbed("report", "small")
    assert done.code == 2
    assert "999" in done.err


def test_a_file_that_is_no_store_is_refused(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "testbed.sqlite").write_text("this is not a database, whatever its name says\n" * 20)
    done = testbed("list", "runs")
    assert done.code == 2
    assert "testbed.sqlite" in done.err


def test_an_experiment_that_changed_since_it_was_started_is_refused(made: Path, testbed: Callable[..., Done]) -> None:
    (made / "small.toml").write_text(EXPERIMENT.replace("tasks = 6", "tasks = 7"))
    done = testbed("run", "small.toml")
    assert done.code == 2
    assert "changed since run 'small' was started" in done.err


def test_a_corrupted_model_file_is_named(testbed: Callable[..., Done], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(REFERENCE, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "e.toml").write_text(
        EXPERIMENT.replace('id = "scripted"', f'id = "hf:{folder}"').replace("replies", "#")
    )
    done = testbed("run", "e.toml")
    assert done.code == 2
    assert "broken" in done.err
    assert "Traceback" not in done.err


def piped(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command line of bash in which `testbed` is this one."""
    script = f'testbed() {{ "{sys.executable}" -m testbed "$@"; }}; {command}; echo "${{PIPESTATUS[@]}}"'
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["list envs", "report small", "report small --json", "show small", "--help"])
def test_a_reader_that_has_had_enough_is_no_error(made: Path, command: str) -> None:
    done = piped(f"testbed {command} | true", made)
    assert (done.stdout, done.stderr) == ("0 0\n", "")


@pytest.mark.parametrize("command", ["list envs", "report small --json", "--help"])
def test_output_that_finds_no_room_is_an_error_and_no_traceback(made: Path, command: str) -> None:
    done = piped(f"testbed {command} > /dev/full", made)
    assert (done.stdout, done.stderr) == ("1\n", "error: the output cannot be written: No space left on device.\n")


def test_a_page_written_into_a_pipe_leaves_the_pipe_a_pipe(made: Path) -> None:
    done = piped("mkfifo pipe && (cat pipe > read.html &) && testbed report small --html pipe > /dev/null", made)
    assert done.stdout == "0\n", done.stderr
    assert (made / "pipe").is_fifo()


def test_a_page_written_to_a_link_goes_where_it_points(made: Path, testbed: Callable[..., Done]) -> None:
    (made / "link.html").symlink_to("real.html")
    (made / "real.html").write_text("old")
    assert testbed("report", "small", "--html", "link.html").code == 0
    assert (made / "link.html").is_symlink()
    assert (made / "real.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_an_interrupt_before_a_command_has_begun_leaves_no_traceback(
    testbed: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("testbed.cli.app", interrupted)
    assert testbed("list", "envs") == Done(130, "", "")


def test_every_command_has_help_with_an_example(testbed: Callable[..., Done]) -> None:
    for command in ("run", "report", "show", "list", "import", "export", "doctor", "plan", "calibrate"):
        done = testbed(command, "--help")
        assert done.code == 0
        assert "Example: testbed" in done.out


def test_an_unknown_command_ends_with_code_2(testbed: Callable[..., Done]) -> None:
    assert testbed("rum").code == 2
