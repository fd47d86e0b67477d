"""A call of every public function of the statistics, and the values with which each must be refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from testbed.stats import (
    ArmOutcomes,
    accessibility,
    align,
    attempts_still_needed,
    balanced_elicitation,
    clopper_pearson,
    cluster_bootstrap,
    compare_arms,
    confidence_sequence,
    creation_curve,
    decompose,
    decompose_cross_fitted,
    decompose_cross_fitted_at_spend,
    e_bh,
    empirical_support,
    energy,
    failures_needed,
    near_identical,
    p_star,
    reach_at_k,
    reach_at_spend,
    reach_curve,
    sample_equivalent,
    sequences,
    support_metrics,
    verdicts,
)
from testbed.stats.bands import reach_bands, simultaneous_band
from testbed.stats.betting import paired_mean_sequence
from testbed.stats.extrapolate import extrapolate_reach
from testbed.stats.frontier import best_of_n_frontier, suite_free_energy, tilt_frontier
from testbed.stats.pilot import estimate_spread
from testbed.stats.power import Spread, attempts_needed, detectable_gain, power_of, tasks_needed
from testbed.stats.reweighting import least_reweighting
from testbed.stats.stopping import StoppingRule
from testbed.stats.verdict_power import attempts_for_verdict, settled_by

NAN, INF = float("nan"), float("inf")


NAN, INF = float("nan"), float("inf")
NOT_COUNTS = [-1, 2.5, NAN, INF, 1e300, "many", None, []]
NOT_CHANCES = [-0.1, 1.1, NAN, INF, "half", None, []]
NOT_LEVELS = [0, 1, -0.1, NAN, "5%", None, []]
NOT_POSITIVE = [0, -1, NAN, INF, "some", None, []]
NOT_FINITE = [NAN, INF, -INF, "hot", None, []]
NOT_SEEDS = [-1, 0.5, NAN, "seed"]


def arm(name: str = "bare", n: int = 8, tasks: str = "abc") -> ArmOutcomes:
    rows = [(task, i % 3 == 0, 1.0 + i) for task in tasks for i in range(n)]
    return ArmOutcomes.from_rows(
        name, [r[0] for r in rows], [r[1] for r in rows], costs={"tokens": [r[2] for r in rows]}
    )


def many(name: str) -> ArmOutcomes:
    """Thirty tasks, some never solved, some always, most sometimes."""
    return ArmOutcomes.from_counts(name, [str(i) for i in range(30)], 8, [min(i // 3, 8) for i in range(30)])


@dataclasses.dataclass(frozen=True)
class Attack:
    """A call that works, and for each argument the values with which it must be refused."""

    call: Callable[..., Any]
    valid: Mapping[str, Any]
    bad: Mapping[str, list[Any]]


ATTACKS = [
    Attack(
        reach_at_k,
        dict(n=[8, 9], c=[1, 2], k=4),
        dict(n=[*NOT_COUNTS, 3, [8, 9, 10]], c=[*NOT_COUNTS, 10], k=[*NOT_COUNTS, 0, 9]),
    ),
    Attack(
        reach_at_spend,
        dict(success=[True, False], cost=[1.0, 2.0], spends=[3.0]),
        dict(
            success=[[1, NAN], [1, 0.5], [True], [], [True, None], ["yes", "no"]],
            cost=[[1, -1], [1, NAN], [1, INF], [1], "cheap"],
            spends=NOT_POSITIVE,
        ),
    ),
    Attack(reach_curve, dict(arm=arm(), spends=[1, 8]), dict(spends=[*NOT_COUNTS, 0, 9])),
    Attack(
        reach_curve,
        dict(arm=arm(), spends=[1.5, 8], axis="tokens"),
        dict(spends=NOT_POSITIVE, axis=["usd", "", None]),
    ),
    Attack(
        decompose_cross_fitted,
        dict(bare_n=[8, 8], bare_c=[1, 2], tool_n=[8, 8], tool_c=[3, 4], operating=1, elicitation=4),
        dict(
            bare_n=[*NOT_COUNTS, [8] * 3],
            bare_c=[*NOT_COUNTS, 9],
            tool_n=[*NOT_COUNTS, [8] * 3],
            tool_c=[*NOT_COUNTS, 9],
            operating=[*NOT_COUNTS, 0, 5],
            elicitation=[*NOT_COUNTS, 0, 8],
        ),
    ),
    Attack(
        decompose_cross_fitted_at_spend,
        dict(bare=arm(), tool=arm("tool"), axis="tokens", operating=5.0, elicitation=9.0),
        dict(
            tool=[arm("tool", 1), arm("tool", tasks="ab"), ArmOutcomes.from_counts("tool", "abc", 4, 1)],
            axis=["usd", None],
            operating=[*NOT_POSITIVE, 10.0],
            elicitation=[*NOT_POSITIVE, 4.0],
        ),
    ),
    Attack(
        creation_curve,
        dict(bare=arm(), tool=arm("tool"), spends=[2, 4]),
        dict(tool=[arm("tool", tasks="ab")], spends=[*NOT_COUNTS, 0, 8]),
    ),
    Attack(
        decompose,
        dict(bare_b=[0.1], bare_B=[0.4], tool_b=[0.5]),
        dict(bare_b=[*NOT_CHANCES, 0.5], bare_B=[*NOT_CHANCES, 0.05], tool_b=NOT_CHANCES),
    ),
    Attack(
        sample_equivalent,
        dict(bare_reach=[0.1, 0.4], target=0.3, attempts=[1, 2]),
        dict(bare_reach=[*NOT_FINITE, [0.1], [0.1, NAN]], target=NOT_FINITE, attempts=[*NOT_COUNTS, [1], [1, 2, 3]]),
    ),
    Attack(
        empirical_support,
        dict(bare_reach=[0.1], tool_reach=[0.4]),
        dict(bare_reach=[*NOT_CHANCES, [0.1, 0.2]], tool_reach=NOT_CHANCES),
    ),
    Attack(
        support_metrics,
        dict(preserved=1.0, expanded=1.0, shrunk=1.0),
        {name: [-1, NAN, INF, "many", None] for name in ("preserved", "expanded", "shrunk")},
    ),
    Attack(near_identical, dict(arm=arm()), {}),
    Attack(balanced_elicitation, dict(bare=arm()), {}),
    Attack(p_star, dict(rho=0.5, k=16), dict(rho=NOT_LEVELS, k=NOT_POSITIVE)),
    Attack(failures_needed, dict(epsilon=0.1, alpha=0.05), dict(epsilon=NOT_LEVELS, alpha=NOT_LEVELS)),
    Attack(
        confidence_sequence,
        dict(n=[8, 9], c=[1, 2], alpha=0.05),
        dict(n=[*NOT_COUNTS, 1, [8, 9, 10]], c=[*NOT_COUNTS, 9], alpha=NOT_LEVELS),
    ),
    Attack(
        clopper_pearson,
        dict(n=[8, 9], c=[1, 2], alpha=0.05),
        dict(n=[*NOT_COUNTS, 1], c=[*NOT_COUNTS, 9], alpha=NOT_LEVELS),
    ),
    *(
        Attack(
            call,
            {"n": [8, 9], "c": [1, 2], name: 0.1},
            {"n": [*NOT_COUNTS, 1], "c": [*NOT_COUNTS, 9], name: [*NOT_CHANCES, [0.1] * 3]},
        )
        for call, name in (
            (sequences.log_martingale, "p"),
            (sequences.log_e_above, "threshold"),
            (sequences.log_e_below, "threshold"),
        )
    ),
    Attack(
        attempts_still_needed,
        dict(n=[8, 9], c=[1, 2], p_out=0.1, p_in=0.2, alpha=0.05),
        dict(
            n=[*NOT_COUNTS, 1],
            c=[*NOT_COUNTS, 9],
            p_out=[*NOT_LEVELS, 0.3, [0.1] * 3],
            p_in=[0, 1, NAN, 0.05],
            alpha=NOT_LEVELS,
        ),
    ),
    Attack(
        accessibility,
        dict(n=[8, 9], c=[1, 2], k=16, rho=0.5, alpha=0.05),
        dict(
            n=[*NOT_COUNTS, 1],
            c=[*NOT_COUNTS, 9],
            k=[*NOT_POSITIVE, [1, 2, 3]],
            rho=[*NOT_LEVELS, (0.9, 0.1), (0.1, NAN)],
            alpha=NOT_LEVELS,
        ),
    ),
    Attack(
        verdicts,
        dict(bare=accessibility([8], [1], 16), tool=accessibility([8], [1], 16)),
        dict(tool=[accessibility([8, 9], [1, 1], 16), accessibility([8], [1], 16, alpha=0.1)]),
    ),
    Attack(e_bh, dict(log_e=[1.0, 2.0], alpha=0.05), dict(log_e=[[1, NAN], [], "big", None], alpha=NOT_LEVELS)),
    Attack(
        cluster_bootstrap,
        dict(values=[[0.1], [0.4]], weights=[1.0, 1.0], least=0.0, greatest=1.0, clusters=["a", "b"], replicates=100),
        dict(
            values=[[], [0.1, NAN], [0.1, INF], [0.1, 1.5], "a", None, [[[0.1]]], [0.1, 0.2, 0.3]],
            weights=[[1.0, -1.0], [1.0, NAN], [1.0], "a", [[1.0, 1.0], [1.0, 1.0]]],
            least=[NAN, INF, "a", 0.3, [0, 0, 0]],
            greatest=[NAN, INF, "a", 0.3, [1, 1, 1]],
            clusters=[["a"], ["a", "b", "c"], []],
            replicates=[0, 99, NAN, 100.5, "many", None],
        ),
    ),
    Attack(
        align,
        dict(bare=arm(), tool=arm("tool")),
        dict(tool=[arm("tool", tasks="xyz")]),
    ),
    Attack(
        compare_arms,
        dict(
            bare=arm(),
            tool=arm("tool"),
            operating=1,
            elicitation=4,
            rho=0.5,
            alpha=0.05,
            replicates=100,
            clusters={"a": 1, "b": 1, "c": 2},
        ),
        dict(
            tool=[arm("tool", tasks="xyz"), arm("tool", 1), ArmOutcomes.from_counts("tool", "abc", 0, 0, missing=4)],
            operating=[0, -1, 0.5, 5, 8, NAN, INF],
            elicitation=[0, -1, 0.5, 8, 9, NAN, INF],
            axis=["usd", ""],
            rho=[0, 1, NAN, (0.9, 0.1), "half", None],
            alpha=NOT_LEVELS,
            replicates=[0, 99, NAN],
            clusters=[{"a": 1}, {}],
        ),
    ),
    Attack(
        ArmOutcomes.from_rows,
        dict(arm="bare", tasks=["a", "a"], success=[1, 0], costs={"usd": [1, 2]}, samples=[0, 1]),
        dict(
            tasks=[[], ["a"]],
            success=[[], [1], [1, 0.5], [1, 2], [1, "yes"], [1, INF], [1, [0]]],
            costs=[
                {"usd": [1]},
                {"usd": [1, -1]},
                {"usd": [1, NAN]},
                {"usd": [1, INF]},
                {"usd": [1, "x"]},
                {"usd": []},
            ],
            samples=[[0, 0], [0]],
        ),
    ),
    Attack(
        ArmOutcomes.from_counts,
        dict(arm="bare", tasks=["a", "b"], n=[8, 9], c=[1, 2], missing=[0, 1]),
        dict(
            tasks=[[], ["a", "a"], ["a", "b", "c"]],
            n=[*NOT_COUNTS, 1, [8, 9, 10]],
            c=[*NOT_COUNTS, 9, [1, 2, 3]],
            missing=[-1, NAN, 0.5, "x", [0, 1, 2]],
        ),
    ),
    Attack(
        ArmOutcomes.from_codes,
        dict(arm="bare", tasks=["a", "b"], code=[0, 1], success=[1, -1], costs={"usd": [1, 2]}),
        dict(
            code=[[], [0], [0, 2], [0, -1]],
            success=[[1], [1, 2], [1, 0.5], [1, NAN]],
            costs=[{"usd": [1]}, {"usd": [-1, 1]}, {"usd": [NAN, 1]}, {"usd": [1, "x"]}],
        ),
    ),
    Attack(energy.harmonic, dict(m=3), dict(m=NOT_COUNTS)),
    *(
        Attack(call, dict(p=0.3, beta=1.0), dict(p=NOT_CHANCES, beta=NOT_FINITE))
        for call in (energy.log_partition, energy.free_energy, energy.tilt, energy.tilt_kl)
    ),
    Attack(
        energy.bernoulli_kl,
        dict(q=[0.3, 0.4], p=[0.1, 0.2]),
        dict(q=[*NOT_CHANCES, [0.1] * 3], p=[*NOT_CHANCES, [0.1] * 3]),
    ),
    *(
        Attack(call, dict(p=0.3, draws=4), dict(p=NOT_CHANCES, draws=[*NOT_COUNTS, 0]))
        for call in (energy.best_of_n_success, energy.best_of_n_kl)
    ),
    Attack(energy.best_of_n_kl_bound, dict(draws=4), dict(draws=[*NOT_COUNTS, 0])),
    Attack(energy.budgeted_free_energy, dict(p=0.3, budget=4), dict(p=NOT_CHANCES, budget=[*NOT_COUNTS, 0])),
    Attack(
        energy.budgeted_free_energy_estimate,
        dict(n=[8, 9], c=[1, 2], budget=4),
        dict(n=[*NOT_COUNTS, 1, 3], c=[*NOT_COUNTS, 9], budget=[-1, 0, 2.5, NAN, INF, "x", 9]),
    ),
    Attack(
        energy.budgeted_free_energy_stopped,
        dict(first_success=[1, 5], cap=4),
        dict(first_success=[*NOT_COUNTS, 0], cap=[*NOT_COUNTS, 0]),
    ),
    Attack(
        energy.tool_gain_nats,
        dict(bare_n=[8, 8], bare_c=[1, 2], tool_n=[8, 8], tool_c=[3, 4]),
        dict(
            bare_n=[*NOT_COUNTS, 9, [8] * 3], bare_c=[*NOT_COUNTS, 9], tool_n=[*NOT_COUNTS, 9], tool_c=[*NOT_COUNTS, 9]
        ),
    ),
    Attack(
        energy.success_ceiling, dict(p_guess=0.1, bits=3), dict(p_guess=NOT_CHANCES, bits=[-1, NAN, INF, "x", None])
    ),
    Attack(
        reach_bands,
        dict(arms=[many("bare"), many("tool")], spends=[[1, 4], [1, 8]], alpha=0.2, replicates=400),
        dict(
            arms=[[], [many("bare")]],
            spends=[[[1, 4]], [[1, 4], [1, 9]], [[1, 4], []], [[1, 4], [0.5]], [[1, 4], [NAN]], [[4, 1], [1, 8]]],
            axis=["usd", None],
            clusters=[{"a": 1}],
            alpha=NOT_LEVELS,
            replicates=[0, 99, NAN],
        ),
    ),
    Attack(
        simultaneous_band,
        dict(found=cluster_bootstrap(np.eye(12)[:, :2], replicates=400), alpha=0.2),
        dict(found=[cluster_bootstrap(np.zeros((4, 2)), np.zeros((4, 2)))], alpha=NOT_LEVELS),
    ),
    Attack(
        paired_mean_sequence,
        dict(differences=[0.5, -0.5, 0.0], clusters=[1, 1, 2], alpha=0.05, candidates=101),
        dict(
            differences=[[], [0.5, NAN, 0], [0.5, 1.5, 0], [0.5], "x", None],
            clusters=[[1], [], [1, 1, 1, 2]],
            alpha=NOT_LEVELS,
            candidates=[2, 0, -1, NAN],
        ),
    ),
    Attack(
        extrapolate_reach,
        dict(arm=many("bare"), k=12, widest=1.0, replicates=100),
        dict(
            arm=[arm(), ArmOutcomes.from_counts("bare", [str(i) for i in range(30)], 8, 0)],
            k=[*NOT_COUNTS, 0, 8, 81],
            alpha=NOT_LEVELS,
            widest=[-0.1, NAN, 0.01],
            replicates=[0, 99, NAN],
            clusters=[{"a": 1}],
        ),
    ),
    Attack(
        estimate_spread,
        dict(bare=many("bare"), tool=many("tool")),
        dict(tool=[arm(tasks="xyz"), arm(n=1)], operating=[0, 9, 1.5, NAN]),
    ),
    Attack(
        power_of,
        dict(effect=0.1, tasks=100, variance=0.2),
        dict(
            effect=[0, 1, -1, NAN],
            tasks=[0, -1, NAN, INF],
            variance=[-1, NAN, INF],
            alpha=NOT_LEVELS,
            cluster_size=[0, NAN, INF],
        ),
    ),
    Attack(
        tasks_needed,
        dict(effect=0.1, variance=0.2),
        dict(
            effect=[0, 1, NAN, 1e-9],
            variance=[-1, NAN, INF, 2],
            power=[0, 1, NAN, 0.01],
            alpha=NOT_LEVELS,
            cluster_size=[0, NAN],
        ),
    ),
    Attack(
        detectable_gain,
        dict(tasks=100, variance=0.2),
        dict(tasks=[0, -1, NAN], variance=[-1, NAN], power=[0, 1, NAN, 0.01], alpha=NOT_LEVELS, cluster_size=[0, NAN]),
    ),
    Attack(
        attempts_needed,
        dict(effect=0.1, tasks=400, spread=Spread(0.1, (0.2,), (0.2,))),
        dict(effect=[0, 1, NAN], tasks=[0, NAN], bare_attempts=[0, 1.5], power=[0, 1, NAN, 0.01], alpha=NOT_LEVELS),
    ),
    *(
        Attack(
            call,
            {"p": 0.01, "p_out": 0.1, "p_in": 0.2, "alpha": 0.05, "most": 300},
            {"p": [-0.1, 1.1, NAN, 0.15], "p_out": [0, 1, NAN, 0.3], "p_in": [0, 1, NAN, 0.05], "alpha": NOT_LEVELS},
        )
        for call in (attempts_for_verdict, settled_by)
    ),
    *(
        Attack(
            call,
            {"arm": many("bare"), name: [1.0, 2.0], "alpha": 0.1, "replicates": 200},
            {
                "arm": [ArmOutcomes.from_counts("bare", ["a", "b"], [4, 0], [1, 0], missing=[0, 3])],
                name: bad,
                "clusters": [{"a": 1}],
                "alpha": NOT_LEVELS,
                "replicates": [0, 99, NAN],
            },
        )
        for call, name, bad in (
            (suite_free_energy, "beta", NOT_FINITE),
            (tilt_frontier, "beta", NOT_FINITE),
            (best_of_n_frontier, "draws", [*NOT_COUNTS, 0, 9]),
        )
    ),
    Attack(
        least_reweighting,
        dict(bare=many("bare"), tool=many("tool"), alpha=0.1, replicates=200),
        dict(
            tool=[
                arm("tool", tasks="xyz"),
                ArmOutcomes.from_counts("tool", ["0", "1"], [4, 0], [1, 0], missing=[0, 3]),
            ],
            clusters=[{"a": 1}],
            alpha=NOT_LEVELS,
            replicates=[0, 99, NAN],
        ),
    ),
    Attack(
        StoppingRule,
        dict(least=4, most=64, k=16, rho=0.5, alpha=0.05),
        dict(least=[0, -1, 65, NAN], most=[0, 3, NAN], k=[0, -1, NAN], rho=[0, 1, NAN, (0.9, 0.1)], alpha=NOT_LEVELS),
    ),
    Attack(
        Spread,
        dict(between=0.1, bare=(0.2,), tool=(0.2,)),
        dict(
            between=[-0.1, 1.1, NAN],
            bare=[(), (0.3,), (-0.1,), (NAN,), (0.2, 0.1)],
            tool=[(), (NAN,)],
            cluster_size=[0, NAN, INF],
            icc=[-0.1, 1.1, NAN],
        ),
    ),
]
