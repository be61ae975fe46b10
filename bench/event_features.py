"""Features: what windows cost beside batch views, nginx and windows written by hand, how fast events come in, and more.

Requests that are events (recorded_requests.py), Feast's server (feast_peer.py), requests beside a refresh
(refreshing.py) and curves of cost (cost_curves.py) are measured here too, each in its own file.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import redis

from answers import check_whole, fetch_answer
from cost_curves import measure_costs, steps_of_costs
from feast_peer import measure_feast
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import HERE, WORKPLACE, Server, start_nginx, start_redis, start_tailrace
from ratios import bounds, measure_pairs
from recorded_requests import STORES, measure_recorded
from refreshing import RATE, measure_refresh
from streamed_world import EVENTS, FILE, WORLD, bytes_per_entity, dataset_rows_per_s, ingest, make_world
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import free_port, start, wait_ready
from tailrace.loadtest.runner import run_load

PAIRS: Final = 20
PAIR_S: Final = 0.5
FRESH: Final = 300
READ_RATE: Final = 2_000
READ_S: Final = 6.0
PER_CALL: Final = 100
CURVES: Final = {
    "cost_windows": "windows",
    "cost_windows_batch": "columns",
    "cost_entities": "entities, 5 windows",
    "cost_entities_batch": "entities, 5 columns",
}
"""What is drawn (draw_costs.py), and what to call it."""


def measure(session: Session) -> Figures:
    """Return the figures of all."""
    session.tell("features: making events, models, rows")
    bodies = make_world(session.pick(EVENTS, 40_000))
    session.tell("features: ingesting into LMDB")
    embedded = ingest()
    figures: Figures = {
        "lmdb_events_per_s": round(embedded.events_per_s),
        "lmdb_events_per_cpu_s": round(embedded.events_per_cpu_s),
        "bytes_per_entity": round(bytes_per_entity()),
    }
    session.tell("features: making training sets")
    figures["dataset_rows_per_s"] = round(median(dataset_rows_per_s() for _ in range(session.pick(3, 1))))
    with ExitStack() as stack:
        session.tell("features: ingesting into Redis")
        url = start_redis(stack)
        figures["redis_events_per_s"] = round(ingest(url).events_per_s)
        fill_sorted_sets(url)
        figures |= measure_rates(session, stack, bodies, url)
    for name, store in (("lmdb", None), ("redis", "redis")):
        figures |= measure_fresh(session, name, store, bodies)
    figures |= measure_recorded(session)
    figures |= measure_feast(session, bodies)
    figures |= measure_refresh(session)
    figures |= measure_costs(session)
    return {"features": figures}


def fill_sorted_sets(url: str) -> None:
    """Write the same events as the peer keeps them."""
    import pyarrow.parquet as pq

    table = pq.read_table(WORLD / "events.parquet")
    times = table["time"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    cents = np.rint(table["amount"].to_numpy() * 100).astype(np.int64)
    client = redis.Redis.from_url(url)
    with client.pipeline(transaction=False) as pipeline:
        for entity in ("customer", "terminal"):
            rows = zip(table[f"{entity}_id"].to_pylist(), table["transaction_id"].to_pylist(), cents.tolist(),
                       times.tolist(), strict=True)  # fmt: skip
            for place, (who, number, amount, moment) in enumerate(rows):
                pipeline.zadd(f"{entity}:{who}", {f"{number}:{amount}": moment})
                if place % 10_000 == 0:
                    pipeline.execute()
        pipeline.execute()
    client.close()


def measure_rates(session: Session, stack: ExitStack, bodies: Path, url: str) -> Figures:
    """Return requests a second of all servers as ratios, from interleaved pairs."""
    core = {SERVER_CORE}
    stream = start_tailrace(stack, cores=core, file=FILE, pipeline="stream", name="tailrace-streamed").url
    batch = stream.replace("/stream/", "/batch/")
    on_redis = start_tailrace(
        stack, cores=core, file=FILE, pipeline="stream", store=url, name="tailrace-streamed-redis"
    )
    peer = start_peer(stack, url)
    nginx = start_nginx(stack, fetch_answer(stream, bodies.read_bytes().splitlines()[0]))
    compare(on_redis, peer, bodies)
    pairs = [("stream_ratio_batch", stream, batch), ("redis_ratio_nginx", on_redis.url, nginx.url),
             ("redis_ratio_fastapi", on_redis.url, peer.url)]  # fmt: skip
    figures: Figures = {}
    for name, one, other in pairs:
        for each in (one, other):
            session.replay.plain(each, bodies, 1.0, judged=False)
        rates = measure_pairs(
            session, f"features: {name}", session.pick(PAIRS, 1),
            partial(measure_rate, session, one, bodies), partial(measure_rate, session, other, bodies),
        )  # fmt: skip
        ratios = [own / theirs for own, theirs in rates]
        figures[f"{name.partition('_')[0]}_rps"] = round(median(own for own, _ in rates))
        figures[name] = round(median(ratios), 3)
        figures[f"{name}_bounds"] = [round(each, 3) for each in bounds(ratios)]
    return figures


def measure_rate(session: Session, url: str, bodies: Path) -> float:
    """Return the requests a second of one turn of a server."""
    return session.replay.plain(url, bodies, PAIR_S).rps


def start_peer(stack: ExitStack, url: str) -> Server:
    """Start the FastAPI application with windows in sorted sets, under one uvicorn worker."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "fastapi_windows:app", "--app-dir", str(HERE), "--port", str(port),
               "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]  # fmt: skip
    env = {"WINDOWS_STORE": url, "WINDOWS_MODEL": str(WORLD / "stream" / "model.onnx")}
    process = start(stack, "fastapi-windows", command, WORKPLACE / "fastapi-windows.log", cores={SERVER_CORE}, env=env)
    ready_s = wait_ready(process, f"http://127.0.0.1:{port}/readyz")
    return Server(process, f"http://127.0.0.1:{port}/predict", ready_s)


