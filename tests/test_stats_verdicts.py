from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.stats import (
    ArmOutcomes,
    StatsError,
    Status,
    Verdict,
    accessibility,
    compare_arms,
    confidence_sequence,
    e_bh,
    empirical_support,
    p_star,
    reach_at_k,
    support_metrics,
    verdicts,
)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((2400, 36, 163), (0.936, 0.0148, 0.0291, -0.049)), ((480, 15, 2), (0.996, 0.030, 0.059, 0.026))],
)
def test_support_metrics_have_their_published_values(
    counts: tuple[int, int, int], expected: tuple[float, float, float, float]
) -> None:
    found = support_metrics(*counts)
    got = (found.srr, found.ndr, found.sds, found.nscr)
    for value, known in zip(got, expected, strict=True):
        assert value == pytest.approx(known, abs=6e-4 if abs(known) > 0.02 else 6e-5)


def test_support_metrics_without_a_denominator_are_undefined_not_zero() -> None:
    found = support_metrics(0, 0, 0)
    assert (found.srr, found.ndr, found.sds, found.nscr) == (None, None, None, None)
    assert support_metrics(0, 0, 3).ndr is None
    with pytest.raises(StatsError, match="numbers ≥ 0"):
        support_metrics(-1, 0, 0)


def test_identical_policies_show_the_known_null_row() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.3, 2, 20_000)
    before, after = (reach_at_k(64, rng.binomial(64, p), 64) for _ in range(2))
    share = empirical_support(before, after)
    found = support_metrics(share.preserved.sum(), share.expanded.sum(), share.shrunk.sum())
    assert found.srr == pytest.approx(0.908, abs=0.006)
    assert found.ndr == pytest.approx(0.092, abs=0.006)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.data())
def test_expected_support_is_the_mean_over_all_pairs_of_draws(k: int, data: st.DataObject) -> None:
    n = 5
    c0, c1 = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    share = empirical_support(reach_at_k(n, [c0], k), reach_at_k(n, [c1], k))
    draws = list(combinations(range(n), k))
    solved = [(any(i < c0 for i in a), any(i < c1 for i in b)) for a in draws for b in draws]
    assert share.preserved[0] == pytest.approx(np.mean([x and y for x, y in solved]))
    assert share.expanded[0] == pytest.approx(np.mean([y and not x for x, y in solved]))
    assert share.shrunk[0] == pytest.approx(np.mean([x and not y for x, y in solved]))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=8)
)
def test_status_is_the_confidence_sequence_against_the_threshold(rows: list[tuple[int, int]]) -> None:
    n, c = np.array(rows).T
    threshold = float(p_star(0.5, 16))
    low, high = confidence_sequence(n, c)
    expected = np.where(low >= threshold, Status.IN, np.where(high < threshold, Status.OUT, Status.UNDETERMINED))
    close = (np.abs(low - threshold) < 1e-9) | (np.abs(high - threshold) < 1e-9)
    found = accessibility(n, c, 16).status
    assert [x for x, skip in zip(found, close, strict=True) if not skip] == list(expected[~close])


def test_140_failures_are_out_and_139_are_not() -> None:
    assert accessibility([139, 140], [0, 0], 16).status.tolist() == [Status.UNDETERMINED, Status.OUT]


def test_a_stricter_pair_leaves_the_tasks_between_undetermined() -> None:
    n, c = [3000] * 3, [0, 225, 1800]
    assert accessibility(n, c, 16).status.tolist() == [Status.OUT, Status.IN, Status.IN]
    strict = accessibility(n, c, 16, rho=(0.05, 0.95))
    assert strict.status.tolist() == [Status.OUT, Status.UNDETERMINED, Status.IN]
    with pytest.raises(StatsError, match="must not exceed"):
        accessibility(n, c, 16, rho=(0.9, 0.1))


