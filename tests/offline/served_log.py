"""Logs of what was really served: batches of a client, told through a ring as a worker tells the observer of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
from payment_history import Payments

from tailrace.deadline import MonotonicClock
from tailrace.monitor.frames import FrameReader
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.ring import RingReader, RingWriter, make_ring_fd
from tailrace.monitor.tap import Tap
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient


class Tapped:
    """What an observer is told of a client's batches. Use it as a context manager."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._fd = make_ring_fd("test", 1 << 22)
        self._reader = RingReader(self._fd)
        self.tap = Tap(pipeline, "r1", RingWriter(self._fd, 0), MonotonicClock(), self, None)  # type: ignore[arg-type]

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        """Never: the test flushes."""
        return callback

    def told(self) -> list[Predictions]:
        """Return what was told since this was last asked."""
        self.tap.flush()
        frames = FrameReader()
        return [frames.read(data) for data in self._reader.read()]

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def serve_logged(payments: Payments) -> None:
    """Serve payments in order, with the first profile of each customer, and log them."""
    first = pc.equal(payments.profiles["as_of"], payments.profiles["as_of"][0])
    payments.profiles = payments.profiles.filter(first)
    payments.write()
    files = LogFiles(payments.folder / "log" / "scores")
    with TestClient.of_file(payments.file) as client, Tapped(client.plan.pipeline) as tapped:
        views: dict[str, Any] = {view.__name__: view for view in client.plan.pipeline.views}
        for row in payments.profiles.to_pylist():
            client.put(views["Profile"], row["customer_id"], **{name: row[name] for name in ("age", "city", "tier")})
        for payment, label in zip(payments.payments.to_pylist(), payments.labels.to_pylist(), strict=True):
            batch = client.run([msgspec.json.encode(payment)])
            tapped.tap.record(batch, 0)
            client.push(views["Frauds"].spec.stream, label)
        lines = [log_table(replace(found, request_ids=ids_of(found))) for found in tapped.told()]
        files.write(lines[:1])
        files.seal()
        files.write(lines[1:])
        files.seal()


def ids_of(found: Predictions) -> list[str]:
    """Return ids of requests by those of their payments."""
    return [f"order-{msgspec.json.decode(request)['transaction_id']}" for request in found.requests]


def log_of(pipeline: Pipeline, bodies: list[dict[str, Any]], root: Path) -> None:
    """Serve requests at once, and log them."""
    files = LogFiles(root / pipeline.name)
    with TestClient(pipeline) as client, Tapped(pipeline) as tapped:
        tapped.tap.record(client.run([msgspec.json.encode(body) for body in bodies]), 0)
        files.write([log_table(found) for found in tapped.told()])
        files.seal()
