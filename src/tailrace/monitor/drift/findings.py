"""What a window says of drift, as the console shows it and alerts read it."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One series in a window. kind: "feature", "score", "confidence", "decision" or "view".

    statistics: by their names, of `STATISTICS`; those that could be compared. psi_threshold: above which its index
    speaks, for so many rows. signals: the statistics that speak in this window; alarms: those that have spoken in
    enough of the last ones. deviations: how many standard deviations of the baseline windows' means this mean is off,
    None while that is being learned; is_deviating: it was beyond 2 of them, on one side, in enough of the last windows.
    labels, shares, baseline: of each cell its name, its share here and in what it is held against.
    """

    series: str
    kind: str
    rows: int
    statistics: dict[str, float]
    psi_threshold: float
    signals: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    deviations: float | None = None
    is_deviating: bool = False
    labels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    baseline: tuple[float, ...] = ()


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """One window, or one whole season ("cycle"). started_s, ended_s: by the clock on the wall, since the epoch.

    learning: of how many series the baseline is still being learned; of them only shares of rows are compared.
    """

    span: str
    started_s: float
    ended_s: float
    rows: int
    learning: int
    findings: tuple[Finding, ...]

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The series with an alarm."""
        return tuple(finding for finding in self.findings if finding.alarms)
