"""What is watched: each feature, the scores, the decision and the confidence as a series with fixed cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.manifest import NumberProfile, Profile, TextProfile
from tailrace.monitor.drift.statistics import Floats

CELLS_MAX: Final = 24
"""Of a series: deciles and what is beyond them, or twenty categories and the others."""
REACH: Final = 10.0
"""Standard deviations beyond the ends of the reference, up to which a value counts as what it is: one absurd value of
thousands is no drift."""
_CLOSED: Final = 1e-9
"""By how much the first bin begins before its edge, which belongs to it."""
OUTPUTS_MAX: Final = 10
"""Scores that are each a series where no profile knows them; of more their length is one."""
_SCORES: Final = np.array([
    -1e6, -1e3, -10, -1, 0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1, 3, 10, 100, 1e3,
    1e6,
])  # fmt: skip
"""Cells of scores that no profile knows: fine for probabilities, and coarse for any number."""
_CONFIDENCES: Final = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True, slots=True)
class NumberSeries:
    """A column of numbers. edges: ascending, of its cells but the first and the last, which are beyond them.

    centre, scale: mean and standard deviation of the reference, in which values are told; 0 and 1 where it has none.
    reference: counts and sums a cell, the latter in standard deviations; None where there is none.
    """

    name: str
    kind: str
    edges: Floats
    centre: float
    scale: float
    reference: tuple[Floats, Floats] | None = None
    nulls: int = 0

    @property
    def cells(self) -> int:
        """How many cells it has."""
        return len(self.edges) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """What each cell is called."""
        shown = [f"{edge * self.scale + self.centre:.4g}" for edge in self.edges.tolist()]
        between = [f"{low} to {high}" for low, high in pairwise(shown)]
        return (f"below {shown[0]}", *between, f"above {shown[-1]}")

    def count(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], Floats, float, int]:
        """Return the counts and the sums of values a cell, the sum of the squares, and how many there are not."""
        told = (values.astype(np.float64) - self.centre) / self.scale
        missing = np.isnan(told)
        absent = int(np.count_nonzero(missing))
        if absent:
            told = told[~missing]
        np.clip(told, self.edges[0] - REACH, self.edges[-1] + REACH, out=told)
        places = np.searchsorted(self.edges, told)
        counts = np.bincount(places, minlength=self.cells)
        sums: Floats = np.bincount(places, told, minlength=self.cells).astype(np.float64)
        return counts, sums, float(told @ told), absent


@dataclass(frozen=True, slots=True)
class TextSeries:
    """A column of categories: the known ones, and one cell for all others. reference: counts a cell, or None.

    A view is one without a column: of it defaults alone are counted.
    """

    name: str
    kind: str
    places: Mapping[str, int]
    reference: tuple[Floats, Floats] | None = None
    nulls: int = 0

    @property
    def cells(self) -> int:
        """How many cells it has."""
        return len(self.places) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """What each cell is called."""
        return (*self.places, "others")

    def count(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], Floats, float, int]:
        """Return the counts a cell, and how many values there are not. See `NumberSeries.count`."""
        if values.dtype.kind in "iu":
            known = values[values >= 0]
            counts = np.bincount(np.minimum(known, len(self.places)), minlength=self.cells)
            return counts, np.zeros(self.cells), 0.0, len(values) - len(known)
        others, counts, missing = len(self.places), np.zeros(self.cells, np.int64), 0
        found, times = np.unique(["" if value is None else value for value in values.tolist()], return_counts=True)
        for value, count in zip(found.tolist(), times.tolist(), strict=True):
            if value or value in self.places:
                counts[self.places.get(value, others)] += count
            else:
                missing += count
        return counts, np.zeros(self.cells), 0.0, missing


Series = NumberSeries | TextSeries


def series_of(
    profile: Profile, decisions: Sequence[str] = (), views: Sequence[str] = (), outputs: int = 0
) -> tuple[Series, ...]:
    """Return the series of a model: features, scores, the confidence of probabilities, the decision, views.

    decisions: that the pipeline can make; none without a decision. views: by name, of which the share of rows answered
    with a default is watched. outputs: how many scores a row has, where the profile has none. What the profile does not
    have is learned. A feature that is called as a score, say, is not watched: its column is the score's.
    """
    found: list[Series] = []
    if outputs and not profile.scores:
        names = [f"score[{place}]" for place in range(outputs)] if 1 < outputs <= OUTPUTS_MAX else ["score"]
        found += [NumberSeries(name, "score", _SCORES, 0.0, 1.0) for name in names]
    many = len(profile.scores) > 1
    for place, score in enumerate(profile.scores):
        found.append(_of_profile(f"score[{place}]" if many else "score", "score", score))
    if profile.scores and all(_is_probability(score) for score in profile.scores):
        known = profile.confidence
        found.append(
            _of_profile("confidence", "confidence", known)
            if known is not None
            else NumberSeries("confidence", "confidence", _CONFIDENCES - [_CLOSED, *[0.0] * 10], 0.0, 1.0)
        )
    if decisions:
        places = {name: place for place, name in enumerate(decisions[: CELLS_MAX - 1])}
        found.append(TextSeries("decision", "decision", places))
    taken = {each.name for each in found} | {"score", "confidence"}
    features = [_of_profile(name, "feature", each) for name, each in profile.features.items() if name not in taken]
    return (*features, *found, *(TextSeries(name, "view", {}) for name in views))


def _is_probability(score: NumberProfile) -> bool:
    return score.min is not None and score.max is not None and score.min >= 0.0 and score.max <= 1.0


def _of_profile(name: str, kind: str, profile: NumberProfile | TextProfile) -> Series:
    """Return the series of a column that has a profile."""
    if isinstance(profile, TextProfile):
        places = {value: place for place, (value, _) in enumerate(profile.top)}
        counts = np.array([*(count for _, count in profile.top), profile.others], np.float64)
        return TextSeries(name, kind, places, (counts, np.zeros(len(counts))), profile.nulls)
    if not profile.edges or profile.mean is None or profile.std is None:
        return NumberSeries(name, kind, np.array([0.0]), 0.0, 1.0, None, profile.nulls)
    centre, scale = profile.mean, profile.std if profile.std > 0 else 1.0
    if not np.isfinite([profile.edges[0] / scale, profile.edges[-1] / scale]).all():
        return NumberSeries(name, kind, np.array([0.0]), 0.0, 1.0, None, profile.nulls)
    edges = (_widened(np.array(profile.edges)) - centre) / scale
    edges[0] -= _CLOSED * max(1.0, abs(edges[0]))
    counts = np.array([0, *profile.counts, 0], np.float64)
    sums = np.zeros(len(counts))
    sums[1:-1] = (
        (np.array(profile.sums) - counts[1:-1] * centre) / scale if profile.sums else _sums(edges, counts[1:-1])
    )
    return NumberSeries(name, kind, edges, centre, scale, (counts, sums), profile.nulls)


def _sums(edges: Floats, counts: Floats) -> Floats:
    """Return the sums of each bin where the profile has none: values lie as far up in each as their mean, 0, asks.

    In the middle of each they would have another mean: the last tenth of a long tail lies near its bin's beginning.
    """
    low, width = counts * edges[:-1], counts * np.diff(edges)
    share = np.clip(-low.sum() / width.sum(), 0.0, 1.0) if width.sum() > 0 else 0.0
    found: Floats = low + share * width
    return found


def _widened(edges: Floats) -> Floats:
    """Return edges between which a value lies whether it is told in 64 bits, as when profiled, or in 32, as served."""
    with np.errstate(over="ignore"):
        short = edges.astype(np.float32).astype(np.float64)
    wide = np.maximum(edges, np.where(np.isfinite(short), short, edges))
    wide[0] = np.minimum(edges[0], short[0])
    return wide
