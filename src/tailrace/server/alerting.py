"""Alerts in the supervisor: once a second what was counted is held against the rules, and who is to be told is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tailrace.alerting import Alerts
from tailrace.monitor.alerts.sinks import OUTCOMES, AlertmanagerSink, Sink, WebhookSink
from tailrace.monitor.alerts.watch import Alert, AlertWatch
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.merged import Key, MergedMetrics
from tailrace.server.options import ServeOptions

LOOK_S: Final = 1.0
UNTOLD_S: Final = 300.0
"""How often it is logged that somebody could not be told, or that nothing can be looked at."""


class Alerting:
    """Looks once a second. read: merges what was counted; declared: the thresholds of each pipeline that is served.

    drift: what the observer has found of each.
    """

    def __init__(
        self,
        read: Callable[[], MergedMetrics],
        declared: Callable[[], Mapping[str, Alerts | None]],
        sinks: Sequence[Sink],
        log: Any,
        drift: Callable[[], Mapping[str, ShownDrift]] = dict,
    ) -> None:
        self._read = read
        self._declared = declared
        self._drift = drift
        self._sinks = sinks
        self._log = log
        self._watch = AlertWatch()
        self._untold: dict[str, tuple[int, float]] = {}

    def send_to(self, runbooks: str) -> None:
        """Have alerts name the runbooks there: a URL."""
        self._watch.runbooks = runbooks

    def active(self) -> list[Alert]:
        """Return the alerts that fire, and those that will if they hold on."""
        return self._watch.active()

    def values(self) -> dict[Key, float]:
        """Return the values of its metrics."""
        values: dict[Key, float] = {
            ("tailrace_alert_firing", (alert.pipeline, alert.alert, alert.severity)): 1
            for alert in self.active()
            if alert.state == "firing"
        }
        for sink in self._sinks:
            for outcome in OUTCOMES:
                values["tailrace_alert_notifications_total", (sink.name, outcome)] = sink.outcomes[outcome]
        return values

    def look(self) -> None:
        """Look once, and tell what changed."""
        for alert in self._watch.look(self._read(), self._declared(), self._drift()):
            told = self._log.warning if alert.state == "firing" else self._log.info
            told(
                f"alert {alert.state}", alert=alert.alert, pipeline=alert.pipeline, severity=alert.severity,
                cause=alert.cause, runbook=alert.runbook, since_s=alert.since_s,
            )  # fmt: skip
            for sink in self._sinks:
                sink.put(alert)
        self._tell_of_failures()

    def _tell_of_failures(self) -> None:
        """Log that a sink could not be told of alerts: who waits for its messages would take silence for health."""
        now_s = time.monotonic()
        for sink in self._sinks:
            count = sink.outcomes["failed"] + sink.outcomes["dropped"]
            before, told_s = self._untold.get(sink.name, (0, -UNTOLD_S))
            if count > before and now_s >= told_s + UNTOLD_S:
                self._untold[sink.name] = count, now_s
                self._log.warning("alerts are not told", sink=sink.name, count=count - before)

    async def keep(self) -> None:
        """Look once a second until cancelled. A look that fails is logged now and then, and the next one is made."""
        told_s = -UNTOLD_S
        try:
            while True:
                try:
                    self.look()
                except Exception:  # without its alerts a server serves on
                    if (now_s := time.monotonic()) >= told_s + UNTOLD_S:
                        told_s = now_s
                        self._log.error("alerts cannot be looked at", exc_info=True)
                await asyncio.sleep(LOOK_S)
        finally:
            for sink in self._sinks:
                sink.close()


def sinks_of(options: ServeOptions) -> list[Sink]:
    """Return who is told of alerts, beside the log."""
    sinks: list[Sink] = []
    if options.alert_webhook is not None:
        sinks.append(WebhookSink(options.alert_webhook))
    if options.alertmanager is not None:
        sinks.append(AlertmanagerSink(options.alertmanager))
    return sinks
