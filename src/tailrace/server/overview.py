"""What the admin port shows of the server: its metrics, its status, whether it is ready."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tailrace.alerting import Alerts
from tailrace.deadline import NS_PER_S
from tailrace.monitor.alerts.sinks import Sink
from tailrace.monitor.alerts.watch import Alert
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.merged import Key, MergedMetrics
from tailrace.monitor.merging import Merger
from tailrace.monitor.observed import Observed
from tailrace.monitor.recent import Recent
from tailrace.monitor.snapshot import pipeline_snapshots
from tailrace.server.admin import CompanionStatus, PredictionStatus, ReleaseStatus, Status, WorkerStatus
from tailrace.server.adoption import Adoption
from tailrace.server.alerting import Alerting
from tailrace.server.child import Child
from tailrace.server.control import Ready
from tailrace.server.gpus import open_gpus
from tailrace.server.logging import logger
from tailrace.server.metrics_page import MetricsPage, observed_values, own_values
from tailrace.server.process import ChildProcess
from tailrace.server.slots import Slot
from tailrace.version import VERSION

PREDICTION_METRICS: Final = ("tailrace_predictions_logged_total", "tailrace_predictions_lost_total")
_SAMPLE_S: Final = 5
"""How often the counters are kept for /status's recent figures; they cover one to two of these."""
_SHARED_S: Final = 0.9
"""Who looks once a second looks at what another has merged, if it is no older."""
OBSERVED_S: Final = 10.0
"""What the observer has said is shown for so long."""


