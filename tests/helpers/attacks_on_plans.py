"""Attacks on plans: power, and the spread it is reckoned from."""

from __future__ import annotations

from helpers.attack import INF, NAN, NOT_LEVELS, Attack, arm, many
from testbed.stats.pilot import estimate_spread
from testbed.stats.power import Spread, attempts_needed, detectable_gain, power_of, tasks_needed

ON_PLANS = [
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
