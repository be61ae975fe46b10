"""Where a batch's time goes: each layer's median, by batch size, in one process without sockets.

python bench/layers.py [PIPELINE.py] [--store URL]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tailrace.codecs.json import JsonCodec
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.compile.samples import Samples
from tailrace.compile.warm_up import warm_up
from tailrace.deadline import LAYERS, MonotonicClock
from tailrace.engine import answer
from tailrace.features.stores.opening import open_store
from tailrace.plan import Plan
from tailrace.request.rows import ARRAY_MAX
from tailrace.server.declared import store_url

SIZES = (1, 8, 32, 64, 128)
ROUNDS = 400


def median_us(function: Callable[[], object], rounds: int = 2_000) -> float:
    """Return the median time of a call, in microseconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        function()
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / 1e3


async def layer_times(plan: Plan, bodies: list[bytes]) -> list[float]:
    """Return the median of each layer, in µs, for a batch of these calls."""
    samples = Samples(plan)
    decode = JsonCodec(plan.pipeline.request, array_max=ARRAY_MAX).decode
    rounds = []
    for _ in range(ROUNDS):
        requests = list(map(decode, bodies))
        now_ns = time.monotonic_ns()
        batch = samples.batch(requests, now_ns, now_ns + 10**9)
        batch.suspends = plan.suspends(sum(map(samples.rows, requests)))
        await answer(plan, batch, time.monotonic_ns)
        rounds.append([end - begin for begin, end in zip(batch.marks_ns, batch.marks_ns[1:], strict=False)])
    return [statistics.median(column) / 1e3 for column in zip(*rounds, strict=True)]


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", nargs="?", default="examples/fraud/nightly.py", type=Path)
    parser.add_argument("--store")
    arguments = parser.parse_args()
    pipeline = load_pipelines(arguments.pipeline)[0]
    clock = MonotonicClock()
    plan = compile_plan(pipeline, open_store(store_url(pipeline, arguments.store), clock), clock=clock)
    await plan.open()
    plan, _ = await warm_up(plan, clock)
    samples = Samples(plan)
    bodies = [samples.body(seed) for seed in range(max(SIZES))]
    replay = arguments.pipeline.resolve().parents[2] / "build" / pipeline.name / "replay.jsonl"
    if replay.exists():
        bodies = replay.read_bytes().splitlines()[: max(SIZES)]
    gc.collect()
    gc.freeze()
    gc.disable()
    print(f"{'µs':>8}" + "".join(f"{layer:>13}" for layer in LAYERS) + f"{'whole':>10}{'a row':>9}")
    for size in SIZES:
        times = await layer_times(plan, bodies[:size])
        whole = sum(times)
        print(f"{size:>8}" + "".join(f"{each:>13.1f}" for each in times) + f"{whole:>10.1f}{whole / size:>9.2f}")
    decode = JsonCodec(pipeline.request, array_max=ARRAY_MAX).decode
    print(f"\ndecoding one body: {median_us(lambda: decode(bodies[0])):.2f} µs")


if __name__ == "__main__":
    asyncio.run(main())
