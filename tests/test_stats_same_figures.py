"""What was made fast still says what it said: against the plain forms, and against figures from before."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import (
    ArmOutcomes,
    Comparison,
    Figures,
    StatsError,
    cluster_bootstrap,
    compare_arms,
    reach_at_spend,
    reach_curve,
)
from testbed.stats import bootstrap as bootstrap_module
from testbed.stats.bands import _common_place
from testbed.stats.bootstrap import shared_weights
from testbed.stats.crossfit import decompose_cross_fitted
from testbed.stats.gain import TIE
from testbed.stats.intervals import Replicates
from testbed.stats.reach import posterior_reach, reach_at_k
from testbed.stats.repeats import near_identical
from testbed.stats.sequences import attempts_still_needed, p_star

# -- against the plain forms


def parts_by_double_sum(n0: int, c0: int, n1: int, c1: int, b: int, big: int) -> tuple[float, float]:
    """Creation and loss over all splits of both arms, one pair of numbers of measured successes at a time."""
    creation = loss = 0.0
    for m0, m1 in product(range(min(c0, big) + 1), range(min(c1, b) + 1)):
        ways = comb(c0, m0) * comb(n0 - c0, big - m0) * comb(c1, m1) * comb(n1 - c1, b - m1)
        if not ways:
            continue
        chance = ways / (comb(n0, big) * comb(n1, b))
        x, y = (float(posterior_reach(n0 - big, c0 - m0, k)) for k in (b, big))
        t = float(posterior_reach(n1 - b, c1 - m1, b))
        low, high = float(reach_at_k(big, m0, b)), float(reach_at_k(big, m0, big))
        tool = float(reach_at_k(b, m1, b))
        creation += chance * (tool - high) * (t > y + TIE)
        loss += chance * (low - tool) * (t < x - TIE)
    return creation, loss


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cross_fitted_parts_are_the_plain_sum_over_splits(data: st.DataObject) -> None:
    b = data.draw(st.integers(1, 5))
    big = data.draw(st.integers(b, 12))
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=6))
    n0, n1 = [big + 1 + row[0] for row in rows], [b + 1 + row[1] for row in rows]
    c0, c1 = ([round(row[i] * n / 9) for row, n in zip(rows, ns, strict=True)] for i, ns in ((2, n0), (3, n1)))
    got = decompose_cross_fitted(n0, c0, n1, c1, operating=b, elicitation=big)
    for i, counts in enumerate(zip(n0, c0, n1, c1, strict=True)):
        creation, loss = parts_by_double_sum(*counts, b, big)
        assert got.creation[i] == pytest.approx(creation, abs=1e-13)
        assert got.loss[i] == pytest.approx(loss, abs=1e-13)


def test_cross_fitted_parts_of_a_task_do_not_depend_on_the_tasks_beside_it() -> None:
    n, c = np.full(201, 200), np.arange(201)
    together = decompose_cross_fitted(n, c, n, c[::-1], operating=3, elicitation=90)
    for i in (0, 1, 2, 63, 64, 65, 150, 200):
        alone = decompose_cross_fitted(n[i], c[i], n[i], c[::-1][i], operating=3, elicitation=90)
        assert together.creation[i] == pytest.approx(alone.creation[0], abs=1e-15)
        assert together.loss[i] == pytest.approx(alone.loss[0], abs=1e-15)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 1), st.integers(0, 3)), min_size=1, max_size=40))
def test_codes_make_the_same_arm_as_rows(rows: list[tuple[int, int, int]]) -> None:
    names = [f"task {i}" for i in range(5)]
    code, success, cost = (np.array(column) for column in zip(*rows, strict=True))
    from_codes = ArmOutcomes.from_codes("a", names, code, success, costs={"x": cost})
    listed = [None if s < 0 else bool(s) for s in success]
    from_rows = ArmOutcomes.from_rows("a", [names[i] for i in code], listed, costs={"x": cost})
    assert from_codes.tasks == from_rows.tasks
    for name in ("n", "c", "missing", "success", "offsets"):
        assert getattr(from_codes, name).tolist() == getattr(from_rows, name).tolist()
    assert from_codes.costs["x"].tolist() == from_rows.costs["x"].tolist()


@pytest.mark.parametrize(
    ("code", "success", "message"),
    [
        ([], [], "no attempts"),
        ([0, 2], [1, 0], "none of the 2 tasks"),
        ([0, -1], [1, 0], "none of the 2 tasks"),
        ([0, 1], [1, 2], "task 'b': success must be"),
        ([0, 1], [1], "2 tasks for 1 outcomes"),
    ],
)
def test_codes_that_mean_nothing_are_refused(code: list[int], success: list[int], message: str) -> None:
    with pytest.raises(StatsError, match=message):
        ArmOutcomes.from_codes("a", ["a", "b"], code, success)


def some_arm(seed: int, tasks: int = 30) -> ArmOutcomes:
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 12, tasks)
    code = rng.permutation(np.repeat(np.arange(tasks), n + 1))
    costs = {"x": rng.integers(1, 4, code.size), "y": rng.integers(1, 3, code.size)}
    return ArmOutcomes.from_codes(
        "a", [f"t{i}" for i in range(tasks)], code, rng.integers(-1, 2, code.size), costs=costs
    )


@pytest.mark.parametrize("seed", range(5))
def test_halves_are_those_of_one_sort_by_task_and_key(seed: int) -> None:
    arm = some_arm(seed)
    task = np.repeat(np.arange(len(arm.tasks)), arm.n)
    key = np.random.default_rng([seed, 1]).random(task.size)
    shuffled, place, half = np.lexsort((key, task)), np.arange(task.size) - arm.offsets[task], arm.n // 2
    rows = shuffled[place < half[task]], shuffled[(place >= half[task]) & (place < 2 * half[task])]
    for own, got in zip(rows, arm.halves(seed), strict=True):
        assert got.success.tolist() == arm.success[own].tolist()
        assert got.costs["y"].tolist() == arm.costs["y"][own].tolist()
        assert got.c.tolist() == [int(got.success[got.attempts_of(i)].sum()) for i in range(len(got.tasks))]


@pytest.mark.parametrize("succeed", [True, False])
def test_missing_attempts_stand_behind_the_scored_ones_at_the_bounding_cost(succeed: bool) -> None:
    arm = some_arm(1)
    got = arm.with_missing(succeed=succeed)
    for i in range(len(arm.tasks)):
        own, extra = arm.attempts_of(i), int(arm.missing[i])
        pool = arm.costs["x"][own] if arm.n[i] else arm.costs["x"]
        bound = pool.min() if succeed else pool.max()
        assert got.success[got.attempts_of(i)].tolist() == [*arm.success[own], *[succeed] * extra]
        assert got.costs["x"][got.attempts_of(i)].tolist() == [*arm.costs["x"][own], *[bound] * extra]


def test_costs_of_a_subset_are_those_of_its_rows_and_unknown_axes_stay_unknown() -> None:
    arm = some_arm(2)
    part = arm.take([7, 3]).take([1])
    assert part.costs["x"].tolist() == arm.costs["x"][arm.attempts_of(3)].tolist()
    assert sorted(part.costs) == ["x", "y"]
    assert "z" not in part.costs
    with pytest.raises(StatsError, match="no cost axis 'z'"):
        part.cost("z")


@pytest.mark.parametrize("seed", range(5))
def test_identical_costs_are_the_pairs_that_agree_on_every_axis(seed: int) -> None:
    arm = some_arm(seed)
    agree = pairs = 0
    for i in range(len(arm.tasks)):
        rows = list(zip(*(arm.costs[axis][arm.attempts_of(i)] for axis in ("x", "y")), strict=True))
        agree += sum(a == b for k, a in enumerate(rows) for b in rows[:k])
        pairs += len(rows) * (len(rows) - 1) // 2
    assert near_identical(arm).identical_costs == pytest.approx(agree / pairs, abs=1e-15)


def test_equal_counts_need_as_many_attempts_as_each_alone() -> None:
    n, c = np.array([0, 40, 40, 40, 200]), np.array([0, 0, 3, 0, 90])
    threshold = p_star(0.5, 16)
    together = attempts_still_needed(n, c, threshold)
    for i in range(n.size):
        alone = attempts_still_needed(n[i], c[i], threshold)
        for name in ("if_all_fail", "if_all_succeed", "at_this_rate"):
            assert getattr(together, name)[i] == getattr(alone, name)


@pytest.mark.parametrize("seed", range(6))
def test_the_place_of_a_band_is_that_of_ranking_every_replicate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.random((400, 30)).cumsum(axis=1).round(2 if seed % 2 else 16)
    high = low + rng.random((400, 1))
    alpha = 0.2
    inmost = np.full(400, 400)
    for table in (low, -high):
        for column in table.T:
            rounded = np.round(column, 12)
            inmost = np.minimum(inmost, np.searchsorted(np.sort(rounded), rounded, side="right"))
    place = min(int(np.sort(inmost)[int(alpha * 400)]) - 1, int(alpha / 2 * 400))
    assert _common_place(Replicates(low[0], low, high, 9), alpha) == place


# -- shared weights


def limits(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], seed: int, replicates: int = 200) -> list[float]:
    found = cluster_bootstrap(values, replicates=replicates, seed=seed).drawn.intervals()
    assert found.low is not None
    assert found.high is not None
    return [*found.low, *found.high]


def test_sharing_weights_changes_no_interval() -> None:
    tables = [np.random.default_rng(i).random((size, 3)) for i, size in enumerate((20, 20, 7))]
    apart = [limits(table, seed, r) for table in tables for seed in (0, 1) for r in (100, 200)]
    with shared_weights():
        shared = [limits(table, seed, r) for table in tables for seed in (0, 1) for r in (100, 200)]
        again = [limits(table, seed, r) for table in tables for seed in (0, 1) for r in (100, 200)]
    assert shared == apart == again


def test_equal_sizes_draw_their_weights_once_while_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int, int]] = []
    draw = bootstrap_module._draw
    monkeypatch.setattr(bootstrap_module, "_draw", lambda *key: (drawn.append(key), draw(*key))[1])
    table = np.random.default_rng(0).random((9, 2))
    with shared_weights():
        for _ in range(3):
            limits(table, 0)
        limits(table, 1)
    limits(table, 0)
    assert drawn == [(9, 200, 0), (9, 200, 1), (9, 200, 0)]


def test_weights_that_are_kept_stay_below_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap_module, "_WEIGHTS_KEPT", 5000)
    small, large = np.random.default_rng(0).random((9, 2)), np.random.default_rng(0).random((30, 2))
    apart = [limits(table, seed) for table in (small, large) for seed in range(4)]
    with shared_weights():
        kept = bootstrap_module._kept.get()
        assert kept is not None
        shared = []
        for table in (small, large):
            for seed in range(4):
                shared.append(limits(table, seed))
                assert kept.numbers == sum(a.size + b.size for own in kept.blocks.values() for _, a, b in own) <= 5000
    assert shared == apart


# -- against figures from before


def residues(name: str, shift: int, lift: float) -> ArmOutcomes:
    """30 tasks of 20 to 34 attempts without random numbers: residues decide who succeeds and what it costs."""
    tasks, success, tokens, calls = [], [], [], []
    for task in range(30):
        chance = min(0.98, lift * (task % 10) ** 2 / 120)
        for i in range(20 + (7 * task + shift) % 15):
            residue = (i * 7919 + task * 104729 + shift * 15485863) % 1009 / 1009
            tasks.append(f"task {task}")
            success.append(None if residue > 0.985 else residue < chance)
            tokens.append(20 + (i * i * 37 + task * 101 + shift * 17) % 389)
            calls.append(1 + (i + task + shift) % 3)
    return ArmOutcomes.from_rows(name, tasks, success, costs={"tokens": tokens, "calls": calls})


@pytest.fixture(scope="module")
def arms() -> tuple[ArmOutcomes, ArmOutcomes]:
    return residues("bare", 0, 1.0), residues("tool", 3, 1.6)


def compared(arms: tuple[ArmOutcomes, ArmOutcomes], axis: str, operating: float, elicitation: float) -> Comparison:
    clusters = {f"task {i}": f"source {i // 3}" if i < 15 else f"own {i}" for i in range(30)}
    return compare_arms(
        *arms, operating=operating, elicitation=elicitation, axis=axis, clusters=clusters, replicates=1000, seed=5
    )


def values(found: Figures) -> list[float | None]:
    names = ("bare_pass1", "bare_operating", "tool_operating", "bare_elicitation", "tool_elicitation", "gain",
             "elicitation_part", "creation", "loss", "nats")  # fmt: skip
    return [getattr(found, name).value for name in names]


def test_exact_figures_are_those_from_before(arms: tuple[ArmOutcomes, ArmOutcomes]) -> None:
    found = compared(arms, "attempts", 1, 8)
    before = [0.2412419850729228, 0.2412419850729228, 0.3752533848145549, 0.6587955002895557, 0.7162831797649687,
              0.134011399741632, 0.11756598329004506, -0.0005375185243183082, -0.016982934975905282,
              0.3233358584842171]  # fmt: skip
    assert values(found.figures) == pytest.approx(before, abs=1e-14)
    assert found.figures.verdicts.counts == {
        "preserved": 11, "expanded": 0, "lost": 0, "out of reach": 0, "undetermined": 19
    }  # fmt: skip
    assert found.figures.verdicts.needed.sum() == 92440
    assert found.figures.verdicts.log_e_expanded.sum() == pytest.approx(-57.93180835695611, abs=1e-10)
    assert found.figures.support.srr.value == pytest.approx(0.9206526858844934, abs=1e-14)
    assert found.missing is not None
    bounds = {
        name: (found.missing.figures[name].low, found.missing.figures[name].high) for name in ("gain", "creation")
    }
    assert bounds["gain"] == pytest.approx((0.11588994247547466, 0.14555200994199546), abs=1e-14)
    assert bounds["creation"] == pytest.approx((-0.0015104920506117448, -0.00043912985211901165), abs=1e-14)
    assert found.bare_repeats.icc == pytest.approx(0.2505360711467083, abs=1e-14)
    curve = reach_curve(arms[1], [1, 4, 10, 30], axis="calls")
    before = [0.12287204106888899, 0.46627148214695363, 0.6390487441206784, 0.7906497908911655]
    assert curve.lower.mean(axis=0) == pytest.approx(before, abs=1e-13)


def test_drawn_figures_are_those_from_before(arms: tuple[ArmOutcomes, ArmOutcomes]) -> None:
    """The null row and whatever depends on orderings: the same draws of numpy's generator as ever. Limits are exact."""
    found = compared(arms, "attempts", 1, 8)
    assert found.null is not None
    before = [0.24032356532356533, 0.24032356532356533, 0.23074547184841307, 0.642989972989973, 0.6440627128862424,
              -0.00957809347515229, -0.0006408082078609295, -0.008009115377413745, 0.000928169889877616,
              0.0005022210904563895]  # fmt: skip
    assert values(found.null) == pytest.approx(before, abs=1e-14)
    assert (found.figures.gain.low, found.figures.gain.high) == pytest.approx((-0.11282, 0.32959), abs=3e-5)
    assert (found.null.nats.low, found.null.nats.high) == pytest.approx((-0.71214, 0.70754), abs=2e-4)
    found = compared(arms, "tokens", 200.0, 2000.0)
    before = [0.2412419850729228, 0.13521958928424013, 0.19131741717465195, 0.6766161382604563, 0.7300473501831763,
              0.05609782789041182, 0.02873471438184793, -0.006013150452488688, -0.03337626396105256,
              0.3233358584842171]  # fmt: skip
    assert values(found.figures) == pytest.approx(before, abs=1e-13)
    curve = reach_curve(arms[1], [30, 100, 400, 1500], axis="tokens", seed=5)
    before = [0.010893555730421372, 0.09558699087383911, 0.4284429570829102, 0.6868842781609513]
    assert curve.lower.mean(axis=0) == pytest.approx(before, abs=1e-13)


