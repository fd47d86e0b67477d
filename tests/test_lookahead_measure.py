"""Search through the whole instrument: best of n with a perfect checker is elicitation, and reads as that."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers.runs import registered
from testbed.allocation import Allocation
from testbed.calibration import codes
from testbed.calibration.instrument import Examination, examine_closely
from testbed.calibration.policies import Tabular
from testbed.experiment_file import parse_experiment, read_experiment
from testbed.planning.design import design_of
from testbed.planning.record import Asked
from testbed.report.analyse import analyse, analyse_run
from testbed.report.record import Effect
from testbed.report.text import print_report
from testbed.runner import Runner
from testbed.stats import ArmOutcomes, compare_arms
from testbed.store import Store
from testbed.types import COST_COMPONENTS

DOCUMENTED = Path(__file__).parents[1] / "docs" / "experiments"
N, TASKS, TOKENS = 8, 36, 16
CHANCES = np.resize([0.02, 0.1, 0.3], TASKS)


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(Path(codes.__file__)):
        yield


@cache
def examined(elicitation: int = 16) -> Examination:
    """A policy of known chances, bare and as best of 8."""
    best = {"name": "best", "samples": 64, "lookahead": {"kind": "best_of", "n": N}}
    return examine_closely(
        {
            "name": "best",
            "seed": 5,
            "samples": 96,
            "model": {"id": "scripted:policy"},
            "measure": {"elicitation": elicitation, "replicates": 500},
            "env": [{"id": "CalibrationCodes-v0", "strata": {"all": TASKS}}],
            "arm": [best, {"name": "bare"}],  # the search is no bare arm, though it comes first and has no tools
        },
        models={"scripted:policy": Tabular("policy", {"all": [float(p) for p in CHANCES]})},
    )


def test_success_and_cost_are_those_of_n_draws() -> None:
    summary = examined().analysis.arm("best")
    missed = 1 - CHANCES
    success = 1 - missed**N
    drawn = (1 - missed**N) / CHANCES  # mean of the first success among n, or n
    checks = (1 - missed ** (N - 1)) / CHANCES
    error = np.sqrt((success * missed**N).sum()) / TASKS / 8
    assert summary.pass_1.value == pytest.approx(success.mean(), abs=4 * error)
    spread = 4 * N / 2 / np.sqrt(64 * TASKS)
    assert summary.cost["model_calls"] == pytest.approx(drawn.mean(), abs=spread)
    assert summary.cost["tool_calls"] == pytest.approx(checks.mean(), abs=spread)
    assert summary.cost["generated_tokens"] == pytest.approx(TOKENS * summary.cost["model_calls"])
    assert summary.cost["turns"] == summary.cost["model_calls"]


def test_by_attempts_its_gain_is_elicitation_where_resampling_may_spend_as_much() -> None:
    analysis = examined().analysis
    assert analysis.bare == "bare"
    (comparison,) = analysis.comparisons
    assert comparison.full is not None
    found, truth = comparison.full.figures, (1 - (1 - CHANCES) ** N - CHANCES).mean()
    assert found.gain.value == pytest.approx(truth, abs=0.03)
    assert found.elicitation_part.value == pytest.approx(truth, abs=0.03)
    assert -0.03 < (found.creation.value or 0) < 0.02  # cross-fitting is noisy, and never biased upward
    assert abs(found.loss.value or 0) < 0.02
    (group,) = analysis.groups
    assert [effect.effects for effect in group.effects] == [(Effect.ELICITED,)]


def test_by_tokens_nothing_is_gained_at_any_spend() -> None:
    outcomes = examined().outcomes
    axis, arms = COST_COMPONENTS.index("generated_tokens"), {}
    for position, arm in enumerate(outcomes.arms):
        rows = outcomes.arm == position
        names = [outcomes.tasks[t].hash for t in outcomes.task[rows]]
        spent = {"generated_tokens": outcomes.cost[rows, axis]}
        arms[arm.name] = ArmOutcomes.from_rows(arm.name, names, outcomes.success[rows].astype(float), costs=spent)
    for draws in (2, 8):
        spend = float(TOKENS * draws)
        found = compare_arms(
            arms["bare"], arms["best"], axis="generated_tokens", operating=spend, elicitation=spend, replicates=200
        ).figures
        assert found.gain.value == pytest.approx(0, abs=0.03)
        assert abs(found.creation.value or 0) < 0.02


def test_the_report_says_who_checked_and_what_an_attempt_costs() -> None:
    said = next(w for w in examined().analysis.warnings if "'best'" in w)
    assert "oracle" in said
    assert "One attempt costs as much as 5" in said
    assert "mere" not in said
    little = analyse(examined().outcomes, elicitation=4, replicates=100)
    assert any("Resampling may spend only 4" in w and "elicitation = 8 or more" in w for w in little.warnings)


def test_a_search_is_no_second_sample_of_the_bare_arm_and_nobodys_default_bare() -> None:
    found = examined().analysis.comparisons[0].full
    assert found is not None
    assert found.null is not None
    assert "best" not in (found.null.bare, found.null.tool)
    arms = [{"name": "best", "lookahead": {"kind": "best_of", "n": 4}}, {"name": "bare"}]
    env = [{"id": "CalibrationCodes-v0"}]
    experiment = parse_experiment({"name": "x", "model": "oracle", "env": env, "arm": arms})
    assert design_of(Asked(), experiment.measure, experiment, None).bare == "bare"
    assert Allocation(experiment, 1, finished=lambda cell: False, outcomes={})._bare == 1


@pytest.mark.parametrize(
    ("file", "arm", "effects", "remark"),
    [
        ("best_of.toml", "best of 12", {Effect.ELICITED}, "a public check accepts"),
        pytest.param(
            "tree.toml", "tree", {Effect.CREATED, Effect.ELICITED}, "clones of the environment", marks=pytest.mark.slow
        ),
    ],
)
def test_a_documented_experiment_shows_its_effect_in_the_report(
    file: str, arm: str, effects: set[Effect], remark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCUMENTED.parents[1])  # its policy is named from there
    experiment = read_experiment(str(DOCUMENTED / file))
    with Store.open(tmp_path / "s.sqlite") as store:
        asyncio.run(Runner(experiment, store).run())
        analysis = analyse_run(store, experiment.name)
    (group,) = analysis.groups
    assert {effect.arm: set(effect.effects) for effect in group.effects}[arm] == effects
    assert any(remark in warning and "Resampling may spend only" not in warning for warning in analysis.warnings)
    written = io.StringIO()
    print_report(analysis, Console(file=written, width=160))
    assert remark in " ".join(written.getvalue().split())
