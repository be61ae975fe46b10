"""What Tailrace adds to a call of a model that a real MLServer computes: one call at a time, both ways in turn."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Session
from peer_venv import NoPeerError, clean_environment, make_venv
from peers import HERE, WORKPLACE, start_tailrace
from ratios import bounds, measure_pairs
from tailrace.loadtest.processes import free_ports, start, wait_ready

REQUIREMENTS: Final = ("mlserver>=1.7,<2", "mlserver-sklearn>=1.7,<2")
FEATURES: Final = 24
CALLS: Final = 100
"""Of one side of a pair."""
WARM_CALLS: Final = 10
PAIRS: Final = 20

_TRAIN: Final = f"""
import sys, joblib, numpy as np
from sklearn.linear_model import LinearRegression
x = np.random.default_rng(0).normal(size=(500, {FEATURES}))
joblib.dump(LinearRegression().fit(x, x[:, 0]), sys.argv[1])
"""


def measure_remote(session: Session) -> Figures:
    """Return the medians of both sides, and of what Tailrace adds over pairs; nothing where there is no MLServer."""
    with ExitStack() as stack:
        try:
            model_url = start_mlserver(stack)
        except NoPeerError as error:
            session.notes.append(f"inference: MLServer is not installed: {error}")
            return {}
        os.environ["REMOTE_MODEL_URL"] = model_url
        # All on one core: with one call at a time only one of them is ever at work, and nothing waits for another core.
        tailrace = start_tailrace(stack, cores={LOAD_CORE}, name="tailrace-remote",
                                  file=HERE / "remote" / "pipeline.py", pipeline="remote")  # fmt: skip
        row = np.random.default_rng(1).normal(size=FEATURES).astype(np.float32).tolist()
        straight = Caller(model_url + "/infer", oip_body(row))
        through = Caller(tailrace.url, json.dumps({f"f{index}": value for index, value in enumerate(row)}).encode())
        os.sched_setaffinity(0, {LOAD_CORE})
        try:
            agree(straight, through)
            pairs = measure_pairs(
                session, "remote model", session.pick(PAIRS, 3), timed(through), timed(straight)
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, {SERVER_CORE, LOAD_CORE})
            straight.close()
            through.close()
    added = [through_ms - straight_ms for through_ms, straight_ms in pairs]
    return {
        "remote_added_ms": round(median(added), 3),
        "remote_added_ms_bounds": [round(bound, 3) for bound in bounds(added)],
        "remote_straight_ms": round(median(straight_ms for _, straight_ms in pairs), 3),
        "remote_through_ms": round(median(through_ms for through_ms, _ in pairs), 3),
    }


def remote_lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    return [
        Line("a call of MLServer, straight", figures.get("remote_straight_ms"), unit=" ms"),
        Line("what Tailrace adds to it", figures.get("remote_added_ms"), 1.0, 0.3, " ms"),
    ]


def start_mlserver(stack: ExitStack) -> str:
    """Start MLServer on a model of scikit-learn's, on the load's core; return the model's URL."""
    python = make_venv(WORKPLACE / "mlserver-venv", *REQUIREMENTS)
    folder = WORKPLACE / "mlserver"
    (folder / "fraud").mkdir(parents=True, exist_ok=True)
    model = folder / "fraud" / "model.joblib"
    subprocess.run([str(python), "-c", _TRAIN, str(model)], check=True, env=clean_environment(), timeout=120)
    http, grpc, metrics = free_ports(3)
    write_json(folder / "settings.json", {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc,
                                          "metrics_port": metrics, "parallel_workers": 0, "debug": False})  # fmt: skip
    write_json(
        folder / "fraud" / "model-settings.json",
        {"name": "fraud", "implementation": "mlserver_sklearn.SKLearnModel",
         "parameters": {"uri": "./model.joblib", "version": "1"},
         "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}],
         "outputs": [{"name": "predict", "datatype": "FP32", "shape": [-1, 1]}]},
    )  # fmt: skip
    command = [str(python.with_name("mlserver")), "start", str(folder)]
    process = start(stack, "mlserver", command, WORKPLACE / "mlserver.log", cores={LOAD_CORE})
    url = f"http://127.0.0.1:{http}/v2/models/fraud/versions/1"
    wait_ready(process, f"{url}/ready", 60.0)
    return url


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value))


def oip_body(row: list[float]) -> bytes:
    """Return the request that Tailrace makes of a row."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, FEATURES], "data": row}
    return json.dumps({"id": "1", "inputs": [tensor], "outputs": [{"name": "predict"}]}).encode()


class Caller:
    """One keep-alive connection that sends the same request again and again."""

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        head = (f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
        self._request = head.encode() + body
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self) -> bytes:
        """Return the body of an answer. Raises BenchError for one of another status than 200."""
        self._socket.sendall(self._request)
        found = b""
        while (end := found.find(b"\r\n\r\n")) < 0:
            found += self._socket.recv(1 << 16)
        head = found[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise BenchError(f"a call failed: {found[:300]!r}")
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(found) < end + 4 + length:
            found += self._socket.recv(1 << 16)
        return found[end + 4 :]

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def agree(straight: Caller, through: Caller) -> None:
    """Raise BenchError unless both ways give the same score."""
    expected = json.loads(straight.call())["outputs"][0]["data"][0]
    found = json.loads(through.call())["score"]
    if found != expected:
        raise BenchError(f"the score is {expected} straight, and {found} through Tailrace")


def timed(caller: Caller) -> Callable[[], float]:
    """Return what makes some calls, one after the other, and returns the median of their times in ms."""

    def run() -> float:
        for _ in range(WARM_CALLS):
            caller.call()
        times_ns = []
        for _ in range(CALLS):
            began_ns = time.perf_counter_ns()
            caller.call()
            times_ns.append(time.perf_counter_ns() - began_ns)
        return median(times_ns) / 1e6

    return run