def test_large_suites_draw_fewer_orderings_within_their_stated_error() -> None:
    rng = np.random.default_rng(0)
    tasks, n = 400, 30
    code = np.repeat(np.arange(tasks), n)
    cost = rng.lognormal(4, 0.6, code.size)
    arm = ArmOutcomes.from_codes(
        "a", [str(i) for i in range(tasks)], code, rng.random(code.size) < 0.1, costs={"x": cost}
    )
    few, many = (reach_curve(arm, [100, 400, 1000], axis="x", orderings=k) for k in (None, 2048))
    error = np.sqrt((few.standard_error**2).sum(axis=0)) / tasks
    assert (np.abs(few.lower.mean(axis=0) - many.lower.mean(axis=0)) < 5 * error).all()
    assert (error < 0.001).all()


def test_reach_at_spend_of_ten_thousand_attempts_agrees_with_shuffling_them() -> None:
    rng = np.random.default_rng(3)
    n, c = 10_000, 100
    cost = rng.lognormal(4.5, 0.6, n)
    won = np.arange(n) < c
    spends = np.array([500.0, 4000.0, 20_000.0])
    shuffles, hits = 3000, np.zeros(3)
    for _ in range(shuffles):
        order = rng.choice(n, 1500, replace=False)  # 1,500 in a row without a success: once in 4 million
        first = int(np.argmax(won[order]))
        hits += cost[order[: first + 1]].sum() <= spends
    got = reach_at_spend(won, cost, spends, seed=1)
    error = np.sqrt(hits / shuffles * (1 - hits / shuffles) / shuffles + got.standard_error**2)
    assert (np.abs(got.lower - hits / shuffles) < 5 * error).all()
