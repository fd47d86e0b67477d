from __future__ import annotations

import numpy as np
import pytest

from testbed.stats import ArmOutcomes, StatsError, least_reweighting
from testbed.stats.energy import bernoulli_kl


def arm_of(name: str, c: object, n: object = 64) -> ArmOutcomes:
    counts = np.atleast_1d(np.asarray(c))
    return ArmOutcomes.from_counts(name, [f"t{i}" for i in range(counts.size)], n, counts)


def test_without_a_bare_success_there_is_a_lower_limit_and_no_upper_one() -> None:
    found = least_reweighting(arm_of("bare", [0, 0, 5]), arm_of("tool", [32, 0, 40]))
    assert found.high[0] is None
    assert found.high[1] is None
    assert found.high[2] is not None
    assert found.low[0] > 0.1
    assert found.low[1] == 0
    assert np.isfinite(found.low).all()
    assert np.isfinite(found.value).all()
    assert found.low[2] < found.value[2] < found.high[2]


def test_doing_worse_needs_no_nats() -> None:
    found = least_reweighting(arm_of("bare", [60, 64]), arm_of("tool", [1, 0]))
    assert found.value.tolist() == [0, 0]
    assert found.high == (0.0, 0.0)
    assert found.mean_low == 0


def test_with_many_attempts_limits_close_in_on_the_divergence() -> None:
    n = 200_000
    found = least_reweighting(arm_of("bare", [n // 10] * 3, n), arm_of("tool", [n // 2] * 3, n))
    truth = float(bernoulli_kl(0.5, 0.1))
    assert found.value[0] == pytest.approx(truth, abs=1e-4)
    assert found.high[0] is not None
    assert found.high[0] - found.low[0] < 0.05
    assert found.low[0] < truth < found.high[0]


def test_limits_hold_for_each_task_and_for_the_mean() -> None:
    rng = np.random.default_rng(1)
    inside, mean_inside, above = [], [], []
    for seed in range(150):
        p = rng.beta(0.5, 3, 30)
        q = np.maximum(p, 1 - (1 - p) ** 6 * rng.choice([1, 0.4], 30))
        truth = np.where(q > p, bernoulli_kl(q, p), 0)
        found = least_reweighting(
            arm_of("bare", rng.binomial(32, p), 32), arm_of("tool", rng.binomial(32, q), 32), seed=seed
        )
        upper = np.array([np.inf if high is None else high for high in found.high])
        inside.append(np.mean((found.low <= truth) & (truth <= upper)))
        assert found.mean_low is not None
        above.append(found.mean_low > 0)
        mean_inside.append(found.mean_low <= truth.mean())
    assert np.mean(inside) >= 0.95
    assert np.mean(mean_inside) >= 0.95
    assert np.mean(above) > 0.9  # and it does say something


def test_the_lower_limit_of_the_mean_is_that_of_the_mean_rates_by_convexity() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        p, q = rng.beta(0.3, 1, 20), rng.beta(0.5, 0.5, 20)
        mean = np.where(q > p, bernoulli_kl(q, p), 0).mean()
        assert mean >= (bernoulli_kl(q.mean(), p.mean()) if q.mean() > p.mean() else 0) - 1e-12


def test_one_cluster_has_no_limit_for_the_mean() -> None:
    bare, tool = arm_of("bare", [1, 2]), arm_of("tool", [30, 40])
    found = least_reweighting(bare, tool, clusters=dict.fromkeys(bare.tasks, 0))
    assert found.mean_low is None
    assert found.mean == pytest.approx(found.value.mean())


def test_only_common_tasks_are_compared_and_bad_input_is_named() -> None:
    tool = ArmOutcomes.from_counts("tool", ["t1", "x"], 8, [4, 4])
    assert least_reweighting(arm_of("bare", [1, 2], 8), tool).tasks == ("t1",)
    with pytest.raises(StatsError, match="no task in common"):
        least_reweighting(arm_of("bare", [1]), ArmOutcomes.from_counts("tool", ["y"], 8, 4))
    with pytest.raises(StatsError, match="arm 'tool', task 't0': no scored attempts"):
        least_reweighting(arm_of("bare", [1]), arm_of("tool", [0], 0))


def test_a_strict_level_has_a_limit_too_below_that_of_a_laxer_one() -> None:
    bare, tool = arm_of("bare", [1, 2, 0, 3] * 5, 40), arm_of("tool", [30, 36, 20, 38] * 5, 40)
    strict, lax = (least_reweighting(bare, tool, alpha=alpha, replicates=100) for alpha in (0.001, 0.05))
    assert strict.mean_low is not None
    assert lax.mean_low is not None
    assert 0 < strict.mean_low < lax.mean_low
