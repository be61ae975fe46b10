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

from tailrace.inference.drift import Drift
from tailrace.monitor.drift.baseline import Baseline
from tailrace.monitor.drift.comparison import STATISTICS, Comparer, Comparison
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.series import Series
from tailrace.monitor.drift.statistics import Floats
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
        self.series, self._declared = tuple(series), declared
        self._labels = [each.labels for each in self.series]
        self._reference = reference_tally(self.series)
        self._has_reference = self._reference.rows > 0
        self._baselines = [Baseline.empty(len(self.series)) for _ in range(declared.slots)]
        self._comparer = Comparer(self.series, declared.false_discoveries)
        shape = (len(self.series), len(STATISTICS))
        self._votes, self._cycle_votes = _Votes(declared.alarm, shape), _Votes(CYCLE_ALARM, shape)
        self._sides = (_Votes(declared.alarm, shape[:1]), _Votes(declared.alarm, shape[:1]))
        self._cycle, self._cycle_started, self._cycle_ns = Tally.empty(shape[0]), (now_ns, wall_s), 0
        self._open(now_ns, wall_s)

    @property
    def baselines(self) -> Sequence[Baseline]:
        """What has been learned, an hour of the season each; what is kept over a restart."""
        return self._baselines

    def add(
        self,
        columns: Mapping[str, NDArray[Any]],
        now_ns: int,
        wall_s: float,
        defaulted: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> tuple[Findings, ...]:
        """Add a batch, see `DriftWindow.add`; return what has ended by it: mostly nothing."""
        self._window.add(columns, defaulted)
        if now_ns < self._ends_ns or self._window.rows < self._declared.rows_min:
            return ()
        return self.close(now_ns, wall_s)

    def close(self, now_ns: int, wall_s: float) -> tuple[Findings, ...]:
        """End the window now, and return what it says; and what the cycle says, where it ended with it."""
        window, baseline = self._window, self._baselines[self._slot]
        base, shape, learned = self._base(baseline)
        effect, deviation = _spread(baseline, learned)
        compared = self._comparer.compare(window.tally, base, effect, deviation, shape)
        alarms = self._votes.cast(compared.signals)
        off = np.full(len(self.series), np.nan)
        np.divide(window.tally.means - baseline.mean, baseline.deviation, out=off,
                  where=learned & (baseline.deviation > 0) & (window.tally.rows > 0))  # fmt: skip
        deviating = self._sides[0].cast(off > DEVIATIONS_MAX) | self._sides[1].cast(off < -DEVIATIONS_MAX)
        quiet = np.asarray(~(compared.signals.any(axis=1) | alarms.any(axis=1) | deviating), np.bool_)
        baseline.learn(window.tally, quiet, KEPT * self._declared.windows_to_learn)
        told = self._tell(compared, window.tally, base, alarms, off, deviating)
        waits = int(np.count_nonzero(~shape))
        found = [Findings(span="window", started_s=self._started_s, ended_s=wall_s, rows=window.rows, learning=waits,
                          findings=told)]  # fmt: skip
        if self._declared.season is not None:
            found += self._close_cycle(window.tally, now_ns, wall_s)
        self._open(now_ns, wall_s)
        return tuple(found)

    def _base(self, baseline: Baseline) -> tuple[Tally, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return what is compared with, of which series its distribution is known, and which have learned it."""
        learned = baseline.windows >= self._declared.windows_to_learn
        own = learned if self._declared.season is not None else learned & ~self._has_reference
        base = baseline.tally.take(own, self._reference)
        sourced = (baseline.windows > 0) & learned  # no profile tells how often a default was answered
        base.defaulted, base.sourced = (each * sourced for each in (baseline.tally.defaulted, baseline.tally.sourced))
        known = own if self._declared.season is not None else own | self._has_reference
        return base, known, learned

    def _close_cycle(self, window: Tally, now_ns: int, wall_s: float) -> list[Findings]:
        """Add a window to the cycle; where it is whole, hold it against the reference."""
        self._cycle.merge(window)
        started_ns, started_s = self._cycle_started
        if now_ns - started_ns < self._declared.slots * HOUR_S * 1_000_000_000:
            return []
        count = len(self.series)
        compared = self._comparer.compare(
            self._cycle, self._reference, np.ones(count), np.zeros(count), self._has_reference
        )
        told = self._tell(compared, self._cycle, self._reference, self._cycle_votes.cast(compared.signals))
        rows = int(self._cycle.rows.max(initial=0))
        self._cycle, self._cycle_started = Tally.empty(count), (now_ns, wall_s)
        waits = int(np.count_nonzero(~self._has_reference))
        return [Findings(span="cycle", started_s=started_s, ended_s=wall_s, rows=rows, learning=waits, findings=told)]

    def _open(self, now_ns: int, wall_s: float) -> None:
        """Begin a window. Its hour is the one in which it begins."""
        self._window = DriftWindow(self.series)
        self._started_s, self._ends_ns = wall_s, now_ns + self._declared.window_ns
        self._slot = int(wall_s // HOUR_S) % self._declared.slots

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
    """Of the last `of` windows, where at least `needed` have spoken."""

    def __init__(self, alarm: tuple[int, int], shape: tuple[int, ...]) -> None:
        self._needed, of = alarm
        self._last, self._next = np.zeros((of, *shape), np.bool_), 0

    def cast(self, signals: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take a window's votes, and return where there is an alarm."""
        self._last[self._next] = signals
        self._next = (self._next + 1) % len(self._last)
        return np.asarray(self._last.sum(axis=0) >= self._needed)


def _spread(baseline: Baseline, learned: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return how many rows are worth an independent one, and the deviation of window means, where it is known."""
    known = learned | (baseline.windows >= SPREAD_WINDOWS_MIN)
    return np.where(known, baseline.design_effect, 1.0), np.where(known, baseline.deviation, 0.0)


def _named(flags: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(STATISTICS[place] for place in np.flatnonzero(flags))