def compare(server: Server, peer: Server, bodies: Path) -> None:
    """Raise BenchError unless both answer alike: a faster wrong answer is no figure."""
    for body in bodies.read_bytes().splitlines()[::50]:
        one, other = (json.loads(fetch_answer(each.url, body)) for each in (server, peer))
        if one["customer_count_5m"] != other["customer_count_5m"] or abs(one["score"] - other["score"]) > 1e-4:
            raise BenchError(f"features: {one} and {other}, to {body.decode()}")


def measure_fresh(session: Session, name: str, store: str | None, bodies: Path) -> Figures:
    """Return how long an event takes from its answer to a feature, and the latency of reads beside ingest."""
    with ExitStack() as stack:
        url = None if store is None else start_redis(stack)
        if url is not None:
            ingest(url)
        server = start_tailrace(
            stack,
            cores={SERVER_CORE, LOAD_CORE},
            file=FILE,
            pipeline="stream",
            store=url,
            name=f"tailrace-fresh-{name}",
        )
        session.tell(f"features: freshness on {name}")
        lines = bodies.read_bytes().splitlines()
        fresh_ms = freshness_ms(server, [json.loads(line) for line in lines[: session.pick(FRESH, 20)]])
        session.tell(f"features: reads beside ingest on {name}")
        rate = 10_000 if store is None else 3_000
        with pouring(server, [json.loads(line) for line in lines], rate) as poured:
            reads = reads_beside(lines)
            plan = LoadPlan(server.url, reads, rate=READ_RATE, duration_s=session.pick(READ_S, 2.0),
                            budget_ns=50_000_000)  # fmt: skip
            report = run_load(plan)
            for body in reads[::250]:
                check_whole(server.url, body)
    assert report.ok is not None
    if not report.valid:
        session.notes.append(f"features: reads beside ingest on {name}: {'; '.join(report.reasons)}")
    return {
        f"{name}_freshness_p99_ms": round(float(np.quantile(fresh_ms, 0.99)), 2),
        f"{name}_read_p99_ms": round(report.ok.p99_ns / 1e6, 2),
        f"{name}_poured_per_s": round(poured[0] / max(poured[1], 1e-9)),
    }


def freshness_ms(server: Server, payments: list[dict[str, Any]]) -> list[float]:
    """Return, for each event, the time from its answer to the first prediction that counts it."""
    target = urlsplit(server.url)
    connection = HTTPConnection(target.hostname or "", target.port, timeout=5)
    found = []
    for number, payment in enumerate(payments):
        event = {**payment, "transaction_id": 10**9 + number, "customer_id": 10**6 + number}
        ask(connection, "/v1/streams/payments/events", event)
        began_s = time.perf_counter()
        asked = {**event, "transaction_id": 2 * 10**9 + number}  # behind the event, by its id
        while ask(connection, target.path, asked)["customer_count_5m"] < 1:
            if time.perf_counter() - began_s > 5:
                raise BenchError("features: an event was not counted within 5 s")
        found.append((time.perf_counter() - began_s) * 1e3)
    connection.close()
    return found


def reads_beside(lines: list[bytes]) -> list[bytes]:
    """Return requests for the same customers and terminals, of now: right behind the events that are poured."""
    last = datetime.fromisoformat(json.loads(lines[-1])["time"])
    now = {"time": (last + timedelta(seconds=30)).isoformat()}
    return [json.dumps({**json.loads(line), **now, "transaction_id": 4 * 10**9 + number}).encode()
            for number, line in enumerate(lines)]  # fmt: skip


