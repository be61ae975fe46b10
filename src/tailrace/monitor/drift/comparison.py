"""One window held against a baseline: each statistic of each series, how likely it is by chance, and if it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.drift.series import CELLS_MAX, NumberSeries, Series
from tailrace.monitor.drift.statistics import (
    Floats,
    chi_square_tail,
    discoveries,
    share_effect,
    stability_index,
    stability_threshold,
    transport_chance,
    transport_distance,
    two_sided,
)
from tailrace.monitor.drift.window import Tally

STATISTICS: Final = ("psi", "distance", "mean", "missing", "default", "unseen")
"""psi: the population stability index. distance, mean: Wasserstein's distance and the shift of the mean, in standard
deviations of the reference, or of the baseline where that is learned. missing, default, unseen: Cohen's h of the share
of rows without a value, with a default, outside of what the reference has."""
RATES: Final = STATISTICS.index("missing")
PSI_MIN: Final = 0.1
SHIFT_MIN: Final = 0.2
"""Of the distance and of the mean, in standard deviations."""
SHARE_MIN: Final = 0.2
ERRORS_MIN: Final = 4.0
"""Standard errors that a mean must be off."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison says, in arrays of shape (series, statistics).

    values: of the statistics. chances: that one is as large without drift, NaN where there is nothing to compare.
    signals: discoveries that are large enough to matter. psi_threshold: (series,), above which the index speaks.
    """

    values: Floats
    chances: Floats
    signals: NDArray[np.bool_]
    psi_threshold: Floats


class Comparer:
    """Compares windows of some series."""

    def __init__(self, series: Sequence[Series], false_discoveries: float) -> None:
        self._share = false_discoveries
        self._is_number = np.array([isinstance(each, NumberSeries) for each in series], np.bool_)
        self._is_raw = np.array([each.reference is None for each in series], np.bool_)
        binned = [place for place, each in enumerate(series) if isinstance(each, NumberSeries) and each.cells > 2]
        self._binned, self._last = (
            np.array(binned, np.intp),
            np.array([series[each].cells - 1 for each in binned], np.intp),
        )
        self._edges = np.zeros((len(series), CELLS_MAX))
        self._unseen = np.zeros((len(series), CELLS_MAX), np.bool_)
        for place, each in enumerate(series):
            self._unseen[place, each.cells - 1] = True
            if isinstance(each, NumberSeries):
                self._edges[place] = each.edges[-1]
                self._edges[place, : len(each.edges)] = each.edges
                self._unseen[place, 0] = True

    def compare(
        self, live: Tally, base: Tally, effect: Floats, deviation: Floats, shape: NDArray[np.bool_]
    ) -> Comparison:
        """Compare a window with a baseline.

        effect: rows worth one independent row, (series,). deviation: of the means of windows. shape: of which series
        there is a baseline for the distribution, not for the shares of rows alone.
        """
        ours, theirs = live.rows, base.rows
        rows = ours / effect
        noise = 1.0 / np.maximum(rows, 1.0) + 1.0 / np.maximum(theirs, 1.0)
        values = np.full((len(ours), len(STATISTICS)), np.nan)
        chances = values.copy()
        values[:, 0], freedom = stability_index(*self._proper(live, base), rows)
        chances[:, 0] = chi_square_tail(values[:, 0] / noise, freedom)
        unit = np.sqrt(np.maximum(base.variances, 1e-12))
        values[:, 1] = transport_distance(live.counts, live.sums, base.counts, base.sums, self._edges)
        root = np.sqrt(noise)
        beyond = np.maximum(values[:, 1] - transport_chance(base.counts, self._edges) * root, 0.0) / (root * unit)
        chances[:, 1] = np.exp(-(beyond**2) / 2)  # the distance concentrates about its mean as a mean of rows does
        values[:, 2] = live.means - base.means
        naive = live.variances / np.maximum(ours, 1.0) + base.variances / np.maximum(theirs, 1.0)
        errors = values[:, 2] / np.sqrt(np.maximum(np.maximum(naive, deviation**2), 1e-18))
        chances[:, 2] = two_sided(errors)
        values[:, 1:RATES] /= np.where(self._is_raw & (base.variances > 0), unit, 1.0)[:, np.newaxis]
        chances[~(shape & (ours > 0) & (theirs > 0)), :RATES] = np.nan
        chances[~self._is_number, 1:RATES] = np.nan
        self._compare_shares(live, base, effect, values, chances)
        found, level = discoveries(chances, self._share)
        matters = np.abs(values) >= [PSI_MIN, SHIFT_MIN, SHIFT_MIN, *[SHARE_MIN] * 3]
        matters[:, 2] &= np.abs(errors) > ERRORS_MIN
        values[np.isnan(chances)] = np.nan
        threshold = np.maximum(stability_threshold(max(level, 1e-12), freedom, noise), PSI_MIN)
        return Comparison(values, chances, found & matters, threshold)

    def _proper(self, live: Tally, base: Tally) -> tuple[Floats, Floats]:
        """Return the counts with what is beyond the reference's ends counted into its first and last bins."""
        rows, last = self._binned, self._last
        pair = live.counts.copy(), base.counts.copy()
        for counts in pair:
            counts[rows, 1] += counts[rows, 0]
            counts[rows, last - 1] += counts[rows, last]
            counts[rows, 0] = counts[rows, last] = 0.0
        return pair

    def _compare_shares(self, live: Tally, base: Tally, effect: Floats, values: Floats, chances: Floats) -> None:
        """Compare the shares of rows without a value, with a default, and outside of what the reference has."""
        parts = (
            ((live.missing, live.rows + live.missing), (base.missing, base.rows + base.missing)),
            ((live.defaulted, live.sourced), (base.defaulted, base.sourced)),
            (
                ((live.counts * self._unseen).sum(axis=1), live.rows),
                ((base.counts * self._unseen).sum(axis=1), base.rows),
            ),
        )
        for column, ((ours, our_rows), (theirs, their_rows)) in enumerate(parts, start=RATES):
            known = (our_rows > 0) & (their_rows > 0)
            shares = [np.divide(part, of, out=np.zeros_like(of), where=known) for part, of in
                      ((ours, our_rows), (theirs, their_rows))]  # fmt: skip
            values[:, column] = share_effect(*shares)
            noise = effect / np.maximum(our_rows, 1.0) + 1.0 / np.maximum(their_rows, 1.0)
            chances[:, column] = np.where(known, two_sided(values[:, column] / np.sqrt(noise)), np.nan)
