"""The console's data: looked at once a second, told to whoever listens, remembered for a day."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from tailrace.monitor.alerts.watch import Alert
from tailrace.monitor.merged import MergedMetrics
from tailrace.server.admin import CompanionStatus, ReleaseStatus, WorkerStatus
from tailrace.server.console.feed import Listeners
from tailrace.server.console.figures import HEAT_OCTAVES, HEAT_ROWS_PER_OCTAVE, PipelineFigures, Point, figures_of
from tailrace.server.console.happenings import Happening, Seen, Timeline
from tailrace.server.console.history import History
from tailrace.server.console.verdict import Verdict, verdict_of
from tailrace.server.logging import logger
from tailrace.version import VERSION

STEP_S: Final = 1.0
SPAN_STEPS: Final = 10
"""The figures beside the charts cover so many steps."""


class Watched(Protocol):
    """What the console looks at: the supervisor's overview."""

    url: str

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        ...

    def is_ready(self) -> bool:
        """Return whether traffic is served."""
        ...

    def merge(self) -> MergedMetrics:
        """Return what all children have counted."""
        ...

    def releases(self) -> list[ReleaseStatus]:
        """Return the releases that are served now."""
        ...

    def workers(self) -> list[WorkerStatus]:
        """Return the status of each worker."""
        ...

    def companions(self) -> list[CompanionStatus]:
        """Return the status of each process beside them."""
        ...

    def alerts(self) -> list[Alert]:
        """Return the alerts that fire, and those that will if they hold on."""
        ...


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is told each second. at_s: since the epoch. span_s: of `pipelines`. points: the newest, by pipeline."""

    at_s: float
    version: str
    address: str
    uptime_s: float
    ready: bool
    verdict: Verdict
    workers: Sequence[WorkerStatus]
    companions: Sequence[CompanionStatus]
    releases: Sequence[ReleaseStatus]
    span_s: float
    pipelines: Sequence[PipelineFigures]
    points: dict[str, Point]
    happenings: Sequence[Happening]
    alerts: Sequence[Alert]


class Whole(msgspec.Struct, frozen=True):
    """What a page that opens needs: the state, and all that is remembered. heat_rows: lowest octave, rows an octave."""

    state: State
    history: dict[str, dict[str, dict[str, list[Any]]]]
    heat_rows: tuple[int, int] = (HEAT_OCTAVES[0], HEAT_ROWS_PER_OCTAVE)


class Console:
    """Looks at the server once a second. One document is made, however many listen."""

    def __init__(self, watched: Watched) -> None:
        self.listeners = Listeners()
        self._watched = watched
        self._history = History()
        self._timeline = Timeline()
        self._recent: deque[MergedMetrics] = deque(maxlen=SPAN_STEPS + 1)
        self._state: State | None = None
        self._whole: bytes | None = None

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            try:
                self.look(time.time())
            except Exception:  # a figure that cannot be shown ends no server
                logger().error("the console cannot be told", exc_info=True)
            await asyncio.sleep(STEP_S)

    def look(self, at_s: float) -> None:
        """Look once, remember, and tell who listens. at_s: now, since the epoch."""
        watched = self._watched
        metrics = watched.merge()
        self._recent.append(metrics)
        points = self._history.add(metrics, at_s)
        recent = metrics.since(self._recent[0])
        figures = figures_of(recent, at_s) if recent.span_s else []
        workers, companions, releases = watched.workers(), watched.companions(), watched.releases()
        missing = sum(worker.state != "ready" for worker in workers)
        verdict = verdict_of(ready=watched.is_ready(), missing=missing, pipelines=figures)
        alerts = watched.alerts()
        self._timeline.look(Seen(releases, (*workers, *companions), metrics, verdict, alerts), at_s)
        self._state = State(
            at_s=round(at_s, 1), version=VERSION, address=watched.url, uptime_s=round(watched.uptime_s, 1),
            ready=watched.is_ready(), verdict=verdict, workers=workers, companions=companions, releases=releases,
            span_s=round(recent.span_s, 1), pipelines=figures, points=points,
            happenings=tuple(self._timeline.happenings), alerts=alerts,
        )  # fmt: skip
        self._whole = None
        self.listeners.tell(msgspec.json.encode(self._state))

    def whole(self) -> bytes:
        """Return, as JSON, what a page that opens needs; made once a second at most."""
        if self._state is None:
            self.look(time.time())
        if self._whole is None:
            assert self._state is not None
            self._whole = msgspec.json.encode(Whole(self._state, self._history.columns()))
        return self._whole
