"""The command line as a user meets it: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from testbed.errors import UsageError

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `made` has made once."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def made(testbed: Callable[..., Done], tmp_path: Path, finished: Path) -> Path:
    """A folder with a finished run "small" in testbed.sqlite."""
    if not any(finished.iterdir()):
        (tmp_path / "small.toml").write_text(EXPERIMENT)
        done = testbed("run", "small.toml")
        assert done.code == 0, done.err
        shutil.copytree(tmp_path, finished, dirs_exist_ok=True)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_says_what_it_did_and_what_comes_next(made: Path, testbed: Callable[..., Done]) -> None:
    again = testbed("run", "small.toml")
    assert again.code == 0
    assert "48 of 48 attempts are stored: 0 new, 48 from before; 0 lost to the infrastructure." in again.err
    assert "testbed report small" in again.err


def test_a_report_prints_text_and_writes_a_page(made: Path, testbed: Callable[..., Done]) -> None:
    done = testbed("report", "small", "--html", "page.html")
    assert done.code == 0, done.err
    assert "inert" in done.out
    assert "95%" in done.out
    page = (made / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count('<details id="transcripts-') == 2
    assert 'class="tx-text"' in page


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
    assert "tool python" in shown.out
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


def test_a_store_that_cannot_be_written_is_named(made: Path, testbed: Callable[..., Done]) -> None:
    # Root may write anywhere, so the store is one that not even root can: a file on a read-only pseudo file system.
    done = testbed("run", "small.toml", "--store", "/proc/s.sqlite")
    assert done.code == 2
    assert "/proc/s.sqlite" in done.err


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


AGAIN_JSON = pytest.param("report small --json", marks=pytest.mark.slow)  # each takes a process of more than a second
AGAIN_TABLE = pytest.param("list envs", marks=pytest.mark.slow)


@pytest.mark.parametrize("command", ["list envs", "report small", AGAIN_JSON, "show small", "--help"])
def test_a_reader_that_has_had_enough_is_no_error(made: Path, command: str) -> None:
    done = piped(f"testbed {command} | true", made)
    assert (done.stdout, done.stderr) == ("0 0\n", "")


@pytest.mark.parametrize("command", [AGAIN_TABLE, "report small --json", "--help"])
def test_output_that_finds_no_room_is_an_error_and_no_traceback(made: Path, command: str) -> None:
    done = piped(f"testbed {command} > /dev/full", made)
    assert (done.stdout, done.stderr) == ("1\n", "error: the output cannot be written: No space left on device.\n")


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        f"report small --store {LONG}.sqlite",
        f"run {LONG}.toml",
        f"run {LONG}",
        f"export small {LONG}.csv",
        f"import in.csv --run r --task q --success c --arm =a --store {LONG}.sqlite",
    ],
)
def test_a_name_that_no_file_can_have_is_told_and_no_traceback(
    made: Path, testbed: Callable[..., Done], command: str
) -> None:
    done = testbed(*command.split())
    assert done.code == 2
    assert done.err.startswith("error: the name '")
    assert done.err.endswith("' is too long for a file; give a shorter one.\n")


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
    for command in ("run", "report", "compare", "show", "list", "import", "export", "doctor", "plan", "calibrate"):
        done = testbed(command, "--help")
        assert done.code == 0
        assert "Example: testbed" in done.out


def test_an_unknown_command_ends_with_code_2(testbed: Callable[..., Done]) -> None:
    assert testbed("rum").code == 2


def test_an_error_drives_no_terminal(testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server or a file has a say in it, and they may say anything."""

    def refused() -> None:
        raise UsageError("the board answers 400: \x1b]0;title\x07")

    monkeypatch.setattr("testbed.cli.app", refused)
    done = testbed("list", "envs")
    assert (done.code, done.err) == (2, "error: the board answers 400: ␛]0;title␇\n")
