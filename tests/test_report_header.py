"""What the head of a report says that the report is of."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from testbed.calibration.suites import made_up
from testbed.report.analyse import analyse
from testbed.report.header import header
from testbed.report.page import render_page
from testbed.report.record import Analysis
from testbed.report.subject import Subject, subject_of
from testbed.report.text import print_report
from testbed.store import ArmRecord, Run
from testbed.types import Task

TASKS = (Task("Addition-v0", "1 + 1?", "2"), Task("Addition-v0", "1 + 2?", "3"), Task("Questions-v0", "Who?", "Ann"))
SEARCH = {"schema": {"function": {"name": "search"}}, "content": {"corpus": "e879", "k": 3}}


def record(name: str, control: str, **spec: Any) -> ArmRecord:
    whole = {"control": control, "name": "m", "sampling": {"temperature": 1.0, "top_p": 1.0}, "budget": {"turns": 8}}
    return ArmRecord(f"hash of {name}", name, {**whole, **spec})


def run(**changed: Any) -> Run:
    experiment = {
        "description": "What search adds",
        "model": {"id": "reference"},
        "samples": 16,
        "env": [{"id": "Addition-v0"}, {"id": "Questions-v0", "path": "mine.jsonl"}],
        "tool": {"search": {"corpus": {"env": "Facts-v0", "world": 7, "secret": "${KEY}"}}},
        "arm": [{"name": "bare", "samples": 64}, {"name": "search", "tools": ["search", "python"]}],
        **changed.pop("experiment", {}),
    }
    arms = (record("bare", "absent"), record("search", "live", tools=[SEARCH]))
    return Run("r", experiment, 5, changed.pop("arms", arms), "2026-01-02T03", {"bare": 64, "search": 16, **changed})


def shown(subject: Subject, **measure: Any) -> Analysis:
    chances = {name: {"all": np.array([0.2, 0.5, 0.9])} for name in ("bare", "search")}
    found = analyse(made_up(chances, 16, np.random.default_rng(1)), replicates=100, **measure)
    return replace(found, subject=subject)


def told(subject: Subject) -> dict[str, str]:
    head = header(shown(subject))
    return dict((*head.facts, *head.arms))


def test_the_head_names_model_seed_tasks_budget_measure_and_what_each_arm_offers() -> None:
    found = told(subject_of(run(), TASKS))
    assert found["about"] == "What search adds"
    assert found["model"] == "reference (temperature 1); seed 5; run of 2026-01-02"
    assert found["tasks"] == "3: Addition-v0 2, Questions-v0 1 from mine.jsonl"
    assert found["budget"] == "of an attempt: 8 turns"
    assert found["measure"] == "axis attempts; operating 1, elicitation 16, rho 0.5, alpha 0.05"
    assert found["bare"] == "no tools; 64 attempts per task"
    assert found["search"] == "search over Facts-v0 (world 7) and python; 16 attempts per task"


def test_a_secret_of_a_corpus_is_not_shown() -> None:
    assert "KEY" not in str(subject_of(run(), TASKS))


@pytest.mark.parametrize(
    ("control", "spec", "said"),
    [
        ("inert", {}, "placebos of search over Facts-v0 (world 7) and python; 16"),
        ("imagined", {}, "python, imagined: the model writes their results itself; 16"),
        ("yoked", {"yoke": "hash of bare"}, "yoked: they return what attempts of arm 'bare' were given; 16"),
        ("live", {"replays": {"run": "old", "arm": "a"}}, "results as recorded for arm 'a' of run 'old'; 16"),
        (
            "live",
            {"lookahead": {"kind": "best_of", "n": 8, "check": "grader"}},
            "first of 8 candidates that the grader",
        ),
        ("live", {"lookahead": {"kind": "tree", "width": 3, "version": "1"}}, "looks ahead: tree search (width 3); 16"),
        ("live", {"budget": {"turns": 8, "calls": {"search": 2}}}, "budget 8 turns, 2 calls of search"),
        (
            "live",
            {"budget": {"turns": 1, "seconds": 60.0, "usd": 0.5, "calls": {"search": 1}}},
            "budget 1 turn, 60 seconds, 0.5 USD, 1 call of search",
        ),
    ],
)
def test_an_arm_says_how_its_tools_answer_and_what_it_searches(control: str, spec: dict[str, Any], said: str) -> None:
    arms = (record("bare", "absent"), record("search", control, **spec))
    assert said in told(subject_of(run(arms=arms), TASKS))["search"]


def test_arms_of_different_models_each_name_theirs() -> None:
    table = [{"name": "bare"}, {"name": "search", "tools": ["python"], "model": {"id": "hf:small"}}]
    found = told(subject_of(run(experiment={"arm": table}), TASKS))
    assert "see the arms" in found["model"]
    assert found["bare"].endswith("model reference (temperature 1)")
    assert found["search"].endswith("model hf:small (temperature 1)")


@pytest.mark.parametrize(
    ("bare", "other", "said"),
    [
        ({}, {"tools": ["search"]}, "what the tools added"),
        ({}, {"model": {"id": "hf:post"}}, "what the other model added"),
        ({}, {"tools": ["search"], "model": {"id": "hf:post"}}, "what the tools and the other model added"),
        ({"tools": ["search"]}, {"tools": ["search"], "model": {"id": "hf:post"}}, "what the other model added"),
        ({}, {"lookahead": {"kind": "best_of"}}, "what the search added"),
        ({}, {"model": {"system": "Be brief."}}, "how its arms compare"),
    ],
)
def test_the_heading_says_what_the_arms_have_that_the_bare_one_has_not(
    bare: dict[str, Any], other: dict[str, Any], said: str
) -> None:
    arms = []
    for name, table in (("bare", bare), ("search", other)):
        spec = {"tools": [SEARCH], "control": "live"} if "tools" in table else {"control": "absent"}
        arms.append(record(name, **{"lookahead": table.get("lookahead"), **spec}))
    tables = [{"name": "bare", **bare}, {"name": "search", **other}]
    analysis = shown(subject_of(run(arms=tuple(arms), experiment={"arm": tables}), TASKS), bare="bare")
    page = render_page(analysis)
    assert f"<h1>Report: {said}</h1>" in page
    assert f"<title>Report: {said}</title>" in page


def test_of_imported_outcomes_the_heading_stays_as_it_is() -> None:
    imported = replace(subject_of(run(), TASKS), imported=True)
    assert "<h1>Report: what the tools added</h1>" in render_page(shown(imported))
    assert "<h1>Report: what the tools added</h1>" in render_page(replace(shown(imported), subject=None))


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({}, "(temperature 1)"),
        ({"system": ""}, "(temperature 1, no system text)"),
        ({"system": "Answer\nin <answer> tags."}, "(temperature 1, system text 'Answer in <answer> tags.')"),
        ({"system": "word " * 9}, f"(temperature 1, system text '{('word ' * 8)}…')"),
    ],
)
def test_a_system_text_of_the_experiments_own_is_told(system: dict[str, str], said: str) -> None:
    model = {"id": "hf:small", **system}
    found = told(subject_of(run(experiment={"model": model}), TASKS))
    assert found["model"] == f"hf:small {said}; seed 5; run of 2026-01-02"
    table = [{"name": "bare"}, {"name": "search", "model": model}]
    assert told(subject_of(run(experiment={"arm": table}), TASKS))["search"].endswith(f"model hf:small {said}")


def test_sampling_that_stops_early_is_told_with_its_limits() -> None:
    samples = {"min": 16, "max": 256, "stop": "discovery"}
    found = told(subject_of(run(experiment={"samples": samples, "arm": []}, bare=256, search=256), TASKS))
    assert found["bare"] == "no tools; 16 to 256 attempts per task, stopped by discovery"


def test_of_imported_outcomes_only_what_is_known_is_said() -> None:
    arms = tuple(ArmRecord(name, name, {"imported": True}) for name in ("bare", "search"))
    imported = Run("r", {"imported": "r"}, 0, arms, "2026-01-02", {"bare": 4, "search": 1})
    found = told(subject_of(imported, [Task("imported:r", "q1", None)] * 3))
    assert found["model"].startswith("not known here")
    assert (found["tasks"], found["bare"], found["search"]) == ("3", "4 attempts per task", "1 attempt per task")
    assert "budget" not in found


def test_the_head_stands_in_text_page_and_json_and_in_80_columns() -> None:
    subject = subject_of(run(experiment={"description": "word " * 40}), TASKS)
    analysis = shown(subject)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_report(analysis, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "model    reference (temperature 1); seed 5; run of 2026-01-02" in lines
    assert "  bare    no tools; 64 attempts per task" in lines
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(" ")]
    assert "<dt>model</dt><dd>reference (temperature 1); seed 5; run of 2026-01-02</dd>" in render_page(analysis)
    written = analysis.as_dict()["subject"]
    assert (written["seed"], written["sources"][1]["read"]) == (5, ["mine.jsonl"])
    assert written["arms"][1]["corpora"] == {"search": "e879"}


def test_outcomes_alone_have_no_head() -> None:
    assert header(replace(shown(subject_of(run(), TASKS)), subject=None)).facts == ()
