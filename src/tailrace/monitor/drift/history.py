"""How a pipeline's series were over the last windows, and which of them are worth to be shown. Bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.drift.comparison import SHARE_MIN, SHIFT_MIN
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.shown import ShownDrift, ShownSeries
from tailrace.monitor.drift.watch import DEVIATIONS_MAX

WINDOWS_SHOWN: Final = 48
"""Windows of which a series' index and mean are remembered: twelve hours of those of a quarter of an hour."""
SERIES_SHOWN_MAX: Final = 20
"""Of a pipeline."""
SERIES_MAX: Final = 60
"""Of all pipelines together."""
LABEL_MAX: Final = 48
"""Characters of a cell's name: a category may be as long as a request."""


class DriftHistory:
    """A pipeline's last window and cycle, and the index and the mean of each series over the windows before."""

    def __init__(self) -> None:
        self._last: Findings | None = None
        self._cycle_alarms: dict[str, tuple[str, ...]] = {}
        self._names: tuple[str, ...] = ()
        self._values: NDArray[np.float32] = np.empty((2, 0, WINDOWS_SHOWN), np.float32)
        self._windows = 0

    @property
    def last(self) -> Findings | None:
        """The last window; None before there is one."""
        return self._last

    def add(self, findings: Findings) -> None:
        """Take a window, or a cycle. Of other series than before, what was is forgotten."""
        if findings.span == "cycle":
            self._cycle_alarms = {each.series: each.alarms for each in findings.alarms}
            return
        names = tuple(each.series for each in findings.findings)
        if names != self._names:
            self._names, self._windows, self._cycle_alarms = names, 0, {}
            self._values = np.full((2, len(names), WINDOWS_SHOWN), np.nan, np.float32)
        self._values = np.roll(self._values, -1, axis=2)
        for row, name in enumerate(("psi", "mean")):
            self._values[row, :, -1] = [each.statistics.get(name, np.nan) for each in findings.findings]
        self._windows = min(self._windows + 1, WINDOWS_SHOWN)
        self._last = findings

    def alarms_of(self, finding: Finding) -> tuple[str, ...]:
        """Return the statistics of a series that have an alarm, in the last windows or over whole cycles."""
        return tuple(dict.fromkeys((*finding.alarms, *self._cycle_alarms.get(finding.series, ()))))

    def shown(self, place: int, severity: float) -> ShownSeries:
        """Return the series at a place of the last window, as it is shown."""
        assert self._last is not None
        found = self._last.findings[place]
        psi, mean = (_rounded(values[place, WINDOWS_SHOWN - self._windows :]) for values in self._values)
        return ShownSeries(
            series=found.series,
            kind=found.kind,
            rows=found.rows,
            severity=round(severity, 3),
            statistics={name: round(value, 4) for name, value in found.statistics.items()},
            psi_threshold=round(found.psi_threshold, 4),
            alarms=self.alarms_of(found),
            deviations=None if found.deviations is None else round(found.deviations, 2),
            is_deviating=found.is_deviating,
            labels=tuple(label if len(label) <= LABEL_MAX else label[: LABEL_MAX - 1] + "…" for label in found.labels),
            shares=tuple(round(share, 4) for share in found.shares),
            baseline=tuple(round(share, 4) for share in found.baseline),
            psi=psi,
            mean=mean,
        )


def shown_drift(histories: Mapping[str, DriftHistory]) -> dict[str, ShownDrift]:
    """Return what is shown of each pipeline that has had a window.

    So many series are shown of each that all have their share, and those that are worst of all have what is left.
    """
    found = {name: history for name, history in histories.items() if history.last is not None}
    ranked = [
        (rank, -severity(finding), name, place)
        for name, history in found.items()
        if history.last is not None
        for rank, (place, finding) in enumerate(_worst(history))
    ]
    chosen: dict[str, list[ShownSeries]] = {name: [] for name in found}
    for _, negative, name, place in sorted(ranked)[:SERIES_MAX]:
        chosen[name].append(found[name].shown(place, -negative))
    return {
        name: ShownDrift(
            started_s=last.started_s,
            ended_s=last.ended_s,
            rows=last.rows,
            learning=last.learning,
            watched=len(last.findings),
            alarmed=sum(bool(history.alarms_of(each)) for each in last.findings),
            deviating=sum(each.is_deviating for each in last.findings),
            series=tuple(chosen[name]),
        )
        for name, history in found.items()
        if (last := history.last) is not None
    }


def severity(finding: Finding) -> float:
    """Return how far the worst statistic of a series is, 1 where it begins to matter."""
    limits = {"psi": finding.psi_threshold, "distance": SHIFT_MIN, "mean": SHIFT_MIN}
    parts = [abs(value) / limits.get(name, SHARE_MIN) for name, value in finding.statistics.items()]
    if finding.deviations is not None and finding.is_deviating:
        parts.append(abs(finding.deviations) / DEVIATIONS_MAX)
    return max(parts, default=0.0)


def _worst(history: DriftHistory) -> list[tuple[int, Finding]]:
    """Return the worst series of a window with their places, first those with an alarm."""
    assert history.last is not None

    def order(each: tuple[int, Finding]) -> tuple[bool, bool, float]:
        _, finding = each
        return not history.alarms_of(finding), not finding.is_deviating, -severity(finding)

    return sorted(enumerate(history.last.findings), key=order)[:SERIES_SHOWN_MAX]


def _rounded(values: NDArray[np.float32]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else round(value, 4) for value in values.tolist())
