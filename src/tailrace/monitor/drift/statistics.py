"""The statistics of drift, for all series at once: arrays of shape (series, cells), or (series,).

A series' values are in standard deviations of its reference, from its mean. A cell is a bin or a category.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EXPECTED_MIN: Final = 5.0
"""Of rows in a cell; cells that expect fewer are counted as one (Cochran 1954)."""
_PSEUDO: Final = 0.5
_BISECTIONS: Final = 60


def stability_index(live: Floats, reference: Floats, rows: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the population stability index of each series and its degrees of freedom, by counts a cell.

    rows: independent ones in the window; which cells are pooled goes by them. Half a row is added to each cell, so that
    an empty one has a logarithm.
    """
    shares = reference / np.maximum(reference.sum(axis=1, keepdims=True), 1.0)
    used = (live > 0) | (reference > 0)
    apart = used & (shares * rows[:, np.newaxis] >= EXPECTED_MIN)
    pooled = used & ~apart
    cells = apart.sum(axis=1) + pooled.any(axis=1)

    def smoothed(counts: Floats) -> tuple[Floats, Floats]:
        whole = np.maximum(counts.sum(axis=1, keepdims=True), 1.0) + _PSEUDO * cells[:, np.newaxis]
        return (counts + _PSEUDO) / whole, ((counts * pooled).sum(axis=1) + _PSEUDO) / whole[:, 0]

    (ours, our_pool), (theirs, their_pool) = smoothed(live), smoothed(reference)
    index = (np.where(apart, (ours - theirs) * np.log(ours / theirs), 0.0)).sum(axis=1)
    index += np.where(pooled.any(axis=1), (our_pool - their_pool) * np.log(our_pool / their_pool), 0.0)
    return index, np.maximum(cells - 1, 0)


def chi_square_tail(values: Floats, freedom: NDArray[Any]) -> Floats:
    """Return the probability that chi-square is larger, exactly, by the recursion over every other degree of freedom.

    With no degree of freedom it is 1.
    """
    half = np.maximum(values, 0.0) / 2.0
    with np.errstate(divide="ignore"):
        logarithm = np.log(half)
    found = np.where(freedom % 2 == 1, _each(math.erfc, np.sqrt(half)), np.exp(-half))
    for degrees in range(1, int(freedom.max(initial=0)) - 1):
        step = np.exp(degrees / 2 * logarithm - half - math.lgamma(degrees / 2 + 1))
        found = found + np.where((freedom % 2 == degrees % 2) & (degrees + 2 <= freedom), step, 0.0)
    return np.where(freedom == 0, 1.0, np.minimum(found, 1.0))


def stability_threshold(level: float, freedom: NDArray[Any], noise: Floats) -> Floats:
    """Return the index that chance exceeds with a probability of `level`.

    Without drift it is distributed as (1/n + 1/m) chi-square with cells - 1 degrees of freedom, for n rows against m
    (Yurdakul and Naranjo, Statistical properties of the population stability index, J. Risk Model Validation 2020).
    noise: 1/n + 1/m.
    """
    quantiles = [_chi_square_above(level, degrees) for degrees in freedom.tolist()]
    return np.asarray(np.array(quantiles, np.float64) * noise)


@lru_cache(maxsize=1_024)
def _chi_square_above(level: float, freedom: int) -> float:
    """Return what chi-square exceeds with a probability of `level`, by bisection; 0 with no degree of freedom."""
    low, high = 0.0, 1_000.0 if freedom else 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_above = chi_square_tail(np.array([middle]), np.array([freedom]))[0] > level
        low, high = (middle, high) if is_above else (low, middle)
    return high


def transport_distance(live: Floats, live_sums: Floats, reference: Floats, sums: Floats, edges: Floats) -> Floats:
    """Return the Wasserstein distance of each series, by the counts and the sums of values a cell.

    edges: the upper edge of each cell; any for the last. Over a cell (a, b] the difference of the distributions
    integrates to b D(b) - a D(a) less the difference of the sums, whatever lies within. The distance is exact where the
    distributions do not cross within a cell, and never too large.
    """
    ours, theirs = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0) for counts in (live, reference))
    between = np.cumsum(ours - theirs, axis=1)
    between[:, -1] = 0.0
    ends = between * edges
    starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
    our_sums = live_sums / np.maximum(live.sum(axis=1, keepdims=True), 1.0)
    their_sums = sums / np.maximum(reference.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(np.abs(ends - starts - (our_sums - their_sums)).sum(axis=1))


def transport_chance(reference: Floats, edges: Floats) -> Floats:
    """Return what the distance is without drift, times the root of the rows, at most.

    It is the integral of the root of F (1 - F) (Bobkov and Ledoux, One-dimensional empirical measures, Memoirs of the
    AMS 2019), by trapezoids over the cells.
    """
    below = np.cumsum(reference, axis=1) / np.maximum(reference.sum(axis=1, keepdims=True), 1.0)
    spread = np.sqrt(np.clip(below * (1.0 - below), 0.0, None))
    return np.asarray(((spread[:, 1:] + spread[:, :-1]) / 2 * np.maximum(np.diff(edges, axis=1), 0.0)).sum(axis=1))


def share_effect(live: Floats, reference: Floats) -> Floats:
    """Return Cohen's h of two shares, the difference of their arcsines: 0.2 is 0 to 1%, or 50 to 60%."""
    return np.asarray(2 * np.arcsin(np.sqrt(live)) - 2 * np.arcsin(np.sqrt(reference)))


def two_sided(z: Floats) -> Floats:
    """Return the probability that chance is as many standard errors off, in either direction."""
    return _each(math.erfc, np.abs(z) / math.sqrt(2))


def discoveries(chances: Floats, share: float) -> tuple[NDArray[np.bool_], float]:
    """Return which of some comparisons are discoveries, and the probability up to which they are; NaN is none.

    Of them a `share` at most is false in the mean, whatever depends on what (Benjamini and Yekutieli, The control of
    the false discovery rate in multiple testing under dependency, Annals of Statistics 2001): features of one model
    are correlated in ways that nobody knows.
    """
    known = np.sort(chances[~np.isnan(chances)])
    count = len(known)
    if not count:
        return np.zeros(chances.shape, np.bool_), 0.0
    harmonic = float((1.0 / np.arange(1, count + 1)).sum())
    levels = np.arange(1, count + 1) * share / (count * harmonic)
    (passed,) = np.nonzero(known <= levels)
    level = float(levels[passed[-1]]) if len(passed) else float(levels[0])
    return np.less_equal(chances, level), level


def _each(function: Any, values: Floats) -> Floats:
    """Return a function of math of each value: NumPy has neither erfc nor a tail of chi-square."""
    return np.array([function(value) for value in values.ravel().tolist()], np.float64).reshape(values.shape)
