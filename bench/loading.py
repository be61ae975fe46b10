"""A second version loads and warms beside a served one: what that adds to the served one's p99."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Final

from big_trees import make_file
from figures import Figures
from heavy_world import FILE as HEAVY
from heavy_world import make_heavy_world
from machine import LOAD_CORE, SERVER_CORE, on_core
from part import Session
from peers import start_tailrace
from ratios import bounds, measure_pairs
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load
from tails import p99_ms

PAIRS: Final = 20
LOAD_S: Final = 2.2
"""Of a load beside a start, which begins BEHIND_S after that and is to last until the other one is ready."""
BEHIND_S: Final = 0.3
ALONE_S: Final = 0.6
RATE: Final = 1_000


def measure_loading(session: Session) -> Figures:
    """Return what a start of a server on the same core adds to the p99 of one that serves.

    The served one has 200 trees (big_trees.py), the one that loads a network of 38 MB in ONNX Runtime (heavy_world.py):
    it checks its golden rows, measures and warms.
    """
    session.tell("inference: the models that are served and loaded")
    make_heavy_world()
    served = make_file(200)
    bodies = session.bodies.read_bytes().splitlines()
    starts_s: list[float] = []
    with ExitStack() as stack, on_core(LOAD_CORE):
        url = start_tailrace(stack, cores={SERVER_CORE}, file=served, name="tailrace-served").url
        session.replay.plain(url, session.bodies, 0.5, judged=False)

        def served_p99_ms(seconds: float) -> float:
            return p99_ms(run_load(LoadPlan(url, bodies, rate=RATE, duration_s=seconds)), "200 trees")

        def beside_a_start_p99_ms() -> float:
            with ExitStack() as second, ThreadPoolExecutor(1) as thread:
                starting = thread.submit(
                    start_tailrace, second, cores={SERVER_CORE}, file=HEAVY, pipeline="heavy", name="tailrace-loading"
                )
                found_ms = served_p99_ms(LOAD_S)
                starts_s.append(starting.result().ready_s)
                return found_ms

        pairs = measure_pairs(
            session, "inference: a second version loads", session.pick(PAIRS, 2),
            beside_a_start_p99_ms, lambda: served_p99_ms(ALONE_S),
        )  # fmt: skip
    if median(starts_s) > BEHIND_S + LOAD_S:
        session.notes.append(
            f"inference: a start took {median(starts_s):.1f} s beside a load: what its end does to the p99 is not seen."
        )
    added = [one - other for one, other in pairs]
    return {
        "load_start_s": round(median(starts_s), 2),
        "load_p99_alone_ms": round(median(other for _, other in pairs), 2),
        "load_p99_added_median_ms": round(median(added), 2),
        "load_p99_added_ms": round(bounds(added)[1], 2),
    }
