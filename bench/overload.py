"""Overload, open loop: 2×, 5× and 10× the peak of two model-bound pipelines, and what is answered within budget.

    make soak        or        .venv/bin/python bench/overload.py --rounds 1

Ends with 1 where a run misses what is asked, or its load was late and shows nothing.
The pipelines are those of tests/pipelines/costly.py: a model of some 0.5 ms a row that runs on the loop, and one of
some 2 ms on the inference thread. The server has core 0, the load core 1. The peak and the overload take turns, since a
shared machine changes its speed within seconds; each figure is the median of the rounds. What a refusal costs is
measured too: refusing nine calls for each one answered takes processor time, so of light calls no server can answer
90% of its peak at ten times its load. Prints a table; writes build/soak.json. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from rich.console import Console  # noqa: E402 - the path comes first
from rich.table import Table  # noqa: E402

from machine import LOAD_CORE, SERVER_CORE  # noqa: E402
from pipelines.model_graphs import write_models  # noqa: E402
from tailrace.loadtest.plan import LoadPlan  # noqa: E402
from tailrace.loadtest.processes import Process, end, free_port, start, wait_ready  # noqa: E402
from tailrace.loadtest.report import LoadReport  # noqa: E402
from tailrace.loadtest.runner import run_load  # noqa: E402
from wrk import run_wrk  # noqa: E402

PIPELINES: Final = ("costly_threaded", "costly_inline")
FACTORS: Final = (2, 5, 10)
BUDGET_MS: Final = 200.0
PROBE_START: Final = 100.0
CONNECTIONS: Final = 400
"""So many that hardly a call is pipelined: HTTP/1.1 holds a refusal back behind an earlier call's answer."""
SHARE_OF_POSSIBLE_MIN: Final = 0.85
OK_P99_OF_BUDGET_MAX: Final = 0.85
REFUSAL_MS_MAX: Final = 5.0
NO_TIME_MS: Final = "0.0001"
"""A budget that refuses every call at once."""
REFUSING_S: Final = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One load: what came of it, and the processor seconds that the server spent on it."""

    report: LoadReport
    cpu_s: float

    @property
    def goodput(self) -> float:
        """Answers within budget a second."""
        return self.report.goodput_per_s


@dataclass(frozen=True, slots=True)
class Figure:
    """One overload: medians of its rounds.

    share: of the goodput at the peak just before and after; cpu_share: the same, of the goodput for each processor
    second, for a machine on which others run. possible: the share that is left where each refusal takes what it takes
    a server that does nothing else. ok_late: accepted, but answered past the budget. valid: the load of every round.
    """

    pipeline: str
    factor: float
    offered_rps: float
    goodput_rps: float
    share: float
    cpu_share: float
    possible: float
    ok_p99_ms: float
    ok_late: int
    refused_p50_ms: float
    refused_p99_ms: float
    errors: int
    recovered: bool
    valid: bool

    @property
    def share_of_possible(self) -> float:
        """The goodput to what refusing leaves over."""
        return self.share / self.possible

    @property
    def missed(self) -> list[str]:
        """What is asked and not held."""
        held = {
            "goodput": self.share_of_possible >= SHARE_OF_POSSIBLE_MIN,
            "200 p99": self.ok_p99_ms <= OK_P99_OF_BUDGET_MAX * BUDGET_MS,
            "503 p99": self.refused_p99_ms <= REFUSAL_MS_MAX,
            "recovery": self.recovered,
        }
        return [name for name, is_held in held.items() if not is_held]

    @property
    def verdict(self) -> str:
        """What the table says of it."""
        if not self.valid:
            return "[yellow]load was late[/]"
        return f"[red]{', '.join(self.missed)}[/]" if self.missed else "[green]held[/]"


class Target:
    """One served pipeline."""

    def __init__(self, server: Process, pipeline: str, url: str) -> None:
        self.pipeline = pipeline
        self._server = server
        self._url = url

    def run(self, rate: float, seconds: float) -> Run:
        """Send one open-loop load."""
        bodies = [b'{"job_id":%d}' % job for job in range(100)]
        plan = LoadPlan(
            self._url, bodies, rate=rate, duration_s=seconds, connections=CONNECTIONS, budget_ns=int(BUDGET_MS * 1e6)
        )
        before_s = self._server.cpu_s()
        report = run_load(plan)
        return Run(report, self._server.cpu_s() - before_s)

    def find_peak(self, seconds: float) -> float:
        """Return the highest goodput over rising rates; two in a row that bring no more end the search."""
        rate, best, without_gain = PROBE_START, 0.0, 0
        while without_gain < 2:
            goodput = self.run(rate, seconds).goodput
            without_gain = 0 if goodput > 1.02 * best else without_gain + 1
            best = max(best, goodput)
            rate *= 1.3
        return best

    def refusal_s(self, folder: Path) -> float:
        """Return the processor seconds that a refusal takes when nothing else is done."""
        body = folder / "job.jsonl"
        body.write_bytes(b'{"job_id":1}\n')
        before_s = self._server.cpu_s()
        requests = run_wrk(self._url, body, REFUSING_S, budget_ms=NO_TIME_MS, judged=False).requests
        return (self._server.cpu_s() - before_s) / requests

    def measure(self, peak: float, factor: float, seconds: float, rounds: int, refusal_s: float) -> Figure:
        """Offer the peak and a multiple of it in turns; then less, and see that all is well within five seconds."""
        peaks = [self.run(1.1 * peak, seconds)]
        overs: list[Run] = []
        recovered = True
        for _ in range(rounds):
            overs.append(self.run(factor * peak, seconds))
            last = self.run(0.5 * peak, 5.0).report.timeline[4]
            recovered = recovered and last.ok_within_budget == last.offered
            peaks.append(self.run(1.1 * peak, seconds))
        reports = [over.report for over in overs]
        best = median(run.goodput for run in peaks)
        return Figure(
            pipeline=self.pipeline,
            factor=factor,
            offered_rps=factor * peak,
            goodput_rps=median(over.goodput for over in overs),
            share=_share([run.goodput for run in peaks], [run.goodput for run in overs]),
            cpu_share=_share([run.goodput / run.cpu_s for run in peaks], [run.goodput / run.cpu_s for run in overs]),
            possible=(1 - factor * peak * refusal_s) / (1 - best * refusal_s),
            ok_p99_ms=median(report.ok.p99_ns / 1e6 if report.ok else 0.0 for report in reports),
            ok_late=sum(second.ok - second.ok_within_budget for report in reports for second in report.timeline),
            refused_p50_ms=median(report.refused.p50_ns / 1e6 if report.refused else 0.0 for report in reports),
            refused_p99_ms=median(report.refused.p99_ns / 1e6 if report.refused else 0.0 for report in reports),
            errors=sum(report.errors for report in reports),
            recovered=recovered,
            valid=all(report.valid for report in reports),
        )


def _share(peaks: Sequence[float], overs: Sequence[float]) -> float:
    """Return the median of each overload's figure to the mean of the peaks' before and after it."""
    return median(2 * over / (before + after) for before, over, after in zip(peaks, overs, peaks[1:], strict=False))


def show(figures: list[Figure], peaks: dict[str, float], refusal_s: float, console: Console) -> None:
    """Print the table, with what was asked of it."""
    for pipeline, peak in peaks.items():
        console.print(f"{pipeline}: peak {peak:,.0f} answers/s within {BUDGET_MS:.0f} ms", highlight=False)
    console.print(f"a refusal: {refusal_s * 1e6:.1f} µs of processor time", highlight=False)
    table = Table(header_style="bold")
    for heading in (
        "",
        "load",
        "goodput",
        "share",
        "by CPU",
        "possible",
        "of it",
        "200 p99",
        "503 p50",
        "503 p99",
        "as asked",
    ):
        table.add_column(heading, justify="left" if heading in ("", "as asked") else "right", no_wrap=True)
    for each in figures:
        table.add_row(
            each.pipeline,
            f"{each.factor:.0f}×",
            f"{each.goodput_rps:,.0f}/s",
            *(f"{share:.0%}" for share in (each.share, each.cpu_share, each.possible, each.share_of_possible)),
            *(f"{time_ms:.1f} ms" for time_ms in (each.ok_p99_ms, each.refused_p50_ms, each.refused_p99_ms)),
            each.verdict,
        )
    console.print(table)
    asked = f"200 p99 ≤ {OK_P99_OF_BUDGET_MAX * BUDGET_MS:.0f} ms, 503 p99 ≤ {REFUSAL_MS_MAX:.0f} ms"
    share = f"{SHARE_OF_POSSIBLE_MIN:.0%} of what is possible"
    console.print(f"asked: {share}, {asked}; 5 s after the load's end all in time", highlight=False)
    console.print("possible: what is left of the peak where every refusal takes the time above", highlight=False)


def summary(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return the worst of all overloads, each the median of its rounds, and every one of them."""
    return {
        "overload": {
            "worst_share_of_possible": round(min(each.share_of_possible for each in figures), 3),
            "accepted_p99_of_budget": round(max(each.ok_p99_ms for each in figures) / BUDGET_MS, 3),
            "refused_p99_ms": round(max(each.refused_p99_ms for each in figures), 2),
        },
        "figures": [asdict(each) for each in figures],
    }


