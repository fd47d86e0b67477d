"""The m-bit oracle through the whole instrument: m bits take m ln 2 nats, and verdicts turn where K pays for them."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.oracle_model import oracle_player
from testbed.experiment_file import parse_experiment
from testbed.report.analyse import analyse_run
from testbed.report.nats_words import table
from testbed.report.record import Analysis, Effect
from testbed.report.tables import every_table
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.stats import Verdict
from testbed.store import Store

BITS = {2: 100, 5: 300}  # and the bare attempts that settle verdicts on them
VAULTS, ASKED = 8, 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A run for each number of bits, made when first asked for: played by the real model, scored by itself."""
    folder = tmp_path_factory.mktemp("oracle")
    with Store.open(folder / "s.sqlite") as store:
        yield Runs(store, folder)


class Runs:
    """Analyses of runs at any budget."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._made: set[int] = set()

    def at(self, bits: int, attempts: int) -> Analysis:
        if bits not in self._made:
            self._make(bits)
        return analyse_run(self._store, f"bits{bits}", elicitation=attempts)

    def _make(self, bits: int) -> None:
        player = oracle_player(self._folder / str(bits), bits)
        experiment = parse_experiment(
            {
                "name": f"bits{bits}",
                "samples": ASKED,
                "model": {"id": f"hf:{player}", "system": "", "device": "cpu"},
                "budget": {"turns": 2},
                "env": [{"id": "Oracle-v0", "digits": [bits], "told": [bits], "vaults": VAULTS}],
                "arm": [{"name": "bare", "samples": BITS[bits]}, {"name": "ask", "tools": ["ask"]}],
            }
        )
        asyncio.run(Runner(experiment, self._store).run())
        asyncio.run(Scoring(self._store, f"bits{bits}").run())
        self._made.add(bits)


FEW_AND_MANY = [pytest.param(2, id="2"), pytest.param(5, id="5", marks=pytest.mark.slow)]


@pytest.mark.parametrize("bits", FEW_AND_MANY)
def test_reading_m_bits_takes_m_ln_2_nats_and_bare_guessing_succeeds_as_often(runs: Runs, bits: int) -> None:
    analysis = runs.at(bits, 4)
    (found,) = analysis.nats
    assert found.own
    assert found.told.attempts == VAULTS * ASKED  # every attempt that was told answers right
    assert found.told.mean.value == pytest.approx(bits * math.log(2), abs=1e-3)
    assert found.told.median == pytest.approx(bits * math.log(2), abs=1e-3)
    assert found.told.guessed.value == pytest.approx(2.0**-bits, rel=1e-3)
    guesses = VAULTS * BITS[bits]
    assert analysis.arm("bare").successes == pytest.approx(
        guesses * 2.0**-bits, abs=4 * math.sqrt(guesses * 2.0**-bits)
    )


@pytest.mark.parametrize("bits", FEW_AND_MANY)
def test_creation_becomes_elicitation_where_the_budget_pays_for_the_bits(runs: Runs, bits: int) -> None:
    few, many = {2: (1, 16), 5: (4, 128)}[bits]
    nats = bits * math.log(2)
    assert math.log(few) < nats < math.log(many)
    below, above = runs.at(bits, few), runs.at(bits, many)
    assert counts(below)[Verdict.EXPANDED] == VAULTS
    assert counts(above)[Verdict.EXPANDED] == 0
    assert counts(above)[Verdict.PRESERVED] > VAULTS / 2  # at the others the attempts do not settle it
    assert Effect.CREATED in effects(below)
    assert Effect.CREATED not in effects(above)
    first, words, _ = told(below).partition("for guessing the tools' words.")
    assert words
    assert re.match(r"ask: (at \d of 8 tasks )?its verdict rests on (both|re-weighting)", first)
    assert "more than ln K" in told(below)
    assert "Even the tools' words are within the budget" in told(above)
    assert told(above).startswith("ask: nothing in its verdict rests on tools' words beyond what the budget can guess.")


@pytest.mark.slow
def test_at_one_budget_few_bits_are_elicited_and_many_created(runs: Runs) -> None:
    found = {bits: counts(runs.at(bits, 8)) for bits in BITS}
    assert found[2][Verdict.PRESERVED] > VAULTS / 2
    assert found[2][Verdict.EXPANDED] == 0
    assert found[5][Verdict.EXPANDED] >= VAULTS - 1
    assert found[5][Verdict.PRESERVED] == 0


def test_the_json_and_the_tables_have_what_is_said(runs: Runs) -> None:
    analysis = runs.at(2, 4)
    (shown,) = [each for each in every_table(analysis) if each.key == "nats"]
    assert shown.rows[0].cells[1] == ("1.39",)
    assert shown.notes[-1] == told(analysis)
    (row,) = analysis.as_dict()["nats"]
    assert row["budget"] == pytest.approx(math.log(4))
    assert row["told"]["mean"]["value"] == pytest.approx(2 * math.log(2), abs=1e-3)
    assert row["scorer"].startswith("hf:")


def test_another_model_that_read_them_is_named(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.sqlite") as other:
        experiment = parse_experiment(
            {
                "name": "scripted",
                "samples": 4,
                "model": {"id": "scripted", "policy": "docs/experiments/players.py:listener"},
                "env": [{"id": "Oracle-v0", "digits": [5], "told": [5], "vaults": 2}],
                "arm": [{"name": "bare"}, {"name": "ask", "tools": ["ask"]}],
            }
        )
        asyncio.run(Runner(experiment, other).run())
        player = oracle_player(tmp_path / "player", 5)
        asyncio.run(Scoring(other, "scripted", by=f"hf:{player}").run())
        analysis = analyse_run(other, "scripted")
    (found,) = analysis.nats
    assert not found.own
    assert f"ask: read by hf:{player}, which is not the model" in " ".join(table(analysis).notes)


def counts(analysis: Analysis) -> dict[Verdict, int]:
    full = analysis.comparisons[0].full
    assert full is not None
    return {verdict: full.figures.verdicts.counts[verdict.value] for verdict in Verdict}


def effects(analysis: Analysis) -> tuple[Effect, ...]:
    return analysis.groups[0].effects[0].effects


def told(analysis: Analysis) -> str:
    return table(analysis).notes[-1]
