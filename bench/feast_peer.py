"""The same features from Feast's own server in Python: how many times as many requests a second Tailrace answers.

Feast lives in a venv of its own, since its Redis extra and Tailrace want different versions of redis-py: it is made
once, under build/. Both servers have the same rows of the same entities in one Redis, and each answers all of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from answers import fetch_answer
from constant_model import write_constant_model
from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Session
from peer_venv import NoPeerError, clean_environment, make_venv
from peers import HERE, ROOT, WORKPLACE, Server, start_redis, start_tailrace
from ratios import bounds, measure_pairs
from streamed_world import WORLD, feature_names, run_tailrace
from tailrace.compile.loading import load_pipelines
from tailrace.loadtest.processes import Process, free_port, start, wait_ready

FEAST: Final = "feast[redis]>=0.63,<1"
VENV: Final = ROOT / "build" / "feast"
REPOSITORY: Final = WORKPLACE / "feast"
LOOKED_UP: Final = WORKPLACE / "looked-up"
FILE: Final = HERE / "looked_up" / "pipeline.py"
FILL_S_MAX: Final = 120.0
PAIRS: Final = 20
PAIR_S: Final = 0.5
FEAST_S: Final = 2.5
"""Longer than the other's turn: Feast answers 64 requests in 0.2 to 0.4 s, and two or three such rounds are no rate."""
STILL_S: Final = 0.2
"""Without CPU a server is at rest; what is ready to run gets a core sooner."""
IDLE_S_MAX: Final = 20.0
"""How long a server may take to work off what is under way when its turn ends."""
COMPARED: Final = 100
CLOSE: Final = 1e-9
SETTINGS: Final = """\
project: profiles
provider: local
registry:
  path: registry.db
  cache_ttl_seconds: 3600
online_store:
  type: redis
  connection_string: "{address}"
entity_key_serialization_version: 3
"""


def measure_feast(session: Session, payments: Path) -> Figures:
    """Return the ratio to Feast's server, of interleaved pairs; nothing, and a note, where none is to be had."""
    session.tell("features: Feast in a venv of its own")
    try:
        python = make_venv(VENV, FEAST)
    except NoPeerError as error:
        session.notes.append(
            f"[red]features: Feast cannot be installed here, so nothing is compared with it: {error}[/]"
        )
        return {}
    session.tell("features: filling Feast's online store")
    own, theirs = write_bodies(payments)
    with ExitStack() as stack:
        url = start_redis(stack)
        version = fill(python, url)
        feast = start_feast(stack, python)
        (pipeline,) = load_pipelines(FILE)
        write_constant_model(feature_names(pipeline), LOOKED_UP / "constant")
        run_tailrace("materialize", str(FILE), "--store", url)
        server = start_tailrace(stack, cores={SERVER_CORE}, file=FILE, pipeline="looked_up", store=url,
                                name="tailrace-looked-up")  # fmt: skip
        compare(server, feast, own, theirs)
        pairs = measure_pairs(
            session, "features: ratio_feast", session.pick(PAIRS, 1),
            partial(take_turn, session, server, own, PAIR_S), partial(take_turn, session, feast, theirs, FEAST_S),
        )  # fmt: skip
    ratios = [one / other for one, other in pairs]
    return {
        "feast_version": version,
        "feast_rps": round(median(other for _, other in pairs)),
        "looked_up_rps": round(median(one for one, _ in pairs)),
        "ratio_feast": round(median(ratios), 1),
        "ratio_feast_bounds": [round(each, 1) for each in bounds(ratios)],
    }


def take_turn(session: Session, server: Server, bodies: Path, seconds: float) -> float:
    """Return the requests a second of a turn, once the server has done with it: the next turn has the core alone."""
    rps = session.replay.plain(server.url, bodies, seconds).rps
    wait_idle(server.process)
    return rps


def wait_idle(process: Process, idle_s_max: float = IDLE_S_MAX) -> None:
    """Wait until a server uses no CPU: the load leaves when its time is over, and its last requests are worked off.

    Raises BenchError where it does not come to rest.
    """
    end_s, before_s = time.monotonic() + idle_s_max, process.cpu_s()
    while True:
        time.sleep(STILL_S)
        now_s = process.cpu_s()
        if now_s == before_s:
            return
        if time.monotonic() > end_s:
            raise BenchError(f"features: {process.name} is still at work {idle_s_max:g} s after its turn")
        before_s = now_s


