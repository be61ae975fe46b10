"""Payments and labels as a pipeline of the tests scores them, with their history in files and their truth in SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines
from tailrace.pipeline import Pipeline

START = datetime(2018, 4, 1, tzinfo=UTC)
START_S = int(START.timestamp())
WINDOWS_S = {"5m": 300, "1h": 3_600, "1d": 86_400}

PIPELINE = """
from datetime import datetime

import numpy as np

import tailrace as tr


class Payment(tr.Request):
    transaction_id: {id}
    customer_id: {key}
    terminal_id: int
    amount: float
    time: datetime
    channel: str = "web"


class Label(tr.Request):
    transaction_id: {id}
    terminal_id: int
    is_fraud: int
    time: datetime


class Decision(tr.Response):
    score: float


payments = tr.Stream(
    "payments", schema=Payment, time="time", id="transaction_id",
    source=tr.Parquet("payments.parquet", columns={{"amount": "TX_AMOUNT"}}),
)
labels = tr.Stream(
    "labels", schema=Label, time="time", id="transaction_id", lateness="2d", source=tr.Parquet("labels.parquet"),
)


class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count_5m: int = tr.count(window="5m")
    mean_5m: float = tr.mean("amount", window="5m", decimals=2, default=-1.0)
    count_1h: int = tr.count(window="1h")
    mean_1h: float = tr.mean("amount", window="1h")
    count_1d: int = tr.count(window="1d", include_current=True)
    large_1d: int = tr.count(window="1d", where="amount > 50 and channel == 'web'")
    largest_1d: float = tr.max("amount", window="1d")
    spread_1d: float = tr.stddev("amount", window="1d")
    before: float = tr.last("amount", window=tr.LIFETIME)
    since: float = tr.since_last()
    terminals_1d: int = tr.distinct("terminal_id", window="1d")
    own_terminals_1d: int = tr.distinct("terminal_id", window="1d", include_current=True)


