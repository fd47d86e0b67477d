"""The measurement: arrays in, frozen records out; numpy and scipy only. Formulas and proofs: docs/measurement.md."""

from testbed.stats.bands import Band, reach_bands, simultaneous_band
from testbed.stats.betting import MeanSequence, paired_mean_sequence
from testbed.stats.bootstrap import ClusterMeans, cluster_bootstrap
from testbed.stats.checks import StatsError
from testbed.stats.compare import balanced_elicitation, compare_arms
from testbed.stats.comparison import Comparison, Figures, MissingBounds, Range, SampleEquivalent, SupportRow
from testbed.stats.crossfit import creation_curve, decompose_cross_fitted
from testbed.stats.crossfit_spend import decompose_cross_fitted_at_spend
from testbed.stats.extrapolate import Extrapolation, extrapolate_reach
from testbed.stats.frontier import (
    Bounded,
    FreeEnergy,
    Frontier,
    best_of_n_frontier,
    suite_free_energy,
    tilt_frontier,
)
from testbed.stats.gain import Decomposition, decompose, sample_equivalent
from testbed.stats.intervals import Estimate, Intervals, Replicates
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.pairing import align
from testbed.stats.pareto import ArmOnFront, CostFront, cost_front, pareto_front
from testbed.stats.reach import reach_at_k
from testbed.stats.repeats import Repeats, near_identical
from testbed.stats.reweighting import Reweighting, least_reweighting
from testbed.stats.sequences import (
    attempts_still_needed,
    clopper_pearson,
    confidence_sequence,
    failures_needed,
    p_star,
)
from testbed.stats.spend import ReachCurve, SpendReach, reach_at_spend, reach_curve
from testbed.stats.spend_many import reach_curve_of_many
from testbed.stats.support import SupportMetrics, empirical_support, support_metrics
from testbed.stats.verdicts import Accessibility, Status, Verdict, Verdicts, accessibility, e_bh, verdicts

__all__ = [
    "Accessibility",
    "ArmOnFront",
    "ArmOutcomes",
    "Band",
    "Bounded",
    "ClusterMeans",
    "Comparison",
    "CostFront",
    "Decomposition",
    "Estimate",
    "Extrapolation",
    "Figures",
    "FreeEnergy",
    "Frontier",
    "Intervals",
    "MeanSequence",
    "MissingBounds",
    "Range",
    "ReachCurve",
    "Repeats",
    "Replicates",
    "Reweighting",
    "SampleEquivalent",
    "SpendReach",
    "StatsError",
    "Status",
    "SupportMetrics",
    "SupportRow",
    "Verdict",
    "Verdicts",
    "accessibility",
    "align",
    "attempts_still_needed",
    "balanced_elicitation",
    "best_of_n_frontier",
    "clopper_pearson",
    "cluster_bootstrap",
    "compare_arms",
    "confidence_sequence",
    "cost_front",
    "creation_curve",
    "decompose",
    "decompose_cross_fitted",
    "decompose_cross_fitted_at_spend",
    "e_bh",
    "empirical_support",
    "extrapolate_reach",
    "failures_needed",
    "least_reweighting",
    "near_identical",
    "p_star",
    "paired_mean_sequence",
    "pareto_front",
    "reach_at_k",
    "reach_at_spend",
    "reach_bands",
    "reach_curve",
    "reach_curve_of_many",
    "sample_equivalent",
    "simultaneous_band",
    "suite_free_energy",
    "support_metrics",
    "tilt_frontier",
    "verdicts",
]
