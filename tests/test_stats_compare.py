from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from testbed.stats import ArmOutcomes, Comparison, StatsError, balanced_elicitation, compare_arms, reach_at_k
from testbed.stats.energy import tool_gain_nats


def arm_of(name: str, p: np.ndarray, n: int, rng: np.random.Generator, mean: float = 100.0) -> ArmOutcomes:
    success = rng.random((p.size, n)) < p[:, None]
    tasks = np.repeat([f"t{i}" for i in range(p.size)], n).tolist()
    costs = {"tokens": rng.gamma(4, mean / 4, success.size) + 1, "calls": np.ones(success.size)}
    return ArmOutcomes.from_rows(name, tasks, success.ravel(), costs=costs)


# Ten tasks that only the tool solves, ten that nobody does, thirty mixed ones, ten that the tool breaks.
_RNG = np.random.default_rng(0)
BARE_P = np.concatenate([np.zeros(20), _RNG.beta(0.5, 2, 30), np.full(10, 0.9)])
TOOL_P = np.concatenate([np.full(10, 0.95), np.zeros(10), _RNG.beta(2, 2, 30), np.zeros(10)])


@pytest.fixture(scope="module")
def pair() -> tuple[ArmOutcomes, ArmOutcomes]:
    rng = np.random.default_rng(1)
    return arm_of("bare", BARE_P, 400, rng), arm_of("python", TOOL_P, 400, rng, mean=200)


@pytest.fixture(scope="module")
def found(pair: tuple[ArmOutcomes, ArmOutcomes]) -> Comparison:
    return compare_arms(*pair, operating=1, elicitation=16, replicates=500)


def test_the_totals_add_up(found: Comparison) -> None:
    f = found.figures
    parts = [f.gain.value, f.elicitation_part.value, f.creation.value, f.loss.value]
    assert parts[0] == pytest.approx(parts[1] + parts[2] - parts[3], abs=1e-12)  # type: ignore[operator]
    assert f.gain.value == pytest.approx(f.tool_operating.value - f.bare_operating.value, abs=1e-12)  # type: ignore[operator]


def test_the_figures_find_what_was_built_in(found: Comparison) -> None:
    f = found.figures
    verdict = f.verdicts.verdict.tolist()
    assert verdict[:10] == ["expanded"] * 10
    assert verdict[10:20] == ["out of reach"] * 10
    assert verdict[50:] == ["lost"] * 10
    creation = np.maximum(0, TOOL_P - (1 - (1 - BARE_P) ** 16)).mean()
    assert f.creation.value == pytest.approx(creation, abs=0.01)
    assert f.loss.value == pytest.approx(np.maximum(0, BARE_P - TOOL_P).mean(), abs=0.01)
    assert f.verdicts.expanded_fdr[:10].all()
    assert f.nats_budget == 400
    assert f.equivalent.censored_at == 400
    assert f.parts.cross_fitted


def test_the_null_row_shows_no_gain_and_no_creation(found: Comparison) -> None:
    assert found.null is not None
    for figure in (found.null.gain, found.null.creation, found.null.loss):
        assert abs(figure.value or 0) < 0.01
        assert (figure.low or 0) <= 0 < (figure.high or 0)


def test_on_a_cost_axis_of_ones_reach_is_that_of_attempts_and_no_verdict_contradicts_theirs(
    pair: tuple[ArmOutcomes, ArmOutcomes], found: Comparison
) -> None:
    calls = compare_arms(*pair, operating=1, elicitation=16, axis="calls", replicates=200).figures
    for name in ("bare_operating", "tool_operating", "bare_elicitation", "tool_elicitation", "gain"):
        assert getattr(calls, name).value == pytest.approx(getattr(found.figures, name).value, abs=1e-9)
    pairs = set(zip(calls.verdicts.verdict.tolist(), found.figures.verdicts.verdict.tolist(), strict=True))
    assert all(one == other or "undetermined" in (one, other) for one, other in pairs)
    assert any(one == other != "undetermined" for one, other in pairs)
    assert calls.creation.value == pytest.approx(found.figures.creation.value, abs=0.01)
    assert calls.unsettled == 0


def at_equal_spend(pair: tuple[ArmOutcomes, ArmOutcomes]) -> Comparison:
    return compare_arms(*pair, operating=400, elicitation=4000, axis="tokens", replicates=200)


@pytest.fixture(scope="module")
def in_tokens(pair: tuple[ArmOutcomes, ArmOutcomes]) -> Comparison:
    return at_equal_spend(pair)


