"""A stream view that has changed is not served before its history is in: its windows would be empty, unseen."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from serving import Server, serving, start_serve, wait_for

from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S
from tailrace.features.stores.opening import open_writer, resolve_url
from tailrace.ingest.registration import note_use

LAPSE = "a view lacks events that were counted into another definition of it alone"
TAILRACE = str(Path(sys.executable).with_name("tailrace"))
PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    payment_id: int
    customer_id: int
    time: float

class Answer(tr.Response):
    count: int

payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id", source=tr.Parquet("payments.parquet"))

class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count: int = tr.count(window="1h")

pay = tr.Pipeline(name="pay", request=Payment, response=Answer, features=[Activity], model=tr.Model("pay"),
                  budget=tr.Budget("1s"), time="time", record_requests=True)
"""


def payment(number: int) -> dict[str, Any]:
    """Return a payment of some minutes ago."""
    return {"payment_id": number, "customer_id": 7, "time": time.time() // 60 * 60 - 1_200 + number}


def count(server: Server, number: int) -> int:
    """Return how many payments a payment finds before it, once it is counted itself."""
    answer = wait_for(lambda: _whole(server, number), 20)
    return int(answer.body["count"])


def _whole(server: Server, number: int) -> Any:
    answer = server.ask("pay", payment(number), {"X-Trace": "1"})
    return answer if answer.status == 200 and not answer.degraded else None


def test_changed_windows_are_served_once_their_history_is_in(tmp_path: Path) -> None:
    """The server says so and what to do; after the backfill the windows have what the view before has counted."""
    folder = tmp_path / "app"
    (folder / "models").mkdir(parents=True)
    file = folder / "pipeline.py"
    file.write_text(PIPELINE)
    linear(folder / "models", "pay", {"Activity.count": 0.001})
    with serving(tmp_path / "log-1", file) as server:
        assert [count(server, number) for number in range(5)] == [0, 1, 2, 3, 4]
    file.write_text(PIPELINE.replace('window="1h"', 'window="2h"'))
    refused = start_serve(tmp_path / "log-2", file)
    assert refused.process.wait(60) == 1
    assert "lacks its history" in refused.log.read_text()
    assert "tailrace backfill" in refused.log.read_text()
    pq.write_table(pa.Table.from_pylist([payment(number) for number in range(5)]), folder / "payments.parquet")
    told = subprocess.run([TAILRACE, "backfill", str(file)], capture_output=True, text=True, check=True)
    assert "5 events of 1 entities" in told.stdout
    with serving(tmp_path / "log-3", file) as server:
        assert [count(server, number) for number in range(5, 8)] == [5, 6, 7]
        assert not server.events(LAPSE)
    file.write_text(PIPELINE)
    set_used(folder, file, seconds=-7_200)
    with serving(tmp_path / "log-4", file) as server:
        (told,) = server.events(LAPSE)
    assert told["view"] == "Activity"


def set_used(folder: Path, file: Path, *, seconds: int) -> None:
    """Note that the definition in a file was last used so long ago."""
    (pipeline,) = load_pipelines(file)
    with closing(open_writer(resolve_url(pipeline.store, folder))) as writer:
        note_use(pipeline.views[0].spec, writer, time.time_ns() + seconds * NS_PER_S)
