from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import StatsError, betting, paired_mean_sequence
from testbed.stats.checks import Where

Draw = Callable[[np.random.Generator, int], np.ndarray]

POLICIES: dict[str, tuple[float, Draw]] = {
    "no effect, most tasks agree": (0.0, lambda rng, t: rng.choice([-1, 0, 1], t, p=[0.1, 0.8, 0.1])),
    "rare great gains, common small losses": (
        0.03 - 0.97 * 0.02,
        lambda rng, t: np.where(rng.random(t) < 0.03, 1, -0.02),
    ),
    "spread evenly": (0.0, lambda rng, t: rng.uniform(-1, 1, t)),
    "mostly at the upper end": (0.9, lambda rng, t: rng.choice([-1, 1], t, p=[0.05, 0.95])),
}


def ever_wrong(draw: Draw, mean: float, tasks: int, runs: int, seed: int) -> tuple[float, np.ndarray]:
    rng = np.random.default_rng(seed)
    wrong, width = 0, np.zeros(tasks)
    for _ in range(runs):
        found = paired_mean_sequence(draw(rng, tasks), candidates=201)
        wrong += bool(((found.low > mean + 1e-12) | (found.high < mean - 1e-12)).any())
        width += (found.high - found.low) / runs
    return wrong / runs, width


def by_hand(values: list[float], alpha: float) -> tuple[list[float], list[float]]:
    """The sequence of Waudby-Smith & Ramdas written out for one mean at a time, its ends found by bisection."""
    x = [(v + 1) / 2 for v in values]
    bets = []
    for t in range(1, len(x) + 1):
        seen = x[: t - 1]
        means = [(0.5 + sum(seen[: i + 1])) / (i + 2) for i in range(len(seen))]
        spread = (0.25 + sum((v - m) ** 2 for v, m in zip(seen, means, strict=True))) / t
        bets.append(np.sqrt(2 * np.log(2 / alpha) / (spread * t * np.log(t + 1))))

    def excluded(m: float, t: int, sign: int) -> bool:
        ever, capital = False, 1.0
        for bet, value in zip(bets[:t], x[:t], strict=True):
            worst = m if sign > 0 else 1 - m
            capital *= 1 + sign * min(bet, 0.5 / worst if worst > 0 else np.inf) * (value - m)
            ever = ever or capital >= 2 / alpha
        return ever

    def end(t: int, sign: int) -> float:
        left, right = (0.0, 1.0) if sign > 0 else (1.0, 0.0)
        if not excluded(left, t, sign):
            return left
        for _ in range(40):
            middle = (left + right) / 2
            left, right = (middle, right) if excluded(middle, t, sign) else (left, middle)
        return left

    looks = range(1, len(x) + 1)
    return [2 * end(t, 1) - 1 for t in looks], [2 * end(t, -1) - 1 for t in looks]


@pytest.mark.parametrize(
    "values", [[1.0] * 9, [0.5, -0.2, 1, 1, 0.9, 1, 0.3, 1, 1, 1], [-1, -1, -1, -1, 0, -1, -1, -1]]
)
def test_small_cases_agree_with_the_definition_written_out(values: list[float]) -> None:
    low, high = by_hand(values, 0.2)
    found = paired_mean_sequence(values, alpha=0.2, candidates=4001)
    assert max(low) > -1 or min(high) < 1
    for mine, exact, outwards in ((found.low, np.array(low), -1), (found.high, np.array(high), 1)):
        assert mine == pytest.approx(exact, abs=5.1e-4)
        assert (outwards * (mine - exact) >= -1e-9).all()  # rounded outwards, never inwards


def test_the_chance_of_ever_being_wrong_is_at_most_alpha_over_every_sequence_of_seven_tasks() -> None:
    alpha, chance = 0.5, {-1: 0.2, 0: 0.3, 1: 0.5}
    wrong = 0.0
    for values in itertools.product(chance, repeat=7):
        found = paired_mean_sequence(values, alpha=alpha, candidates=81)
        if found.low[-1] > 0.3 or found.high[-1] < 0.3:
            wrong += float(np.prod([chance[v] for v in values]))
    assert 0.05 < wrong <= alpha  # it does exclude, so the bound is put to a test


@pytest.mark.parametrize("name", POLICIES)
def test_peeking_after_each_of_300_tasks_is_wrong_in_at_most_5_percent(name: str) -> None:
    mean, draw = POLICIES[name]
    assert ever_wrong(draw, mean, 300, 150, seed=1)[0] <= 0.05 + 0.03  # 1.7 standard errors


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_peeking_after_each_of_1000_tasks_is_wrong_in_at_most_5_percent(name: str) -> None:
    mean, draw = POLICIES[name]
    wrong, width = ever_wrong(draw, mean, 1000, 2000, seed=2)
    print(f"{name}: ever wrong {wrong:.4f}, width at 30, 100, 300, 1000 tasks {width[[29, 99, 299, 999]].round(3)}")
    assert wrong <= 0.05


