from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import StatsError, bootstrap, clopper_pearson, cluster_bootstrap, reach_at_k


@pytest.mark.parametrize(("tasks", "ones"), [(10, 0), (10, 3), (25, 24), (60, 60)])
def test_for_zeros_and_ones_the_interval_is_clopper_pearson(tasks: int, ones: int) -> None:
    values = (np.arange(tasks) < ones).astype(float)
    found = cluster_bootstrap(values, replicates=40_000).intervals()[0]
    low, high = clopper_pearson(tasks, ones)
    assert (found.low, found.high) == pytest.approx((float(low), float(high)), abs=0.004)


def test_one_cluster_has_no_interval_rather_than_a_width_of_zero() -> None:
    found = cluster_bootstrap([0.3, 0.5, 0.7], clusters=["same"] * 3).intervals()[0]
    assert (found.value, found.low, found.high) == (pytest.approx(0.5), None, None)
    assert cluster_bootstrap([0.3]).intervals()[0].low is None


def test_tasks_that_all_agree_still_have_a_width() -> None:
    found = cluster_bootstrap(np.zeros(50), least=-1, greatest=1).intervals()[0]
    assert found.value == 0
    assert found.low == pytest.approx(-0.071, abs=0.01)  # 1 − .025^(1/50)
    assert found.high == pytest.approx(0.071, abs=0.01)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_interval_holds_the_estimate_and_stays_in_range(values: list[float]) -> None:
    found = cluster_bootstrap(values, replicates=200).intervals()[0]
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert -1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12
    assert found.value == pytest.approx(np.mean(values))


def test_copies_of_a_task_in_one_cluster_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(20)
    once = cluster_bootstrap(values).intervals()
    copied = cluster_bootstrap(np.repeat(values, 10), clusters=np.repeat(np.arange(20), 10).tolist()).intervals()
    ignored = cluster_bootstrap(np.repeat(values, 10)).intervals()
    assert copied.low == pytest.approx(once.low)
    assert copied.clusters == 20
    assert ignored.low is not None
    assert once.low is not None
    assert ignored.low[0] > once.low[0] + 0.05


def test_columns_are_resampled_together() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(400)
    both = np.column_stack([hard, hard * 0.9, hard - hard * 0.9])
    found = cluster_bootstrap(both, least=[0, 0, -1]).intervals()
    assert found.low is not None
    assert found.high is not None
    width = found.high - found.low
    assert width[2] < 0.4 * width[0]


def test_a_ratio_without_denominator_is_undefined() -> None:
    found = cluster_bootstrap(np.zeros((4, 2)), np.column_stack([np.zeros(4), np.ones(4)])).intervals()
    assert found[0].value is None
    assert found[0].low is None
    assert found[1].value == 0


def test_a_ratio_s_interval_rests_on_the_tasks_in_its_denominator() -> None:
    kept = np.zeros(100)
    kept[:10] = 1
    found = cluster_bootstrap(kept, kept, replicates=20_000).intervals()[0]
    assert found.value == 1
    assert found.low == pytest.approx(float(clopper_pearson(10, 10)[0]), abs=0.02)


def test_the_same_seed_gives_the_same_replicates_whatever_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((30, 3))
    whole = cluster_bootstrap(values, seed=4).drawn.intervals()
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_A_TIME", 1000)
    blocks = cluster_bootstrap(values, seed=4).drawn.intervals()
    other = cluster_bootstrap(values, seed=5).drawn.intervals()
    assert whole.low == pytest.approx(blocks.low, abs=1e-12)
    assert whole.low != pytest.approx(other.low, abs=1e-9)


