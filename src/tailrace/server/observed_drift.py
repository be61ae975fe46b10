"""Drift in the observer: predictions are told on, and what is found is counted, logged and kept beside the log."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from tailrace.monitor.drift.findings import Findings
from tailrace.monitor.drift.pipelines import PipelineDrift
from tailrace.monitor.metrics import DRIFT_KINDS
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.shared import MetricBlock
from tailrace.release.pinned import Pin
from tailrace.release.settle import settle, with_pinned_models
from tailrace.server.declared import load_all

FOUND_FILE: Final = "drift.json"
"""The last findings of each pipeline, in the log's directory."""
KEPT_FILE: Final = "drift.kept"
"""What was learned, for a successor."""
LOG_S: Final = 300.0
SERIES_TOLD_MAX: Final = 10


class ObservedDrift:
    """Watches the pipelines of a release for drift, as they declare it. folder: the log's, None where there is none."""

    def __init__(self, pin: Pin, folder: Path | None, block: MetricBlock) -> None:
        self._pin, self._folder = pin, folder
        self._cells = block.cells
        self._places = {(series.name, *series.labels): series.offset for series in block.layout.series}
        self._log = structlog.get_logger()
        self._drift: PipelineDrift | None = None
        self._is_broken = False
        self._has_found = False
        self._latest: dict[str, Findings] = {}
        self._logged_s: dict[str, float] = {}
        self._failed_s = -LOG_S

    def take(self, predictions: Predictions) -> None:
        """Tell of predictions. A fault ends the watch and is logged: the log goes on without it."""
        if self._is_broken:
            return
        try:
            if self._drift is None:
                self._drift = self._begin()
            found = self._drift.take(predictions, time.monotonic_ns(), time.time())
        except Exception as error:  # of a model's file, or of ours
            self._is_broken = True
            self._log.error("drift is not watched", error=repr(error), exc_info=error)
            return
        for findings in found:
            self._has_found = True
            if findings.span == "window":
                self._latest[predictions.pipeline] = findings
                self._count(predictions.pipeline, findings)
            self._tell(predictions.pipeline, findings)

    def write(self) -> None:
        """Write what was found and learned since the last time; on a thread. What the disk does not take waits."""
        if self._drift is None or self._folder is None or not self._has_found:
            return
        self._has_found = False
        try:
            _replace(self._folder / FOUND_FILE, msgspec.json.encode(self._drift.latest))
            _replace(self._folder / KEPT_FILE, msgspec.msgpack.encode(self._drift.keep()))
        except OSError as error:  # the log is not to wait for it
            self._has_found = True
            if (now_s := time.monotonic()) >= self._failed_s + LOG_S:
                self._failed_s = now_s
                self._log.warning("what drift has found is not written", cause=str(error))

    def tell(self, observed: Observed) -> None:
        """Show the last window of each pipeline."""
        observed.drift = dict(self._latest)

    def close(self) -> None:
        """Nothing: what was found is written whole each time."""

    def _begin(self) -> PipelineDrift:
        """Return the watch of the release that workers serve by now, with what a predecessor has learned."""
        declared = load_all(self._pin)
        release = settle(self._pin, declared)
        drift = PipelineDrift([with_pinned_models(each, release) for each in declared])
        if self._folder is None:
            return drift
        with suppress(OSError, msgspec.DecodeError):
            drift.recall(msgspec.msgpack.decode((self._folder / KEPT_FILE).read_bytes(), type=dict[str, bytes]))
        return drift

    def _count(self, pipeline: str, findings: Findings) -> None:
        """Set the gauges of a pipeline."""
        for kind in DRIFT_KINDS:
            told = [each for each in findings.findings if each.kind == kind]
            for name, count in (
                ("tailrace_drift_alarms", sum(bool(each.alarms) for each in told)),
                ("tailrace_drift_deviating", sum(each.is_deviating for each in told)),
            ):
                place = self._places.get((name, pipeline, kind))
                if place is not None:
                    self._cells[place] = count

    def _tell(self, pipeline: str, findings: Findings) -> None:
        """Log the series with an alarm, every five minutes a pipeline."""
        now_s = time.monotonic()
        if findings.alarms and now_s >= self._logged_s.get(pipeline, -LOG_S) + LOG_S:
            self._logged_s[pipeline] = now_s
            told = {
                each.series: {name: round(value, 3) for name, value in each.statistics.items() if name in each.alarms}
                for each in findings.alarms[:SERIES_TOLD_MAX]
            }
            self._log.warning("drift", pipeline=pipeline, span=findings.span, rows=findings.rows, series=told)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole, or leave the one there is."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(data)
    draft.replace(path)