class Overview:
    """The admin port's view of the supervisor's children (an `AdminView`).

    url: where the server is reached. is_open: whether the server has been ready and is not asked to stop.
    sinks: who is told of alerts, beside the log.
    """

    def __init__(
        self,
        children: Iterable[Child],
        adoption: Adoption,
        *,
        url: str,
        is_open: Callable[[], bool],
        signatures_required: bool = False,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self._workers: list[tuple[Slot, Child]] = []
        self._companions: list[Child] = []
        blocks = []
        for child in children:
            if child.slot is not None:
                self._workers.append((child.slot, child))
            else:
                self._companions.append(child)
            if child.block is not None:
                blocks.append(child.block)
        self._merger = Merger(blocks)
        self._merged: MergedMetrics | None = None
        self._adoption = adoption
        self.url = url
        self._is_open = is_open
        self._signatures_required = signatures_required
        self._started_s = time.monotonic()
        self._recent = Recent()
        self._gpus = open_gpus()
        self._page = MetricsPage(self._merge_now, self._own_values)
        self._samples: deque[MergedMetrics] = deque(maxlen=2)
        self.alerting = Alerting(self.merge, self._declared, sinks, logger(pid=os.getpid()), self.drift)

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def is_ready(self) -> bool:
        """Return whether the server is open and at least one worker is ready now."""
        return self._is_open() and any(worker.is_ready for _, worker in self._workers)

    def metrics_page(self, *, is_open: bool = False) -> bytes:
        """Return all metrics in Prometheus' text format, or in OpenMetrics', with exemplars of the times."""
        return self._page.make(self.observed(), is_open=is_open)

    def _own_values(self) -> dict[Key, float]:
        """Return the values of the metrics that nobody counts in a block."""
        values = own_values(self.releases(), self.workers(), self.companions(), os.getpid())
        values |= self.alerting.values() | observed_values(self.observed())
        return values if self._gpus is None else values | self._gpus.values()

    def status(self) -> Status:
        """Return what runs, and how it has been doing."""
        metrics = self._merge_now()
        recent = metrics.since(self._samples[0]) if self._samples else metrics
        warm = next((process.ready for process in self._started() if process.ready is not None), None)
        observed = self.observed()
        return Status(
            version=VERSION,
            pid=os.getpid(),
            uptime_s=round(self.uptime_s, 3),
            ready=self.is_ready(),
            address=self.url,
            releases=self.releases(),
            workers=self.workers(),
            companions=self.companions(),
            pipelines=pipeline_snapshots(metrics),
            recent_s=round(recent.span_s, 3),
            recent=pipeline_snapshots(recent),
            latencies=self._recent.latencies(),
            warm_up=warm.pipelines if warm is not None else (),
            signatures_required=self._signatures_required,
            alerts=self.alerts(),
            drift=self.drift(),
            predictions=_predictions(metrics),
            traces=observed.traces if observed is not None else None,
            outcomes=observed.outcomes if observed is not None else {},
        )

    def alerts(self) -> list[Alert]:
        """Return the alerts that fire, and those that will if they hold on."""
        return self.alerting.active()

    def observed(self) -> Observed | None:
        """Return what the observer has said last; None where there is none, or it is silent."""
        now_s = time.monotonic()
        for child in self._companions:
            if child.is_running and child.process is not None and child.process.observed is not None:
                said_s, observed = child.process.observed
                return observed if now_s - said_s <= OBSERVED_S else None
        return None

    def drift(self) -> dict[str, ShownDrift]:
        """Return the last window of each pipeline, as the observer says."""
        return {} if (observed := self.observed()) is None else observed.drift

    async def sample(self) -> None:
        """Keep the counters of a while ago, and what is counted of late."""
        while True:
            self._samples.append(self.merge())
            for _ in range(_SAMPLE_S):
                self._recent.add(self.merge())
                await asyncio.sleep(1.0)

    def releases(self) -> list[ReleaseStatus]:
        """Return the releases that workers serve now, each with the slots of these."""
        slots: dict[str, list[int]] = {}
        found: dict[str, Ready] = {}
        for slot, worker in self._workers:
            if worker.is_ready and worker.process is not None and (ready := worker.process.ready) is not None:
                slots.setdefault(ready.release, []).append(slot.index)
                found[ready.release] = ready
        return [ReleaseStatus(name, tuple(slots[name]), ready.released) for name, ready in found.items()]

    def workers(self) -> list[WorkerStatus]:
        """Return the status of each worker."""
        return [self._worker_status(slot, worker) for slot, worker in self._workers]

    def companions(self) -> list[CompanionStatus]:
        """Return the status of each process beside the workers."""
        return [_companion_status(child, child.process) for child in self._companions if child.process]

    def _declared(self) -> Mapping[str, Alerts | None]:
        """Return the thresholds of each pipeline, as the workers that serve it know them."""
        known = (process.ready.pipelines for process in self._started() if process.ready is not None)
        return {pipeline.name: pipeline.alerts for pipelines in known for pipeline in pipelines}

    def _started(self) -> list[ChildProcess]:
        """Return the workers' processes, the last of each."""
        return [worker.process for _, worker in self._workers if worker.process is not None]

    def merge(self) -> MergedMetrics:
        """Return what all children have counted, for those who look once a second: merged once for them all."""
        if self._merged is None or time.monotonic_ns() - self._merged.at_ns >= _SHARED_S * NS_PER_S:
            return self._merge_now()
        return self._merged

    def _merge_now(self) -> MergedMetrics:
        """Merge what all children have counted."""
        self._merged = self._merger.merge()
        return self._merged

    def _worker_status(self, slot: Slot, worker: Child) -> WorkerStatus:
        """Return the status of one worker."""
        process = worker.process
        return WorkerStatus(
            slot=slot.index,
            pid=process.pid if process is not None and worker.is_running else 0,
            state=process.state if process is not None else "starting",
            restarts=worker.restarts,
            rss_bytes=process.rss_bytes if process is not None else 0,
            ready_s=process.ready.ready_s if process is not None and process.ready is not None else None,
            release=process.ready.release if process is not None and process.ready is not None else None,
            adopted_by=self._adoption.adopter_of(slot.index),
        )


def _predictions(metrics: MergedMetrics) -> PredictionStatus:
    """Return what has become of predictions; nothing where there is no observer."""
    found = {key: merged.value for key, merged in metrics.series.items() if key[0] in PREDICTION_METRICS}
    lost = {labels[0]: value for (name, labels), value in found.items() if name == PREDICTION_METRICS[1]}
    return PredictionStatus(sum(found.values()) - sum(lost.values()), lost)


def _companion_status(child: Child, process: ChildProcess) -> CompanionStatus:
    """Return the status of a process beside the workers."""
    pid = process.pid if child.is_running else 0
    return CompanionStatus(child.name, pid, process.state, child.restarts, process.rss_bytes, child.origin or None)
