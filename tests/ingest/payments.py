"""Payments of the activity pipeline as events: made up, sent by `tailrace ingest`, and counted in its store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tailrace.compile.loading import load_pipelines
from tailrace.features.stores.opening import open_writer
from tailrace.offline.inspection import inspect_entity

COMMAND = (str(Path(sys.executable).with_name("tailrace")), "ingest")
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
END_S_MAX = 60.0


def payment(number: int, customer: int = 7) -> dict[str, Any]:
    """Return a payment of one unit; each is a second after the one before."""
    moment = (BEGIN + timedelta(seconds=number)).isoformat()
    return {"transaction_id": number, "customer_id": customer, "terminal_id": 1, "amount": 1.0, "time": moment}


def lines(numbers: Iterable[int]) -> list[bytes]:
    """Return payments as JSON."""
    return [json.dumps(payment(number)).encode() for number in numbers]


@contextmanager
def ingesting(pipelines_dir: Path, store: str, origin: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `tailrace ingest` until it is stopped."""
    command = [*COMMAND, str(pipelines_dir / "activity.py"), "--store", store, "--from", origin, "--json",
               "--stream", "payments", *options]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ingest(pipelines_dir: Path, store: str, origin: str, *options: str) -> dict[str, Any]:
    """Run `tailrace ingest` to its end; return its report."""
    with ingesting(pipelines_dir, store, origin, *options) as process:
        out, errors = process.communicate(timeout=END_S_MAX)
    assert out, errors.decode()
    return {**json.loads(out), "code": process.returncode}


def counted(pipelines_dir: Path, store: str, customer: int = 7) -> int:
    """Return how many payments a customer has had in 30 days, as the store knows it."""
    (pipeline,) = load_pipelines(pipelines_dir / "activity.py")
    specs = [view.spec for view in pipeline.views if view.__name__ == "CustomerActivity"]
    writer = open_writer(store)
    try:
        at_ns = int((BEGIN + timedelta(days=1)).timestamp()) * 10**9
        (view,) = inspect_entity(specs, customer, writer, at_ns)
    finally:
        writer.close()
    return int(view.values["count_30d"])