def main() -> int:
    """Measure and print; return 1 where a run misses what is asked, or shows nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="of each overload, between two at the peak")
    parser.add_argument("--pipelines", nargs="*", default=PIPELINES, choices=PIPELINES)
    options = parser.parse_args()
    figures: list[Figure] = []
    peaks: dict[str, float] = {}
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "models").mkdir()
        write_models(folder / "models")
        shutil.copy(ROOT / "tests" / "pipelines" / "costly.py", folder)
        port, admin_port = free_port(), free_port()
        command = [str(Path(sys.executable).with_name("tailrace")), "serve", str(folder / "costly.py"),
                   "--port", str(port), "--admin-port", str(admin_port)]  # fmt: skip
        server = start(stack, "tailrace", command, folder / "serve.log", cores={SERVER_CORE})
        wait_ready(server, f"http://127.0.0.1:{port}/readyz")
        for pipeline in options.pipelines:
            target = Target(server, pipeline, f"http://127.0.0.1:{port}/v1/pipelines/{pipeline}/predict")
            refusal_s = target.refusal_s(folder)
            peak = peaks[pipeline] = target.find_peak(options.seconds / 2)
            figures += [target.measure(peak, factor, options.seconds, options.rounds, refusal_s) for factor in FACTORS]
        end(server)
    show(figures, peaks, refusal_s, Console(width=125))
    out = ROOT / "build" / "soak.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(summary(figures) | {"peaks": peaks, "refusal_us": refusal_s * 1e6}, indent=1) + "\n")
    return int(any(each.missed or not each.valid for each in figures))  # a load that was late shows nothing


if __name__ == "__main__":
    sys.exit(main())
