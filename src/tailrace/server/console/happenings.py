"""What has happened to the server: the console's timeline, told from what differs between two looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from tailrace.monitor.alerts.watch import Alert
from tailrace.monitor.merged import MergedMetrics
from tailrace.server.admin import CompanionStatus, ReleaseStatus, WorkerStatus
from tailrace.server.console.verdict import Verdict

HAPPENINGS_MAX: Final = 200
VERDICTS_MAX: Final = 100
"""Of these: a verdict that comes and goes every few seconds is not to push a release out."""
BREAKERS: Final = ("tailrace_store_breaker_open", "tailrace_remote_breaker_open")
Kind = Literal["release", "process", "breaker", "verdict", "alert", "clock"]


class Happening(msgspec.Struct, frozen=True):
    """One entry of the timeline. at_s: since the epoch."""

    at_s: float
    kind: Kind
    text: str


class Seen(msgspec.Struct, frozen=True):
    """What one look finds."""

    releases: Sequence[ReleaseStatus]
    processes: Sequence[WorkerStatus | CompanionStatus]
    metrics: MergedMetrics
    verdict: Verdict
    alerts: Sequence[Alert] = ()


class Timeline:
    """The last happenings, the oldest first, at most `HAPPENINGS_MAX`, of them `VERDICTS_MAX` verdicts."""

    def __init__(self) -> None:
        self.happenings: deque[Happening] = deque(maxlen=HAPPENINGS_MAX)
        self._last: Seen | None = None

    def tell(self, kind: Kind, text: str, at_s: float) -> None:
        """Enter one happening."""
        self.happenings.append(Happening(round(at_s, 1), kind, text))
        if kind == "verdict":
            verdicts = [each for each in self.happenings if each.kind == kind]
            if len(verdicts) > VERDICTS_MAX:
                self.happenings.remove(verdicts[0])

    def move(self, by_s: float) -> None:
        """Move all happenings: the clock was set by so many seconds."""
        moved = [msgspec.structs.replace(each, at_s=round(each.at_s + by_s, 1)) for each in self.happenings]
        self.happenings.clear()
        self.happenings.extend(moved)

    def look(self, seen: Seen, at_s: float) -> None:
        """Enter what differs from the last look."""
        last, self._last = self._last, seen
        if last is None:
            return
        before = {release.id for release in last.releases}
        for release in seen.releases:
            if release.id not in before:
                self.tell("release", f"release {release.id or 'as it is on disk'} is served", at_s)
        for name, text in _processes(last, seen):
            self.tell("process", f"{name} {text}", at_s)
        for name, text in _breakers(last.metrics, seen.metrics):
            self.tell("breaker", f"{name}: {text}", at_s)
        for text in _alerts(last.alerts, seen.alerts):
            self.tell("alert", text, at_s)
        if seen.verdict.level != last.verdict.level:
            self.tell("verdict", " · ".join(filter(None, (seen.verdict.pipeline, seen.verdict.text))), at_s)


def name_of(process: WorkerStatus | CompanionStatus) -> str:
    """Return a process's name as the console says it."""
    return f"worker {process.slot}" if isinstance(process, WorkerStatus) else process.name


def _processes(last: Seen, seen: Seen) -> list[tuple[str, str]]:
    """Return which processes were replaced, or changed their state."""
    before = {name_of(process): process for process in last.processes}
    found = []
    for process in seen.processes:
        name, earlier = name_of(process), before.get(name_of(process))
        if earlier is None or process.restarts > earlier.restarts:
            found.append((name, "has died and is started anew" if earlier is not None else "is started"))
        elif process.state != earlier.state:
            found.append((name, f"is {process.state}"))
    return found


def _alerts(last: Sequence[Alert], seen: Sequence[Alert]) -> list[str]:
    """Return which alerts have begun to fire, each with its cause, and which are over."""
    before, now = (
        {(alert.pipeline, alert.alert): alert for alert in alerts if alert.state == "firing"} for alerts in (last, seen)
    )
    fired = [f"{alert.pipeline}: {alert.alert} fires: {alert.cause}" for key, alert in now.items() if key not in before]
    return fired + [f"{pipeline}: {name} is over" for pipeline, name in before if (pipeline, name) not in now]


def _breakers(last: MergedMetrics, seen: MergedMetrics) -> list[tuple[str, str]]:
    """Return which breakers have opened or closed, each with the pipeline and the model that it is of."""
    found = []
    for (metric, labels), merged in seen.series.items():
        if metric in BREAKERS:
            before, now = last.value(metric, *labels), merged.value
            what = "store" if metric == BREAKERS[0] else "remote model"
            if now > before:
                found.append((" · ".join(labels), f"the breaker of the {what} has opened"))
            elif before and not now:
                found.append((" · ".join(labels), f"the breaker of the {what} has closed"))
    return found
