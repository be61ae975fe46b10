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
from tailrace.monitor.observed import Observed
from tailrace.server.admin import CompanionStatus, ReleaseStatus, WorkerStatus
from tailrace.server.console.feed import Listeners
from tailrace.server.console.figures import HEAT_OCTAVES, HEAT_ROWS_PER_OCTAVE, PipelineFigures, Point, figures_of
from tailrace.server.console.happenings import Happening, Seen, Timeline
from tailrace.server.console.history import History
from tailrace.server.console.observation import Observation, Observing
from tailrace.server.console.verdict import Verdict, verdict_of
from tailrace.server.console.wall import Wall
from tailrace.server.log_lines import LogLine, LogLines
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

    def observed(self) -> Observed | None:
        """Return what the observer has said last; None where there is none, or it is silent."""
        ...


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is told each second. at_s: since the epoch. span_s: of `pipelines`. points: the newest, by pipeline.

    lines: of the log, those that are new. explains: whether a request can be explained. consoles: how many listen,
    refused: how many were turned away since the start.
    """

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
    observed: Observation
    lines: Sequence[LogLine] = ()
    explains: bool = False
    consoles: int = 0
    refused: int = 0


class Whole(msgspec.Struct, frozen=True):
    """What a page that opens needs: the state, and all that is remembered. heat_rows: lowest octave, rows an octave."""

    state: State
    history: dict[str, dict[str, dict[str, list[Any]]]]
    lines: Sequence[LogLine]
    heat_rows: tuple[int, int] = (HEAT_OCTAVES[0], HEAT_ROWS_PER_OCTAVE)


class Console:
    """Looks at the server once a second. One document is made, however many listen.

    lines: of the log. explains: whether there is a log in which a request is found.
    """

    def __init__(self, watched: Watched, lines: LogLines | None = None, *, explains: bool = False) -> None:
        self.listeners = Listeners()
        self._watched = watched
        self._lines = LogLines() if lines is None else lines
        self._lines_told = 0
        self._explains = explains
        self._observing = Observing()
        self._history = History()
        self._timeline = Timeline()
        self._recent: deque[MergedMetrics] = deque(maxlen=SPAN_STEPS + 1)
        self._state: State | None = None
        self._whole: bytes | None = None

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        wall = Wall()
        while True:
            try:
                at_s, moved_s = wall.look()
                if moved_s:
                    self.move(moved_s, at_s)
                self.look(at_s)
            except Exception:  # a figure that cannot be shown ends no server
                logger().error("the console cannot be told", exc_info=True)
            await asyncio.sleep(STEP_S)

    def move(self, by_s: float, at_s: float) -> None:
        """Move what is remembered: the clock was set. What came before a step is so still before what comes after."""
        self._history.move(by_s)
        self._timeline.move(by_s)
        self._timeline.tell("clock", f"the clock was set by {by_s:+.0f} s", at_s)

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
        alerts, lines = watched.alerts(), self._lines.since(self._lines_told)
        verdict = verdict_of(ready=watched.is_ready(), missing=missing, pipelines=figures, alerts=alerts)
        self._lines_told = self._lines.heard
        self._timeline.look(Seen(releases, (*workers, *companions), metrics, verdict, alerts), at_s)
        self._state = State(
            at_s=round(at_s, 1), version=VERSION, address=watched.url, uptime_s=round(watched.uptime_s, 1),
            ready=watched.is_ready(), verdict=verdict, workers=workers, companions=companions, releases=releases,
            span_s=round(recent.span_s, 1), pipelines=figures, points=points,
            happenings=tuple(self._timeline.happenings), alerts=alerts,
            observed=self._observing.look(watched.observed(), companions, metrics),
            lines=lines, explains=self._explains,
            consoles=len(self.listeners), refused=self.listeners.refused,
        )  # fmt: skip
        self._whole = None
        self.listeners.tell(msgspec.json.encode(self._state))

    def whole(self) -> bytes:
        """Return, as JSON, what a page that opens needs; made once a second at most."""
        if self._state is None:
            self.look(time.time())
        if self._whole is None:
            assert self._state is not None
            state = msgspec.structs.replace(self._state, observed=self._observing.whole, lines=())
            self._whole = msgspec.json.encode(Whole(state, self._history.columns(), self._lines.since(0)))
        return self._whole
