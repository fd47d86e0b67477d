"""Interaction and lookahead change what a policy that really plays can do; the documented experiments show it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from testbed.experiment import Experiment
from testbed.experiment_file import parse_experiment, read_experiment
from testbed.models.scripted import load_policy
from testbed.report.analyse import analyse_run
from testbed.report.record import Analysis, Effect
from testbed.report.text import print_report
from testbed.runner import Runner
from testbed.store import Store

EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"
PLAYERS = EXPERIMENTS / "players.py"


def played(experiment: Experiment, store: Store) -> Analysis:
    asyncio.run(Runner(experiment, store).run())
    return analyse_run(store, experiment.name)


def shares(policy: str, environment: Mapping[str, object], arms: list[dict[str, object]], path: Path) -> list[float]:
    """Success of a policy by arm."""
    with Store.open(path) as store:
        experiment = parse_experiment(
            {
                "name": "games",
                "samples": 4,
                "model": {"id": "scripted", "policy": f"{PLAYERS}:{policy}"},
                "budget": {"turns": 40},
                "env": [environment],
                "arm": arms,
            }
        )
        analysis = played(experiment, store)
    return [arm.successes / arm.attempts for arm in analysis.arms]


@pytest.mark.parametrize(
    ("file", "created", "nothing"),
    [
        ("interaction.toml", {"ask"}, {"inert", "yoked"}),
        ("answers.toml", {"answers", "ask"}, set()),
        ("lookahead.toml", {"simulate"}, {"inert"}),
    ],
)
def test_a_documented_experiment_shows_its_effect_in_the_report(
    file: str, created: set[str], nothing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parents[1])  # its policy is named from there
    with Store.open(tmp_path / "s.sqlite") as store:
        analysis = played(read_experiment(str(EXPERIMENTS / file)), store)
    (group,) = analysis.groups
    effects = {effect.arm: effect for effect in group.effects}
    assert {arm for arm, effect in effects.items() if Effect.CREATED in effect.effects} == created
    assert {arm for arm, effect in effects.items() if Effect.NOTHING in effect.effects} == nothing
    for arm in created:
        assert effects[arm].creation is not None
        assert effects[arm].creation.low is not None
        assert effects[arm].creation.low > 0.4
    written = io.StringIO()
    print_report(analysis, Console(file=written, width=160))
    assert "created" in written.getvalue()


def test_halving_needs_as_many_questions_as_the_secret_has_bits(tmp_path: Path) -> None:
    game = {"id": "TwentyQuestions-v0", "things": 64, "tasks": 20}
    arms: list[dict[str, object]] = [{"name": "ask", "tools": ["ask"]}]
    enough, too_few = (
        shares("questioner", {**game, "questions": n}, arms, tmp_path / f"{n}.sqlite")[0] for n in (12, 3)
    )
    assert enough == 1
    assert too_few < 0.4  # at most 2³ of 64 can be told apart; the rest is guessed among what is left


def test_mastermind_needs_the_replies_and_not_just_more_answers(tmp_path: Path) -> None:
    game = {"id": "Mastermind-v0", "tasks": 10}
    arms: list[dict[str, object]] = [
        {"name": "bare"},
        {"name": "two", "budget": {"answers": 2}},
        {"name": "five", "budget": {"answers": 5}},
        {"name": "eight", "budget": {"answers": 8}},
        {"name": "inert", "tools": ["ask"], "control": "inert"},
        {"name": "yoked", "tools": ["ask"], "control": "yoked"},
        {"name": "ask", "tools": ["ask"]},
    ]
    bare, two, five, eight, inert, yoked, ask = shares("codebreaker", game, arms, tmp_path / "s.sqlite")
    assert max(bare, two, inert) < 0.1
    assert two < five < eight
    assert min(eight, ask) > 0.95
    assert yoked < 0.2


def test_acting_step_by_step_falls_where_looking_ahead_does_not(tmp_path: Path) -> None:
    lake = {"id": "FrozenLake-v0", "size": 8, "map_shown": False, "tasks": 20}
    arms: list[dict[str, object]] = [
        {"name": "bare"},
        {"name": "several", "budget": {"answers": 8}},
        {"name": "simulate", "tools": ["simulate"]},
    ]
    bare, several, simulate = shares("walker", lake, arms, tmp_path / "s.sqlite")
    assert bare < 0.15
    assert bare < several < simulate == 1


def test_players_know_nothing_but_what_they_are_told() -> None:
    assert callable(load_policy(f"{PLAYERS}:walker"))
    source = PLAYERS.read_text(encoding="utf-8")
    assert ".task" not in source
    assert "reference" not in source
