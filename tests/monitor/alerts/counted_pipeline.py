"""A worker's metric block that a test counts into, and a watch that looks at it once a second of its own clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tailrace.alerting import Alerts
from tailrace.deadline import NS_PER_S, Budget
from tailrace.monitor.alerts.watch import Alert, AlertWatch
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.layout import PipelineShape, observer_layout, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock

MS = 1_000_000


class Counted:
    """One pipeline, "fraud", of 50 ms. at_s: the monotonic time; step_s: how much of it goes by between two looks."""

    def __init__(self, alerts: Alerts | None = None) -> None:
        shape = PipelineShape("fraud", Budget("50ms"), ("Profile", "Activity"), remote=("judge",))
        self.block = MetricBlock.create(worker_layout([shape]))
        self.recorder = BatchRecorder(self.block, "fraud")
        self.watch = AlertWatch()
        self.declared: dict[str, Alerts | None] = {} if alerts is None else {"fraud": alerts}
        self.drift = MetricBlock.create(observer_layout(["fraud"]))
        self.at_s = 1_000.0
        self.step_s = 1
        self.look()

    def add(self, name: str, *labels: str, count: int = 1) -> None:
        """Count into one series."""
        self.block.cells[self.block.find(name, "fraud", *labels).offset] += count

    def answer(self, good: int = 0, bad: int = 0) -> None:
        """Count answers: 200, and 503."""
        self.add("tailrace_requests_total", "200", "", count=good)
        self.add("tailrace_requests_total", "503", "", count=bad)

    def take(self, calls: int, spent_ms: int) -> None:
        """Count calls that took so long, nearly all of it in the inference."""
        marks = [0, 0, MS, (spent_ms - 1) * MS, (spent_ms - 1) * MS, spent_ms * MS]
        self.recorder.count_batch(marks, spent_ms * MS, [0] * calls, calls)

    def tell_drift(self, name: str, kind: str, count: int) -> None:
        """Have the observer say how many series of a kind have drifted ("alarms"), or deviate ("deviating")."""
        self.drift.cells[self.drift.find(f"tailrace_drift_{name}", "fraud", kind).offset] = count

    def look(self, drift: Mapping[str, ShownDrift] = MappingProxyType({})) -> list[Alert]:
        """Let time go by and look."""
        self.at_s += self.step_s
        metrics = merge_blocks([self.block, self.drift], at_ns=int(self.at_s * NS_PER_S))
        return self.watch.look(metrics, self.declared, drift)

    def run(self, looks: int, good: int = 0, bad: int = 0) -> list[Alert]:
        """Look so many times, each after so many answers; return what changed."""
        changed: list[Alert] = []
        for _ in range(looks):
            self.answer(good, bad)
            changed += self.look()
        return changed


def names(alerts: Sequence[Alert]) -> list[tuple[str, str]]:
    """Return each alert's name and state."""
    return [(alert.alert, alert.state) for alert in alerts]
