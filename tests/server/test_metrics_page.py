"""The page of /metrics: its forms, what the supervisor sees itself, how much of a core pages may take."""

from __future__ import annotations

import os

import pytest

from tailrace.monitor.ages import ViewAge
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.observed import Observed
from tailrace.server.admin import OPEN_METRICS, CompanionStatus, WorkerStatus
from tailrace.server.endpoint import Answer, Page
from tailrace.server.metrics_page import BURST_S, KEPT_S_MAX, SHARE, MetricsPage, observed_values, own_values
from tailrace.server.process_use import cpu_s, rss_bytes


def answer() -> Answer:
    """Return a page."""
    return Answer(200, b"text/plain", b"")


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text; q=0.9", True),
        ("text/plain, Application/OpenMetrics-Text;q=0.9", False),
        ("application/openmetrics-text;q=0, text/html", False),
        ("application/openmetrics-text;q=high, ;;=,", False),
    ],
    ids=["nothing", "all", "plain", "prometheus", "open first", "plain first", "not open", "broken"],
)  # fmt: skip
def test_page_has_the_form_that_is_wanted_most(accept: str, is_open: bool) -> None:
    """By the weights that a client tells; the plain one where it tells none that there is."""
    other = Page(answer)
    page = Page(answer, forms={OPEN_METRICS: other})
    assert page.speaking(accept.encode()) is (other if is_open else page)


class Clock:
    """A clock that stands still, but for what pages take."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.made = 0

    def make(self, took_s: float) -> MetricsPage:
        """Return pages that take so long each."""

        def merge() -> dict[object, float]:
            self.made += 1
            self.now_s += took_s
            return {}

        return MetricsPage(lambda: merge_blocks([]), merge, lambda: self.now_s)  # type: ignore[arg-type]


def test_scrape_every_100_ms_is_told_of_now() -> None:
    """Pages of 5 ms are made anew each time, however often in a minute."""
    clock = Clock()
    page = clock.make(0.005)
    for _ in range(600):
        page.make(None, is_open=True)
        clock.now_s += 0.1
    assert clock.made == 600


def test_pages_take_a_bounded_share_of_a_core() -> None:
    """Pages of 50 ms that are asked for without end are a second old at times, and never take more than their share."""
    clock = Clock()
    page = clock.make(0.05)
    began_s = clock.now_s
    while clock.now_s < began_s + 60:
        page.make(None, is_open=False)
        clock.now_s += 0.01
    spent_s = 0.05 * clock.made
    assert spent_s <= BURST_S + SHARE * 60 + 0.1
    clock.now_s += KEPT_S_MAX
    made = clock.made
    page.make(None, is_open=False)
    assert clock.made == made + 1


def test_supervisor_tells_what_its_processes_use() -> None:
    """CPU and memory of each, by name; one that is not there at the moment has none."""
    workers = [
        WorkerStatus(0, os.getpid(), "ready", 2, 7, 0.5, "r1", None),
        WorkerStatus(1, 0, "starting", 1, 0, None, None, None),
    ]
    companions = [CompanionStatus("observer", os.getppid(), "ready", 0, 1)]
    values = own_values([], workers, companions, os.getpid())
    own = values["tailrace_process_cpu_seconds_total", ("worker-0",)]
    assert own == pytest.approx(sum(os.times()[:2]), abs=1.0)
    assert values["tailrace_process_rss_bytes", ("worker-0",)] > 1 << 20
    assert values["tailrace_process_rss_bytes", ("supervisor",)] > 1 << 20
    assert ("tailrace_process_rss_bytes", ("observer",)) in values
    assert ("tailrace_process_rss_bytes", ("worker-1",)) not in values
    assert values["tailrace_worker_restarts_total", ("0",)] == 2
    assert values["tailrace_worker_rss_bytes", ("0",)] == 7


def test_process_that_is_gone_uses_nothing() -> None:
    """It may end between the look and the question."""
    assert (cpu_s(1 << 30), rss_bytes(1 << 30)) == (0.0, 0)


def test_observer_that_is_silent_has_no_values() -> None:
    """What it has said of rows' ages is told; without an observer nothing is made up."""
    assert observed_values(None) == {}
    observed = Observed(at_s=1.0, ages={"fraud": {"Profile": ViewAge(60.0, 3_600.0, 9)}})
    assert observed_values(observed) == {
        ("tailrace_feature_age_seconds", ("fraud", "Profile")): 60.0,
        ("tailrace_feature_age_max_seconds", ("fraud", "Profile")): 3_600.0,
    }
