"""Overload, open loop: 2×, 5× and 10× the peak of two model-bound pipelines, and what is answered within budget.

    make soak        or        .venv/bin/python bench/overload.py --seconds 4

The pipelines are those of tests/pipelines/costly.py: a model of some 0.5 ms a row that runs on the loop, and one of
some 2 ms on the inference thread. The server has core 0, the load core 1. Prints a table; writes build/overload.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from pipelines.model_graphs import write_models  # noqa: E402 - the path comes first
from processes import LOAD_CORE, SERVER_CORE, end, free_port, start, wait_ready  # noqa: E402
from tailrace.loadtest.plan import LoadPlan  # noqa: E402
from tailrace.loadtest.report import LoadReport  # noqa: E402
from tailrace.loadtest.runner import run_load  # noqa: E402

PIPELINES: Final = ("costly_threaded", "costly_inline")
FACTORS: Final = (2, 5, 10)
BUDGET_MS: Final = 100.0
PROBE_START: Final = 100.0
CONNECTIONS: Final = 64
GOODPUT_MIN: Final = 0.9
REFUSAL_MS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One run. goodput: answers within budget a second; share: of the peak. Times in ms, p99."""

    pipeline: str
    factor: float
    offered_rps: float
    goodput_rps: float
    share: float
    ok_p99_ms: float
    ok_late: int
    refused_p99_ms: float
    errors: int
    recovered: bool
    load_average: float


def run(url: str, rate: float, seconds: float) -> LoadReport:
    """Send one open-loop load."""
    bodies = [b'{"job_id":%d}' % job for job in range(100)]
    plan = LoadPlan(url, bodies, rate=rate, duration_s=seconds, connections=CONNECTIONS, budget_ns=int(BUDGET_MS * 1e6))
    return run_load(plan)


def find_peak(url: str, seconds: float) -> float:
    """Return the highest goodput found, in answers within budget a second, over rising rates."""
    best = 0.0
    rate = PROBE_START
    while True:
        goodput = run(url, rate, seconds).goodput_per_s
        best = max(best, goodput)
        if goodput < 0.8 * rate:
            break
        rate *= 1.4
    for factor in (0.9, 1.0, 1.1, 1.25):
        best = max(best, run(url, factor * best, seconds).goodput_per_s)
    return best


def measure(pipeline: str, url: str, peak: float, factor: float, seconds: float) -> Figure:
    """Offer a multiple of the peak; then, at once, half of the peak, and see that all is well within five seconds."""
    report = run(url, factor * peak, seconds)
    after = run(url, peak / 2, 5.0)
    last = after.timeline[4]
    return Figure(
        pipeline=pipeline,
        factor=factor,
        offered_rps=report.plan.rate,
        goodput_rps=report.goodput_per_s,
        share=report.goodput_per_s / peak,
        ok_p99_ms=report.ok.p99_ns / 1e6 if report.ok else 0.0,
        ok_late=sum(second.ok - second.ok_within_budget for second in report.timeline),
        refused_p99_ms=report.refused.p99_ns / 1e6 if report.refused else 0.0,
        errors=report.errors,
        recovered=last.ok_within_budget == last.offered,
        load_average=os.getloadavg()[0],
    )


def show(figures: list[Figure], peaks: dict[str, float]) -> None:
    """Print the table, with what was asked of it."""
    for pipeline, peak in peaks.items():
        print(f"{pipeline}: peak {peak:,.0f} answers/s within {BUDGET_MS:.0f} ms")
    print(f"{'pipeline':<16} {'load':>5} {'goodput':>14} {'200 p99':>9} {'late':>5} {'503 p99':>9} {'recovered':>10}")
    for each in figures:
        verdict = "" if each.share >= GOODPUT_MIN and each.refused_p99_ms <= REFUSAL_MS_MAX else "  short"
        print(
            f"{each.pipeline:<16} {each.factor:>4.0f}× {each.goodput_rps:>8,.0f} {each.share:>4.0%} "
            f"{each.ok_p99_ms:>6.1f} ms {each.ok_late:>5} {each.refused_p99_ms:>6.1f} ms "
            f"{'yes' if each.recovered else 'NO':>10}{verdict}"
        )
    print(f"asked: goodput ≥ {GOODPUT_MIN:.0%} of the peak, 503 p99 ≤ {REFUSAL_MS_MAX:.0f} ms, recovered in 5 s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each overload")
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
            url = f"http://127.0.0.1:{port}/v1/pipelines/{pipeline}/predict"
            peaks[pipeline] = find_peak(url, options.seconds / 2)
            figures += [measure(pipeline, url, peaks[pipeline], factor, options.seconds) for factor in FACTORS]
        end(server)
    show(figures, peaks)
    out = ROOT / "build" / "overload.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"peaks": peaks, "figures": [asdict(each) for each in figures]}, indent=1))


if __name__ == "__main__":
    main()
