"""The zero-inflated beta-binomial and its maximum-likelihood fit, for many weightings of the same tasks at once.

A share ζ of the tasks cannot be solved (p = 0), the others have p ~ Beta(a, b): the counts of a task with n attempts
follow ζ·1{c = 0} + (1 − ζ)·BetaBinomial(c; n, a, b). The fit is a damped Newton ascent in (ζ, ln a, ln b) with exact
derivatives, started from several points, and ζ is held at 0 wherever the likelihood falls from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, digamma, gammaln, polygamma

from testbed.stats.checks import FloatArray, IntArray

# Beyond these the beta distribution is, for any number of attempts here, a single p (above) or all on 0 and 1 (below).
_LOG_SHAPE = (np.log(1e-4), np.log(1e6))
_MOST_ZERO = 1 - 1e-6
_STEPS = 200
_GAIN = 1e-9


@dataclass(frozen=True, eq=False)
class Groups:
    """Tasks with the same attempts and successes, put together.

    Attributes:
        n: Attempts, shape (U,).
        c: Successes, shape (U,).
        group: Group of each task, shape (T,).
    """

    n: FloatArray
    c: FloatArray
    group: IntArray

    @classmethod
    def of(cls, n: IntArray, c: IntArray) -> Groups:
        """Group tasks by their counts."""
        pairs, group = np.unique(np.column_stack([n, c]), axis=0, return_inverse=True)
        return cls(pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64), group.ravel())

    def weights(self, per_task: FloatArray) -> FloatArray:
        """Return the groups' weights, shape (P, U), from tasks' weights of shape (P, T)."""
        return np.stack([np.bincount(self.group, row, minlength=self.n.size) for row in per_task])


@dataclass(frozen=True, eq=False)
class Fits:
    """P fits.

    Attributes:
        zero: ζ, shape (P,).
        a: Shape (P,).
        b: Shape (P,).
        log_likelihood: Shape (P,), without the binomial coefficients, which no parameter changes.
    """

    zero: FloatArray
    a: FloatArray
    b: FloatArray
    log_likelihood: FloatArray

    def reach(self, k: FloatArray) -> FloatArray:
        """Return the mean reach at k attempts over tasks of each fit, shape (P, K): (1−ζ)(1 − B(a, b+k)/B(a, b))."""
        a, b = self.a[:, None], self.b[:, None]
        return np.asarray((1 - self.zero[:, None]) * -np.expm1(betaln(a, b + k) - betaln(a, b)), dtype=np.float64)


def fit(groups: Groups, weights: FloatArray, start: FloatArray, *, free: bool = True) -> Fits:
    """Maximise the likelihood of each row of weights from its start.

    Args:
        groups: The tasks.
        weights: Shape (P, U), ≥ 0.
        start: (ζ, ln a, ln b), shape (P, 3).
        free: Whether ζ is fitted; else it stays at its start.
    """
    point = start.copy()
    point[:, 0] = np.clip(point[:, 0], 0, _MOST_ZERO)
    point[:, 1:] = np.clip(point[:, 1:], *_LOG_SHAPE)
    damping = np.full(len(point), 1e-3)
    value, slope, curve = _derivatives(groups, weights, point)
    live = np.ones(len(point), dtype=np.bool_)
    for _ in range(_STEPS):
        rows = np.flatnonzero(live)
        if not rows.size:
            break
        step = _newton(point[rows], slope[rows], curve[rows], damping[rows], free=free)
        trial = point[rows] + step
        trial[:, 0] = np.clip(trial[:, 0], 0, _MOST_ZERO)
        trial[:, 1:] = np.clip(trial[:, 1:], *_LOG_SHAPE)
        gained, new_slope, new_curve = _derivatives(groups, weights[rows], trial)
        better = gained >= value[rows]
        small = np.abs(gained - value[rows]) <= _GAIN * (1 + np.abs(value[rows]) * 1e-3)
        kept = rows[better]
        point[kept], slope[kept], curve[kept] = trial[better], new_slope[better], new_curve[better]
        value[kept] = gained[better]
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-9), damping[rows] * 10)
        live[rows] = ~(small & better) & (damping[rows] < 1e12)
    return Fits(point[:, 0], np.exp(point[:, 1]), np.exp(point[:, 2]), value)


def _newton(point: FloatArray, slope: FloatArray, curve: FloatArray, damping: FloatArray, *, free: bool) -> FloatArray:
    """Return damped Newton steps; a coordinate at its end that the slope pushes outwards stays where it is."""
    held = np.zeros(point.shape, dtype=np.bool_)
    held[:, 0] = not free
    low = np.array([0.0, _LOG_SHAPE[0], _LOG_SHAPE[0]])
    high = np.array([_MOST_ZERO, _LOG_SHAPE[1], _LOG_SHAPE[1]])
    held |= ((point <= low) & (slope <= 0)) | ((point >= high) & (slope >= 0))
    bend = np.where(held[:, :, None] | held[:, None, :], 0.0, -curve)
    diagonal = np.arange(3)
    # Marquardt's scaling, and enough of the identity to make a saddle go uphill.
    least = np.linalg.eigvalsh(bend)[:, 0]
    scale = np.abs(bend[:, diagonal, diagonal]) + 1e-8
    bend[:, diagonal, diagonal] += damping[:, None] * scale + np.maximum(0.0, -1.5 * least)[:, None] + held
    step = np.linalg.solve(bend, np.where(held, 0.0, slope)[:, :, None])[:, :, 0]
    longest = np.abs(step[:, 1:]).max(axis=1, initial=0.0)
    return np.asarray(step / np.maximum(1.0, longest / 2)[:, None], dtype=np.float64)


def _derivatives(groups: Groups, weights: FloatArray, point: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log-likelihood (P,), its slope (P, 3) and its second derivatives (P, 3, 3) in (ζ, ln a, ln b)."""
    zero = point[:, :1]
    a, b = np.exp(point[:, 1:2]), np.exp(point[:, 2:3])
    log, first, second = _beta_binomial(groups, a, b)
    none = groups.c == 0
    hit = np.exp(np.where(none, log, -np.inf))  # chance of no success for a task that can be solved
    chance = np.where(none, zero + (1 - zero) * hit, 1.0)
    share = np.where(none, (1 - zero) * hit / np.maximum(chance, 1e-300), 1.0)
    with np.errstate(divide="ignore"):
        value = np.where(none, np.log(np.maximum(chance, 1e-300)), np.log1p(-zero) + log)
    by_zero = np.where(none, (1 - hit) / np.maximum(chance, 1e-300), -1 / (1 - zero))
    slope = np.stack([by_zero, share * first[0], share * first[1]])
    mixed = -np.where(none, hit / np.maximum(chance, 1e-300) ** 2, 0.0)
    spread = share * (1 - share)
    bends = {
        (0, 0): -(by_zero**2),
        (0, 1): mixed * first[0],
        (0, 2): mixed * first[1],
        (1, 1): share * second[0] + spread * first[0] ** 2,
        (1, 2): share * second[1] + spread * first[0] * first[1],
        (2, 2): share * second[2] + spread * first[1] ** 2,
    }
    curve = np.empty((len(point), 3, 3))
    for (i, j), term in bends.items():
        curve[:, i, j] = curve[:, j, i] = (weights * term).sum(axis=1)
    return (weights * value).sum(axis=1), (weights * slope).sum(axis=2).T, curve


