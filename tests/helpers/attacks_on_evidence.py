"""Attacks on verdicts, the sequences they rest on, and rules of stopping."""

from __future__ import annotations

from helpers.attack import NAN, NOT_CHANCES, NOT_COUNTS, NOT_LEVELS, NOT_POSITIVE, Attack
from testbed.stats import (
    accessibility,
    attempts_still_needed,
    clopper_pearson,
    confidence_sequence,
    e_bh,
    failures_needed,
    p_star,
    sequences,
    verdicts,
)
from testbed.stats.betting import paired_mean_sequence
from testbed.stats.stopping import StoppingRule
from testbed.stats.verdict_power import attempts_for_verdict, settled_by

ON_EVIDENCE = [
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
        paired_mean_sequence,
        dict(differences=[0.5, -0.5, 0.0], clusters=[1, 1, 2], alpha=0.05, candidates=101),
        dict(
            differences=[[], [0.5, NAN, 0], [0.5, 1.5, 0], [0.5], "x", None],
            clusters=[[1], [], [1, 1, 1, 2]],
            alpha=NOT_LEVELS,
            candidates=[2, 0, -1, NAN],
        ),
    ),
    *(
        Attack(
            call,
            {"p": 0.01, "p_out": 0.1, "p_in": 0.2, "alpha": 0.05, "most": 300},
            {"p": [-0.1, 1.1, NAN, 0.15], "p_out": [0, 1, NAN, 0.3], "p_in": [0, 1, NAN, 0.05], "alpha": NOT_LEVELS},
        )
        for call in (attempts_for_verdict, settled_by)
    ),
    Attack(
        StoppingRule,
        dict(least=4, most=64, k=16, rho=0.5, alpha=0.05),
        dict(least=[0, -1, 65, NAN], most=[0, 3, NAN], k=[0, -1, NAN], rho=[0, 1, NAN, (0.9, 0.1)], alpha=NOT_LEVELS),
    ),
]
