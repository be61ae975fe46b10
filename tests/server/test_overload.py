"""Overload, open loop: what cannot be answered in time is refused at once, and all the rest is answered in time.

The figures asked of the server stand in bench/overload.py, which measures them on cores of their own; here, where the
load shares two cores with the server and whatever else runs, they are held loosely.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from serving import Server, load, serving

from tailrace.loadtest.report import LoadReport

BUDGET_MS = 200.0
CONNECTIONS = 300
SHARE_MIN = 0.7
"""Of the peak, in place of 0.9."""
BODIES = [b'{"job_id":%d}' % job for job in range(50)]


@dataclass
class Run:
    """One load, and the processor time that the worker spent on it."""

    report: LoadReport
    cpu_s: float

    @property
    def goodput(self) -> float:
        """Answers within budget a second."""
        return self.report.goodput_per_s

    def share_of(self, peak: Run) -> float:
        """Return this goodput as a part of the peak, per second or per second of the processor the worker was given."""
        per_cpu = (self.goodput / self.cpu_s) / (peak.goodput / peak.cpu_s)
        return max(self.goodput / peak.goodput, per_cpu)


class Target:
    """One served pipeline."""

    def __init__(self, server: Server, pipeline: str) -> None:
        self.server = server
        self.pipeline = pipeline
        self.pid = server.workers()[0]["pid"]

    def run(self, rate: float, duration_s: float) -> Run:
        """Send one open-loop load."""
        before_s = self.cpu_s()
        with load(
            self.server.predict_url(self.pipeline), BODIES, rate=rate, duration_s=duration_s, connections=CONNECTIONS,
            budget_ms=BUDGET_MS, keep_bodies=False,
        ) as report:  # fmt: skip
            result = report.result()
        return Run(result, self.cpu_s() - before_s)

    def cpu_s(self) -> float:
        """Return the processor time that the worker has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> Run:
        """Return the run with the best goodput, over rising rates."""
        best = self.run(100.0, 0.7)
        while (higher := self.run(best.report.plan.rate * 1.7, 0.7)).goodput > 1.1 * best.goodput:
            best = higher
        return best


@pytest.fixture(scope="module", params=["costly_threaded", "costly_inline"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pipelines_dir: Path
) -> Iterator[Target]:
    """Serve the costly pipelines with one worker."""
    log = tmp_path_factory.mktemp("overload") / "log"
    with serving(log, pipelines_dir / "costly.py") as server:
        yield Target(server, request.param)


def test_overload_leaves_the_goodput(target: Target) -> None:
    """At a multiple of the peak the peak's goodput stays, accepted calls are in time, and refusals are quick."""
    peak = target.peak()
    # A refusal costs some 15 µs, most of it the kernel's: at 10× nine of them outweigh half of a call of 0.5 ms.
    for factor in (2, 10) if target.pipeline == "costly_threaded" else (2, 5):
        over = target.run(factor * peak.goodput, 1.5)
        report = over.report
        assert report.errors == 0
        assert set(report.statuses) <= {200, 503, 504}
        assert report.statuses.get(504, 0) <= 0.01 * report.statuses[200]  # accepted, but the machine was too slow
        told = f"{factor}×: {over.goodput:.0f}/s of {peak.goodput:.0f}/s; {report.ok}; {report.refused}"
        floor = SHARE_MIN if target.pipeline == "costly_threaded" or factor == 2 else 0.4
        assert over.share_of(peak) >= floor, told
        assert report.ok is not None
        assert report.refused is not None
        assert report.ok.p99_ns <= BUDGET_MS * 1e6, told
        assert report.refused.p50_ns < report.ok.p50_ns / 2, told  # `make soak` holds it to 5 ms on a free machine
        last = target.run(0.4 * peak.goodput, 2).report.timeline[1]
        assert last.ok_within_budget >= 0.95 * last.offered, last
    shed = target.server.metric("tailrace_shed_total", f'pipeline="{target.pipeline}"')
    expired = target.server.metric("tailrace_shed_total", f'pipeline="{target.pipeline}"', 'reason="expired"')
    assert expired <= 0.1 * shed  # nearly all are refused as they come, not after they have waited


def test_budget_of_a_client_that_cannot_be_kept(target: Target) -> None:
    """A call with less time than a batch takes is refused at once, and told when to come again."""
    answer = target.server.ask(target.pipeline, {"job_id": 1}, {"X-Budget-Ms": "0.05"})
    assert (answer.status, answer.body["title"]) == (503, "Shed")
    assert int(answer.headers["retry-after"]) >= 1
    assert target.server.ask(target.pipeline, {"job_id": 1}, {"X-Budget-Ms": "150"}).status == 200