def test_equal_spend_charges_the_dearer_arm(pair: tuple[ArmOutcomes, ArmOutcomes], in_tokens: Comparison) -> None:
    f = in_tokens.figures
    # 400 tokens buy about four bare attempts but two of the tool arm's.
    assert f.bare_operating.value > reach_at_k(pair[0].n, pair[0].c, 3).mean()  # type: ignore[operator]
    assert f.tool_operating.value < reach_at_k(pair[1].n, pair[1].c, 3).mean()  # type: ignore[operator]
    assert {*f.verdicts.tool.p_out, *f.verdicts.bare.p_out} == {0.5}  # of a spell, whatever attempts cost


def test_the_same_seed_gives_the_same_comparison(pair: tuple[ArmOutcomes, ArmOutcomes], in_tokens: Comparison) -> None:
    one, two = in_tokens, at_equal_spend(pair)
    assert one.figures.creation == two.figures.creation
    assert one.null is not None
    assert two.null is not None
    assert one.null.gain == two.null.gain


def test_only_common_scored_tasks_are_compared_and_the_others_are_named() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b", "c", "d"], [8, 8, 8, 0], [1, 2, 3, 0], missing=[0, 0, 0, 8])
    tool = ArmOutcomes.from_counts("tool", ["d", "c", "b", "z"], [8, 8, 8, 8], [8, 8, 8, 8])
    found = compare_arms(bare, tool, elicitation=4, replicates=100)
    assert found.figures.tasks == ("b", "c")
    assert (found.only_bare, found.only_tool, found.unscored) == (("a",), ("z",), ("d",))


def test_missing_attempts_widen_figures_to_bounds_that_hold_the_truth() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b"], [10, 8], [2, 0], missing=[0, 2])
    tool = ArmOutcomes.from_counts("tool", ["a", "b"], [9, 10], [9, 5], missing=[1, 0])
    found = compare_arms(bare, tool, elicitation=4, replicates=100).missing
    assert found is not None
    assert (found.bare_missing, found.tool_missing, found.tasks) == (2, 1, 2)
    assert (found.figures["bare_pass1"].low, found.figures["bare_pass1"].high) == pytest.approx((0.1, 0.2))
    assert (found.figures["tool_pass1"].low, found.figures["tool_pass1"].high) == pytest.approx((0.7, 0.75))
    assert (found.figures["gain"].low, found.figures["gain"].high) == pytest.approx((0.5, 0.65))
    assert found.counts["undetermined"].low <= found.counts["undetermined"].high


def test_without_missing_attempts_there_are_no_bounds(found: Comparison) -> None:
    assert found.missing is None


def test_a_single_task_has_estimates_but_no_intervals() -> None:
    bare, tool = (ArmOutcomes.from_counts(name, ["only"], 20, [c]) for name, c in (("bare", 2), ("tool", 15)))
    f = compare_arms(bare, tool, elicitation=10, replicates=100).figures
    assert f.gain.value == pytest.approx(0.65)
    assert (f.gain.low, f.gain.high, f.support.sds.low) == (None, None, None)
    assert (f.equivalent.interval, f.equivalent.low) == (False, None)


def test_few_bare_attempts_leave_no_null_row() -> None:
    bare, tool = (ArmOutcomes.from_counts(name, ["a", "b"], 3, [1, 0]) for name in ("bare", "tool"))
    assert compare_arms(bare, tool, elicitation=2, replicates=100).null is None


def test_logs_with_one_attempt_per_task_are_compared_by_the_plug_in_and_say_so() -> None:
    tasks = [str(i) for i in range(100)]
    bare = ArmOutcomes.from_counts("one turn", tasks, 1, (np.arange(100) < 30).astype(int))
    tool = ArmOutcomes.from_counts("ten turns", tasks, 1, ((np.arange(100) >= 10) & (np.arange(100) < 80)).astype(int))
    with pytest.raises(StatsError, match=r"cannot be cross-fitted.*take the plug-in"):
        compare_arms(bare, tool, elicitation=1)
    f = compare_arms(bare, tool, elicitation=1, replicates=200, cross_fit=False).figures
    assert (f.creation.value, f.loss.value, f.gain.value) == pytest.approx((0.5, 0.1, 0.4))
    assert not f.parts.cross_fitted
    assert f.verdicts.counts["undetermined"] == 100  # one attempt settles nothing