class Frauds(tr.StreamFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    stream = labels
    share_1d: float = tr.mean("is_fraud", window="1d", delay="1d", default=-1.0)


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profile.parquet", time="as_of")
    age: float = -1.0
    city: str = "?"
    tier: int = -1


@tr.on_demand
def ratio(request: Payment, activity: Activity) -> np.ndarray:
    return request.amount / np.maximum(activity.mean_1h, 1.0)


scores = tr.Pipeline(
    name="scores",
    request=Payment,
    response=Decision,
    features=[ratio, Payment.amount, Activity, Frauds.share_1d, Profile.age, Profile.tier],
    model=tr.Model("scores"),
    budget=tr.Budget("10s"),
    time="time",
    record_requests=True,
)
"""

FEATURES = (
    "ratio", "amount", "Activity.count_5m", "Activity.mean_5m", "Activity.count_1h", "Activity.mean_1h",
    "Activity.count_1d", "Activity.large_1d", "Activity.largest_1d", "Activity.spread_1d", "Activity.before",
    "Activity.since", "Activity.terminals_1d", "Activity.own_terminals_1d", "Frauds.share_1d",
    "Profile.age", "Profile.tier",
)  # fmt: skip


class Payments:
    """A folder with a pipeline, its model, and the histories that its views look back on.

    payments, labels, profiles: the tables. The payments are in the order of (time, id); many share a second.
    """

    def __init__(self, folder: Path, *, rows: int = 1_200, seed: int = 1, text: bool = False, days: int = 3) -> None:
        self.folder = folder
        random = np.random.default_rng(seed)
        key = "str" if text else "int"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "pipeline.py"
        self.file.write_text(PIPELINE.format(id=key, key=key))
        (folder / "models").mkdir(exist_ok=True)
        if not (folder / "models" / "scores").exists():
            linear(folder / "models", "scores", dict.fromkeys(FEATURES, 0.001))
        at = np.sort(random.integers(0, days * 1_440, rows)) * 60
        ids = random.permutation(rows)
        order = np.lexsort((ids.astype(str), at) if text else (ids, at))
        at, ids = at[order], ids[order]
        customers, terminals = random.integers(0, 12, rows), random.integers(0, 5, rows)
        name = (lambda values: [f"c-{each}" for each in values]) if text else (lambda values: values)
        self.payments = pa.table({
            "transaction_id": [str(each) for each in ids] if text else ids,
            "customer_id": name(customers),
            "terminal_id": terminals,
            "amount": np.round(random.lognormal(3, 1, rows), 2),
            "time": pa.array((START_S + at) * 1_000_000, pa.timestamp("us", tz="UTC")),
            "channel": random.choice(["web", "shop"], rows),
        })  # fmt: skip
        self.labels = pa.table({
            "transaction_id": self.payments["transaction_id"],
            "terminal_id": self.payments["terminal_id"],
            "is_fraud": random.integers(0, 2, rows),
            "time": self.payments["time"],
        })  # fmt: skip
        midnights = (START_S + np.tile(np.arange(days), 10) * 86_400) * 1_000_000
        self.profiles = pa.table({
            "customer_id": name(np.repeat(np.arange(10), days)),
            "as_of": pa.array(midnights, pa.timestamp("us", tz="UTC")),
            "age": random.random(10 * days),
            "city": [None if each % 7 == 0 else f"city {each}" for each in range(10 * days)],
            "tier": pa.array(random.integers(0, 5, 10 * days), mask=np.arange(10 * days) % 5 == 0),
        })  # fmt: skip
        self.write()

    def write(self) -> None:
        """Write the histories, shuffled: sources are in no order."""
        random = np.random.default_rng(2)
        renamed = self.payments.rename_columns({"amount": "TX_AMOUNT"})
        for name, table in (("payments", renamed), ("labels", self.labels), ("profile", self.profiles)):
            pq.write_table(table.take(random.permutation(table.num_rows)), self.folder / f"{name}.parquet")

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline."""
        (found,) = load_pipelines(self.file)
        return found

    def labelled(self) -> pa.Table:
        """Return the payments as labelled requests, in no order, with a column that goes along."""
        labels = self.labels["is_fraud"]
        table = self.payments.append_column("label", labels)
        return table.take(np.random.default_rng(3).permutation(table.num_rows))

    def truth(self, requests: pa.Table) -> dict[str, list[Any]]:
        """Return every feature by SQL that knows nothing of Tailrace, in the order of the requests."""
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        tables = {
            "requests": requests.append_column("place", pa.array(range(requests.num_rows))),
            "payments": self.payments,
            "labels": self.labels,
            "profiles": self.profiles,
        }
        for name, table in tables.items():
            connection.register(name, table)
        found: dict[str, list[Any]] = {}
        for query in (_windows_query(), _frauds_query(), _profile_query()):
            result = connection.sql(query).to_arrow_table()
            found |= {name: result[name].to_pylist() for name in result.column_names if name != "place"}
        connection.close()
        found["amount"] = requests["amount"].to_pylist()
        found["ratio"] = [
            amount / max(mean, 1.0) for amount, mean in zip(found["amount"], found["Activity.mean_1h"], strict=True)
        ]
        return found


def _windows_query() -> str:
    """Return the read rule of `Activity` in SQL: floor(now - W, hop) <= t < now by (time, id)."""

    def within(window_s: int) -> str:
        hop = max(1, -(-window_s // 60))
        return f"epoch(e.time) >= floor((epoch(r.time) - {window_s}) / {hop}) * {hop}"

    week = {name: within(seconds) for name, seconds in WINDOWS_S.items()}
    return f"""
        SELECT r.place,
          count(e.time) FILTER ({week["5m"]}) AS "Activity.count_5m",
          coalesce(sum(e.amount::DECIMAL(18, 2)) FILTER ({week["5m"]})::DOUBLE
                   / nullif(count(e.time) FILTER ({week["5m"]}), 0), -1) AS "Activity.mean_5m",
          count(e.time) FILTER ({week["1h"]}) AS "Activity.count_1h",
          coalesce(avg(e.amount) FILTER ({week["1h"]}), 0) AS "Activity.mean_1h",
          1 + count(e.time) FILTER ({week["1d"]}) AS "Activity.count_1d",
          count(e.time) FILTER ({week["1d"]} AND e.amount > 50 AND e.channel = 'web') AS "Activity.large_1d",
          coalesce(max(e.amount) FILTER ({week["1d"]}), 0) AS "Activity.largest_1d",
          coalesce(stddev_samp(e.amount) FILTER ({week["1d"]}), 0) AS "Activity.spread_1d",
          coalesce(arg_max(e.amount, (e.time, e.transaction_id)), 0) AS "Activity.before",
          coalesce(epoch(any_value(r.time)) - epoch(max(e.time)), -1) AS "Activity.since",
          count(DISTINCT e.terminal_id) FILTER ({week["1d"]}) AS "Activity.terminals_1d",
          len(list_distinct(list_append(
            coalesce(list(e.terminal_id) FILTER ({week["1d"]}), []), any_value(r.terminal_id)
          ))) AS "Activity.own_terminals_1d"
        FROM requests r LEFT JOIN payments e
          ON e.customer_id = r.customer_id AND (e.time, e.transaction_id) < (r.time, r.transaction_id)
        GROUP BY r.place ORDER BY r.place
    """


def _frauds_query() -> str:
    """Return the share of frauds among the labels of a terminal of the day before yesterday's end."""
    day, hop = 86_400, 1_440
    return f"""
        SELECT r.place, coalesce(avg(e.is_fraud), -1) AS "Frauds.share_1d"
        FROM requests r LEFT JOIN labels e ON e.terminal_id = r.terminal_id
          AND epoch(e.time) < epoch(r.time) - {day}
          AND epoch(e.time) >= floor((epoch(r.time) - 2 * {day}) / {hop}) * {hop}
        GROUP BY r.place ORDER BY r.place
    """


def _profile_query() -> str:
    """Return the latest profile that is not after the request."""
    return """
        SELECT r.place, coalesce(p.age, -1) AS "Profile.age", coalesce(p.tier, -1) AS "Profile.tier"
        FROM requests r ASOF LEFT JOIN profiles p ON r.customer_id = p.customer_id AND r.time >= p.as_of
        ORDER BY r.place
    """
