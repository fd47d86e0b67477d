"""Splits by sample index in both arms at once: right whatever the arms have in common, and no dearer where nothing."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from testbed.calibration.suites import made_up
from testbed.report.analyse import analyse
from testbed.stats import ArmOutcomes, Decomposition, compare_arms, decompose_cross_fitted
from testbed.stats.crossfit import decompose_cross_fitted_jointly
from testbed.stats.crossfit_spend import decompose_cross_fitted_at_spend
from testbed.stats.gain import TIE
from testbed.stats.joint import common_attempts, common_rows, joint_splits
from testbed.stats.reach import posterior_reach, reach_at_k

TASKS = 4000


def arm(name: str, outcomes: np.ndarray, samples: np.ndarray | None = None) -> ArmOutcomes:
    """Outcomes of shape (T, n), 1, 0 or −1; sample i is column i."""
    tasks, n = outcomes.shape
    index = np.tile(np.arange(n), tasks) if samples is None else samples.ravel()
    names = [f"t{i}" for i in range(tasks)]
    return ArmOutcomes.from_codes(name, names, np.repeat(np.arange(tasks), n), outcomes.ravel(), samples=index)


def pair(how: str, p: float, q: float, n: int, seed: int = 1, tasks: int = TASKS) -> tuple[ArmOutcomes, ArmOutcomes]:
    rng = np.random.default_rng(seed)
    first = rng.random((tasks, n))
    second = {"one stream": first, "mirrored": 1 - first, "own streams": rng.random((tasks, n))}[how]
    return arm("bare", (first < p).astype(int)), arm("tool", (second < q).astype(int))


def jointly(bare: ArmOutcomes, tool: ArmOutcomes, b: int, big: int, splits: int = 64) -> Decomposition:
    found = joint_splits(bare, tool, splits=splits)
    assert found is not None
    return decompose_cross_fitted_jointly(found, operating=b, elicitation=big)


def apart(bare: ArmOutcomes, tool: ArmOutcomes, b: int, big: int) -> Decomposition:
    return decompose_cross_fitted(bare.n, bare.c, tool.n, tool.c, operating=b, elicitation=big)


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def over_all_splits(bare: np.ndarray, tool: np.ndarray, b: int, big: int) -> tuple[float, float]:
    """Creation and loss of one task where both arms have all indices, by listing every measuring fold."""
    n, parts = bare.size, []
    for fold in combinations(range(n), big):
        rest = np.setdiff1d(np.arange(n), fold)
        x, y = (float(posterior_reach(n - big, bare[rest].sum(), k)) for k in (b, big))
        t = float(posterior_reach(n - big, tool[rest].sum(), b))
        low, high = (float(reach_at_k(big, bare[list(fold)].sum(), k)) for k in (b, big))
        after = float(reach_at_k(big, tool[list(fold)].sum(), b))
        parts.append(((t > y + TIE) * (after - high), (t < x - TIE) * (low - after)))
    creation, loss = np.mean(parts, axis=0)
    return float(creation), float(loss)


@pytest.mark.parametrize(("b", "big"), [(1, 1), (1, 3), (2, 3), (1, 5)])
def test_the_mean_over_random_splits_is_that_over_all_of_them(b: int, big: int) -> None:
    rng = np.random.default_rng(b + big)
    bare, tool = rng.random((12, 6)) < 0.3, rng.random((12, 6)) < 0.7
    found = jointly(arm("bare", bare.astype(int)), arm("tool", tool.astype(int)), b, big, splits=6000)
    for task in range(12):
        creation, loss = over_all_splits(bare[task], tool[task], b, big)
        assert found.creation[task] == pytest.approx(creation, abs=0.03)
        assert found.loss[task] == pytest.approx(loss, abs=0.03)


@pytest.mark.parametrize(("n0", "n1", "b", "big"), [(7, 7, 2, 6), (24, 16, 1, 12), (16, 24, 3, 3), (17, 2, 1, 16)])
def test_the_parts_add_up_and_every_fold_is_drawn(n0: int, n1: int, b: int, big: int) -> None:
    rng = np.random.default_rng(n0)
    bare, tool = rng.integers(-1, 2, (50, n0)), rng.integers(-1, 2, (50, n1))
    kept = ((bare >= 0).sum(axis=1) > big) & ((tool >= 0).sum(axis=1) > b)
    bare, tool = np.where(kept[:, None], bare, bare >= 0), np.where(kept[:, None], tool, tool >= 0)
    found = jointly(arm("bare", bare), arm("tool", tool), b, big)
    assert np.abs(found.elicitation + found.creation - found.loss - found.gain).max() < 1e-12
    assert (found.creation <= found.creation_most).all()
    assert (found.loss <= found.loss_most).all()
    assert found.gain == pytest.approx(apart(arm("bare", bare), arm("tool", tool), b, big).gain, abs=1e-12)


@pytest.mark.parametrize(("p", "big"), [(0.5, 1), (0.2, 8), (0.5, 8)])
def test_arms_that_are_one_show_nothing_at_all(p: float, big: int) -> None:
    bare, tool = pair("one stream", p, p, 16)
    found = jointly(bare, tool, 1, big)
    for part in (found.gain, found.elicitation, found.creation, found.loss):
        assert np.abs(part).max() < 1e-12
    assert (
        min(apart(bare, tool, 1, big).loss.mean(), apart(bare, tool, 1, big).creation.mean()) < -0.07
    )  # what it cures


@pytest.mark.parametrize("how", ["one stream", "mirrored", "own streams"])
@pytest.mark.parametrize(
    ("p", "q", "big"), [(0.5, 0.5, 1), (0.2, 0.2, 8), (0.1, 0.5, 8), (0.5, 0.3, 4), (0.02, 0.4, 8)]
)
def test_no_part_is_biased_upward_whatever_the_arms_have_in_common(how: str, p: float, q: float, big: int) -> None:
    found = jointly(*pair(how, p, q, 16), 1, big)
    y = 1 - (1 - p) ** big
    creation, loss = max(0.0, q - y), max(0.0, p - q)
    elicitation = q - p - creation + loss
    assert found.creation.mean() <= creation + 4 * error(found.creation) + 1e-12
    assert found.loss.mean() <= loss + 4 * error(found.loss) + 1e-12
    assert found.elicitation_least.mean() <= elicitation + 4 * error(found.elicitation_least) + 1e-12
    assert found.elicitation_most.mean() >= elicitation - 4 * error(found.elicitation_most) - 1e-12


def test_folds_drawn_apart_are_biased_upward_where_one_arm_succeeds_when_the_other_fails() -> None:
    found = apart(*pair("mirrored", 0.5, 0.5, 16), 1, 1)
    assert found.creation.mean() > 0.03
    assert found.loss.mean() > 0.03


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.6), (0.02, 0.3), (0.1, 0.5), (0.1, 0.1), (0.5, 0.1)])
def test_independent_arms_pay_little_for_it(p: float, q: float) -> None:
    bare, tool = pair("own streams", p, q, 16)
    together, split = jointly(bare, tool, 1, 8), apart(bare, tool, 1, 8)
    for part in ("creation", "loss", "elicitation"):
        one, other = getattr(together, part), getattr(split, part)
        assert abs(one.mean() - other.mean()) < 0.03
        assert one.std() < 1.2 * other.std() + 0.02


def test_the_seed_decides_and_nothing_else() -> None:
    bare, tool = pair("one stream", 0.3, 0.6, 16, tasks=40)
    first, again, other = (joint_splits(bare, tool, seed=seed) for seed in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    assert (first.creation_and_loss(1, 8) == again.creation_and_loss(1, 8)).all()
    assert (first.creation_and_loss(1, 8) != other.creation_and_loss(1, 8)).any()


def test_attempts_are_paired_by_task_and_sample_in_whatever_order_they_come() -> None:
    rng = np.random.default_rng(0)
    made = list(product(range(5), range(9)))
    arms = []
    for name in ("bare", "tool"):
        rows = rng.permutation(len(made))[:40]
        order = [made[i] for i in rows]
        success = [None if rng.random() < 0.1 else bool((7 * task + sample) % 3 == 0) for task, sample in order]
        samples = [10**12 * sample for _, sample in order]
        arms.append(ArmOutcomes.from_rows(name, [str(task) for task, _ in order], success, samples=samples))
    bare = arms[0]
    tool = arms[1].take([arms[1].tasks.index(task) for task in bare.tasks])
    first, second = common_rows(bare, tool)
    keys = [
        list(zip(a.task_of_rows()[rows].tolist(), a.samples[rows].tolist(), strict=True))
        for a, rows in ((bare, first), (tool, second))
        if a.samples is not None
    ]
    assert keys[0] == keys[1]
    every = [
        set(zip(a.task_of_rows().tolist(), a.samples.tolist(), strict=True))
        for a in (bare, tool)
        if a.samples is not None
    ]
    assert set(keys[0]) == every[0] & every[1]
    assert (bare.success[first] == tool.success[second]).all()
    for task, (one, other) in enumerate(common_attempts(bare, tool)):
        assert one.size == other.size <= bare.n[task]


def test_an_index_that_occurs_twice_pairs_once() -> None:
    bare = arm("bare", np.ones((1, 3), dtype=int), samples=np.array([[5, 5, 7]]))
    tool = arm("tool", np.ones((1, 3), dtype=int), samples=np.array([[5, 6, -1]]))
    first, second = common_rows(bare, tool)
    assert (first.tolist(), second.tolist()) == ([0], [0])


def test_attempts_without_partners_are_split_as_ever() -> None:
    rng = np.random.default_rng(2)
    bare = arm("bare", rng.integers(0, 2, (20, 16)))
    outcomes = rng.integers(0, 2, (20, 16))
    tool = arm("tool", outcomes, samples=np.full((20, 16), -1))
    assert joint_splits(bare, tool) is None
    unknown = ArmOutcomes.from_counts("tool", tool.tasks, tool.n, tool.c)
    found, known = (compare_arms(bare, one, elicitation=8, replicates=100).figures for one in (tool, unknown))
    assert (found.parts.creation == known.parts.creation).all()


def test_missing_attempts_keep_their_partners_once_they_are_filled_in() -> None:
    rng = np.random.default_rng(6)
    outcomes = rng.integers(0, 2, (30, 12))
    lost = rng.random((30, 12)) < 0.2
    for end in (0, 1):
        gone, filled = arm("tool", np.where(lost, -1, outcomes)), arm("tool", np.where(lost, end, outcomes))
        kept = np.arange(29, -1, -1)
        found = gone.take(kept).with_missing(succeed=bool(end))
        bare = arm("bare", rng.integers(0, 2, (30, 12))).take(kept)
        first, second = common_rows(bare, found)
        assert first.size == 360
        same = filled.take(kept)
        assert (found.success[second] == same.success[common_rows(bare, same)[1]]).all()


def test_on_a_cost_axis_partners_fall_into_the_same_half() -> None:
    rng = np.random.default_rng(8)
    tasks, n = 100, 16
    success = rng.random((tasks, n)) < 0.5
    names = np.repeat([f"t{i}" for i in range(tasks)], n).tolist()
    samples = np.tile(np.arange(n), tasks).tolist()
    both = [
        ArmOutcomes.from_rows(name, names, success.ravel(), costs={"calls": np.ones(success.size)}, samples=samples)
        for name in ("bare", "tool")
    ]
    unpaired = [
        ArmOutcomes.from_rows(a.arm, names, success.ravel(), costs={"calls": np.ones(success.size)}) for a in both
    ]
    joint, drawn_apart = (
        decompose_cross_fitted_at_spend(*arms, axis="calls", operating=1, elicitation=1) for arms in (both, unpaired)
    )
    for part in ("creation", "loss"):
        assert getattr(joint, part) == pytest.approx(0.0, abs=1e-12)
        assert getattr(drawn_apart, part).mean() < -0.02
    odd = [a.take(np.arange(3)) for a in both]
    assert decompose_cross_fitted_at_spend(*odd, axis="calls", operating=1, elicitation=2).gain == pytest.approx(0.0)


def test_a_report_of_one_policy_twice_on_one_stream_shows_neither_creation_nor_loss() -> None:
    chances = np.full(30, 0.5)
    data = made_up({name: {"all": chances} for name in ("bare", "tool")}, 16, np.random.default_rng(0))
    half = data.success.size // 2
    data.success[half:] = data.success[:half]
    figures = analyse(data, elicitation=1, replicates=200).comparisons[0].full
    assert figures is not None
    assert figures.figures.creation.value == pytest.approx(0.0, abs=1e-12)
    assert figures.figures.loss.value == pytest.approx(0.0, abs=1e-12)


# -- coverage and width of the intervals beside those of folds drawn apart


def population() -> tuple[np.ndarray, np.ndarray]:
    """Kinds of tasks: 30% are never solved bare, three in ten gain much with tools, one in ten loses half."""
    rng = np.random.default_rng(5)
    p = rng.beta(0.3, 2, 240) * (rng.random(240) >= 0.3)
    q = np.where(rng.random(240) < 0.3, rng.beta(4, 2, 240), p)
    return p, np.where(rng.random(240) < 0.1, p / 2, q)


def covered(how: str, tasks: int, n: int, big: int, suites: int) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By kind of folds and part: the share of intervals that hold the true part, their width, and the mean estimate."""
    p, q = population()
    y = 1 - (1 - p) ** big
    truth = {
        "gain": (q - p).mean(),
        "elicitation_part": np.maximum(0, np.minimum(q, y) - p).mean(),
        "creation": np.maximum(0, q - y).mean(),
        "loss": np.maximum(0, p - q).mean(),
    }
    rng = np.random.default_rng([tasks, n])
    seen: dict[str, dict[str, list[tuple[bool, float, float]]]] = {
        folds: {part: [] for part in truth} for folds in ("joint", "apart")
    }
    for number in range(suites):
        kind = rng.integers(240, size=tasks)
        first = rng.random((tasks, n))
        second = first if how == "one stream" else rng.random((tasks, n))
        bare = arm("bare", (first < p[kind, None]).astype(int))
        tool = arm("tool", (second < q[kind, None]).astype(int))
        for folds, other in (("joint", tool), ("apart", ArmOutcomes.from_counts("tool", tool.tasks, tool.n, tool.c))):
            found = compare_arms(bare, other, elicitation=big, replicates=500, seed=number).figures
            for part, true in truth.items():
                own = getattr(found, part)
                seen[folds][part].append((own.low - 1e-9 <= true <= own.high + 1e-9, own.high - own.low, own.value))
    means = {folds: {part: np.mean(rows, axis=0) for part, rows in own.items()} for folds, own in seen.items()}
    print(f"\n{how}, {tasks} tasks, n = {n}, B = {big}, {suites} suites: truth, then covered, width, mean")
    for part, true in truth.items():
        told = "   ".join(f"{folds} {means[folds][part].round(3).tolist()}" for folds in means)
        print(f"{part:>17} {true:.3f}   {told}")
    return {folds: {part: tuple(row) for part, row in own.items()} for folds, own in means.items()}


def check(found: dict[str, dict[str, tuple[float, float, float]]], least: float) -> None:
    for part, (held, width, _) in found["joint"].items():
        assert held >= least, part
        assert width <= 1.1 * found["apart"][part][1] + 0.005, part


def test_intervals_cover_and_are_as_wide_as_with_folds_drawn_apart() -> None:
    check(covered("own streams", 25, 16, 8, 30), 0.9)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["own streams", "one stream"])
@pytest.mark.parametrize(("tasks", "n", "big"), [(10, 16, 8), (25, 16, 8), (100, 32, 16)])
def test_intervals_at_95_percent_cover_at_least_94_and_are_as_wide(how: str, tasks: int, n: int, big: int) -> None:
    check(covered(how, tasks, n, big, 500), 0.94)