def ask(connection: HTTPConnection, path: str, body: Any) -> Any:
    """Return the answer to one call. Raises BenchError for any other than 200."""
    connection.request("POST", path, json.dumps(body))
    with connection.getresponse() as answer:
        told = answer.read()
    if answer.status != 200:
        raise BenchError(f"{path}: {answer.status} {told.decode()}")
    return json.loads(told)


@contextmanager
def pouring(server: Server, payments: list[dict[str, Any]], rate: int) -> Iterator[list[float]]:
    """Send events at a rate, some a call, while the caller does something; gives their number and the seconds."""
    ended, told = threading.Event(), [0.0, 0.0]
    target = urlsplit(server.url)

    def pour() -> None:
        connection = HTTPConnection(target.hostname or "", target.port, timeout=5)
        began_s, number = time.perf_counter(), 0
        last = datetime.fromisoformat(payments[-1]["time"])
        while not ended.is_set():
            events = []
            for place in range(number, number + PER_CALL):
                moment = (last + timedelta(milliseconds=place / 10)).isoformat()
                events.append({**payments[place % len(payments)], "transaction_id": 3 * 10**9 + place, "time": moment})
            ask(connection, "/v1/streams/payments/events", events)
            number += PER_CALL
            told[:] = [number, time.perf_counter() - began_s]
            time.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
        connection.close()

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield told
    finally:
        ended.set()
        thread.join()


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    told = figures["features"]
    return [
        Line("stream views against batch views, LMDB", told["stream_ratio_batch"], 0.75, 0.88, more_is_better=True),
        Line("stream views on Redis against nginx", told["redis_ratio_nginx"], 0.25, 0.35, more_is_better=True),
        Line("  against FastAPI and sorted sets", told["redis_ratio_fastapi"], 12, 20, "×", more_is_better=True),
        Line("batch views on Redis against Feast's server", told.get("ratio_feast"), 10, 30, "×", more_is_better=True),
        Line("event answered to counted, LMDB, p99", told["lmdb_freshness_p99_ms"], 20, 5, " ms"),
        Line("  Redis", told["redis_freshness_p99_ms"], 20, 5, " ms"),
        Line("events into LMDB, a second", told["lmdb_events_per_s"], 20_000, 50_000, more_is_better=True),
        Line("  a second of CPU", told["lmdb_events_per_cpu_s"], 25_000, 80_000, more_is_better=True),
        Line("events into Redis, a second", told["redis_events_per_s"], 5_000, 15_000, more_is_better=True),
        Line("request p99 beside ingest, LMDB", told["lmdb_read_p99_ms"], 3, 1, " ms"),
        Line("  Redis", told["redis_read_p99_ms"], 6, 3, " ms"),
        Line("  added by a refresh of a million rows", told.get("refresh_p99_change_ms"), 0.5, 0.1, " ms"),
        *(line_of_load(name, load) for key, name in STORES.items() for load in told.get(key, ())),
        Line("rows of a training set, a second", told["dataset_rows_per_s"], 50_000, 500_000, more_is_better=True),
        Line("stored of a customer", told["bytes_per_entity"], 2_048, 900, " B"),
        *(line_of_ends(what, told[key]) for key, what in CURVES.items() if key in told),
    ]


def line_of_load(store: str, load: Figures) -> Line:
    """Return the line of a load of requests that are events."""
    figures = f"{load['p50_ms']:.2f} · {load['p99_ms']:.2f} ms · {load['lost_share']:.2%}"
    return Line(f"recorded requests at {load['rate']:,}/s, {store}: p50, p99, lost", figures)


def line_of_ends(what: str, points: Sequence[Sequence[float]]) -> Line:
    """Return the line of a curve: its first and its last cost."""
    (first, first_us), (last, last_us) = points[0], points[-1]
    return Line(f"CPU of {first:g} and {last:g} {what}", f"{first_us:.1f} · {last_us:.1f} µs")


PART: Final = Part(
    name="features",
    about="windows over events: two entities with five windows of count and mean each",
    caveats=(
        "features: the server has one core for the ratios; pairs are interleaved, and their bounds are of the median. "
        "The peer keeps a sorted set an entity, computes the windows in Python, and answers alike, which is checked.",
        "features: freshness and reads beside ingest have both cores, which load, store and server share.",
        "features: recorded requests are the fraud example's: each payment is written, counted by the ingester, and "
        "only then scored; lost is the share that was scored before it was known to be counted. Load, server and "
        "ingester share both cores.",
        "features: Feast's server in Python (one worker) and Tailrace, its model a constant, answer the same twenty "
        "values of two entities from one Redis, which is checked; a turn begins once the other server is at rest.",
        f"features: beside a refresh, server and refresher share a core, at {RATE:,} requests/s; the refresher is "
        "stopped in every other window. Told is the upper bound of what it adds to the p99, of 20 pairs of windows.",
    ),
    steps=lambda session: 18 + 4 * session.pick(PAIRS, 1) + steps_of_costs(session),
    measure=measure,
    lines=lines,
)