def test_the_plug_in_at_a_spend_beyond_the_attempts_is_bounded_not_guessed() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b"], 5, [0, 2])
    tool = ArmOutcomes.from_counts("tool", ["a", "b"], 5, [5, 5])
    f = compare_arms(bare, tool, elicitation=10, replicates=100, cross_fit=False).figures
    assert f.parts.creation.tolist() == [0.0, 0.0]
    assert f.parts.creation_upper.tolist() == [1.0, 0.0]
    assert f.unsettled == 1


def test_a_tool_arm_too_small_for_the_elicitation_spend_is_open_above() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b"], 40, [1, 0])
    tool = ArmOutcomes.from_counts("tool", ["a", "b"], 5, [5, 0])
    f = compare_arms(bare, tool, elicitation=20, replicates=100).figures
    assert (f.tool_elicitation.value, f.tool_elicitation_upper.value) == (0.5, 1.0)
    assert f.unsettled == 1  # reach of task a is 1 at five attempts already, and cannot fall


def test_clusters_are_named_by_task_and_must_cover_all() -> None:
    bare, tool = (ArmOutcomes.from_counts(name, ["a", "b", "c"], 8, [1, 2, 3]) for name in ("bare", "tool"))
    found = compare_arms(bare, tool, elicitation=4, replicates=100, clusters={"a": 1, "b": 1, "c": 2})
    assert found.figures.clusters == 2
    with pytest.raises(StatsError, match="task 'c' has no cluster label"):
        compare_arms(bare, tool, elicitation=4, clusters={"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(elicitation=8), "task 'a': 8 attempts cannot be cross-fitted at elicitation spend 8"),
        (dict(elicitation=2.5), "whole"),
        (dict(elicitation=2, operating=3), "operating ≤ elicitation"),
        (dict(elicitation=4, axis="tokens"), "no cost axis 'tokens'; recorded: none"),
        (dict(elicitation=4, alpha=0), "alpha must lie strictly"),
        (dict(elicitation=4, rho=1.0), "rho must lie strictly"),
        (dict(elicitation=4, replicates=10), "at least 100"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], words: str) -> None:
    bare, tool = (ArmOutcomes.from_counts(name, ["a", "b"], 8, [1, 2]) for name in ("bare", "tool"))
    with pytest.raises(StatsError, match=words):
        compare_arms(bare, tool, **options)  # type: ignore[arg-type]


def test_arms_without_a_task_scored_in_both_are_refused() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a"], [0], [0], missing=[4])
    tool = ArmOutcomes.from_counts("tool", ["a"], [4], [1])
    with pytest.raises(StatsError, match="no task with a scored attempt in both"):
        compare_arms(bare, tool, elicitation=2)


def test_an_axis_on_which_attempts_are_free_is_refused() -> None:
    arm = ArmOutcomes.from_rows("bare", ["a", "a", "b", "b"], [1, 0, 0, 1], costs={"usd": [0, 0, 0, 0]})
    with pytest.raises(StatsError, match="task 'a': attempts cost nothing on axis 'usd'"):
        compare_arms(arm, arm, operating=1, elicitation=2, axis="usd")


def test_half_the_attempts_are_the_default_elicitation() -> None:
    assert balanced_elicitation(ArmOutcomes.from_counts("bare", ["a", "b", "c"], [9, 7, 0], [1, 1, 0])) == 3


def test_the_intercode_logs_keep_their_known_totals_and_settle_no_task(data_dir: Path) -> None:
    with gzip.open(data_dir / "intercode_runs" / "runs.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["env"] == "sql" and row["model"] == "gpt-4"]
    arms = {}
    for turns in ("1", "10"):
        own = [row for row in rows if row["turns_max"] == turns]
        arms[turns] = ArmOutcomes.from_rows(
            f"{turns} turns", [row["task_id"] for row in own], [float(row["max_reward"]) == 1 for row in own]
        )
    found = compare_arms(arms["1"], arms["10"], elicitation=1, replicates=500, cross_fit=False)
    f = found.figures
    assert f.bare_pass1.value == pytest.approx(94 / 1034)
    assert f.tool_pass1.value == pytest.approx(762 / 1034)
    assert f.gain.value == pytest.approx((762 - 94) / 1034)
    assert f.gain.low is not None
    assert f.gain.low > 0.6
    assert f.verdicts.counts["undetermined"] == 1034  # one attempt per task says nothing about resampling
    assert found.null is None


@pytest.mark.slow
def test_intervals_of_the_gain_and_its_parts_cover_what_is_built_in() -> None:
    """Truth: means over the population of tasks; creation and loss have conservative estimates, so one-sided."""
    rng = np.random.default_rng(7)
    held = {"gain": 0, "creation": 0, "loss": 0, "nats": 0}
    suites, tasks, n, big = 300, 40, 64, 16

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.beta(0.3, 2, size) * (rng.random(size) < 0.7)
        return p, np.where(rng.random(size) < 0.3, rng.beta(4, 2, size), p)

    p, q = draw(2_000_000)
    y = 1 - (1 - p) ** big
    k = np.arange(1, n + 1)
    nats = np.mean([(((1 - p[i : i + 20_000, None]) ** k - (1 - q[i : i + 20_000, None]) ** k) / k).sum(1).mean()
                    for i in range(0, 400_000, 20_000)])  # fmt: skip
    truth = {"gain": (q - p).mean(), "creation": np.maximum(0, q - y).mean(), "loss": np.maximum(0, p - q).mean()}
    for seed in range(suites):
        p, q = draw(tasks)
        names = [str(i) for i in range(tasks)]
        arms = (ArmOutcomes.from_counts(a, names, n, rng.binomial(n, v)) for a, v in (("bare", p), ("tool", q)))
        f = compare_arms(*arms, elicitation=big, replicates=400, seed=seed).figures
        held["gain"] += f.gain.low <= truth["gain"] <= f.gain.high  # type: ignore[operator]
        held["nats"] += f.nats.low <= nats <= f.nats.high  # type: ignore[operator]
        held["creation"] += f.creation.low <= truth["creation"]  # type: ignore[operator]
        held["loss"] += f.loss.low <= truth["loss"]  # type: ignore[operator]
    print({name: hits / suites for name, hits in held.items()})
    assert held["gain"] / suites >= 0.94
    assert held["nats"] / suites >= 0.94
    assert held["creation"] / suites >= 0.96
    assert held["loss"] / suites >= 0.96


def test_one_task_with_few_attempts_does_not_change_at_what_the_others_are_read() -> None:
    rng = np.random.default_rng(4)
    p, q, n = np.full(40, 0.1), np.full(40, 0.4), np.full(40, 64)
    tasks = [f"t{i}" for i in range(40)]
    c0, c1 = rng.binomial(n, p), rng.binomial(n, q)
    tool = ArmOutcomes.from_counts("tool", tasks, n, c1)
    whole = compare_arms(ArmOutcomes.from_counts("bare", tasks, n, c0), tool, elicitation=8).figures
    n0 = np.where(np.arange(40) == 7, 12, n)
    short = compare_arms(ArmOutcomes.from_counts("bare", tasks, n0, np.minimum(c0, n0)), tool, elicitation=8).figures
    assert (short.nats_budget, short.equivalent.censored_at) == (64, 64)
    assert whole.nats.value is not None
    assert short.nats.value == pytest.approx(whole.nats.value, abs=0.1)
    assert (short.equivalent.low or 0) <= (short.equivalent.k or 0) <= (short.equivalent.high or 99)


def test_a_task_read_at_fewer_attempts_understates_its_nats_and_keeps_their_sign() -> None:
    for p, q in ((0.05, 0.5), (0.5, 0.05)):
        means = []
        for n in (10, 40):
            c = np.arange(n + 1)
            before, after = (binom.pmf(c, n, rate) for rate in (p, q))
            nats = tool_gain_nats(n, c[:, None], n, c[None, :], np.full((n + 1, n + 1), n))
            means.append(float(before @ nats @ after))
        assert 0 < means[0] / means[1] < 1


def test_where_a_task_ran_out_the_worth_is_bounded_on_both_sides() -> None:
    """Half of the tasks have 4 bare attempts: beyond, their reach lies between that of 4 and 1."""
    tasks = [f"t{i}" for i in range(41)]
    n0 = np.where(np.arange(41) % 2 == 1, 4, 64)
    bare = ArmOutcomes.from_counts("bare", tasks, n0, np.where(n0 == 4, 0, 8))
    tool = ArmOutcomes.from_counts("tool", tasks, 64, 40)
    found = compare_arms(bare, tool, elicitation=3).figures.equivalent
    assert found.censored_at == 64
    assert found.k is None  # tasks that are read as never solved: no number of attempts is seen to be enough
    assert found.low is not None
    assert found.low < 20  # if they were solved from the fifth attempt on, few would be
