"""What the report claims in words: where it is true, where it is not, and at which spends it reads the attempts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from testbed.calibration.suites import made_up
from testbed.report.analyse import analyse
from testbed.report.findings import findings, headline
from testbed.report.record import Analysis, Effect, GroupEffect
from testbed.report.text import print_report
from testbed.report.words import figure, interval, number
from testbed.stats import Estimate
from testbed.store import Outcomes


def drawn(bare: Sequence[float], tool: Sequence[float], attempts: int, seed: int = 0) -> Outcomes:
    chances: Mapping[str, Mapping[str, np.ndarray]] = {
        "bare": {"all": np.array(bare, dtype=np.float64)},
        "tool": {"all": np.array(tool, dtype=np.float64)},
    }
    return made_up(chances, attempts, np.random.default_rng(seed))


def broken(data: Outcomes, arm: int, lost: np.ndarray) -> Outcomes:
    """The same attempts, those of one arm missing where said."""
    gone = (data.arm == arm) & lost
    return replace(
        data,
        success=np.where(gone, -1, data.success).astype(np.int8),
        ended=np.where(gone, "missing:sandbox_died", data.ended),
    )


def effect(found: Analysis) -> GroupEffect:
    return found.groups[0].effects[0]


def text(found: Analysis) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    print_report(found, console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(("p", "q", "n", "b"), [(0.0, 0.25, 32, None), (0.2, 0.8, 2, None), (0.0, 0.6, 16, 15)])
def test_creation_is_not_called_elicitation(p: float, q: float, n: int, b: int | None) -> None:
    found = analyse(drawn([p] * 60, [q] * 60, n, 1), elicitation=b, replicates=300)
    assert effect(found).effects == (Effect.CREATED,)


def test_tasks_expanded_without_creation_are_not_called_created() -> None:
    found = analyse(drawn([0.01] * 20, [0.13] * 20, 500, 2), replicates=200)
    assert effect(found).effects == (Effect.EXPANDED,)
    (finding,) = findings(found, found.comparisons[0])
    assert finding.effect is Effect.EXPANDED
    assert "tasks expanded" in finding.phrases[0]


def test_a_tool_that_reaches_at_once_what_bare_attempts_do_not_creates_on_few_tasks() -> None:
    assert effect(analyse(drawn([0.0] * 5, [1.0] * 5, 250), replicates=200)).effects == (Effect.CREATED,)


@pytest.mark.parametrize(("p", "q", "tasks"), [(0.45, 0.35, 600), (0.4, 0.5, 400)])
def test_no_effect_is_not_said_beside_a_gain_that_excludes_none(p: float, q: float, tasks: int) -> None:
    found = effect(analyse(drawn([p] * tasks, [q] * tasks, 2, 3), replicates=300))
    assert found.gain.low is not None
    assert found.gain.high is not None
    assert not found.gain.low <= 0 <= found.gain.high
    assert Effect.NOTHING not in found.effects


def test_what_missing_attempts_could_overturn_is_not_claimed() -> None:
    data = drawn([0.3] * 100, [0.25] * 100, 32, 1)
    rng = np.random.default_rng(2)
    gone = broken(data, 1, (data.success == 0) & (rng.random(data.success.size) < 0.5))  # half of the failures
    found = analyse(gone, elicitation=4, replicates=300)
    assert effect(found).gain.low is not None
    assert (effect(found).gain.low or 0) > 0  # the scored attempts alone gain
    assert effect(found).effects == (Effect.UNDETERMINED,)
    assert effect(found).open_as_missing
    assert "undetermined, as attempts are missing" in text(found)


def test_what_no_missing_attempt_could_overturn_is_claimed() -> None:
    data = drawn([0.0] * 60, [0.9] * 60, 32, 1)
    found = analyse(broken(data, 1, np.random.default_rng(3).random(data.success.size) < 0.05), replicates=300)
    assert effect(found).effects == (Effect.CREATED,)
    assert not effect(found).open_as_missing


def test_one_task_short_of_attempts_changes_no_others_and_is_counted() -> None:
    rng = np.random.default_rng(12)
    p = rng.beta(0.6, 2, 80)
    data = drawn(p.tolist(), np.minimum(1, 2.2 * p).tolist(), 32, 4)
    whole = analyse(data, replicates=300)
    short = analyse(broken(data, 0, (data.task == 5) & (data.sample >= 2)), replicates=300)
    one, other = whole.comparisons[0], short.comparisons[0]
    assert (one.elicitation, other.elicitation) == (16, 16)
    assert (one.tasks, other.tasks) == (80, 79)
    assert any("1 of 80 common tasks are left out" in note for note in other.notes)
    assert effect(whole).effects == effect(short).effects == (Effect.ELICITED,)
    assert other.full is not None
    assert other.full.null is not None
    assert other.full.null.elicitation == 15
    assert other.full.missing is not None
    assert other.full.missing.tasks == 80  # its bounds are there, at the same spend


def test_the_elicitation_spend_is_half_of_the_attempts_unless_it_is_asked_for() -> None:
    data = drawn([0.2] * 30, [0.4] * 30, 20, 5)
    assert analyse(data, replicates=100).comparisons[0].elicitation == 10
    asked = analyse(data, elicitation=16, replicates=100).comparisons[0]
    assert asked.elicitation == 16
    assert any("leaves 4 to choose with" in note for note in asked.notes)
    assert analyse(data, elicitation=20, replicates=100).comparisons[0].elicitation == 10  # none would be left


def test_verdicts_are_read_at_the_spend_asked_for_whatever_the_folds_allow() -> None:
    found = analyse(drawn([0.2] * 30, [0.4] * 30, 20, 5), replicates=100)
    full = found.comparisons[0].full
    assert full is not None
    assert full.figures.verdicts.bare.p_out[0] == pytest.approx(1 - 0.5 ** (1 / 16))
    assert "a task is accessible if its reach within 16 attempts" in text(found).lower()


def test_out_of_reach_is_what_it_says_also_of_tasks_solved_now_and_then() -> None:
    found = analyse(drawn([0.01] * 10, [0.01] * 10, 1000, 4), replicates=100)
    assert found.comparisons[0].solved.both == 10
    assert "Out of reach: reach within 16 attempts is below 0.5, solved now and then or never" in text(found)


def test_an_arm_is_shown_at_the_spend_of_the_null_row_too() -> None:
    found = text(analyse(drawn([0.2] * 40, [0.2] * 40, 17, 6), elicitation=16, replicates=100))
    assert "tool at 7" in found
    assert "null row at 7" in found


def test_figures_close_to_one_do_not_read_as_certain_and_limits_are_rounded_outwards() -> None:
    assert [number(v) for v in (0.998, 0.9996, 1.0, -0.9993)] == ["0.998", "0.9996", "1.00", "-0.999"]
    assert interval(Estimate(1.0, 0.9976, 1.0)) == "[0.997, 1.00]"
    assert interval(Estimate(0.5, 0.4449, 0.5551)) == "[0.44, 0.56]"
    assert interval(Estimate(-0.5, -0.5551, -0.4449), signed=True) == "[-0.56, -0.44]"
    assert interval(Estimate(0.25, 0.25, 0.29)) == "[0.25, 0.29]"  # what is exact stays
    assert interval(Estimate(0.0, 0.0, 0.0001)) == "[0.00, 0.001]"
    assert interval(Estimate(0.4, 0.0071, 0.6)) == "[0.007, 0.60]"  # which excludes 0, and reads so
    assert interval(Estimate(-0.1, -0.2, -0.0071), signed=True) == "[-0.20, -0.007]"
    assert figure(Estimate(0.9999999, 0.999999, 1.0)) == "1.00 [0.99999, 1.00]"


def test_without_an_interval_no_level_is_named() -> None:
    found = analyse(drawn([0.2], [0.9], 16, 1), replicates=100)
    said = headline(found, found.comparisons[0])
    assert "[no interval]" in said
    assert "intervals)" not in said
