"""A network of 20 MFLOP a row: its throughput at a p99 of 20 ms beside a fixed batcher, and a light model beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from answers import fetch_answer
from constant_model import write_constant_model
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Session
from peer_venv import NoPeerError, make_venv
from peers import HERE, ROOT, WORKPLACE, Server, start_tailrace
from ratios import bounds, measure_pairs
from tailrace.deadline import NS_PER_MS
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import free_port, start, wait_ready
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load
from tails import p99_ms

MOSEC: Final = "mosec>=0.9,<1"
VENV: Final = ROOT / "build" / "mosec"
FOLDER: Final = WORKPLACE / "heavy"
FILE: Final = HERE / "heavy" / "pipeline.py"
NAMES: Final = tuple(f"f{index}" for index in range(24))
HIDDEN: Final = (2048, 2048, 2560)
"""9.5 million weights: 19 MFLOP a row."""
P99_MS: Final = 20
IN_TIME_MIN: Final = 0.99
BATCHERS: Final = ((8, 1), (16, 3), (32, 5))
"""Batch sizes of mosec, and how many ms it waits for one to be full."""
FIRST_RATE: Final = 150.0
RATE_STEP: Final = 1.15
LOAD_S: Final = 1.2
IDLE_S: Final = 1.0
IDLE_PAIRS: Final = 10
MIXED_PAIRS: Final = 20
MIXED_S: Final = 0.7
MIXED_RATE: Final = 300
MIXED_SHARE: Final = 0.8
GOODPUT_MIN: Final = 0.9
"""Of the heavy calls, what must be answered in time: beside a server that refuses there is nothing."""


def measure_batching(session: Session) -> Figures:
    """Return the figures of the heavy model: beside mosec, idle, and beside a light one."""
    bodies = make_world(session)
    with ExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        server = start_tailrace(stack, cores={SERVER_CORE}, file=FILE, pipeline="heavy", name="tailrace-heavy")
        own_rate = rate_in_time(session, "Tailrace", server.url, bodies)
        figures: Figures = {"heavy_rps": round(own_rate)}
        figures |= measure_mosec(session, server, bodies, own_rate)
        figures |= measure_mixed(session, server, bodies, own_rate)
    return figures


def measure_mosec(session: Session, server: Server, bodies: Path, own_rate: float) -> Figures:
    """Return the ratios to mosec's best batcher, and to mosec without one when calls come one at a time."""
    session.tell("inference: mosec in a venv of its own")
    try:
        python = make_venv(VENV, MOSEC, "msgspec", "numpy", "onnxruntime")
    except NoPeerError as error:
        session.notes.append(f"[red]inference: mosec cannot be installed here, so nothing is compared: {error}[/]")
        return {}
    rates: dict[str, float] = {}
    for batch, wait_ms in session.pick(BATCHERS, BATCHERS[1:2]):
        with ExitStack() as stack:
            peer = start_mosec(stack, python, batch, wait_ms)
            compare(server.url, peer.url, bodies)
            rates[f"{batch} rows, {wait_ms} ms"] = rate_in_time(session, f"mosec, {batch} rows", peer.url, bodies)
    best = max(rates, key=lambda name: rates[name])
    with ExitStack() as stack:
        peer = start_mosec(stack, python, 1, 0)

        def alone(url: str) -> float:
            return session.replay.plain(url, bodies, session.pick(IDLE_S, 0.5), connections=1, judged=False).rps

        pairs = measure_pairs(
            session, "inference: one at a time", session.pick(IDLE_PAIRS, 1),
            lambda: alone(server.url), lambda: alone(peer.url),
        )  # fmt: skip
    ratios = [one / other for one, other in pairs]
    return {
        "heavy_mosec_rps": {name: round(rate) for name, rate in rates.items()},
        "heavy_mosec_best": best,
        "heavy_ratio_mosec": round(own_rate / rates[best], 2) if rates[best] else None,
        "heavy_idle_ratio_unbatched": round(median(ratios), 3),
        "heavy_idle_ratio_bounds": [round(each, 3) for each in bounds(ratios)],
    }


