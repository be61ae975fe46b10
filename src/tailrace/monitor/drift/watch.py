"""A model watched for drift: rows gathered into windows, each held against its baseline, alarms by vote.

    rows ──▶ DriftWindow ──▶ Comparer ──▶ 3 of the last 5 ──▶ Findings
                  │              ▲
                  └─ no drift ─▶ Baseline of the hour, or the reference profile

Without a season, the baseline is the reference profile. With one it is what the same hour was like in earlier cycles;
each whole cycle is held against the reference, so that what creeps is seen too. What the profile does not have, such as
decisions, is learned. A series that speaks teaches its baseline nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.inference.drift import Drift
from tailrace.monitor.drift.baseline import Baseline
from tailrace.monitor.drift.comparison import STATISTICS, Comparer, Comparison
from tailrace.monitor.drift.dependence import Dependence
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.series import CELLS_MAX, Series
from tailrace.monitor.drift.statistics import EXPECTED_MIN, Floats
from tailrace.monitor.drift.window import DriftWindow, Tally, reference_tally

HOUR_S: Final = 3_600
CYCLE_ALARM: Final = (2, 3)
"""Whole cycles that must speak, of the last ones."""
DEVIATIONS_MAX: Final = 2.0
KEPT: Final = 4
"""Times as many windows as a baseline needs are kept of it at full weight."""
SPREAD_WINDOWS_MIN: Final = 6
"""Windows before their means tell how far rows depend on each other."""


class DriftWatch:
    """Watches one release's model.

    now_ns: monotonic time, by which windows end. wall_s: of the clock on the wall, since the epoch, by which the hour
    is chosen, and nothing else: it may jump.
    """

    def __init__(self, series: Sequence[Series], declared: Drift, now_ns: int, wall_s: float) -> None:
        self.series, self.declared = tuple(series), declared
        self._labels = [each.labels for each in self.series]
        self._reference = reference_tally(self.series)
        self._has_reference = self._reference.rows > 0
        self._baselines = [Baseline.empty(len(self.series)) for _ in range(declared.slots)]
        self._dependence = Dependence(len(self.series))
        self._comparer = Comparer(self.series, declared.false_discoveries)
        shape = (len(self.series), len(STATISTICS))
        self._votes, self._cycle_votes = _Votes(declared.alarm, shape), _Votes(CYCLE_ALARM, shape)
        self._is_decision = np.array([each.kind == "decision" for each in self.series], np.bool_)
        sides = (len(self.series), CELLS_MAX)
        self._sides = _Votes(declared.alarm, sides), _Votes(declared.alarm, sides)
        self._cycle, self._cycle_span_s = Tally.empty(shape[0]), np.zeros(1)
        self._open(now_ns, wall_s)

    @property
    def baselines(self) -> Sequence[Baseline]:
        """What has been learned, an hour of the season each."""
        return self._baselines

    @property
    def kept(self) -> Sequence[NDArray[Any]]:
        """What is kept over a restart: what has been learned, the last windows' votes, and the cycle so far."""
        learned = [each for baseline in self._baselines for each in baseline.arrays]
        votes = [each.last for each in (self._votes, self._cycle_votes, *self._sides)]
        return *learned, *votes, *self._cycle.arrays, self._cycle_span_s

    def add(
        self,
        columns: Mapping[str, NDArray[Any]],
        now_ns: int,
        wall_s: float,
        defaulted: Mapping[str, NDArray[np.bool_]] | None = None,
        requests: int | None = None,
    ) -> tuple[Findings, ...]:
        """Add a batch, see `DriftWindow.add`; return what has ended by it: mostly nothing."""
        self._window.add(columns, defaulted, requests)
        if now_ns < self._ends_ns or self._window.rows < self.declared.rows_min:
            return ()
        return self.close(now_ns, wall_s)

    def close(self, now_ns: int, wall_s: float) -> tuple[Findings, ...]:
        """End the window now, and return what it says; and what the cycle says, where it ended with it."""
        window, baseline = self._window, self._baselines[self._slot]
        base, shape, learned = self._base(baseline)
        self._dependence.take(window.tally)
        alike = np.maximum(self._dependence.effect, window.rows / max(window.requests, 1))
        effect, deviation = _spread(baseline, learned, window.tally, base, alike)
        compared = self._comparer.compare(window.tally, base, effect, deviation, shape)
        alarms = self._votes.cast(compared.signals)
        off = self._deviations(window.tally, baseline, learned)
        above, below = self._sides
        beyond = above.cast(off > DEVIATIONS_MAX) | below.cast(off < -DEVIATIONS_MAX)
        deviating = np.asarray(beyond.any(axis=1))
        quiet = np.asarray(~(compared.signals.any(axis=1) | alarms.any(axis=1) | deviating), np.bool_)
        baseline.learn(window.tally, quiet, KEPT * self.declared.windows_to_learn)
        told = self._tell(compared, window.tally, base, alarms, _farthest(off, beyond), deviating)
        waits = int(np.count_nonzero(~shape))
        found = [Findings(span="window", started_s=self._started_s, ended_s=wall_s, rows=window.rows, learning=waits,
                          findings=told)]  # fmt: skip
        if self.declared.season is not None:
            self._cycle_span_s += (now_ns - self._started_ns) / NS_PER_S
            found += self._close_cycle(window.tally, wall_s)
        self._open(now_ns, wall_s)
        return tuple(found)

    def _base(self, baseline: Baseline) -> tuple[Tally, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return what is compared with, of which series its distribution is known, and which have learned it."""
        learned = baseline.windows >= self.declared.windows_to_learn
        own = learned if self.declared.season is not None else learned & ~self._has_reference
        base = baseline.tally.take(own, self._reference)
        sourced = (baseline.windows > 0) & learned  # no profile tells how often a default was answered
        base.defaulted, base.sourced = (each * sourced for each in (baseline.tally.defaulted, baseline.tally.sourced))
        known = own if self.declared.season is not None else own | self._has_reference
        return base, known, learned

    def _deviations(self, window: Tally, baseline: Baseline, learned: NDArray[np.bool_]) -> Floats:
        """Return how many standard deviations of earlier windows this one is off, (series, cells); NaN where unknown.

        Of a decision the share of each, whose deviation is that of five rows at least: that of one row of a thousand is
        not known by some windows. Of numbers the mean, told in the first cell.
        """
        off = np.full((len(self.series), CELLS_MAX), np.nan)
        known = learned & (window.rows > 0)
        widened = baseline.widening
        deviation = baseline.deviation * widened
        np.divide(window.means - baseline.mean, deviation, out=off[:, 0],
                  where=known & (deviation > 0) & ~self._is_decision)  # fmt: skip
        usual, spread = baseline.shares_known
        rows = np.maximum(window.rows, 1.0)[:, np.newaxis]
        spread = np.maximum(spread, np.sqrt(EXPECTED_MIN) / rows) * widened[:, np.newaxis]
        np.divide(window.counts / rows - usual, spread, out=off, where=(known & self._is_decision)[:, np.newaxis])
        return off

    def _close_cycle(self, window: Tally, wall_s: float) -> list[Findings]:
        """Add a window to the cycle; where it is whole, hold it against the reference."""
        self._cycle.merge(window)
        span_s = float(self._cycle_span_s[0])
        if span_s < self.declared.slots * HOUR_S:
            return []
        count = len(self.series)
        compared = self._comparer.compare(
            self._cycle, self._reference, np.ones(count), np.zeros(count), self._has_reference
        )
        told = self._tell(compared, self._cycle, self._reference, self._cycle_votes.cast(compared.signals))
        rows = int(self._cycle.rows.max(initial=0))
        self._cycle_span_s[0] = 0.0
        for each in self._cycle.arrays:
            each[...] = 0.0
        waits = int(np.count_nonzero(~self._has_reference))
        return [
            Findings(span="cycle", started_s=wall_s - span_s, ended_s=wall_s, rows=rows, learning=waits, findings=told)
        ]

    def _open(self, now_ns: int, wall_s: float) -> None:
        """Begin a window. Its hour is the one in which it begins."""
        self._window = DriftWindow(self.series)
        self._started_s, self._started_ns, self._ends_ns = wall_s, now_ns, now_ns + self.declared.window_ns
        self._slot = int(wall_s // HOUR_S) % self.declared.slots

    def _tell(
        self,
        compared: Comparison,
        live: Tally,
        base: Tally,
        alarms: NDArray[np.bool_],
        off: Floats | None = None,
        deviating: NDArray[np.bool_] | None = None,
    ) -> tuple[Finding, ...]:
        """Return the findings of each series."""
        shares, theirs = (each.counts / np.maximum(each.rows, 1.0)[:, np.newaxis] for each in (live, base))
        found = []
        for place, series in enumerate(self.series):
            values = dict(zip(STATISTICS, compared.values[place].tolist(), strict=True))
            beyond = None if off is None or np.isnan(off[place]) else float(off[place])
            found.append(
                Finding(
                    series=series.name,
                    kind=series.kind,
                    rows=int(max(live.rows[place] + live.missing[place], live.sourced[place])),
                    statistics={name: value for name, value in values.items() if not np.isnan(value)},
                    psi_threshold=float(compared.psi_threshold[place]),
                    signals=_named(compared.signals[place]),
                    alarms=_named(alarms[place]),
                    deviations=beyond,
                    is_deviating=bool(deviating is not None and deviating[place]),
                    labels=self._labels[place],
                    shares=tuple(shares[place, : series.cells].tolist()),
                    baseline=tuple(theirs[place, : series.cells].tolist()),
                )
            )
        return tuple(found)


class _Votes:
    """Of the last `of` windows, where at least `needed` have spoken. last: their votes, the newest last."""

    def __init__(self, alarm: tuple[int, int], shape: tuple[int, ...]) -> None:
        self._needed, of = alarm
        self.last = np.zeros((of, *shape), np.bool_)

    def cast(self, signals: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take a window's votes, and return where there is an alarm."""
        self.last[:-1] = self.last[1:]
        self.last[-1] = signals
        return np.asarray(self.last.sum(axis=0) >= self._needed)


def _spread(
    baseline: Baseline, learned: NDArray[np.bool_], window: Tally, base: Tally, effect: Floats
) -> tuple[Floats, Floats]:
    """Return how many rows are worth an independent one, and the deviation of window means.

    effect: the former while the baseline does not know: as the last windows tell it, or the rows of a request.
    """
    known = learned | (baseline.windows >= SPREAD_WINDOWS_MIN)
    variances = np.maximum(window.variances, base.variances)  # three values that are alike by chance have none
    deviation = np.sqrt(variances * effect / np.maximum(window.rows, 1.0))
    return np.where(known, baseline.design_effect, effect), np.where(known, baseline.deviation, deviation)


def _named(flags: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(STATISTICS[place] for place in np.flatnonzero(flags))


def _farthest(off: Floats, beyond: NDArray[np.bool_]) -> Floats:
    """Return of each series the deviation of its cell that is farthest off, first of those that are in alarm."""
    size = np.where(np.isnan(off), -1.0, np.abs(off)) + np.where(beyond, 1e9, 0.0)
    return np.asarray(np.take_along_axis(off, size.argmax(axis=1)[:, np.newaxis], axis=1)[:, 0])
