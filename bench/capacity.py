"""A pipeline whose model is so heavy that the server is the limit: served on a core of its own, and its capacity."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from machine import LOAD_CORE, SERVER_CORE
from peers import ROOT, start_tailrace
from tailrace.deadline import NS_PER_MS
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

TESTS: Final = ROOT / "tests"
PIPELINE: Final = "costly_inline"
"""Of tests/pipelines/costly.py: a third to half of a millisecond a row, on the loop."""
BUDGET_MS: Final = 200
CONNECTIONS: Final = 400
"""So many that hardly a call is pipelined: HTTP/1.1 holds a refusal back behind an earlier call's answer."""
BODIES: Final = [b'{"job_id":%d}' % job for job in range(100)]
FIRST_RATE: Final = 300.0
RATE_STEP: Final = 1.35
GAIN_MIN: Final = 1.01
FULL: Final = 1.1
FULL_RUNS: Final = 3
FULL_S: Final = 4.0
LAG_SHARE_MAX: Final = 0.2
"""Of a p99, by which the generator's own p99 lag may lie behind its schedule; above, the p99 is the generator's."""


class Costly:
    """The served pipeline, asked at random (Poisson), as by callers that know nothing of each other.

    The sending process inherits the cores of the one that starts it.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, rate: float, seconds: float, seed: int = 0) -> LoadReport:
        """Send one open-loop load."""
        return run_load(
            LoadPlan(
                self._url,
                BODIES,
                rate=rate,
                duration_s=seconds,
                connections=CONNECTIONS,
                arrival="poisson",
                seed=seed,
                budget_ns=BUDGET_MS * NS_PER_MS,
            )
        )

    def find_capacity(self, seconds: float) -> float:
        """Return the goodput a second of a full server: the median of a few runs a little above the peak.

        The peak is sought over rising rates; two in a row that bring no more end the search. It is the best of many
        runs, and so of the machine's fast moments, and would be more than the server has. seconds: of each rate.
        """
        rate, best, without_gain = FIRST_RATE, 0.0, 0
        while without_gain < 2:
            goodput = self.run(rate, seconds).goodput_per_s
            without_gain = 0 if goodput > GAIN_MIN * best else without_gain + 1
            best = max(best, goodput)
            rate *= RATE_STEP
        return median(steady_goodput(self.run(FULL * best, FULL_S)) for _ in range(FULL_RUNS))


@contextmanager
def served_costly(workplace: Path) -> Iterator[Costly]:
    """Serve the pipeline on one core; what runs here, and what it starts, has the other until the end."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    from pipelines.model_graphs import write_models

    folder = workplace / "costly"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    write_models(folder / "models")
    file = Path(shutil.copy(TESTS / "pipelines" / "costly.py", folder))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        with ExitStack() as stack:
            yield Costly(
                start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-costly", file=file, pipeline=PIPELINE).url
            )
    finally:
        os.sched_setaffinity(0, cores)


def steady_goodput(report: LoadReport) -> float:
    """Return the answers in time a second, of the calls due after the first second, in which a queue fills up.

    Over the whole run there would be more: what waits when the last call is sent is answered too.
    """
    steady = report.timeline[1 : int(report.plan.duration_s)]
    if not steady:
        return report.goodput_per_s
    return sum(second.ok_within_budget for second in steady) / len(steady)


def is_on_time(report: LoadReport) -> bool:
    """Say whether a load kept its schedule so well that the p99 of what was accepted is the server's."""
    if report.lag is None or report.ok is None:
        return False
    return report.valid and report.lag.p99_ns <= LAG_SHARE_MAX * report.ok.p99_ns