def test_limits_close_in_on_the_mean_about_as_one_over_the_root_of_the_tasks() -> None:
    rng = np.random.default_rng(3)
    found = paired_mean_sequence(rng.choice([-1, 0, 1], 4000, p=[0.05, 0.8, 0.15]))
    width = found.high - found.low
    assert (np.diff(width) <= 0).all()
    assert width[999] < 0.6 * width[249]
    assert width[3999] < 0.6 * width[999] < 0.06
    assert found.low[-1] > 0  # a gain of .1 is seen


def test_less_spread_gives_tighter_limits() -> None:
    rng = np.random.default_rng(4)
    wild, calm = rng.choice([-1.0, 1.0], 500), rng.choice([-0.1, 0.1], 500)
    assert np.ptp([paired_mean_sequence(calm).low[-1], paired_mean_sequence(calm).high[-1]]) < 0.5 * np.ptp(
        [paired_mean_sequence(wild).low[-1], paired_mean_sequence(wild).high[-1]]
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.integers(0, 5))
def test_exchanging_the_arms_mirrors_everything(values: list[float], seed: int) -> None:
    one = paired_mean_sequence(values, order=seed, candidates=401)
    other = paired_mean_sequence([-v for v in values], order=seed, candidates=401)
    assert other.low == pytest.approx(-one.high, abs=0.0051)  # a rounding error may move an end by one candidate
    assert other.value == pytest.approx(-one.value)
    assert (one.low <= one.high).all()
    assert (np.abs([one.low, one.high]) <= 1).all()


def test_a_later_look_never_changes_an_earlier_one() -> None:
    values = np.random.default_rng(5).uniform(-1, 1, 200)
    whole, part = paired_mean_sequence(values), paired_mean_sequence(values[:80])
    assert whole.low[:80].tolist() == part.low.tolist()
    assert whole.high[:80].tolist() == part.high.tolist()


def test_blocks_of_memory_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).uniform(-1, 0.5, 100)
    whole = paired_mean_sequence(values)
    monkeypatch.setattr(betting, "_CELLS_AT_A_TIME", 7 * 2001)
    assert paired_mean_sequence(values).high.tolist() == whole.high.tolist()


def test_a_seeded_order_is_a_permutation_that_the_seed_fixes() -> None:
    values = np.linspace(-1, 1, 50)
    first, same, other = (paired_mean_sequence(values, order=seed) for seed in (1, 1, 2))
    assert first.value.tolist() == same.value.tolist()
    assert first.value[10] != other.value[10]
    assert first.value[-1] == pytest.approx(0)


def test_copies_of_a_task_in_one_cluster_add_no_certainty() -> None:
    values = np.random.default_rng(7).choice([-1, 0, 1], 150, p=[0.1, 0.5, 0.4])
    once = paired_mean_sequence(values)
    copied = paired_mean_sequence(np.repeat(values, 4), clusters=np.repeat(np.arange(150), 4).tolist())
    assert copied.low.tolist() == once.low.tolist()
    assert copied.tasks[-1] == 600
    assert copied.clusters == 150


def test_clusters_of_unequal_size_keep_the_level_for_the_mean_over_tasks() -> None:
    # Large clusters gain, small ones lose: the mean over clusters would be another number.
    rng = np.random.default_rng(8)
    mean = (0.5 * 5 * 0.4 + 0.5 * 1 * -0.6) / (0.5 * 5 + 0.5 * 1)
    wrong = 0
    for _ in range(150):
        size = rng.choice([1, 5], 200)
        each = np.where(size == 5, rng.choice([0, 0.8], 200), rng.choice([-1, -0.2], 200))
        found = paired_mean_sequence(np.repeat(each, size), clusters=np.repeat(np.arange(200), size), candidates=401)
        wrong += bool(((found.low > mean) | (found.high < mean)).any())
        assert found.low[-1] < found.value[-1] < found.high[-1]
    assert wrong / 150 <= 0.08


def test_an_order_along_which_the_mean_drifts_is_noticed() -> None:
    drift = paired_mean_sequence([1.0] * 200 + [-1.0] * 2000)
    assert drift.contradicted is not None
    assert 200 < drift.contradicted < 2200
    assert (drift.low <= drift.high).all()
    assert paired_mean_sequence([1.0] * 200 + [-1.0] * 2000, order=1).contradicted is None


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, "no differences at all"),
        ([[0.1, 0.2]], {}, "one number per task"),
        ([0.5, np.nan], {"where": Where("tool", ("a", "b"))}, "arm 'tool', task 'b': a paired difference must lie"),
        ([0.5, 1.2], {}, r"task number 1.*\[−1, 1\]"),
        ([0.5], {"clusters": ["a", "b"]}, "2 cluster labels for 1 tasks"),
        ([0.5], {"alpha": 0.0}, "alpha"),
        ([0.5], {"candidates": 2}, "no grid"),
    ],
)
def test_bad_input_is_refused(values: list[float], options: dict[str, object], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        paired_mean_sequence(values, **options)  # type: ignore[arg-type]
