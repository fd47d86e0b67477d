"""Cases with tools of known effect: they pass as they are, and fail once a mechanism or the instrument is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from helpers.calibrated import keep_runs
from testbed import registry
from testbed.budget import Meter
from testbed.calibration import (
    adding,
    archive,
    guessing,
    mechanisms_leak,
    mechanisms_oracle,
    recurrences,
    vaults,
)
from testbed.calibration.case import QUICK, Case, Check, Size
from testbed.calibration.mechanisms import MECHANISMS
from testbed.calibration.mechanisms_compute import ComputeOnly
from testbed.calibration.mechanisms_games import FixedHint, TwentyQuestions
from testbed.calibration.mechanisms_harm import HarmfulTool
from testbed.calibration.mechanisms_leak import LeakedCorpus
from testbed.calibration.mechanisms_oracle import FLIPPED, OracleBits
from testbed.env import Environment
from testbed.errors import ToolFault, UnknownName, UsageError
from testbed.registry import make_env, make_tool, tool_class
from testbed.runner import Runner
from testbed.stats import Verdict
from testbed.tool import AttemptContext, Tool
from testbed.types import Control
from testbed.wrappers import under_control

judging = import_module("testbed.stats.verdicts")  # the package has a function of that name
reporting, preparing = import_module("testbed.report.compare"), import_module("testbed.preparation")

SMALL = Size(tasks=12, attempts=64, suites=1)
ORACLE = OracleBits(kinds=((4, 2), (6, 4), (8, 6), *FLIPPED, (16, 16)))
PLUGINS = (adding, archive, guessing, recurrences, vaults)
ENVIRONMENTS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "CalibrationVaults-v0": (vaults, {"digits": [4, 16], "told": [2, 16], "vaults": 3}),
    "CalibrationRecurrences-v0": (recurrences, {"tasks": 5}),
    "CalibrationGuessing-v0": (guessing, {"tasks": 5}),
    "CalibrationArchive-v0": (archive, {"tasks": 6}),
}


@pytest.fixture(autouse=True)
def plugged() -> None:
    for module in PLUGINS:
        assert module.__file__ is not None
        registry.load_plugin(module.__file__)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def made_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on where another test has made its attempts; for what only reads these."""
    keep_runs(kept, monkeypatch)


def failed(case: Case, size: Size = SMALL, seed: int = 0) -> list[str]:
    return [check.what for check in case.run(size, seed) if not check.passed]


# -- the cases


@pytest.mark.parametrize("case", MECHANISMS, ids=lambda case: case.name)
@pytest.mark.slow
def test_the_instrument_passes_at_the_quick_size(case: Case) -> None:
    assert failed(case, QUICK, seed=1) == []


SMALL_CASES = (ORACLE, ComputeOnly(), LeakedCorpus(), TwentyQuestions(), FixedHint(), HarmfulTool())


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("made_once")
def test_the_instrument_passes_at_a_small_size(case: Case) -> None:
    assert failed(case) == []


def test_every_case_is_listed_once_and_says_what_is_true() -> None:
    assert [case.name for case in MECHANISMS] == [case.name for case in SMALL_CASES]
    assert all(case.truth for case in MECHANISMS)


def test_a_seed_gives_the_same_checks_again_and_another_seed_other_numbers() -> None:
    def said(seed: int) -> list[Check]:
        return FixedHint().run(Size(tasks=4, attempts=16, suites=1), seed)

    first = said(3)
    assert said(3) == first
    assert said(4) != first


# -- broken mechanisms are noticed


def test_an_oracle_that_tells_a_bit_more_than_it_says_breaks_the_ceiling() -> None:
    found = failed(replace(ORACLE, extra=1))
    assert any("never exceeded" in what for what in found)
    assert any(what.startswith("success, oracle") for what in found)


def test_a_raised_cap_that_the_long_way_does_not_fit_into_is_noticed() -> None:
    found = failed(ComputeOnly(high=61))
    assert {"cap raised: creation vanishes, below .01", "cap raised: every task preserved"} <= set(found)


def test_corpora_taken_for_each_other_are_told_apart_by_the_overlap_and_not_by_the_outcomes() -> None:
    found = failed(LeakedCorpus(leaked="genuine", genuine="leaked"))
    assert all("were shown" in what or "searches" in what for what in found)
    assert any(what.startswith("leaked, live") for what in found)
    assert any(what.startswith("genuine, live") for what in found)


def test_a_machine_that_does_no_harm_is_not_called_harmful() -> None:
    assert "misled: lost" in failed(HarmfulTool(wrong=0.2))


