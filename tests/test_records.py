"""Benchmarks from Hugging Face `datasets`: loaded for real from folders, with the tasks that the files give."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from testbed import records
from testbed.env import Environment
from testbed.errors import DataError, ExperimentError, StoreError, UnknownName, UsageError
from testbed.experiment_file import parse_experiment
from testbed.records import HubRecords
from testbed.registry import make_env
from testbed.runner import Runner
from testbed.store import Store

datasets = pytest.importorskip(
    "datasets", reason="datasets is not installed (pip install 'capability-testbed[datasets]')"
)

ROWS: dict[str, list[dict[str, Any]]] = {
    "GSM8K-v0": [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(1, 5)],
    "Maths-v0": [
        {"problem": "1 + 1?", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"},
        {"problem": "1 / 2?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1", "type": "Algebra"},
    ],
    "NQOpen-v0": [{"question": "who wrote it", "answer": ["Ann", "Ann Bo"]}, {"question": "where", "answer": ["here"]}],
    "Questions-v0": [
        {"prompt": "One?", "answer": "1", "grader": "number", "cluster": "a"},
        {"prompt": "Two?", "answer": "two"},
    ],
    "HumanEval-v0": [
        {
            "task_id": "HumanEval/0",
            "prompt": "def one():\n",
            "entry_point": "one",
            "canonical_solution": "    return 1\n",
            "test": "def check(f):\n    assert f() == 1\n",
        }
    ],
    "MBPP-v0": [
        {
            "task_id": 11,
            "text": "Write a function that returns 1.",
            "code": "def one():\n    return 1",
            "test_list": ["assert one() == 1"] * 3,
            "test_setup_code": "",
        }
    ],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[Environment] = []

    def make(name: str, **options: Any) -> Environment:
        made.append(make_env(name, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def stored(rows: list[dict[str, Any]], form: str, folder: Path) -> str:
    """A folder that holds the rows in one of the forms that `datasets` loads."""
    folder.mkdir()
    if form == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(folder)
    elif form == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(folder / "test-00000-of-00001.parquet")
    else:
        jsonl(rows, folder / "test.jsonl")
    return str(folder)


def jsonl(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def hashes(env: Environment) -> list[str]:
    return [task.hash for task in env.tasks]


# -- the same tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["saved", "parquet", "jsonl"])
@pytest.mark.parametrize("name", ROWS)
def test_the_same_records_make_the_same_tasks(name: str, form: str, tmp_path: Path, opened: Any) -> None:
    by_file = opened(name, path=jsonl(ROWS[name], tmp_path / "rows.jsonl"))
    by_hub = opened(name, hub={"name": stored(ROWS[name], form, tmp_path / "hub"), "split": "test"})
    if form == "saved":
        by_hub = opened(name, hub=str(tmp_path / "hub"))  # one dataset without splits
    assert hashes(by_hub) == hashes(by_file)
    labels = [{key: value for key, value in task.meta.items() if key != "source"} for task in by_hub.tasks]
    assert labels == [dict(task.meta) for task in by_file.tasks]


def test_public_files_and_their_datasets_are_the_same_tasks(data_dir: Path, tmp_path: Path, opened: Any) -> None:
    gsm8k = data_dir / "gsm8k" / "test.jsonl"
    rows = [json.loads(line) for line in gsm8k.read_text(encoding="utf-8").splitlines()]
    hub = {"name": stored(rows, "parquet", tmp_path / "gsm8k")}
    assert hashes(opened("GSM8K-v0", hub=hub)) == hashes(opened("GSM8K-v0", path=gsm8k))
    humaneval = data_dir / "humaneval" / "HumanEval.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(humaneval.read_bytes()).splitlines()]
    hub = {"name": stored(rows, "saved", tmp_path / "humaneval")}
    assert hashes(opened("HumanEval-v0", hub=hub)) == hashes(opened("HumanEval-v0", path=humaneval))


def test_hotpotqas_form_on_the_hub_has_the_same_tasks_and_documents(tmp_path: Path, opened: Any) -> None:
    contexts = [
        [["Kiel", ["Kiel is a city.", " It is north."]], ["Ulm", ["Ulm is south."]]],
        [["Ulm", ["Ulm again."]], ["Rye", ["Rye is a town."]]],
    ]
    rows = [{"question": f"Where is {n}?", "answer": "Kiel", "type": "bridge", "level": "hard"} for n in range(2)]
    official = [{**row, "_id": f"5{n}", "context": contexts[n]} for n, row in enumerate(rows)]
    (tmp_path / "hotpot.json").write_text(json.dumps(official), encoding="utf-8")
    hub = [
        {
            **row,
            "id": f"5{n}",
            "context": {"title": [t for t, _ in contexts[n]], "sentences": [s for _, s in contexts[n]]},
        }
        for n, row in enumerate(rows)
    ]
    by_file = opened("HotpotQA-v0", path=tmp_path / "hotpot.json")
    by_hub = opened("HotpotQA-v0", hub=stored(hub, "parquet", tmp_path / "hub"))
    assert hashes(by_hub) == hashes(by_file)
    assert list(by_hub.documents()) == list(by_file.documents())
    assert len(list(by_hub.documents())) == 3


def test_columns_of_other_names_are_read_under_ours(tmp_path: Path, opened: Any) -> None:
    aime = [{"Problem": "1 + 1?", "Answer": 2}, {"Problem": "2 + 2?", "Answer": 4}]
    renamed = [{"problem": row["Problem"], "answer": row["Answer"]} for row in aime]
    folder = stored(aime, "parquet", tmp_path / "aime")
    by_hub = opened("Maths-v0", hub={"name": folder, "columns": {"problem": "Problem", "answer": "Answer"}})
    assert hashes(by_hub) == hashes(opened("Maths-v0", path=jsonl(renamed, tmp_path / "aime.jsonl")))
    with pytest.raises(UnknownName, match=r"dataset .* has no column 'Problm'.*Did you mean 'Problem'"):
        _ = opened("Maths-v0", hub={"name": folder, "columns": {"problem": "Problm"}}).tasks


def test_a_named_column_hides_another_one_of_the_name_and_may_stand_for_two(tmp_path: Path, opened: Any) -> None:
    rows = [{"query": "One?", "question": "no", "answer": "1"}, {"query": "Two?", "question": "no", "answer": "2"}]
    for form, columns in (("parquet", {"question": "query"}), ("jsonl", {"question": "query", "family": "query"})):
        env = opened("Questions-v0", hub={"name": stored(rows, form, tmp_path / form), "columns": columns})
        assert [task.prompt for task in env.tasks] == ["One?", "Two?"]
    assert [task.meta["family"] for task in env.tasks] == ["One?", "Two?"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_fields_without_a_value_are_left_out_wherever_records_come_from(form: str, tmp_path: Path, opened: Any) -> None:
    rows = [
        {"prompt": None, "question": f"{n}?", "answer": None, "answers": [f"{n}"], "cluster": None, "grader": None}
        for n in range(2)
    ]
    path = jsonl(rows, tmp_path / "rows.jsonl")
    options = {"path": path} if form == "jsonl" else {"hub": stored(rows, form, tmp_path / "hub")}
    tasks = opened("Questions-v0", **options).tasks
    assert [(task.prompt, task.reference, task.grader, task.cluster) for task in tasks] == [
        (f"{n}?", [f"{n}"], "text/1", "") for n in range(2)
    ]


# -- which data it was -------------------------------------------------------------------------------------------------


def test_tasks_say_which_data_they_were_made_of(tmp_path: Path, opened: Any) -> None:
    def source(rows: list[dict[str, Any]], folder: str) -> str:
        return str(opened("GSM8K-v0", hub=stored(rows, "saved", tmp_path / folder)).tasks[0].meta["source"])

    rows = ROWS["GSM8K-v0"]
    one, other = source(rows, "one"), source(rows[:2], "other")
    assert " @ fingerprint " in one
    assert one.partition("@")[2] != other.partition("@")[2]


def test_the_commit_that_was_loaded_is_named(tmp_path: Path, opened: Any) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    data = datasets.Dataset.from_list(ROWS["GSM8K-v0"])
    data.info.download_checksums = {f"hf://datasets/openai/gsm8k@{commit}/main/test.parquet": {"num_bytes": 1}}
    data.save_to_disk(tmp_path / "hub")
    task = opened("GSM8K-v0", hub={"name": str(tmp_path / "hub"), "revision": "main"}).tasks[0]
    assert task.meta["source"].endswith(f" @ {commit}")


def test_a_benchmark_without_a_name_is_its_own_place_on_the_hub() -> None:
    env = make_env("GSM8K-v0", hub={"revision": "e53f048"})
    assert env.records == HubRecords("openai/gsm8k", "main", "test", "e53f048")  # type: ignore[attr-defined]
    for options, split in (({}, "test"), ({"split": "train"}, "train")):
        title = make_env("MBPP-v0", hub={}, **options).records.title  # type: ignore[attr-defined]
        assert title == f"google-research-datasets/mbpp full {split}"


def test_a_run_whose_data_changed_is_refused(tmp_path: Path) -> None:
    def run() -> None:
        experiment = parse_experiment(
            {
                "name": "sums",
                "samples": 1,
                "model": {"id": "scripted", "replies": ["<answer>2</answer>"]},
                "env": [{"id": "GSM8K-v0", "hub": {"name": str(tmp_path / "hub")}}],
                "arm": [{"name": "bare"}],
            }
        )
        with Store.open(tmp_path / "s.sqlite") as store:
            asyncio.run(Runner(experiment, store).run())

    stored(ROWS["GSM8K-v0"][:3], "saved", tmp_path / "hub")
    run()
    run()
    shutil.rmtree(tmp_path / "hub")
    stored(ROWS["GSM8K-v0"], "saved", tmp_path / "hub")
    with pytest.raises(StoreError, match="changed since run 'sums' was started"):
        run()


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_without_datasets_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(records, "version", missing)
    with pytest.raises(UsageError, match=r"GSM8K-v0: .*pip install 'capability-testbed\[datasets\]'.*path of a file"):
        make_env("GSM8K-v0", hub="openai/gsm8k")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hub": {"nam": "x"}}, r"unknown key of hub in Questions-v0 'nam'. Did you mean 'name'"),
        ({"hub": {"split": "test"}}, r"hub needs a name"),
        ({"hub": ""}, r"hub needs a name"),
        ({"hub": {"name": "x", "split": 3}}, r"split of hub must be text"),
        ({"hub": {"name": "x", "columns": "y"}}, r"columns of hub must be a table"),
        ({"hub": "x", "path": "y.jsonl"}, r"give path or hub, not both"),
        ({}, r"Questions-v0 reads a file: give its path; or name a dataset by hub"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_env("Questions-v0", **options)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS["Questions-v0"])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "both")
    both, folder = str(tmp_path / "both"), stored(ROWS["Questions-v0"], "jsonl", tmp_path / "hub")
    (tmp_path / "empty").mkdir()
    uneven = stored([{"a": 1}], "jsonl", tmp_path / "uneven")
    jsonl([{"b": 1}], Path(uneven, "test-2.jsonl"))
    for hub, says in (
        ({"name": both}, r"has the splits train, test: name one"),
        ({"name": both, "split": "tets"}, r"has no split 'tets'.*Did you mean 'test'"),
        ({"name": folder, "split": "dev"}, r"cannot be loaded: Unknown split"),
        ({"name": folder, "config": "main"}, r"cannot be loaded: BuilderConfig 'main' not found"),
        ({"name": str(tmp_path / "empty")}, r"cannot be loaded: "),
        ({"name": uneven}, r"cannot be loaded: (?!An error occurred)"),
        ({"name": "nobody/nothing"}, r"'nobody/nothing' cannot be loaded: .*where there is no network, the path"),
    ):
        with pytest.raises(UsageError, match=says):
            _ = make_env("Questions-v0", hub=hub).tasks


def test_a_record_that_is_none_is_named_with_its_row(tmp_path: Path) -> None:
    folder = stored([*ROWS["Questions-v0"], {"prompt": "Three?", "answer": None}], "parquet", tmp_path / "hub")
    with pytest.raises(DataError, match=r"hub, row 3: there is no 'answer'"):
        _ = make_env("Questions-v0", hub=folder).tasks


def test_an_experiment_names_the_line() -> None:
    text = 'name = "x"\n[[env]]\nid = "GSM8K-v0"\nhub = { name = "x", spilt = "test" }\n[[arm]]\nname = "bare"\n'
    with pytest.raises(ExperimentError, match=r"x\.toml:4: unknown key of hub .*Did you mean 'split'"):
        parse_experiment(tomllib.loads(text), path="x.toml", text=text)
