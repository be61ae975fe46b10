"""Overload, open loop: what cannot be answered in time is refused as it comes, and the server is itself again after.

The figures asked of the server stand in bench/overload.py, which measures them on cores of their own; here, where the
load shares two cores with the server and whatever else runs, no time is held against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, load, serving

from tailrace.loadtest.report import LoadReport

BUDGET_MS = 200.0
CONNECTIONS = 300
RECOVERY_S_MAX = 5
BODIES = [b'{"job_id":%d}' % job for job in range(50)]


class Target:
    """One served pipeline."""

    def __init__(self, server: Server, pipeline: str) -> None:
        self.server = server
        self.pipeline = pipeline

    def run(self, rate: float, duration_s: float) -> LoadReport:
        """Send one open-loop load."""
        with load(
            self.server.predict_url(self.pipeline), BODIES, rate=rate, duration_s=duration_s, connections=CONNECTIONS,
            budget_ms=BUDGET_MS, keep_bodies=False,
        ) as report:  # fmt: skip
            return report.result()

    def peak_per_s(self) -> float:
        """Return the best goodput, over rising rates."""
        rate, best = 100.0, 0.0
        while (goodput := self.run(rate, 0.7).goodput_per_s) > 1.1 * best:
            rate, best = rate * 1.7, goodput
        return best


@pytest.fixture(scope="module", params=["costly_threaded", "costly_inline"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pipelines_dir: Path
) -> Iterator[Target]:
    """Serve the costly pipelines with one worker."""
    log = tmp_path_factory.mktemp("overload") / "log"
    with serving(log, pipelines_dir / "costly.py") as server:
        yield Target(server, request.param)


@pytest.mark.slow
def test_overload_is_refused_and_forgotten(target: Target) -> None:
    """At a multiple of the peak each call gets its answer or its refusal, and within 5 s of the end all are served."""
    peak = target.peak_per_s()
    for factor in (2, 10):
        report = target.run(factor * peak, 1.5)
        assert report.errors == 0
        assert set(report.statuses) <= {200, 503, 504}
        assert report.statuses[200] > 0
        assert report.statuses[503] > report.statuses.get(504, 0)  # refused as they come, not after they have waited
        for _ in range(RECOVERY_S_MAX):
            last = target.run(0.3 * peak, 1)
            if set(last.statuses) == {200}:
                break
        else:
            pytest.fail(f"not recovered after {RECOVERY_S_MAX} s: {last.statuses}")
    shed = target.server.metric("tailrace_shed_total", f'pipeline="{target.pipeline}"')
    expired = target.server.metric("tailrace_shed_total", f'pipeline="{target.pipeline}"', 'reason="expired"')
    assert expired < shed / 2


def test_budget_of_a_client_that_cannot_be_kept(target: Target) -> None:
    """A call with less time than a batch takes is refused at once, and told when to come again."""
    answer = target.server.ask(target.pipeline, {"job_id": 1}, {"X-Budget-Ms": "0.05"})
    assert (answer.status, answer.body["title"]) == (503, "Shed")
    assert int(answer.headers["retry-after"]) >= 1
    assert target.server.ask(target.pipeline, {"job_id": 1}, {"X-Budget-Ms": "150"}).status == 200
