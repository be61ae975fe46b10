"""A stream view that has changed is not served before its history is in: its windows would be empty, unseen."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from serving import Server, serving, start_serve, wait_for

from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines
from tailrace.features.catalogue import read_record
from tailrace.features.stores.opening import open_writer, resolve_url
from tailrace.ingest.use import LAPSED

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


def definitions(file: Path) -> int:
    """Return how many definitions of the view the store of a file knows."""
    (pipeline,) = load_pipelines(file)
    with closing(open_writer(resolve_url(pipeline.store, pipeline.base_dir))) as writer:
        record = read_record(writer.get, "Activity")
    return 0 if record is None else len(record.schemas)


def test_view_changes_beside_a_server_that_counts_on(tmp_path: Path) -> None:
    """A refused start cuts nothing off. Set back soon after, the old file's windows lack what came: the log says so."""
    folder = tmp_path / "app"
    (folder / "models").mkdir(parents=True)
    file = folder / "pipeline.py"
    file.write_text(PIPELINE)
    linear(folder / "models", "pay", {"Activity.count": 0.001})
    with serving(tmp_path / "log-1", file) as old:
        assert [count(old, number) for number in range(5)] == [0, 1, 2, 3, 4]
        file.write_text(PIPELINE.replace('window="1h"', 'window="2h"'))
        refused = start_serve(tmp_path / "log-2", file)
        assert refused.process.wait(60) == 1
        assert "lacks its history" in refused.log.read_text()
        assert "tailrace backfill" in refused.log.read_text()
        assert definitions(file) == 1
        assert [count(old, number) for number in range(5, 9)] == [5, 6, 7, 8]
        pq.write_table(pa.Table.from_pylist([payment(number) for number in range(9)]), folder / "payments.parquet")
        told = subprocess.run([TAILRACE, "backfill", str(file)], capture_output=True, text=True, check=True)
        assert "9 events of 1 entities" in told.stdout
        assert "behind" not in told.stdout
        with serving(tmp_path / "log-3", file) as new:
            assert old.end() == 0
            ended_s = time.time()
            assert [count(new, number) for number in range(9, 12)] == [9, 10, 11]
            assert not new.events(LAPSED)
    file.write_text(PIPELINE)
    with serving(tmp_path / "log-4", file) as back:
        (lapse,) = back.events(LAPSED)
    assert lapse["view"] == "Activity"
    since, until = (datetime.fromisoformat(each).timestamp() for each in lapse["span"].split(" to "))
    assert ended_s - 10 < since <= ended_s
    assert ended_s - 1 < until < time.time()
