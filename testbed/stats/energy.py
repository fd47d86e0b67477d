"""Free energy with a binary reward, budgeted free energy, and the best-of-N frontier, in nats.

With success probability p and inverse temperature β the re-weighted policy is the exact tilt p_β ∝ p·e^β. Everything
here is elementary; what is published and what is derived is said in docs/measurement.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, expit, kl_div, xlog1py

from testbed.stats.checks import (
    NOWHERE,
    FloatArray,
    StatsError,
    Where,
    counts,
    finite,
    probability,
    together,
    whole_numbers,
)


def harmonic(m: ArrayLike) -> FloatArray:
    """Return the harmonic numbers H_m = Σ_{j≤m} 1/j of whole numbers m ≥ 0."""
    return np.asarray(digamma(whole_numbers(m, "m") + 1.0) - digamma(1.0), dtype=np.float64)


def log_partition(p: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Return ln Z = ln(1 + p(e^β − 1)) for p in [0, 1] and any β, without overflow."""
    chance, inverse = together(p=probability(p, "p"), beta=finite(beta, "beta"))
    with np.errstate(divide="ignore", over="ignore"):
        change = chance * np.expm1(np.minimum(inverse, 1.0))
        small = np.log1p(change)
        large = np.logaddexp(np.log1p(-chance), np.log(chance) + inverse)
    return np.asarray(np.where((inverse <= 1) & (change > -0.5), small, large), dtype=np.float64)