def test_a_question_count_kept_between_attempts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_class("calibration_ask"), "for_attempt", lambda self, context: self)
    assert any(what.startswith("success live") for what in failed(TwentyQuestions()))


# -- a broken instrument is noticed


def controlled_as(made: dict[Control, Control]) -> Callable[..., Any]:
    def wrapped(tools: Any, control: Control) -> Any:
        return under_control(tools, made.get(control, control))

    return wrapped


def test_a_yoked_arm_that_is_live_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "under_control", controlled_as({Control.YOKED: Control.LIVE}))
    found = failed(TwentyQuestions())
    assert any(what.startswith("interaction") for what in found)
    assert any(what.startswith("yoked against bare: no task expanded") for what in found)


def test_a_yoked_attempt_that_replays_its_own_stream_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # With its own sample as partner it asks the same questions, so that a replay is as good as live.
    honest = Runner._replay
    monkeypatch.setattr(
        Runner, "_replay", lambda self, arm, cell: honest(self, arm, replace(cell, sample=cell.sample - 1))
    )
    assert any(what.startswith("success yoked") for what in failed(TwentyQuestions()))


def test_a_yoked_arm_that_is_inert_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "under_control", controlled_as({Control.YOKED: Control.INERT}))
    found = failed(FixedHint())
    assert any(what.startswith("information") for what in found)
    assert "yoked against bare: expanded" in found


def test_a_placebo_that_works_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "under_control", controlled_as({Control.INERT: Control.LIVE}))
    assert any(what.startswith("scaffold") for what in failed(FixedHint()))


def test_a_cap_on_tokens_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Meter.left
    monkeypatch.setattr(
        Meter, "left", lambda self, part: float("inf") if part == "generated_tokens" else honest(self, part)
    )
    monkeypatch.setattr(Meter, "exhausted", lambda self: None)
    monkeypatch.setattr(Meter, "exceeded", lambda self: None)
    assert "under the cap: every bare attempt is cut by it" in failed(ComputeOnly())


def test_tokens_that_are_not_metered_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Meter.charge_model
    monkeypatch.setattr(Meter, "charge_model", lambda self, usage: honest(self, replace(usage, generated_tokens=20)))
    assert "cap raised: the cheapest bare attempt passes the low cap" in failed(ComputeOnly())


