"""Nulls among the events: a training set leaves them out as serving does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tailrace as tr
from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines
from tailrace.pipeline import stream_views
from tailrace.testing import ManualClock, TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

PIPELINE = """
from datetime import datetime

import tailrace as tr


class Payment(tr.Request):
    payment_id: int
    customer_id: int
    time: datetime
    amount: float | None = None
    points: int | None = None
    channel: str | None = None


class Decision(tr.Response):
    score: float
    n: int
    mean_amount: float
    least: float
    sum_points: float
    channels: int
    points_seen: int
    without: int


payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id", source=tr.Parquet("payments.parquet"))


class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    n: int = tr.count(window="1h")
    mean_amount: float = tr.mean("amount", window="1h", default=-1.0)
    least: float = tr.min("amount", window="1h", default=-1.0)
    sum_points: float = tr.sum("points", window="1h")
    channels: int = tr.distinct("channel", window="1h")
    points_seen: int = tr.distinct("points", window="1h")
    without: int = tr.count(window="1h", where="channel == ''")


nulls = tr.Pipeline(
    name="nulls", request=Payment, response=Decision, features=[Activity], model=tr.Model("nulls"),
    budget=tr.Budget("50ms"), time="time",
)
"""
COLUMNS = ("n", "mean_amount", "least", "sum_points", "channels", "points_seen", "without")


def test_nulls_count_in_training_as_they_do_in_serving(tmp_path: Path) -> None:
    """A null amount is no amount of 0, and a null text is one value of none."""
    (tmp_path / "models").mkdir()
    linear(tmp_path / "models", "nulls", {f"Activity.{name}": 0.1 for name in COLUMNS})
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    start = datetime(2018, 8, 1, tzinfo=UTC)
    payments = [
        {"payment_id": number, "customer_id": 1, "time": start + timedelta(seconds=60 * number),
         "amount": amount, "points": points, "channel": channel}
        for number, (amount, points, channel) in enumerate([
            (None, None, None), (5.0, 3, "a"), (None, 4, ""), (7.0, None, "b"), (2.5, 3, None), (1.0, 1, "a"),
        ])
    ]  # fmt: skip
    table = pa.Table.from_pylist(payments)
    pq.write_table(table, tmp_path / "payments.parquet")
    (pipeline,) = load_pipelines(tmp_path / "pipeline.py")
    trained = tr.dataset(pipeline, table)
    with TestClient(pipeline, clock=ManualClock()) as client:
        (view,) = stream_views(pipeline)
        told = json.loads(json.dumps(payments, default=datetime.isoformat))
        client.push(view.spec.stream, *told)
        served = client.predict(told)
    for name in COLUMNS:
        assert trained[f"Activity.{name}"].to_pylist() == [answer[name] for answer in served], name
    assert [answer["mean_amount"] for answer in served][:4] == [-1.0, -1.0, 5.0, 5.0]
    assert [answer["sum_points"] for answer in served][:4] == [0.0, 0.0, 3.0, 7.0]
