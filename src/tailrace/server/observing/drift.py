"""Drift in the observer: predictions are told on, and what is found is counted, logged and kept beside the log."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog

from tailrace.monitor.drift.findings import Findings
from tailrace.monitor.drift.history import DriftHistory, shown_drift
from tailrace.monitor.drift.pipelines import PipelineDrift, pack_all
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.metrics import DRIFT_KINDS
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.seldom import Seldom
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin
from tailrace.release.settle import settle, with_pinned_models

FOUND_FILE: Final = "drift.json"
"""The last findings of each pipeline, in the log's directory."""
KEPT_FILE: Final = "drift.kept"
"""What was learned, for a successor."""
LOG_S: Final = 300.0
"""How often a pipeline's alarms, or its faults, are logged; and how long one is not watched after a fault."""
STANDS_S: Final = 3_600.0
"""For so long the last window of a predecessor stands for what is not known yet."""
SERIES_TOLD_MAX: Final = 10


class ObservedDrift:
    """Watches the pipelines of a release for drift, as they declare it. folder: the log's, None where there is none."""

    def __init__(self, pin: Pin, declared: Sequence[Pipeline], folder: Path | None, block: MetricBlock) -> None:
        self._pin, self._declared, self._folder = pin, declared, folder
        self._cells = block.cells
        self._places = {(series.name, *series.labels): series.offset for series in block.layout.series}
        self._log = structlog.get_logger()
        self._drift: PipelineDrift | None = None
        self._has_found = False
        self._histories: dict[str, DriftHistory] = {}
        self._shown: dict[str, ShownDrift] = {}
        self._paused_s: dict[str, float] = {}
        self._logged_s: dict[str, float] = {}
        self._seldom = Seldom(self._log, LOG_S)
        self._keeping = Lock()

    def take(self, predictions: Predictions) -> None:
        """Tell of predictions. After a fault their pipeline is not watched for a while; all else goes on."""
        pipeline = predictions.pipeline
        if time.monotonic() < self._paused_s.get(pipeline, 0.0):
            return
        try:
            self._take(predictions)
        except Exception as error:  # of a model's file, or of ours; the log is told after this
            self._paused_s[pipeline] = time.monotonic() + LOG_S
            if self._drift is not None:
                self._drift.give_up(pipeline)
            self._log.error("drift is not watched", pipeline=pipeline, for_s=LOG_S, error=repr(error), exc_info=error)

    def write(self) -> None:
        """Write what was found and learned since the last time; on a thread. What the disk does not take waits."""
        if self._drift is None or self._folder is None or not self._has_found:
            return
        self._has_found = False
        with self._keeping:
            found, copied = dict(self._drift.latest), self._drift.copy()
        try:
            _replace(self._folder / FOUND_FILE, msgspec.json.encode(found))
            _replace(self._folder / KEPT_FILE, msgspec.msgpack.encode(pack_all(copied)))
        except OSError as error:  # the log is not to wait for it
            self._has_found = True
            self._seldom.warn("what drift has found is not written", cause=str(error))

    def tell(self, observed: Observed) -> None:
        """Show the last window of each pipeline."""
        observed.drift = self._shown

    def close(self) -> None:
        """Nothing: what was found is written whole each time."""

    def _take(self, predictions: Predictions) -> None:
        if self._drift is None:
            self._drift = self._begin()
            self._recall_found(self._drift)
        with self._keeping:
            found = self._drift.take(predictions, time.monotonic_ns(), time.time())
        if not found:
            return
        self._has_found = True
        pipeline = predictions.pipeline
        history = self._histories.setdefault(pipeline, DriftHistory())
        for findings in found:
            history.add(findings)
            self._tell(pipeline, findings)
        self._count(pipeline, history)
        self._shown = shown_drift(self._histories)

    def _begin(self) -> PipelineDrift:
        """Return the watch of the release that workers serve by now, with what a predecessor has learned."""
        release = settle(self._pin, self._declared)
        drift = PipelineDrift([with_pinned_models(each, release) for each in self._declared])
        if self._folder is None:
            return drift
        with suppress(OSError, msgspec.DecodeError):
            drift.recall(msgspec.msgpack.decode((self._folder / KEPT_FILE).read_bytes(), type=dict[str, bytes]))
        return drift

    def _recall_found(self, drift: PipelineDrift) -> None:
        """Show what a predecessor found last: an alert is not over because the observer was killed."""
        if self._folder is None:
            return
        with suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode((self._folder / FOUND_FILE).read_bytes(), type=dict[str, dict[str, Findings]])
            for pipeline, spans in found.items():
                window = spans.get("window")
                if pipeline not in drift.latest or window is None or abs(time.time() - window.ended_s) > STANDS_S:
                    continue
                history = self._histories.setdefault(pipeline, DriftHistory())
                drift.latest[pipeline] = spans  # to be written on: a cycle is told of for a day, or a week
                for findings in spans.values():
                    history.add(findings)
                self._count(pipeline, history)
            self._shown = shown_drift(self._histories)

    def _count(self, pipeline: str, history: DriftHistory) -> None:
        """Set the gauges of a pipeline."""
        findings = () if history.last is None else history.last.findings
        for kind in DRIFT_KINDS:
            told = [each for each in findings if each.kind == kind]
            for name, count in (
                ("tailrace_drift_alarms", sum(bool(history.alarms_of(each)) for each in told)),
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
    """Write a file whole, or leave the one there is. Its owner alone reads it: it names categories that were sent."""
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    draft.replace(path)