def recomputed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Has every comparison of a report changed before it is read."""
    honest = reporting.compare_arms

    def wrong(*arms: Any, **settings: Any) -> Any:
        found = honest(*arms, **settings)
        return replace(found, figures=change(found.figures))

    monkeypatch.setattr(reporting, "compare_arms", wrong)


@pytest.mark.usefixtures("made_once")
def test_loss_and_creation_taken_for_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed(monkeypatch, lambda figures: replace(figures, creation=figures.loss, loss=figures.creation))
    found = failed(HarmfulTool())
    assert {"misled: creation below .005"} <= set(found)
    assert any(what.startswith("misled: loss") for what in found)


@pytest.mark.usefixtures("made_once")
def test_arms_taken_for_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = reporting.compare_arms
    monkeypatch.setattr(reporting, "compare_arms", lambda bare, arm, **settings: honest(arm, bare, **settings))
    assert "misled: lost" in failed(HarmfulTool())


@pytest.mark.usefixtures("made_once")
def test_creation_that_does_not_ask_what_resampling_would_reach_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = reporting.compare_arms

    def hasty(*arms: Any, **settings: Any) -> Any:
        return honest(*arms, **{**settings, "elicitation": settings["operating"]})

    monkeypatch.setattr(reporting, "compare_arms", hasty)
    assert "cap raised: creation vanishes, below .01" in failed(ComputeOnly())


@pytest.mark.usefixtures("made_once")
def test_verdicts_that_do_not_heed_the_budget_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = judging.p_star
    monkeypatch.setattr(judging, "p_star", lambda rho, k: honest(rho, np.ones_like(np.asarray(k, dtype=float))))
    found = failed(ORACLE)
    assert any(what.startswith("verdicts for ρ = ½ at B = 16") for what in found)
    assert any("expanded for ρ = ½ at B = 16" in what for what in found)


@pytest.mark.usefixtures("made_once")
def test_verdicts_that_do_not_heed_rho_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = judging.p_star
    monkeypatch.setattr(judging, "p_star", lambda rho, k: honest(0.5, k))
    assert [what for what in failed(ORACLE) if what.startswith("verdicts")] == [
        "verdicts for ρ = .99999 at B = 16, p* = 0.513"
    ]


@pytest.mark.usefixtures("made_once")
def test_expanded_and_lost_taken_for_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = {Verdict.EXPANDED: Verdict.LOST, Verdict.LOST: Verdict.EXPANDED}

    def swapped(figures: Any) -> Any:
        verdict = np.array([swap.get(each, each) for each in figures.verdicts.verdict], dtype=object)
        return replace(figures, verdicts=replace(figures.verdicts, verdict=verdict))

    recomputed(monkeypatch, swapped)
    assert "misled: lost" in failed(HarmfulTool())
    assert "yoked against bare: expanded" in failed(FixedHint())


@pytest.mark.usefixtures("made_once")
def test_a_ceiling_in_nats_instead_of_bits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms_oracle, "success_ceiling", lambda p, bits: min(1.0, p * np.exp(bits)))
    assert [what for what in failed(ORACLE) if "success_ceiling" in what]


@pytest.mark.usefixtures("made_once")
def test_an_overlap_that_sees_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms_leak, "overlap_of", lambda *question: 0.0)
    assert any(what.startswith("leaked, live") for what in failed(LeakedCorpus()))


# -- what the cases are made of


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_are_sound(name: str) -> None:
    options = ENVIRONMENTS[name][1]
    made: Environment = make_env(name, **options)
    assert made.validate().problems == ()
    assert len({task.hash for task in made.tasks}) == len(made.tasks)
    assert [task.hash for task in make_env(name, **options).tasks] == [task.hash for task in made.tasks]
    assert [task.reference for task in make_env(name, **options, seed=1).tasks] != [
        task.reference for task in made.tasks
    ]
    check_env(made, skip_render_check=True)
    made.close()


def test_codes_are_equally_likely() -> None:
    codes = [vaults.code_of("4-0-0", 4, seed) for seed in range(4000)]
    counts = [codes.count(format(n, "04b")) for n in range(16)]
    assert min(counts) > 250 - 5 * 15.5  # five standard errors
    assert max(counts) < 250 + 5 * 15.5


def test_the_oracle_tells_the_digits_that_it_says_and_no_more() -> None:
    task = make_env("CalibrationVaults-v0", digits=[16], told=[7], vaults=1, seed=3).tasks[0]
    oracle = make_tool("calibration_oracle", seed=3)
    said = called(oracle, vault="16-7-0")
    assert said == f"The code begins with {task.reference[:7]}."
    with pytest.raises(ToolFault, match="no vault"):
        called(oracle, vault="16-7")


def test_a_recurrence_is_followed_step_by_step() -> None:
    assert recurrences.follow(3, 2, 1, 10, 3) == 1  # 3 → 7 → 5 → 1
    assert called(make_tool("calibration_iterate"), start=3, multiplier=2, increment=1, modulus=10, times=0) == "3"


def test_an_attempt_has_twenty_questions_of_its_own() -> None:
    shared = make_tool("calibration_ask")
    assert isinstance(shared, Tool)
    one, other = shared.for_attempt(AttemptContext(1)), shared.for_attempt(AttemptContext(2))
    replies = [called(one, game="32-0", numbers=[n]) for n in range(1, 33)]
    secret = guessing.secret_of("32-0", 32, 0)
    assert replies[20:] == ["All questions are asked."] * 12
    assert replies[:20] == ["yes" if n == secret else "no" for n in range(1, 21)]
    assert called(other, game="32-0", numbers=[secret]) == "yes"


def test_the_machine_errs_as_often_as_it_should_and_alike_in_an_attempt_that_is_repeated() -> None:
    shared = make_tool("calibration_adder", wrong=0.3)
    assert isinstance(shared, Tool)

    def sums(key: int) -> list[str]:
        mine = shared.for_attempt(AttemptContext(key))
        return [called(mine, left=1, right=2) for _ in range(4)]

    replies = [reply for key in range(500) for reply in sums(key)]
    assert sum(reply != "3" for reply in replies) / 2000 == pytest.approx(0.3, abs=0.05)
    assert sums(7) == sums(7)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="as many numbers told"):
        make_env("CalibrationVaults-v0", digits=[4], told=[5])
    with pytest.raises(UsageError, match="numbers must be at least 2"):
        make_env("CalibrationGuessing-v0", numbers=1)
    with pytest.raises(UnknownName, match="leaked"):
        make_env("CalibrationArchive-v0", corpus="leeked")


def called(tool: Any, **arguments: Any) -> str:
    """A tool's coroutine runs to its end without waiting for anything."""
    try:
        tool._arun(**arguments).send(None)
    except StopIteration as done:
        return str(done.value)
    raise AssertionError("the tool waits for something")
