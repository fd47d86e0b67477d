"""Quantiles of means with random exponential weights, without drawing any: what endless replicates would give.

With independent exponential weights E_j, Σ E_j s_j / Σ E_j m_j lies at or below x exactly if Σ E_j a_j ≤ 0 for
a_j = s_j − x m_j. The cumulant function of that sum is K(u) = −Σ ln(1 − a_j u), and

    P(Σ E_j a_j ≤ 0) = −(1 / 2πi) ∫ exp K(u) / u du    from below to above, crossing the axis between 1 / min a and 0.

Along a hyperbola that leaves the saddle point K'(c) = 0 as the steepest path does, the integrand falls fast and hardly
turns, so that a dozen points suffice. The quantile is found by Newton's rule on the saddle-point approximation r*
(Barndorff-Nielsen 1986), and then on the integral.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from testbed.stats.checks import BoolArray, FloatArray

_STEP = 0.4
_POINTS = _STEP * np.arange(12)[:, None, None]
_WEIGHTS = np.where(np.arange(12) == 0, 0.5, 1.0)[:, None] * _STEP / np.pi
# Standard errors within which the quantile is found: r* by itself is within .02 of the integral at two clusters, and
# within .01 at more.
_ROUGH, _NEAR = 1e-3, 0.004
_MANY = 40  # clusters from which on r* is near enough
_LAST = -1e-12  # place of the value itself, but for rounding: beyond it no quantile is looked for
_MOST_STEPS = 60
_AT_A_TIME = 1_000_000  # numbers of a table that are worked on at one time: a dozen more are made of each


def lower_ends(
    top: FloatArray, bottom: FloatArray, unseen: FloatArray, least: FloatArray, value: FloatArray, tail: float
) -> FloatArray:
    """Return the ``tail`` quantiles of Q weighted ratios, with one more cluster at the least value; at most ``value``.

    Args:
        top: Sums of J ≥ 2 clusters, shape (J, Q).
        bottom: Their denominators, ≥ 0, shape (J, Q).
        unseen: Denominator of the cluster that nobody saw, > 0, shape (Q,).
        least: Its ratio, no more than that of any other, shape (Q,).
        value: Σ top / Σ bottom, shape (Q,).
        tail: Probability below the quantile, in (0, ½).
    """
    found = value.copy()
    # Where no cluster is above the least value there is nothing to find.
    wide = np.flatnonzero(value - least > 1e-12 * np.maximum(1.0, np.abs(least)))
    at_a_time = max(1, _AT_A_TIME // len(top))
    for columns in (wide[start : start + at_a_time] for start in range(0, wide.size, at_a_time)):
        sums = _Sums(top[:, columns], bottom[:, columns], unseen[columns], least[columns])
        found[columns] = np.minimum(sums.quantile(float(ndtri(tail))), value[columns])
    return found


class _Sums:
    """Q columns of clusters, the unseen one included, above the least value and in units of their sums.

    Beside a least value that is not 0, a small distance from it would be lost in rounding; squares of large or small
    units would leave the range of numbers.
    """

    def __init__(self, top: FloatArray, bottom: FloatArray, unseen: FloatArray, least: FloatArray) -> None:
        above, size = np.maximum(top - least * bottom, 0.0), bottom.sum(axis=0)
        self.least, self.span = least, above.sum(axis=0) / size
        self.top = np.vstack([above / above.sum(axis=0), np.zeros(least.size)])
        self.bottom = np.vstack([bottom, unseen]) / size
        self.saddle = np.zeros(least.size)

    def quantile(self, target: float) -> FloatArray:
        """Return where the sums are at or below 0 with the probability that ``target`` has as a normal deviate."""
        error = np.sqrt(((self.top - self.bottom) ** 2).sum(axis=0)) / self.bottom.sum(axis=0)
        # On the scale of the logarithm of the distance from the least value: there the deviate is nearly straight.
        place = np.clip(target * error, -4.0, -1e-3)
        for exact in (False, True) if len(self.top) <= _MANY else (False,):
            place = self._newton(place, target, exact)
        return np.asarray(self.least + self.span * np.exp(place), dtype=np.float64)

    def _newton(self, place: FloatArray, target: float, exact: bool) -> FloatArray:
        low, high = np.full(place.size, -np.inf), np.zeros(place.size)
        done = np.zeros(place.size, np.bool_)  # for good: no column may depend on which others there are
        for _ in range(_MOST_STEPS):
            deviate, slope = self._deviate(place, exact, done)
            off = target - deviate
            low, high = np.where(off > 0, place, low), np.where(off < 0, place, high)
            further = place + np.clip(off / slope, -2.0, 2.0)
            middle = np.where(np.isfinite(low), (low + high) / 2, 2 * place)
            further = np.minimum(np.where((further > low) & (further < high), further, middle), _LAST)
            place = np.where(done, place, further)
            done |= (np.abs(off) < (_NEAR if exact else _ROUGH)) | ((off > 0) & (place == _LAST))
            if done.all():
                break
        return place

    def _deviate(self, place: FloatArray, exact: bool, done: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return the normal deviate of P(sum ≤ 0), exactly or nearly, and about how fast it rises with the place."""
        width = np.exp(place)
        each = self.top - width * self.bottom
        self.saddle = np.where(done, self.saddle, _saddle_point(each, self.saddle))
        rest = 1 - each * self.saddle
        scale = 1 / np.sqrt(((each / rest) ** 2).sum(axis=0))
        root = np.copysign(np.sqrt(np.maximum(2 * np.log(rest).sum(axis=0), 0.0)), self.saddle)
        level = np.abs(root) < 1e-3  # near the middle of the distribution: a quotient of two zeros
        slope = (self.bottom / rest).sum(axis=0) * width
        slope = slope * np.where(level, scale, self.saddle / np.where(level, 1.0, root))
        if exact:
            return ndtri(np.clip(self._below(each, scale), 1e-300, 1 - 1e-16)), slope
        root = np.where(level, 1e-3, root)
        return root + np.where(level, 0.0, np.log(np.abs(self.saddle / scale / root) + level) / root), slope

    def _below(self, each: FloatArray, scale: FloatArray) -> FloatArray:
        """Return P(sum ≤ 0): the integral along the path through the saddle point, or beside it if that is near 0."""
        start = np.minimum(self.saddle, np.maximum(-scale, 0.5 / each.min(axis=0)))
        share = each / (1 - each * start) * scale
        third = 2 / 3 * (share**3).sum(axis=0)
        # sin φ / cos² φ is a third of the skewness, so that the path begins as steep as can be.
        sine = 2 * third / (1 + np.sqrt(1 + 4 * third**2))
        cosine = 1j * np.sqrt(1 - sine**2)
        along = sine * (np.cosh(_POINTS) - 1) + cosine * np.sinh(_POINTS)
        way = sine * np.sinh(_POINTS) + cosine * np.cosh(_POINTS)
        fall = np.log(1 - share * along).sum(axis=1) + np.log(1 - each * start).sum(axis=0)
        height = np.exp(-fall) / (start + scale * along[:, 0]) * (scale * way[:, 0])
        return np.asarray(-(height.imag * _WEIGHTS).sum(axis=0), dtype=np.float64)


def _saddle_point(each: FloatArray, start: FloatArray) -> FloatArray:
    """Return where K' = Σ a / (1 − a u) is 0, between the poles 1 / min a and 1 / max a; K' rises."""
    low, high = 1 / each.min(axis=0), 1 / each.max(axis=0)
    at = np.clip(start, 0.999 * low, 0.999 * high)
    done = np.zeros(at.size, np.bool_)
    for _ in range(_MOST_STEPS):
        share = each / (1 - each * at)
        rise, curve = share.sum(axis=0), (share * share).sum(axis=0)
        low, high = np.where(rise > 0, low, at), np.where(rise > 0, at, high)
        further = at - rise / curve
        moved = np.where((further > low) & (further < high), further, (low + high) / 2)
        near = np.abs(moved - at) * np.sqrt(curve) < 1e-4
        at = np.where(done, at, moved)
        done |= near
        if done.all():
            break
    return at
