"""A board's results in the forms of others: nothing is shown that was not checked, and each form is what it says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from starlette.testclient import TestClient

from helpers.board_entries import enter
from helpers.boards import a_board, a_database, a_run, client
from testbed.board import ranking
from testbed.board.database import BoardDatabase
from testbed.store import Store

QUICK_IN_POSTGRESQL = ()  # what is read here others read there, too

HOSTILE = '=HYPERLINK("http://evil","x")\u202e</script>'


@pytest.fixture(scope="module")
def served(
    where_shared: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BoardDatabase, TestClient, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("exports")
    board = a_board(folder)
    a_run(folder / "runs.sqlite", board)
    with a_database(where_shared, board) as db, Store.open(folder / "runs.sqlite") as source:
        unchecked = [{"check": "tokens", "level": "unchecked", "text": "tokens could not be counted again"}]
        ids = {
            "good": enter(db, board, source, "mine", title="Good", model="hf:org/small"),
            "partly": enter(db, board, source, "mine", title=HOSTILE, state="partly", reasons=unchecked),
            "rejected": enter(db, board, source, "mine", title="Bad", state="rejected"),
            "waiting": enter(db, board, source, "mine", title="New", state="waiting"),
        }
        ranking.recompute(db, board)
        with client(db) as asked:
            yield db, asked, ids


def rows_of(asked: TestClient) -> list[dict[str, str]]:
    answer = asked.get("/api/boards/sums/results.csv")
    assert answer.status_code == 200
    assert "sums.csv" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_only_entries_that_were_checked_have_results(served: Any) -> None:
    _, asked, ids = served
    told = asked.get("/api/boards/sums/results.json").json()
    assert {found["id"] for found in told["entries"]} == {ids["good"], ids["partly"]}
    assert {row["entry"] for row in rows_of(asked)} == {ids["good"], ids["partly"]}


@pytest.mark.parametrize("state", ["rejected", "waiting", "nobody"])
@pytest.mark.parametrize("form", ["every_eval_ever.json", "eval_results.yaml?dataset=org/name"])
def test_an_entry_without_results_has_none_in_any_form(served: Any, state: str, form: str) -> None:
    _, asked, ids = served
    answer = asked.get(f"/api/entries/{ids.get(state, 'f' * 32)}/{form}")
    assert answer.status_code == 404
    assert "no entry with results" in answer.json()["error"]


def test_json_has_every_arm_with_its_figures_ranks_and_address(served: Any) -> None:
    _, asked, ids = served
    told = asked.get("/api/boards/sums/results.json").json()
    good = next(found for found in told["entries"] if found["id"] == ids["good"])
    assert [arm["name"] for arm in good["arms"]] == ["bare", "calculator"]
    bare, calculator = good["arms"]
    assert bare["bare"]
    assert bare["gain"] is None
    assert calculator["gain"] == pytest.approx(calculator["reach"] - bare["reach"])
    assert calculator["figures"]["gain"]["low"] <= calculator["gain"] <= calculator["figures"]["gain"]["high"]
    assert calculator["ranks"]["reach"][0] == 1
    assert good["url"].endswith(f"/entries/{ids['good']}")


def test_the_table_has_the_same_figures(served: Any) -> None:
    _, asked, ids = served
    told = asked.get("/api/boards/sums/results.json").json()
    row = next(row for row in rows_of(asked) if row["entry"] == ids["good"] and row["arm"] == "calculator")
    arm = next(found for found in told["entries"] if found["id"] == ids["good"])["arms"][1]
    assert float(row["reach"]) == arm["reach"]
    assert float(row["creation_high"]) == arm["figures"]["creation"]["high"]
    assert (row["tools"], row["model"], row["missing"]) == ("calculator", "hf:org/small", "0")


def test_no_cell_is_a_formula(served: Any) -> None:
    _, asked, ids = served
    for row in rows_of(asked):
        assert not any(value.startswith(("=", "+", "@", "\t")) for value in row.values())
    assert any(row["title"] == f"'{HOSTILE}" for row in rows_of(asked) if row["entry"] == ids["partly"])


def test_the_hub_reads_what_is_written_for_it(served: Any) -> None:
    _, asked, ids = served
    answer = asked.get(f"/api/entries/{ids['good']}/eval_results.yaml", params={"dataset": "org/sums"})
    read = parse_eval_result_entries(yaml.safe_load(answer.text))
    arms = asked.get("/api/boards/sums/results.json").json()["entries"][0]["arms"]
    assert [(one.dataset_id, one.task_id) for one in read] == [("org/sums", "sums")] * 2
    assert [one.value for one in read] == [pytest.approx(100 * arm["reach"], abs=1e-3) for arm in arms]
    assert "creation" in (read[1].notes or "")
    assert "verified" in (read[1].source_name or "")


def test_what_could_not_be_checked_travels_with_the_figure(served: Any) -> None:
    _, asked, ids = served
    text = asked.get(f"/api/entries/{ids['partly']}/eval_results.yaml", params={"dataset": "org/sums"}).text
    assert "tokens could not be counted again" in text
    logs = asked.get(f"/api/entries/{ids['partly']}/every_eval_ever.json").json()
    assert "tokens could not be counted again" in logs[0]["source_metadata"]["additional_details"]["state"]


@pytest.mark.parametrize("dataset", ["", "sums", "a/b/c", "../x y"])
def test_a_dataset_that_the_hub_could_not_have_is_refused(served: Any, dataset: str) -> None:
    _, asked, ids = served
    answer = asked.get(f"/api/entries/{ids['good']}/eval_results.yaml", params={"dataset": dataset})
    assert answer.status_code == 422


def test_logs_meet_the_schema_of_every_eval_ever(served: Any) -> None:
    _, asked, ids = served
    schema = json.loads(Path(str(files("every_eval_ever") / "schemas" / "eval.schema.json")).read_text("utf-8"))
    for kind in ("good", "partly"):
        logs = asked.get(f"/api/entries/{ids[kind]}/every_eval_ever.json").json()
        assert len(logs) == 1
        jsonschema.validate(logs[0], schema)
        assert logs[0]["schema_version"] == schema["version"]
        found = {result["metric_config"]["metric_id"] for result in logs[0]["evaluation_results"]}
        assert found == {"reach", "gain", "elicitation", "creation", "loss"}
        for result in logs[0]["evaluation_results"]:
            metric, details = result["metric_config"], result["score_details"]
            limits = details["uncertainty"]["confidence_interval"]
            assert metric["min_score"] <= limits["lower"] <= limits["upper"] <= metric["max_score"]
            assert limits["method"] == "Bayesian bootstrap of clusters of tasks, its quantiles computed"
            assert "num_bootstrap_samples" not in details["uncertainty"]  # none is drawn
            assert metric["min_score"] <= details["score"] <= metric["max_score"]
            if metric["metric_id"] in ("reach", "gain"):
                assert limits["lower"] <= details["score"] <= limits["upper"]
