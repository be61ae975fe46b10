"""The tail of a load, where what was refused counts too."""

from __future__ import annotations

from typing import Final

from machine import BenchError
from tailrace.loadtest.report import LoadReport

ANSWERED_MIN: Final = 0.995
"""Of all calls; a p99 of fewer says nothing of those that were refused."""


def p99_ms(report: LoadReport, what: str) -> float:
    """Return the p99 of a load. Raises BenchError where too many of its calls were not answered well."""
    if report.ok is None or report.ok.count < ANSWERED_MIN * report.shots:
        good = 0 if report.ok is None else report.ok.count
        raise BenchError(f"inference: {what}: {good:,} of {report.shots:,} calls were answered well: {report.statuses}")
    return report.ok.p99_ns / 1e6