def free_energy(p: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Return F(β) = −ln Z / β; its limit −p at β = 0."""
    chance, inverse = together(p=probability(p, "p"), beta=finite(beta, "beta"))
    safe = np.where(inverse == 0, 1.0, inverse)
    return np.asarray(np.where(inverse == 0, -chance, -log_partition(chance, inverse) / safe), dtype=np.float64)


def tilt(p: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Return p_β, with logit p_β = logit p + β; 0 and 1 stay what they are."""
    chance, inverse = together(p=probability(p, "p"), beta=finite(beta, "beta"))
    with np.errstate(divide="ignore"):
        logit = np.log(chance) - np.log1p(-chance)
    return np.asarray(expit(logit + inverse), dtype=np.float64)


def tilt_kl(p: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Return KL(tilted ‖ original) = β p_β − ln Z = kl(p_β ‖ p)."""
    chance, inverse = together(p=probability(p, "p"), beta=finite(beta, "beta"))
    # Both chances may differ in their last digits only; what they differ by, as a share of them, is exact.
    near = np.abs(inverse) < 30
    beta_near = np.where(near, inverse, 0.0)
    moved = np.expm1(beta_near) / (1 - chance + chance * np.exp(beta_near))
    close = chance * _parting((1 - chance) * moved) + (1 - chance) * _parting(-chance * moved)
    return np.asarray(np.where(near, close, bernoulli_kl(tilt(chance, inverse), chance)), dtype=np.float64)


def bernoulli_kl(q: ArrayLike, p: ArrayLike) -> FloatArray:
    """Return kl(q ‖ p) in nats: the least divergence with which re-weighting can reach success q from p.

    inf where p = 0 < q or q < p = 1: no re-weighting reaches what never happens.
    """
    target, chance = together(q=probability(q, "q"), p=probability(p, "p"))
    # x ln(x/y) − x + y of success and of failure, each ≥ 0: unlike x ln(x/y) they do not cancel one another.
    return np.asarray(kl_div(target, chance) + kl_div(1 - target, 1 - chance), dtype=np.float64)


def _parting(d: FloatArray) -> FloatArray:
    """Return (1 + d) ln(1 + d) − d for d ≥ −1; its series where d is small."""
    near = np.abs(d) < 0.1
    small, rest = np.where(near, d, 0.0), np.where(near, 1.0, d)
    series = small**2 * sum((-small) ** k / ((k + 1) * (k + 2)) for k in range(16))
    return np.asarray(np.where(near, series, xlog1py(1 + rest, rest) - rest), dtype=np.float64)


def best_of_n_success(p: ArrayLike, draws: ArrayLike) -> FloatArray:
    """Return 1 − (1−p)^N under a perfect verifier."""
    with np.errstate(divide="ignore"):
        chance, number = together(p=probability(p, "p"), draws=_draws(draws))
        return np.asarray(-np.expm1(number * np.log1p(-chance)), dtype=np.float64)


def best_of_n_kl(p: ArrayLike, draws: ArrayLike) -> FloatArray:
    """Return the exact KL(best-of-N ‖ one draw) under a perfect binary verifier: kl(1 − (1−p)^N ‖ p)."""
    return bernoulli_kl(best_of_n_success(p, draws), p)


def best_of_n_kl_bound(draws: ArrayLike) -> FloatArray:
    """Return ln N − (N−1)/N: the usual figure, only an upper bound here."""
    number = _draws(draws)
    return np.asarray(np.log(number) - (number - 1) / number, dtype=np.float64)


def budgeted_free_energy(p: ArrayLike, budget: int) -> FloatArray:
    """Return Φ_B = Σ_{k≤B} (1−p)^k / k, which rises to −ln p as B grows and is finite (H_B) at p = 0."""
    _budget(budget)
    miss = 1 - probability(p, "p")
    total, power = np.zeros(miss.shape), np.ones(miss.shape)
    for k in range(1, budget + 1):
        power = power * miss
        total = total + power / k
    return total


def budgeted_free_energy_estimate(
    n: ArrayLike, c: ArrayLike, budget: ArrayLike | None = None, *, where: Where = NOWHERE
) -> FloatArray:
    """Return the unbiased estimate of Φ_B from c successes in n attempts, n fixed in advance.

    H_n − H_c at B = n, and Σ_{k≤B} C(n−c, k)/(k·C(n, k)) for B < n. Finite at c = 0.

    Args:
        n: Attempts per task.
        c: Successes per task.
        budget: B, one for all or one for each task; n of each task where left out.
        where: Names for error messages.

    Raises:
        StatsError: B > n for some task (nothing unbiased exists), B < 1, c > n.
    """
    attempts, successes = counts(n, c, where)
    if budget is None:
        return harmonic(attempts) - harmonic(successes)
    _budget(budget)
    attempts, successes, limit = together(attempts=attempts, successes=successes, budget=whole_numbers(budget, "B"))
    if (attempts < limit).any():
        index = int(np.flatnonzero((attempts < limit).ravel())[0])
        raise StatsError(
            f"{where(index)}Φ_B needs B ≤ n attempts: B = {limit.ravel()[index]}, n = {attempts.ravel()[index]}"
        )
    failures = attempts - successes
    total, miss = np.zeros(attempts.shape), np.ones(attempts.shape)
    for k in range(1, int(limit.max(initial=0)) + 1):
        miss = miss * np.where(k <= limit, np.maximum(failures - k + 1, 0) / np.maximum(attempts - k + 1, 1), 0.0)
        total = total + miss / k
    return total


def budgeted_free_energy_stopped(first_success: ArrayLike, cap: int) -> FloatArray:
    """Return the unbiased estimate of Φ_N when sampling stopped at the first success, at most N attempts.

    H_{min(K−1, N)}, K the attempt that succeeded first; give any K > N (such as N + 1) where none did.

    Args:
        first_success: K ≥ 1 per task.
        cap: N.
    """
    _budget(cap)
    first = whole_numbers(first_success, "the first success")
    if (first < 1).any():
        raise StatsError("attempts are counted from 1: the first success cannot be attempt 0")
    return harmonic(np.minimum(first - 1, cap))


def tool_gain_nats(
    bare_n: ArrayLike, bare_c: ArrayLike, tool_n: ArrayLike, tool_c: ArrayLike, budget: ArrayLike | None = None
) -> FloatArray:
    """Return Φ_B(bare) − Φ_B(tool) per task: how much budgeted free energy the tools removed.

    With equal n and no ``budget`` it is H_{c_T} − H_{c_0}. Unbiased for n fixed in advance.

    Raises:
        StatsError: Unequal n and no ``budget``: the two would be at different budgets.
    """
    before, after = together(bare=whole_numbers(bare_n, "attempts"), tool=whole_numbers(tool_n, "attempts"))
    if budget is None and (before != after).any():
        raise StatsError("the arms have different numbers of attempts: give a budget B that both can pay")
    bare, tool = together(
        bare=budgeted_free_energy_estimate(bare_n, bare_c, budget),
        tool=budgeted_free_energy_estimate(tool_n, tool_c, budget),
    )
    return np.asarray(bare - tool, dtype=np.float64)


def success_ceiling(p_guess: ArrayLike, bits: ArrayLike) -> FloatArray:
    """Return min(1, 2^m · p_guess): no policy that is told m bits can succeed more often."""
    chance, told = together(p_guess=probability(p_guess, "p_guess"), bits=finite(bits, "bits"))
    if (told < 0).any():
        raise StatsError("bits must be finite and ≥ 0")
    with np.errstate(over="ignore", divide="ignore"):
        # On the log scale: 2^m alone may be more than float64 holds, and 0 · inf is no ceiling.
        return np.asarray(np.exp2(np.minimum(0.0, told + np.log2(chance))), dtype=np.float64)


def _draws(draws: ArrayLike) -> FloatArray:
    number = whole_numbers(draws, "N")
    if (number < 1).any():
        raise StatsError("N must be at least 1")
    return number.astype(np.float64)


def _budget(budget: ArrayLike) -> None:
    if (whole_numbers(budget, "the budget") < 1).any():
        raise StatsError(f"the budget must be a whole number ≥ 1, not {budget!r}")