def test_every_pair_of_statuses_has_its_verdict() -> None:
    out, both, never = (400, 0), (400, 200), (20, 1)
    pairs = [(both, both), (out, both), (both, out), (out, out), (never, both), (out, never)]
    bare = accessibility([a[0] for a, _ in pairs], [a[1] for a, _ in pairs], 16)
    tool = accessibility([b[0] for _, b in pairs], [b[1] for _, b in pairs], 16)
    found = verdicts(bare, tool)
    assert found.verdict.tolist() == [
        Verdict.PRESERVED,
        Verdict.EXPANDED,
        Verdict.LOST,
        Verdict.OUT_OF_REACH,
        Verdict.UNDETERMINED,
        Verdict.UNDETERMINED,
    ]
    assert sum(found.counts.values()) == 6
    assert found.spent.tolist() == [800, 800, 800, 800, 420, 420]
    assert (found.needed[:4] == 0).all()
    assert (found.needed[4:] > 0).all()
    assert found.expanded_fdr.tolist() == [False, True, False, False, False, False]
    assert found.lost_fdr.tolist() == [False, False, True, False, False, False]


def test_arms_of_different_size_or_level_are_refused() -> None:
    with pytest.raises(StatsError, match="1 tasks in the bare arm but 2"):
        verdicts(accessibility([5], [1], 4), accessibility([5, 5], [1, 1], 4))
    with pytest.raises(StatsError, match="different levels"):
        verdicts(accessibility([5], [1], 4, alpha=0.05), accessibility([5], [1], 4, alpha=0.1))


def test_e_bh_rejects_the_largest_prefix_that_passes() -> None:
    e = np.array([100.0, 1.0, 45.0, 60.0, 30.0])
    # T/(αk) = 100, 50, 33.3, 25, 20: the four largest pass because the fourth, 30, is at least 25.
    assert e_bh(np.log(e), 0.05).tolist() == [True, False, True, True, True]
    assert not e_bh(np.log([19.0]), 0.05).any()
    assert e_bh([np.inf, -np.inf], 0.05).tolist() == [True, False]
    with pytest.raises(StatsError, match="not a number"):
        e_bh([np.nan])


def test_false_expansions_stay_below_the_level_when_attempts_are_peeked_at() -> None:
    """Tasks sit exactly on the bare threshold: "expanded" would be false, however often one looks."""
    rng = np.random.default_rng(2)
    threshold = float(p_star(0.5, 16))
    runs, looks = 400, (50, 100, 200, 400, 800)
    bare = np.cumsum(rng.random((runs, 800)) < threshold, axis=1)
    tool = np.cumsum(rng.random((runs, 800)) < 0.5, axis=1)
    ever = np.zeros(runs, dtype=bool)
    for n in looks:
        found = verdicts(accessibility([n] * runs, bare[:, n - 1], 16), accessibility([n] * runs, tool[:, n - 1], 16))
        ever |= found.verdict == Verdict.EXPANDED
    assert ever.mean() <= 0.05


def test_the_false_discovery_rate_of_expanded_is_controlled_in_a_mixture() -> None:
    rng = np.random.default_rng(3)
    threshold = float(p_star(0.5, 16))
    shares = []
    for _ in range(60):
        truly = rng.random(200) < 0.2
        p_bare = np.where(truly, 0.0, np.where(rng.random(200) < 0.5, threshold, 0.3))
        n = np.full(200, 300)
        found = verdicts(
            accessibility(n, rng.binomial(n, p_bare), 16), accessibility(n, rng.binomial(n, np.full(200, 0.6)), 16)
        )
        said = found.expanded_fdr
        shares.append((said & ~truly).sum() / max(said.sum(), 1))
        assert said[truly].mean() > 0.9  # and it does find them
    assert np.mean(shares) <= 0.05


def test_the_null_row_of_a_comparison_is_the_bare_arm_against_itself() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.3, 2, 300)
    tasks = [str(i) for i in range(300)]
    bare = ArmOutcomes.from_counts("bare", tasks, 130, rng.binomial(130, p))
    tool = ArmOutcomes.from_counts("tool", tasks, 130, np.full(300, 130))
    null = compare_arms(bare, tool, elicitation=64, replicates=200).null
    assert null is not None
    assert (null.bare, null.tool) == ("bare (half 1)", "bare (half 2)")
    assert null.elicitation == 64
    assert null.support.srr.value == pytest.approx(0.908, abs=0.03)
    assert null.support.ndr.value == pytest.approx(0.092, abs=0.03)
    assert abs(null.gain.value or 0) < 0.02
    assert null.verdicts.counts["expanded"] == null.verdicts.counts["lost"] == 0
