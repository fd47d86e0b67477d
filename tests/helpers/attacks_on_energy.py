"""Attacks on nats: free energies, tilts, best of n, reweighting."""

from __future__ import annotations

from helpers.attack import INF, NAN, NOT_CHANCES, NOT_COUNTS, NOT_FINITE, NOT_LEVELS, Attack, arm, many
from testbed.stats import ArmOutcomes, energy
from testbed.stats.frontier import best_of_n_frontier, suite_free_energy, tilt_frontier
from testbed.stats.reweighting import least_reweighting

ON_ENERGY = [
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
]