def _beta_binomial(
    groups: Groups, a: FloatArray, b: FloatArray
) -> tuple[FloatArray, tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]]:
    """Return ln B(a+c, b+n−c)/B(a, b), its first derivatives in (ln a, ln b) and its second ones (aa, ab, bb)."""
    won, lost, made = (_rise(x, y) for x, y in ((a, groups.c), (b, groups.n - groups.c), (a + b, groups.n)))
    by_a, by_b = a * (won[1] - made[1]), b * (lost[1] - made[1])
    return (
        won[0] + lost[0] - made[0],
        (by_a, by_b),
        (a**2 * (won[2] - made[2]) + by_a, -a * b * made[2], b**2 * (lost[2] - made[2]) + by_b),
    )


def _rise(x: FloatArray, steps: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ln Γ(x+m)/Γ(x) and its first two derivatives in x, shape (P, U); computed once per different m."""
    different, place = np.unique(steps, return_inverse=True)
    top = x + different
    return (
        (gammaln(top) - gammaln(x))[:, place],
        (digamma(top) - digamma(x))[:, place],
        (polygamma(1, top) - polygamma(1, x))[:, place],
    )


def at_the_edge(fits: Fits, index: int) -> str:
    """Return in words at which end of what is searched a fit stopped; "" where it stopped at none."""
    low, high = np.exp(_LOG_SHAPE[0]) * 1.01, np.exp(_LOG_SHAPE[1]) / 1.01
    a, b = fits.a[index], fits.b[index]
    found = ["no task counts as unsolvable"] if fits.zero[index] == 0 else []
    if max(a, b) >= high:
        found.append("the solvable tasks share one p")
    if max(a, b) <= low:
        found.append("a task is solved always or never")
    elif min(a, b) <= low:
        found.append("the shape of the solvable tasks is at the end of what is searched")
    return "; ".join(found)


def best_fit(groups: Groups, *, zero: bool = True) -> tuple[Fits, int]:
    """Return the fits of the tasks, each counted once, from every start, and which is the likeliest.

    Args:
        groups: The tasks, at least one success among them.
        zero: Whether a share of unsolvable tasks is fitted; else the plain beta-binomial is.
    """
    weights = groups.weights(np.ones((1, groups.group.size)))
    points = _starts(groups, weights[0])
    points = points if zero else points[points[:, 0] == 0]
    found = fit(groups, np.repeat(weights, len(points), axis=0), points, free=zero)
    return found, int(np.argmax(found.log_likelihood))


def _starts(groups: Groups, weights: FloatArray) -> FloatArray:
    """Return starting points (ζ, ln a, ln b), shape (S, 3): few and many unsolvable tasks, even and uneven ones."""
    rate = float((weights * groups.c).sum() / (weights * groups.n).sum())
    none = float(weights[groups.c == 0].sum() / weights.sum())
    points = []
    for zero in (0.0, none / 2, 0.9 * none):
        mean = min(rate / (1 - zero), 0.999)
        points += [(zero, np.log(mean * size), np.log((1 - mean) * size)) for size in (0.3, 2.0, 20.0)]
    return np.array(points)