def measure_mixed(session: Session, server: Server, bodies: Path, rate: float) -> Figures:
    """Return what the heavy model at a part of its capacity adds to the p99 of a light one in the same worker."""
    url = server.url.replace("/heavy/", "/light/")
    glances = [b'{"f0":%d,"f1":%d}' % (index, 7 * index % 10) for index in range(100)]
    heavy = [line for line in bodies.read_bytes().splitlines() if line]

    def light_p99_ms() -> float:
        report = run_load(LoadPlan(url, glances, rate=MIXED_RATE, duration_s=MIXED_S, arrival="poisson"))
        return p99_ms(report, "the light model")

    def beside_heavy_p99_ms() -> float:
        plan = LoadPlan(server.url, heavy, rate=MIXED_SHARE * rate, duration_s=MIXED_S + 0.6, arrival="poisson")
        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(run_load, plan)
            found_ms = light_p99_ms()
            goodputs.append(other.result().goodput_per_s / plan.rate)
        return found_ms

    goodputs: list[float] = []
    pairs = measure_pairs(
        session, "inference: a light model beside a heavy one", session.pick(MIXED_PAIRS, 2),
        beside_heavy_p99_ms, light_p99_ms,
    )  # fmt: skip
    if median(goodputs) < GOODPUT_MIN:
        raise BenchError(f"inference: the heavy model answered {median(goodputs):.0%} of its calls in time")
    added = [one - other for one, other in pairs]
    return {
        "mixed_heavy_goodput": round(median(goodputs), 3),
        "mixed_p99_alone_ms": round(median(other for _, other in pairs), 2),
        "mixed_p99_added_median_ms": round(median(added), 2),
        "mixed_p99_added_ms": round(bounds(added)[1], 2),
    }


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have what runs here, and what it starts without a core of its own, on one core until the end of the block."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def rate_in_time(session: Session, name: str, url: str, bodies: Path) -> float:
    """Return the highest rate tried of which 99 in 100 calls are answered well within the p99 that is asked for.

    It rises until two rates in a row are too high: a shared machine is slow for half a second now and then.
    """
    lines = [line for line in bodies.read_bytes().splitlines() if line]
    rate, best, failed = FIRST_RATE, 0.0, 0
    session.tell(f"inference: the rate of {name}")
    session.replay.plain(url, bodies, 0.5, connections=4, judged=False)
    while failed < session.pick(2, 1):
        session.tell(f"inference: {name} at {rate:,.0f}/s")
        if in_time(run_load(plan_of(url, lines, rate, LOAD_S, seed=int(rate)))) >= IN_TIME_MIN:
            best, failed = rate, 0
        else:
            failed += 1
        rate *= session.pick(RATE_STEP, 1.5)
    return best


def plan_of(url: str, lines: Sequence[bytes], rate: float, seconds: float, seed: int) -> LoadPlan:
    """Return calls at random, as of callers that know nothing of each other."""
    return LoadPlan(url, list(lines), rate=rate, duration_s=seconds, arrival="poisson", seed=seed,
                    budget_ns=P99_MS * NS_PER_MS)  # fmt: skip


def in_time(report: LoadReport) -> float:
    """Return the share of all calls that were answered well within the budget."""
    return report.goodput_per_s * report.plan.duration_s / max(report.shots, 1)


def compare(url: str, other: str, bodies: Path) -> None:
    """Raise BenchError unless both give the same scores."""
    for body in bodies.read_bytes().splitlines()[:20]:
        one, two = (json.loads(fetch_answer(each, body))["score"] for each in (url, other))
        if abs(one - two) > 1e-4:
            raise BenchError(f"inference: {one} and {two} for {body.decode()}")


def start_mosec(stack: ExitStack, python: Path, batch: int, wait_ms: int) -> Server:
    """Start mosec on the server's core."""
    port, name = free_port(), f"mosec-{batch}"
    env = {"MODEL": str(FOLDER / "mlp" / "model.onnx"), "FEATURES": ",".join(NAMES), "BATCH": str(batch),
           "WAIT_MS": str(wait_ms)}  # fmt: skip
    command = [str(python), str(HERE / "heavy" / "mosec_app.py"), "--port", str(port), "--timeout", "5000"]
    process = start(stack, name, command, WORKPLACE / f"{name}.log", cores={SERVER_CORE}, env=env)
    return Server(process, f"http://127.0.0.1:{port}/inference", wait_ready(process, f"http://127.0.0.1:{port}/"))


def make_world(session: Session) -> Path:
    """Package the network and the light model; return a file of requests."""
    session.tell("inference: packaging a network of 20 MFLOP a row")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    write_network(FOLDER / "mlp")
    write_constant_model(("f0", "f1"), FOLDER / "light")
    rows = np.random.default_rng(1).normal(size=(500, len(NAMES))).round(3).tolist()
    path = FOLDER / "jobs.jsonl"
    path.write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows))
    return path


def write_network(folder: Path, hidden: Sequence[int] = HIDDEN) -> None:
    """Package a multi-layer perceptron with weights drawn at random, whose score is between 0 and 1."""
    import pyarrow as pa
    from onnx import TensorProto, helper, numpy_helper

    from tailrace.release.package import package

    rng = np.random.default_rng(0)
    widths, last, nodes, weights = (len(NAMES), *hidden, 1), "x", [], []
    for layer, (inner, outer) in enumerate(pairwise(widths)):
        spread = (2 / inner) ** 0.5
        weights.append(numpy_helper.from_array(rng.normal(0, spread, (inner, outer)).astype(np.float32), f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(outer, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"g{layer}"]))
        last = f"a{layer}"
        nodes.append(
            helper.make_node("Relu" if outer > 1 else "Sigmoid", [f"g{layer}"], [last if outer > 1 else "score"])
        )
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder.with_suffix(".onnx")
    path.write_bytes(model.SerializeToString())
    rows = rng.normal(size=(400, len(NAMES)))
    package(path, pa.table(dict(zip(NAMES, rows.T, strict=True))), name=folder.name, out=folder, overwrite=True)


if __name__ == "__main__":
    print(json.dumps(measure_batching(Session(print)), indent=1))
