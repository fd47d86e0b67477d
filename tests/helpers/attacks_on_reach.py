"""Attacks on outcomes, reach, the parts of a gain and the intervals around them."""

from __future__ import annotations

import numpy as np

from helpers.attack import INF, NAN, NOT_CHANCES, NOT_COUNTS, NOT_FINITE, NOT_LEVELS, NOT_POSITIVE, Attack, arm, many
from testbed.stats import (
    ArmOutcomes,
    align,
    balanced_elicitation,
    cluster_bootstrap,
    compare_arms,
    cost_front,
    creation_curve,
    decompose,
    decompose_cross_fitted,
    decompose_cross_fitted_at_spend,
    empirical_support,
    near_identical,
    pareto_front,
    reach_at_k,
    reach_at_spend,
    reach_curve,
    reach_curve_of_many,
    sample_equivalent,
    support_metrics,
)
from testbed.stats.bands import reach_bands, simultaneous_band
from testbed.stats.extrapolate import extrapolate_reach

ON_REACH = [
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
        reach_curve_of_many,
        dict(arm=arm(), spends=[1.5, 8], axis="tokens"),
        dict(spends=NOT_POSITIVE, axis=["usd", "", None]),
    ),
    Attack(
        pareto_front,
        dict(cost=[1.0, 2.0], reach=[0.1, 0.2]),
        dict(cost=[*NOT_FINITE, [1.0]], reach=[*NOT_FINITE, [0.1, 0.2, 0.3]]),
    ),
    Attack(
        cost_front,
        dict(arms=[arm(), arm("tool")], axis="tokens", attempts=2),
        dict(
            arms=[[], [arm()], [arm(), arm("tool", tasks="ab")], [arm(), ArmOutcomes.from_counts("tool", "abc", 4, 1)]],
            axis=["usd", None],
            attempts=[*NOT_COUNTS, 9],
            alpha=NOT_LEVELS,
        ),
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
]
