"""A network of 20 MFLOP a row: its throughput at a p99 of 20 ms beside a fixed batcher, and a light model beside it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from answers import fetch_answer
from figures import Figures
from heavy_world import FILE, FOLDER, MIXED, NAMES, make_heavy_world
from machine import LOAD_CORE, SERVER_CORE, BenchError, on_core
from part import Session
from peer_venv import NoPeerError, make_venv
from peers import HERE, ROOT, WORKPLACE, start_tailrace
from rate_search import Searched
from ratios import bounds, measure_pairs
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import free_port, start, wait_ready
from tailrace.loadtest.runner import run_load
from tails import p99_ms

MOSEC: Final = "mosec>=0.9,<1"
VENV: Final = ROOT / "build" / "mosec"
BATCHERS: Final = ((8, 1), (16, 3), (32, 5))
"""Batch sizes of mosec, and how many ms it waits for one to be full."""
RATE_PAIRS: Final = 3
IDLE_PAIRS: Final = 10
MIXED_PAIRS: Final = 20
MIXED_S: Final = 0.7
MIXED_RATE: Final = 300
MIXED_SHARE: Final = 0.8
GOODPUT_MIN: Final = 0.9
"""Of the heavy calls, what must be answered in time: beside a server that refuses there is nothing."""


def measure_batching(session: Session) -> Figures:
    """Return the figures of the heavy model: beside mosec, idle, and beside a light one."""
    session.tell("inference: packaging a network of 20 MFLOP a row")
    bodies = make_heavy_world()
    with ExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        server = start_tailrace(stack, cores={SERVER_CORE}, file=FILE, pipeline="heavy", name="tailrace-heavy")
        own = Searched(session, "Tailrace", server.url, bodies)
        figures = measure_mosec(session, own) or {"heavy_rps": round(own.rate_in_time())}
    return figures | measure_mixed(session, bodies, figures["heavy_rps"])


def measure_mosec(session: Session, own: Searched) -> Figures:
    """Return the ratios to mosec's best batcher, and to mosec without one when calls come one at a time.

    The batcher is chosen by one search of each; then the two are searched in turn, since a shared machine changes.
    """
    session.tell("inference: mosec in a venv of its own")
    try:
        python = make_venv(VENV, MOSEC, "msgspec", "numpy", "onnxruntime")
    except NoPeerError as error:
        session.notes.append(f"[red]inference: mosec cannot be installed here, so nothing is compared: {error}[/]")
        return {}
    rates: dict[tuple[int, int], float] = {}
    for batcher in session.pick(BATCHERS, BATCHERS[1:2]):
        with ExitStack() as stack:
            peer = start_mosec(stack, python, own, *batcher)
            rates[batcher] = peer.rate_in_time()
    best = max(rates, key=lambda batcher: rates[batcher])
    with ExitStack() as stack:
        peer = start_mosec(stack, python, own, *best)
        found = measure_pairs(
            session, "inference: the rates in time", session.pick(RATE_PAIRS, 1), own.rate_in_time, peer.rate_in_time
        )
    with ExitStack() as stack:
        peer = start_mosec(stack, python, own, 1, 0)
        idle = measure_pairs(
            session, "inference: one at a time", session.pick(IDLE_PAIRS, 1), own.rate_alone, peer.rate_alone
        )
    ratios, idle_ratios = ([one / other for one, other in pairs] for pairs in (found, idle))
    return {
        "heavy_rps": round(median(one for one, _ in found)),
        "heavy_mosec_rps": {f"{rows} rows, {wait_ms} ms": round(rate) for (rows, wait_ms), rate in rates.items()},
        "heavy_mosec_best_rps": round(median(other for _, other in found)),
        "heavy_ratio_mosec": round(median(ratios), 2),
        "heavy_ratio_mosec_bounds": [round(each, 2) for each in bounds(ratios)],
        "heavy_idle_ratio_unbatched": round(median(idle_ratios), 3),
        "heavy_idle_ratio_bounds": [round(each, 3) for each in bounds(idle_ratios)],
    }


def measure_mixed(session: Session, bodies: Path, rate: float) -> Figures:
    """Return what the heavy model at a part of its capacity adds to the p99 of a light one in the same worker."""
    with ExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        server = start_tailrace(stack, cores={SERVER_CORE}, file=MIXED, pipeline="heavy", name="tailrace-mixed")
        return measure_beside(session, server.url, bodies, rate)


def measure_beside(session: Session, heavy_url: str, bodies: Path, rate: float) -> Figures:
    """Return the figures of the light model, with and without calls of the heavy one."""
    url = heavy_url.replace("/heavy/", "/light/")
    glances = [b'{"f0":%d,"f1":%d}' % (index, 7 * index % 10) for index in range(100)]
    heavy = [line for line in bodies.read_bytes().splitlines() if line]

    def light_p99_ms() -> float:
        report = run_load(LoadPlan(url, glances, rate=MIXED_RATE, duration_s=MIXED_S, arrival="poisson"))
        return p99_ms(report, "the light model")

    def beside_heavy_p99_ms() -> float:
        plan = LoadPlan(heavy_url, heavy, rate=MIXED_SHARE * rate, duration_s=MIXED_S + 0.6, arrival="poisson")
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


def compare(url: str, other: str, bodies: Path) -> None:
    """Raise BenchError unless both give the same scores."""
    for body in bodies.read_bytes().splitlines()[:20]:
        one, two = (json.loads(fetch_answer(each, body))["score"] for each in (url, other))
        if abs(one - two) > 1e-4:
            raise BenchError(f"inference: {one} and {two} for {body.decode()}")


def start_mosec(stack: ExitStack, python: Path, own: Searched, batch: int, wait_ms: int) -> Searched:
    """Start mosec on the server's core. Raises BenchError where it scores otherwise than the own server."""
    port, name = free_port(), f"mosec-{batch}"
    env = {"MODEL": str(FOLDER / "mlp" / "model.onnx"), "FEATURES": ",".join(NAMES), "BATCH": str(batch),
           "WAIT_MS": str(wait_ms)}  # fmt: skip
    command = [str(python), str(HERE / "heavy" / "mosec_app.py"), "--port", str(port), "--timeout", "5000"]
    process = start(stack, name, command, WORKPLACE / f"{name}.log", cores={SERVER_CORE}, env=env)
    url = f"http://127.0.0.1:{port}/inference"
    wait_ready(process, f"http://127.0.0.1:{port}/")
    compare(own.url, url, own.bodies)
    return Searched(own.session, f"mosec, {batch} rows", url, own.bodies)


if __name__ == "__main__":
    print(json.dumps(measure_batching(Session(print)), indent=1))
