"""Requests that are events, as the benchmark sends them: none is refused, and those that are not counted are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import lmdb
import numpy as np
import pytest
import redis

import recorded_requests
from event_features import line_of_load
from features.redis_server import RedisServer
from machine import BenchError
from part import Session
from peers import Server
from recorded_requests import count_fates, fill, payments, summarize
from tailrace.deadline import Budget
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.record import make_record
from tailrace.loadtest.report import LoadReport, build_report
from tailrace.monitor.exposition import expose
from tailrace.monitor.layout import PipelineShape, ingester_layout, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import FATES
from tailrace.monitor.recorder import EventRecorder
from tailrace.monitor.shared import MetricBlock


def test_payments_are_new_and_none_is_from_the_future(tmp_path: Path) -> None:
    """Ids never come again, also in the next load; times rise as the payments are sent, and all are of today."""
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text("".join(f'{{"transaction_id":"7","customer_id":{who},"time":"2020-01-01"}}\n' for who in (4, 5)))
    began = datetime.now(UTC)
    sent = [json.loads(body) for body in (*payments(bodies, 10, 0.5), *payments(bodies, 10, 0.5))]
    ended = datetime.now(UTC)
    assert [each["customer_id"] for each in sent] == [4, 5, 4, 5, 4] * 2
    assert len({each["transaction_id"] for each in sent}) == 10
    for place, each in enumerate(sent):
        due = timedelta(seconds=place % 5 / 10)
        assert began <= datetime.fromisoformat(each["time"]) - due <= ended


def report_of(statuses: list[int]) -> LoadReport:
    """Return the report of shots that took a millisecond each."""
    record = make_record(np.arange(1, len(statuses) + 1, dtype=np.int64) * 1_000_000)
    record.statuses[:] = statuses
    record.sent_ns[:] = record.intended_ns
    record.answered_ns[:] = record.intended_ns + 1_000_000
    return build_report(LoadPlan("http://127.0.0.1:1/", rate=1_000, duration_s=len(statuses) / 1e3), record, 0)


def test_figures_tell_the_share_that_is_lost() -> None:
    """Of the good answers; what was not answered well is noted."""
    session = Session()
    told = summarize(session, "on LMDB", report_of([200] * 8 + [503] * 2), {"counted": 6, "lost": 2, "late": 0})
    assert told == {"rate": 1_000, "p50_ms": 1.0, "p99_ms": 1.0, "lost_share": 0.25}
    assert session.notes == ["features: on LMDB: 2 of 10 were not answered well."]
    line = line_of_load("LMDB", told)
    assert (line.name, line.value) == ("recorded requests at 1,000/s, LMDB: p50, p99, lost", "1.00 · 1.00 ms · 25.00%")


def test_payments_that_are_refused_are_no_figure() -> None:
    """An event that is refused is no work; nor is there a figure where nothing was answered."""
    with pytest.raises(BenchError, match=r"refused as events: \{'late': 3\}"):
        summarize(Session(), "on LMDB", report_of([200]), {"late": 3, "duplicate": 0})
    with pytest.raises(BenchError, match="no answer was good"):
        summarize(Session(), "on LMDB", report_of([503]), {})


@pytest.fixture
def admin(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Yield what looks like a server whose admin port answers with a page of metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(request.param)))
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield Server(cast(Any, None), "", 0.0, f"http://127.0.0.1:{http.server_port}")
        http.shutdown()
        thread.join()


def page() -> bytes:
    """Return a page as a server writes it."""
    worker = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"))]))
    ingester = MetricBlock.create(ingester_layout(["payments"]))
    worker.cells[worker.find("tailrace_degraded_total", "fraud", "event_lost").offset] = 3
    EventRecorder(ingester).count("payments", np.full(40, FATES.index("counted"), np.uint8))
    return expose(merge_blocks([worker, ingester]), {})


@pytest.mark.parametrize("admin", [page()], indirect=True)
def test_fates_are_read_from_the_page_that_a_server_writes(admin: Server) -> None:
    """By their names; what was never counted is 0."""
    fates = count_fates(admin)
    assert (fates["counted"], fates["lost"]) == (40, 3)
    assert [fates[name] for name in recorded_requests.REFUSED] == [0, 0, 0]


@pytest.mark.parametrize("admin", [b"tailrace_up 1\n"], indirect=True)
def test_page_without_events_is_told(admin: Server) -> None:
    """Nothing lost would be said of a server that counts nothing."""
    with pytest.raises(BenchError, match="nothing of events"):
        count_fates(admin)


def test_redis_has_the_rows_of_the_copy(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, byte for byte."""
    monkeypatch.setattr(recorded_requests, "FOLDER", tmp_path)
    rows = {b"{customer:%d}:row" % place: b"\0%d" % place for place in range(1_001)}
    with lmdb.open(str(tmp_path), map_size=1 << 22) as store, store.begin(write=True) as writing:
        for key, value in rows.items():
            writing.put(key, value)
    fill(redis_server.url)
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        assert client.mget(list(rows)) == list(rows.values())