def coverage(tasks: int, n: int, k: int, zeros: float, suites: int, seed: int, cluster: int = 1) -> tuple[float, float]:
    """Share of suites whose interval for mean reach@k holds the truth, and the mean width."""
    rng = np.random.default_rng(seed)
    a, b = 0.3, 2.0
    from scipy.special import beta as beta_function

    truth = (1 - zeros) * (1 - beta_function(a, b + k) / beta_function(a, b))
    table = reach_at_k(n, np.arange(n + 1), k)
    hits, width = 0, 0.0
    for _ in range(suites):
        p = rng.beta(a, b, tasks) * (rng.random(tasks) >= zeros)
        values = table[rng.binomial(n, np.repeat(p, cluster))]
        labels = np.repeat(np.arange(tasks), cluster).tolist()
        found = cluster_bootstrap(values, clusters=labels, replicates=500, seed=int(rng.integers(1 << 30)))
        low, high = (float(end[0]) for end in (found.intervals().low, found.intervals().high))  # type: ignore[index]
        hits += low - 1e-12 <= truth <= high + 1e-12
        width += high - low
    return hits / suites, width / suites


@pytest.mark.parametrize(("tasks", "n", "k"), [(4, 16, 1), (20, 16, 16), (20, 64, 8)])
def test_intervals_cover_also_in_small_suites_and_at_k_equal_n(tasks: int, n: int, k: int) -> None:
    covered, width = coverage(tasks, n, k, 0.2, suites=400, seed=1)
    assert covered >= 0.93
    assert width < 1


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [3, 10, 30, 100])
@pytest.mark.parametrize(
    ("n", "k", "zeros", "cluster"), [(16, 1, 0, 1), (16, 16, 0, 1), (64, 8, 0.3, 1), (8, 4, 0.3, 5)]
)
def test_intervals_at_95_percent_cover_at_least_94(tasks: int, n: int, k: int, zeros: float, cluster: int) -> None:
    covered, width = coverage(tasks, n, k, zeros, suites=2000, seed=tasks * n + k, cluster=cluster)
    print(f"{tasks=} {n=} {k=} {zeros=} {cluster=} covered {covered:.3f} width {width:.3f}")
    assert covered >= 0.94


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, "no tasks"),
        ([0.5, np.nan], {}, "task number 1: a figure is not finite"),
        ([0.5, 1.2], {}, "outside the range"),
        ([0.5, 0.2], {"replicates": 50}, "at least 100"),
        ([0.5, 0.2], {"clusters": ["a"]}, "1 cluster labels for 2 tasks"),
        ([0.5, 0.2], {"weights": [1, -1]}, "must not be negative"),
        ([0.5, 0.2], {"weights": [1, 1, 1]}, "do not fit"),
    ],
)
def test_bad_input_is_refused(values: list[float], options: dict[str, object], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        cluster_bootstrap(values, **options)  # type: ignore[arg-type]


def ratio_held(tasks: int, suites: int, *, largest: float | None) -> float:
    """Share of suites whose interval for Σ xy / Σ x holds the truth: one task in five has x = 1, the others .08."""
    rng, held = np.random.default_rng(tasks), 0
    truth = 0.8 * 0.08 / (0.8 * 0.08 + 0.2)
    for _ in range(suites):
        size = np.where(rng.random(tasks) < 0.2, 1.0, 0.08)
        found = cluster_bootstrap(size * (size < 1), size, largest=largest).intervals()[0]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    return held / suites


@pytest.mark.parametrize("tasks", [5, 10])
def test_a_ratio_holds_where_rare_tasks_of_large_denominators_are_unlike_the_others(tasks: int) -> None:
    assert ratio_held(tasks, 400, largest=None) < 0.92
    assert ratio_held(tasks, 400, largest=1) >= 0.97


def test_an_unseen_cluster_is_as_large_as_its_tasks_can_be() -> None:
    labels = [0, 0, 0, 1]
    found = cluster_bootstrap(np.full(4, 0.1), np.full(4, 0.2), largest=1, clusters=labels)
    assert found.unseen.tolist() == pytest.approx([(9 + 1) / 4])
    with pytest.raises(StatsError, match=r"denominator of 0\.2 is greater than .* 0\.1"):
        cluster_bootstrap(np.full(4, 0.1), np.full(4, 0.2), largest=0.1)
