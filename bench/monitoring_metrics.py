"""How far the quantiles of the merged histograms are from those of the times themselves, and what a merge takes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from part import Line, Part, Session
from tailrace.deadline import Budget
from tailrace.monitor.exposition import expose
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import Merger, merge_blocks
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock

WORKERS: Final = 8
SHAPE: Final = PipelineShape("fraud", Budget("50ms", features="15ms", inference="20ms"), ("Profile", "Activity"))
QUANTILES: Final = (0.5, 0.95, 0.99)
MS: Final = 1e6
REPEATS: Final = 50


def distributions(rng: np.random.Generator, count: int) -> dict[str, NDArray[np.float64]]:
    """Return times in ms, by the name of their shape."""
    is_slow = rng.random(count) < 0.07
    return {
        "lognormal": rng.lognormal(np.log(2.0), 0.6, count),
        "bimodal": np.where(is_slow, rng.normal(38.0, 1.5, count), rng.normal(0.4, 0.03, count)).clip(0.01),
        "heavy": 0.3 * (1.0 + rng.pareto(1.3, count)),
    }


def real_times(calls: int) -> NDArray[np.float64]:
    """Return how long calls of a server over loopback really took here, in ms, one after the other."""
    took = np.empty(calls)
    command = [sys.executable, str(Path(__file__).parent / "constant_answer.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
            for place in range(calls):
                began_ns = time.perf_counter_ns()
                connection.sendall(b"{}")
                connection.recv(4_096)
                took[place] = (time.perf_counter_ns() - began_ns) / MS
        process.kill()
    return took


def counted(times_ms: NDArray[np.float64]) -> list[MetricBlock]:
    """Return the blocks of workers among whom calls of these times were spread, in batches of one to 64."""
    blocks = [MetricBlock.create(worker_layout([SHAPE], slot, "r1")) for slot in range(WORKERS)]
    for block, share in zip(blocks, np.array_split(times_ms, WORKERS), strict=True):
        recorder, times_ns = BatchRecorder(block, "fraud"), (share * MS).astype(np.int64)
        place = 0
        while place < len(times_ns):
            calls = times_ns[place : place + 1 + place % 64]
            end_ns = 10**12
            recorder.count_batch([end_ns] * 6, end_ns, (end_ns - calls).tolist(), len(calls))
            place += len(calls)
    return blocks


def errors_of(times_ms: NDArray[np.float64]) -> list[float]:
    """Return the relative errors of the quantiles, merged over the workers, against the exact ones."""
    merged = merge_blocks(counted(times_ms)).series["tailrace_request_seconds", ("fraud",)]
    exact = np.quantile((times_ms * MS).astype(np.int64), QUANTILES, method="inverted_cdf")
    return [float(abs(told / true - 1.0)) for told, true in zip(merged.quantiles(*QUANTILES), exact, strict=True)]


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of some calls, in ms."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        took.append(1_000 * (time.perf_counter() - began))
    return median(took)


def measure(session: Session) -> Figures:
    """Return the largest error of the quantiles, each shape's, and what the supervisor does with it takes."""
    rng = np.random.default_rng(12)
    session.tell("metrics: quantiles against exact ones")
    shapes = distributions(rng, session.pick(200_000, 20_000))
    shapes["real"] = real_times(session.pick(40_000, 2_000))
    errors = {name: max(errors_of(times_ms)) for name, times_ms in shapes.items()}
    session.tell("metrics: merge and page")
    merger = Merger(counted(shapes["lognormal"]))
    merged = merger.merge()
    return {
        "monitoring": {
            "histogram_error": round(max(errors.values()), 5),
            **{f"histogram_error_{name}": round(error, 5) for name, error in errors.items()},
            "merge_ms": round(milliseconds(merger.merge), 3),
            "metrics_page_ms": round(milliseconds(partial(expose, merged, {})), 2),
        }
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["monitoring"]
    return [
        Line("Error of p50, p95, p99 of 8 workers, the largest", _percent(found["histogram_error"]), 1, 0.5, " %"),
        *(
            Line(f"  {name}", _percent(found[f"histogram_error_{name}"]), unit=" %")
            for name in ("lognormal", "bimodal", "heavy", "real")
        ),
        Line("Merge of 8 workers", found["merge_ms"], 2, unit=" ms"),
        Line("Page of /metrics", found["metrics_page_ms"], unit=" ms"),
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


PART: Final = Part(
    name="monitoring_metrics",
    about="histograms: their quantiles against exact ones; a merge of eight workers",
    caveats=("monitoring_metrics: of the shapes only `real` was measured: round trips over loopback.",),
    steps=lambda session: 2,
    measure=measure,
    lines=lines,
)
