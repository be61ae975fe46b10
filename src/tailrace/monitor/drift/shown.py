"""What is shown of drift, as the observer tells it: bounded, the worst series first."""

from __future__ import annotations

import msgspec


class ShownSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One series of the last window. severity: its worst statistic over what matters of it, above 1 where it does.

    psi, mean: of the last windows, the oldest first, None where there was nothing to compare; the other members are
    those of `Finding`.
    """

    series: str
    kind: str
    rows: int
    severity: float
    statistics: dict[str, float]
    psi_threshold: float
    alarms: tuple[str, ...]
    deviations: float | None
    is_deviating: bool
    labels: tuple[str, ...]
    shares: tuple[float, ...]
    baseline: tuple[float, ...]
    psi: tuple[float | None, ...]
    mean: tuple[float | None, ...]


class ShownDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The last window of a pipeline. learning: see `Findings`. series: the worst of them, the worst first.

    watched, alarmed, deviating: how many series there are, with an alarm, and beyond two standard deviations.
    """

    started_s: float
    ended_s: float
    rows: int
    learning: int
    watched: int
    alarmed: int
    deviating: int
    series: tuple[ShownSeries, ...]
