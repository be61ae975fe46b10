"""The page of /metrics: what all children have counted, beside what the supervisor sees of them itself.

A page takes the supervisor some milliseconds a pipeline, and who scrapes may ask ten times a second, or without end.
Pages take a tenth of a core at most: beyond that the last one is told again, of a second ago at most, and the console
and the alerts go on.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tailrace.monitor.drift.outcome_values import outcome_values
from tailrace.monitor.merged import Key, MergedMetrics
from tailrace.monitor.observed import Observed
from tailrace.server.admin import CompanionStatus, ReleaseStatus, WorkerStatus
from tailrace.server.process_use import cpu_s, rss_bytes
from tailrace.version import VERSION

SHARE: Final = 0.1
"""Of a core, what pages may take."""
BURST_S: Final = 0.5
"""Of work that is done before that counts."""
KEPT_S_MAX: Final = 1.0
SUPERVISOR: Final = "supervisor"


class MetricsPage:
    """Makes the page. merge: what is counted by now; own: what the supervisor knows itself; now_s: monotonic."""

    def __init__(
        self,
        merge: Callable[[], MergedMetrics],
        own: Callable[[], dict[Key, float]],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._merge = merge
        self._own = own
        self._now_s = now_s
        self._kept: dict[bool, tuple[float, bytes]] = {}
        self._spent_s = self._at_s = 0.0

    def make(self, observed: Observed | None, *, is_open: bool) -> bytes:
        """Return the page, in OpenMetrics' form where it is to be open; the last one where too many are asked for."""
        from tailrace.monitor.exposition import expose

        began_s = self._now_s()
        self._spent_s = max(self._spent_s - SHARE * (began_s - self._at_s), 0.0)
        self._at_s = began_s
        made_s, page = self._kept.get(is_open, (-KEPT_S_MAX, b""))
        if self._spent_s > BURST_S and began_s - made_s < KEPT_S_MAX:
            return page
        exemplars = {} if observed is None else observed.exemplars
        page = expose(self._merge(), self._own(), exemplars, is_open=is_open)
        self._kept[is_open] = began_s, page
        self._spent_s += self._now_s() - began_s
        return page


def own_values(
    releases: Iterable[ReleaseStatus], workers: Sequence[WorkerStatus], companions: Sequence[CompanionStatus], pid: int
) -> dict[Key, float]:
    """Return what the supervisor sees: what is served, and what its processes use. pid: its own."""
    values: dict[Key, float] = {("tailrace_build_info", (VERSION, platform.python_version())): 1}
    for release in releases:
        for pipeline in release.pipelines:
            for model in pipeline.models:
                labels = (release.id, pipeline.name, model.name, model.version, model.backend)
                values["tailrace_release_info", labels] = 1
    restarts: Counter[str] = Counter()
    resident: Counter[str] = Counter()
    for worker in workers:  # two in one slot count as one
        restarts[str(worker.slot)] += worker.restarts
        resident[str(worker.slot)] += worker.rss_bytes if worker.state == "ready" else 0
    for slot in restarts:
        values["tailrace_worker_restarts_total", (slot,)] = restarts[slot]
        values["tailrace_worker_rss_bytes", (slot,)] = resident[slot]
    pids = [(f"worker-{worker.slot}", worker.pid) for worker in workers]
    pids += [(companion.name, companion.pid) for companion in companions]
    return values | _use([*pids, (SUPERVISOR, pid)])


def observed_values(observed: Observed | None) -> dict[Key, float]:
    """Return what the observer has made of predictions; nothing where it says nothing."""
    if observed is None:
        return {}
    values: dict[Key, float] = {}
    for pipeline, drift in observed.drift.items():
        for each in drift.series:  # the worst of them, and no more than are shown
            values["tailrace_drift_severity", (pipeline, each.kind, each.series)] = each.severity
    for pipeline, ages in observed.ages.items():
        for view, age in ages.items():
            values["tailrace_feature_age_seconds", (pipeline, view)] = age.median_s
            values["tailrace_feature_age_max_seconds", (pipeline, view)] = age.max_s
    return values | outcome_values(observed.outcomes)


def _use(pids: Iterable[tuple[str, int]]) -> dict[Key, float]:
    """Return what processes use of the cores and of the memory, by their names; those of one name together."""
    values: dict[Key, float] = {}
    for name, pid in pids:
        for metric, used in (("cpu_seconds_total", cpu_s(pid)), ("rss_bytes", rss_bytes(pid))) if pid else ():
            key = (f"tailrace_process_{metric}", (name,))
            values[key] = values.get(key, 0.0) + used
    return values
