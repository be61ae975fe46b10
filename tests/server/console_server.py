"""A console of metrics that a test counts itself, served by the real admin server on a loop of a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tailrace.deadline import Budget
from tailrace.monitor.alerts.watch import Alert
from tailrace.monitor.drift.shown import ShownDrift, ShownSeries
from tailrace.monitor.layout import PipelineShape, observer_layout, worker_layout
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.observed import Observed
from tailrace.monitor.shared import MetricBlock
from tailrace.server.admin import AdminServer, CompanionStatus, ReleaseStatus, Status, WorkerStatus
from tailrace.server.console.console import Console
from tailrace.server.console.page import console_pages
from tailrace.server.control import ReleasedModel, ReleasedPipeline
from tailrace.server.log_lines import LogLines
from tailrace.server.tls.certificates import TlsFiles

BUDGET = Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms")
MS = 1_000_000


class Counted:
    """What the console looks at, of one worker. name, view: of its pipeline; release: that it serves."""

    url = "http://127.0.0.1:8080"
    uptime_s = 60.0

    def __init__(self, name: str = "fraud", view: str = "Profile", release: str = "r1") -> None:
        self.name, self.view, self.release = name, view, release
        self.ready = True
        self.restarts = 0
        self.at_ns = 0
        self.firing: list[Alert] = []
        self.said: Observed | None = None
        self.successor: Counted | None = None
        self.observes = False
        self.observer = MetricBlock.create(observer_layout([name]))
        self.block = MetricBlock.create(worker_layout([PipelineShape(name, BUDGET, (view,))], 0, release))

    def count(self, metric: str, *labels: str, by: int = 1) -> None:
        """Count in a counter or gauge of the pipeline."""
        self.block.cells[self.block.find(metric, self.name, *labels).offset] += by

    def roll_out(self, release: str) -> Counted:
        """Have a second worker serve another release; return what counts for it."""
        self.successor = Counted(self.name, self.view, release)
        return self.successor

    def lose(self, requests: int, reason: str) -> None:
        """Count requests that the observer was not told of."""
        self.observer.cells[self.observer.find("tailrace_predictions_lost_total", reason).offset] += requests

    def answer(self, calls: int, time_ms: float = 5.0, wait_ms: float = 0.5) -> None:
        """Count calls that were answered well, in batches of two."""
        self.count("tailrace_requests_total", "200", self.release, by=calls)
        self.count("tailrace_rows_total", by=calls)
        self.count("tailrace_feature_values_total", self.view, "fresh", by=calls)
        self.block.histogram("tailrace_request_seconds", self.name).observe(int(time_ms * MS), calls)
        self.block.histogram("tailrace_queue_wait_seconds", self.name).observe(int(wait_ms * MS), calls)
        self.block.histogram("tailrace_batch_rows", self.name).observe(2, calls // 2)
        for layer, share in (("request", 0.02), ("features", 0.5), ("inference", 0.4), ("response", 0.01)):
            self.block.histogram("tailrace_layer_seconds", self.name, layer).observe(int(time_ms * share * MS), calls)

    def shed(self, calls: int) -> None:
        """Count calls that were refused for lack of time."""
        self.count("tailrace_requests_total", "503", self.release, by=calls)
        self.count("tailrace_shed_total", "deadline", by=calls)

    def fire(self, cause: str = "p99 is 130 ms") -> None:
        """Have an alert fire."""
        self.firing = [
            Alert(
                alert="latency", pipeline=self.name, severity="page", state="firing", since_s=3.0, value=130.0,
                threshold=100.0, summary="too slow", cause=cause, runbook="https://example.org/latency",
            )
        ]  # fmt: skip

    def merge(self) -> MergedMetrics:
        """Return what was counted, a second after the last time."""
        self.at_ns += 1_000_000_000
        others = [] if self.successor is None else [self.successor.block]
        return merge_blocks([self.block, self.observer, *others], self.at_ns)

    def is_ready(self) -> bool:
        """Return whether it is said to be."""
        return self.ready

    def releases(self) -> list[ReleaseStatus]:
        """Return the one release, or both while another is rolled out."""
        model = ReleasedModel(self.name, "v1", "onnx")
        own = ReleaseStatus(self.release, (0,), (ReleasedPipeline(self.name, "0", (model,)),))
        return [own] if self.successor is None else [own, *self.successor.releases()]

    def workers(self) -> list[WorkerStatus]:
        """Return the one worker."""
        state = "ready" if self.ready else "starting"
        return [WorkerStatus(0, 1, state, self.restarts, 1 << 27, 0.5, self.release, None)]

    def companions(self) -> list[CompanionStatus]:
        """Return the observer, where it is asked for."""
        return [CompanionStatus("observer", 1, "starting", 1, 0)] if self.observes else []

    def alerts(self) -> list[Alert]:
        """Return the alerts that the test has made."""
        return self.firing

    def observed(self) -> Observed | None:
        """Return what the test has had the observer say."""
        return self.said

    def metrics_page(self, *, is_open: bool = False) -> bytes:
        """Return no metrics."""
        return b""

    def status(self) -> Status:
        """There is none."""
        raise NotImplementedError


def drifted(name: str = "amount", ended_s: float = 900.0, alarms: tuple[str, ...] = ("psi",)) -> ShownDrift:
    """Return a window of drift in which one series has moved, and another has not."""

    def series(name: str, kind: str, psi: float, alarms: tuple[str, ...]) -> ShownSeries:
        return ShownSeries(
            series=name, kind=kind, rows=5_000, severity=psi / 0.1, statistics={"psi": psi, "mean": psi * 2},
            psi_threshold=0.1, alarms=alarms, deviations=None, is_deviating=False, labels=("<10", "10–50", ">50"),
            shares=(0.2, 0.3, 0.5), baseline=(0.5, 0.3, 0.2), psi=(0.01, None, 0.02, 0.04, psi), mean=(0.0,) * 5,
        )  # fmt: skip

    return ShownDrift(
        started_s=ended_s - 900, ended_s=ended_s, rows=5_000, learning=0, watched=30, alarmed=len(alarms) and 1,
        deviating=0, series=(series(name, "feature", 0.34, alarms), series("score", "score", 0.01, ())),
    )  # fmt: skip


def filled(counted: Counted, seconds: int, lines: LogLines | None = None, *, explains: bool = False) -> Console:
    """Return a console that has looked at some seconds of steady traffic, the last one just now."""
    console, now_s = Console(counted, lines, explains=explains), time.time()
    for second in range(seconds):
        counted.answer(200, 3 + second % 7)
        counted.answer(4, 20 + second % 11)
        console.look(now_s - seconds + 1 + second)
    return console


@contextmanager
def served(
    counted: Counted, console: Console, token: str | None = None, tls: TlsFiles | None = None, port: int = 0
) -> Iterator[int]:
    """Serve a console; yield the port. port: 0 for a free one."""
    loop = asyncio.new_event_loop()
    admin = AdminServer(counted, token, tls, partial(console_pages, console))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(admin.open("127.0.0.1", port), loop).result(10)
        yield admin.address[1]
    finally:
        asyncio.run_coroutine_threadsafe(_close(admin, console), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(admin: AdminServer, console: Console) -> None:
    """Close the server and what is open to it."""
    console.listeners.close()
    admin.close()
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        transport.abort()  # a browser keeps its connections
    await asyncio.sleep(0.05)