def write_bodies(payments: Path) -> tuple[Path, Path]:
    """Write what Tailrace and what Feast is asked, of the customers and terminals of these payments, in their order."""
    LOOKED_UP.mkdir(parents=True, exist_ok=True)
    asked = [
        {name: payment[name] for name in ("customer_id", "terminal_id")}
        for payment in map(json.loads, payments.read_bytes().splitlines())
    ]
    own, theirs = LOOKED_UP / "bodies.jsonl", LOOKED_UP / "feast-bodies.jsonl"
    own.write_text("".join(f"{json.dumps(each)}\n" for each in asked))
    theirs.write_text("".join(f"{json.dumps(feast_body(each))}\n" for each in asked))
    return own, theirs


def feast_body(asked: dict[str, int]) -> dict[str, Any]:
    """Return the request for one row of the feature service."""
    return {"feature_service": "profiles", "entities": {name: [value] for name, value in asked.items()}}


def fill(python: Path, url: str) -> str:
    """Declare the views and fill Feast's online store with the rows that Tailrace has; return Feast's version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(REPOSITORY, ignore_errors=True)
    REPOSITORY.mkdir(parents=True)
    address = url.removeprefix("redis://").partition("/")[0]
    (REPOSITORY / "feature_store.yaml").write_text(SETTINGS.format(address=address))
    for name in ("customers", "terminals"):
        table = pq.read_table(WORLD / f"{name}.parquet")
        true_since = pa.array([datetime.now(UTC) - timedelta(hours=1)] * len(table), pa.timestamp("us", "UTC"))
        pq.write_table(table.append_column("event_timestamp", true_since), REPOSITORY / f"{name}.parquet")
    script = HERE / "feast_repository" / "fill.py"
    done = subprocess.run([str(python), str(script), str(REPOSITORY)], capture_output=True, text=True, check=False,
                          timeout=FILL_S_MAX, env=clean_environment())  # fmt: skip
    if done.returncode:
        raise BenchError(f"{script}:\n{done.stdout[-1_000:]}{done.stderr[-3_000:]}")
    return done.stdout.strip().splitlines()[-1]


def start_feast(stack: ExitStack, python: Path) -> Server:
    """Start Feast's server in Python with one worker, as its documentation says for production on one core.

    Its default starts a worker anew after 1,000 requests, which takes it seconds: here it never does.
    """
    port = free_port()
    command = [str(python.with_name("feast")), "--chdir", str(REPOSITORY), "serve", "--host", "127.0.0.1",
               "--port", str(port), "--workers", "1", "--worker-connections", "1000", "--max-requests", "0",
               "--registry_ttl_sec", "3600", "--no-access-log"]  # fmt: skip
    process = start(stack, "feast", command, WORKPLACE / "feast.log", cores={SERVER_CORE}, env={"FEAST_USAGE": "False"})
    ready_s = wait_ready(process, f"http://127.0.0.1:{port}/health")
    return Server(process, f"http://127.0.0.1:{port}/get-online-features", ready_s)


def compare(server: Server, feast: Server, own: Path, theirs: Path) -> None:
    """Raise BenchError unless both answer the same values: a faster wrong answer is no figure."""
    bodies = list(zip(own.read_bytes().splitlines(), theirs.read_bytes().splitlines(), strict=True))
    for body, feast_body in bodies[:: max(1, len(bodies) // COMPARED)]:
        told = json.loads(fetch_answer(server.url, body))
        expected = feast_values(json.loads(fetch_answer(feast.url, feast_body)))
        del told["score"]
        if told.keys() != expected.keys() or any(abs(told[name] - expected[name]) > CLOSE for name in told):
            raise BenchError(f"features: Tailrace answers {told}, Feast {expected}, to {body.decode()}")


def feast_values(answer: Any) -> dict[str, float]:
    """Return the features of the one row of an answer by their names. Raises BenchError for one that has no value."""
    names = answer["metadata"]["feature_names"]
    values = {name: found["values"][0] for name, found in zip(names, answer["results"], strict=True)
              if not name.endswith("_id")}  # fmt: skip
    if missing := [name for name, value in values.items() if value is None]:
        raise BenchError(f"features: Feast has no value of {', '.join(missing)}")
    return values
