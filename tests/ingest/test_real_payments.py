"""The truth on real data: what is served of the Handbook's payments is what independent SQL says, event by event.

The SQL knows nothing of tiles or states: a join of each payment with all earlier ones of its customer or terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tailrace.compile.loading import load_pipelines
from tailrace.features.updates import Fate
from tailrace.pipeline import Pipeline, stream_views
from tailrace.testing import ManualClock, TestClient

EVENTS = 20_000
DAY_S = 86_400
WINDOWS = {"5m": 300, "1h": 3_600, "1d": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
EXACT = [*(f"count_{window}" for window in WINDOWS), "spent_1d", "seen_1d", "seen_7d"]
CLOSE = [*(f"mean_{window}" for window in WINDOWS), "fraud_share_7d"]

Payments = list[dict[str, Any]]


class Case(NamedTuple):
    """Which payments, in SQL, and the lateness: a batch is within half of it, and a payment comes within a third."""

    chosen: str
    lateness_s: int


CASES = {
    "all customers of two days": Case("true", 600),
    "a hundred customers of three months": Case("CUSTOMER_ID % 50 = 7", 6 * 3_600),
}


def hop_s(length_s: int) -> int:
    """Return a sixtieth of a window, in whole seconds."""
    return max(1, -(-length_s // 60))


def joined(key: str, length_s: int, *, delay_s: int = 0, breaks_ties: bool = True) -> str:
    """Return the read rule in SQL: count, cents and frauds of each payment's window. Times are whole seconds."""
    hop, now = hop_s(length_s), f"(t.unix_s - {delay_s})"
    before = f"(u.unix_s < {now} OR (u.unix_s = {now} AND u.id < t.id))" if breaks_ties else f"u.unix_s < {now}"
    return f"""
        SELECT t.id, count(u.id) AS n, coalesce(sum(u.cents), 0)::BIGINT AS cents,
               coalesce(sum(u.fraud), 0)::BIGINT AS frauds
        FROM payments t LEFT JOIN payments u ON u.{key} = t.{key}
          AND floor(({now} - {length_s}) / {hop}) * {hop} <= u.unix_s AND {before}
        GROUP BY t.id ORDER BY any_value(t.unix_s), t.id
    """


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Return a choice of payments."""
    return CASES[request.param]


@pytest.fixture(scope="module")
def payments(case: Case, shared_data: Path) -> Payments:
    """Return some 20,000 payments in the order of time and id, or skip where the file is absent."""
    connection = duckdb.connect()
    rows = connection.execute(
        f"""SELECT TRANSACTION_ID::BIGINT, epoch(TX_DATETIME)::BIGINT, CUSTOMER_ID::BIGINT, TERMINAL_ID::BIGINT,
                   round(TX_AMOUNT * 100)::BIGINT, TX_FRAUD::BIGINT
            FROM read_parquet(?) WHERE {case.chosen} ORDER BY TX_DATETIME, TRANSACTION_ID LIMIT {EVENTS}""",
        [str(shared_data)],
    ).fetchall()
    assert len(rows) > 0.9 * EVENTS
    names = ("id", "at", "customer", "terminal", "cents", "fraud")
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def truth(payments: Payments) -> dict[str, list[float]]:
    """Return every feature of every payment by SQL."""
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE payments (id BIGINT, unix_s BIGINT, customer BIGINT, terminal BIGINT, cents BIGINT, fraud BIGINT)"
    )
    columns = {name: np.array([payment[name] for payment in payments]) for name in payments[0]}
    connection.register("given", pa.table(columns))
    connection.execute('INSERT INTO payments SELECT id, "at", customer, terminal, cents, fraud FROM given')
    found: dict[str, list[float]] = {}
    for window, length_s in WINDOWS.items():
        rows = connection.execute(joined("customer", length_s)).fetchall()
        found[f"count_{window}"] = [n for _, n, _, _ in rows]
        found[f"mean_{window}"] = [cents / 100 / n if n else 0.0 for _, n, cents, _ in rows]
        if window == "1d":
            own = [payment["cents"] for payment in payments]
            found["spent_1d"] = [(cents + mine) / 100 for (_, _, cents, _), mine in zip(rows, own, strict=True)]
    for window in ("1d", "7d"):
        found[f"seen_{window}"] = [
            n for _, n, _, _ in connection.execute(joined("terminal", WINDOWS[window])).fetchall()
        ]
    delayed = joined("terminal", 7 * DAY_S, delay_s=7 * DAY_S, breaks_ties=False)
    found["fraud_share_7d"] = [frauds / n if n else 0.0 for _, n, _, frauds in connection.execute(delayed).fetchall()]
    return found


@pytest.fixture(scope="module")
def pipeline(case: Case, pipelines_dir: Path) -> Iterator[Pipeline]:
    """Yield the activity pipeline with the lateness of the case."""
    path = pipelines_dir / "activity_late.py"
    text = (pipelines_dir / "activity.py").read_text()
    declared = 'id="transaction_id")'
    assert declared in text
    path.write_text(text.replace(declared, f'id="transaction_id", lateness="{case.lateness_s}s")'))
    (pipeline,) = load_pipelines(path)
    yield pipeline
    path.unlink()


def request_of(payment: dict[str, Any]) -> dict[str, Any]:
    """Return a payment as a request."""
    return {
        "transaction_id": payment["id"],
        "customer_id": payment["customer"],
        "terminal_id": payment["terminal"],
        "amount": payment["cents"] / 100,
        "time": text_of(payment["at"]),
    }


def label_of(payment: dict[str, Any]) -> dict[str, Any]:
    """Return the label of a payment, with the time of what it labels."""
    return {
        "transaction_id": payment["id"],
        "terminal_id": payment["terminal"],
        "is_fraud": payment["fraud"],
        "time": text_of(payment["at"]),
    }


def text_of(at_s: int) -> str:
    """Return a time as JSON has it."""
    return datetime.fromtimestamp(at_s, UTC).isoformat()


class Labels:
    """The labels of all payments, which come a week later."""

    def __init__(self, client: TestClient, payments: Payments) -> None:
        self._client = client
        self._stream = next(
            view.spec.stream for view in stream_views(client.plan.pipeline) if view.spec.stream.name == "labels"
        )
        self._left = iter(payments)
        self._next = next(self._left, None)

    def come(self, now_s: int) -> None:
        """Push those that are known by now."""
        known = []
        while self._next is not None and self._next["at"] <= now_s - 7 * DAY_S:
            known.append(self._next)
            self._next = next(self._left, None)
        for begin in range(0, len(known), 1_000):
            fates = self._client.push(self._stream, *map(label_of, known[begin : begin + 1_000]))
            assert set(fates) == {Fate.COUNTED}


def assert_true(answers: Sequence[dict[str, Any]], truth: dict[str, list[float]]) -> None:
    """See that every feature of every payment is what SQL says: counts and money exactly, means to 1e-9."""
    for name in EXACT:
        served = [answer[name] for answer in answers]
        assert served == truth[name], name
    for name in CLOSE:
        np.testing.assert_allclose(
            [answer[name] for answer in answers], truth[name], rtol=1e-9, atol=1e-12, err_msg=name
        )
    assert any(truth["count_5m"])
    assert max(truth["count_30d"]) > max(truth["count_1h"])


def spans(times: Sequence[int], seconds: int) -> Iterator[tuple[int, int]]:
    """Yield where parts of ascending times begin and end, each within so many seconds and of at most 1,000."""
    begin = 0
    while begin < len(times):
        end = begin + 1
        while end < len(times) and end - begin < 1_000 and times[end] < times[begin] + seconds:
            end += 1
        yield begin, end
        begin = end


def test_requests_that_are_events_are_served_the_truth(
    case: Case, payments: Payments, truth: dict[str, list[float]], pipeline: Pipeline
) -> None:
    """Each payment is scored and counted as it comes, labels coming a week later."""
    answers: list[dict[str, Any]] = []
    with TestClient(pipeline, clock=ManualClock()) as client:
        labels = Labels(client, payments)
        for begin, end in spans([payment["at"] for payment in payments], case.lateness_s // 2):
            labels.come(payments[end - 1]["at"])
            answers += client.predict(list(map(request_of, payments[begin:end])))
    assert_true(answers, truth)


def test_events_shuffled_and_twice_are_served_the_truth(
    case: Case, payments: Payments, truth: dict[str, list[float]], pipeline: Pipeline
) -> None:
    """Each payment comes twice, out of order within the lateness, and is asked for when all before it have come."""
    random, shuffle_s = np.random.default_rng(5), case.lateness_s // 3
    arrivals = sorted(
        (payment["at"] + int(random.integers(shuffle_s)), place) for place, payment in enumerate(payments) for _ in "ab"
    )
    answers: list[dict[str, Any]] = []
    fates: list[Fate] = []
    with TestClient(replace(pipeline, record_requests=False), clock=ManualClock()) as client:
        views = stream_views(pipeline)
        stream = next(view.spec.stream for view in views if view.spec.stream.name == "payments")
        labels, asked = Labels(client, payments), 0
        for begin, end in spans([at for at, _ in arrivals], case.lateness_s // 2):
            fates += client.push(stream, *(request_of(payments[place]) for _, place in arrivals[begin:end]))
            come_s = (arrivals[end][0] if end < len(arrivals) else arrivals[-1][0] + shuffle_s) - shuffle_s
            ready = [payment for payment in payments[asked : asked + 2_000] if payment["at"] <= come_s]
            for part_begin in range(0, len(ready), 1_000):
                part = ready[part_begin : part_begin + 1_000]
                labels.come(part[-1]["at"])
                answers += client.predict(list(map(request_of, part)))
            asked += len(ready)
    assert sorted(fates) == [Fate.COUNTED] * len(payments) + [Fate.DUPLICATE] * len(payments)
    assert_true(answers, truth)
