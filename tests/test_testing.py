from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Degraded, Provenance
from tailrace.errors import InvalidRequestError, SetupError
from tailrace.features.updates import Fate
from tailrace.pipeline import Pipeline, stream_views
from tailrace.testing import ManualClock, TestClient

PAYMENT: dict[str, Any] = {
    "transaction_id": "t1",
    "customer_id": 4021,
    "terminal_id": "T7",
    "amount": 100.0,
    "time": "2026-01-02T03:04:05Z",
}


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("label", key="label")
    source = tr.Parquet("x.parquet")
    max_staleness = "1h"
    level: float = 1.0


@tr.on_demand
def level(profile: Profile) -> Any:
    """Return the view's column."""
    return profile.level


@pytest.fixture
def client(pipelines_dir: Path) -> Iterator[TestClient]:
    """Return a client of the payment pipeline."""
    with TestClient.of_file(pipelines_dir / "payment.py") as client:
        yield client


def view_of(client: TestClient, name: str) -> Any:
    """Return the view of a name."""
    return next(view for view in client.plan.pipeline.views if view.__name__ == name)


def test_client_answers_with_what_was_put(client: TestClient) -> None:
    """The documented use: put a row, predict, look at the answer."""
    profile = view_of(client, "CustomerProfile")
    assert client.predict(PAYMENT)["avg_amount"] == 50.0
    client.put(profile, 4021, avg_amount=200.0, chargebacks=9, watched=True)
    answer = client.predict(PAYMENT)
    assert answer["transaction_id"] == "t1"
    assert answer["avg_amount"] == 200.0
    assert answer["amount_ratio"] == 0.5
    expected = 0.001 * 100 + 0.0005 * 200 + 0.05 * 9 + 0.25 + 0.5 * 0.1 + 0.01 * 0.5
    assert answer["score"] == pytest.approx(expected, abs=1e-6)
    assert answer["decision"] == "block"


def test_client_answers_a_list(client: TestClient) -> None:
    """A list of requests gives a list of answers, in order."""
    answers = client.predict([PAYMENT | {"transaction_id": f"t{index}"} for index in range(5)])
    assert [answer["transaction_id"] for answer in answers] == [f"t{index}" for index in range(5)]
    assert client.predict([]) == []


def test_client_raises_what_a_caller_would_be_told(client: TestClient) -> None:
    """An invalid request is the error with its path."""
    with pytest.raises(InvalidRequestError) as caught:
        client.predict(PAYMENT | {"amount": "a lot"})
    assert caught.value.where == "$.amount"


def test_client_may_take_its_time_between_calls(pipelines_dir: Path) -> None:
    """What is sent long after a batch has not waited for it, and is not shed."""
    clock = ManualClock()
    with TestClient.of_file(pipelines_dir / "payment.py", clock=clock) as client:
        for _ in range(3):
            assert client.predict(PAYMENT)["transaction_id"] == "t1"
            clock.advance(10_000)
            assert len(client.run([json.dumps(PAYMENT).encode()] * 3).bodies) == 3
            clock.advance(10_000)


def test_put_of_an_unknown_column_is_refused(client: TestClient) -> None:
    """A misspelt column is not silently null."""
    with pytest.raises(TypeError, match="CustomerProfile has no column avg_amuont"):
        client.put(view_of(client, "CustomerProfile"), 1, avg_amuont=1.0)


def test_put_without_a_column_leaves_its_default(client: TestClient) -> None:
    """A column that is not given is null, and the declared default answers."""
    client.put(view_of(client, "CustomerProfile"), 4021, chargebacks=1)
    assert client.predict(PAYMENT)["avg_amount"] == 50.0


def test_client_works_inside_a_running_loop(client: TestClient) -> None:
    """A test that is itself a coroutine may call it."""

    async def main() -> Any:
        return client.predict(PAYMENT)

    assert asyncio.run(main())["transaction_id"] == "t1"


def test_client_of_a_file_with_several_pipelines_wants_a_name(pipelines_dir: Path) -> None:
    """Without a name, or with a wrong one, the error lists the names there are."""
    for name in (None, "gol"):
        with pytest.raises(SetupError) as caught:
            TestClient.of_file(pipelines_dir / "log.py", name)
        assert "log, log_with_fallback" in caught.value.next
    with TestClient.of_file(pipelines_dir / "log.py", "log") as client:
        assert client.predict({"amount": 1.0})["score"] == 0.0


def test_manual_clock_stands_still_until_moved() -> None:
    """Both times go on together, by as much as they are moved."""
    clock = ManualClock(now_ns=5, wall_ns=7)
    assert (clock.now_ns(), clock.wall_ns()) == (5, 7)
    clock.advance(1.5)
    assert (clock.now_ns(), clock.wall_ns()) == (1_500_005, 1_500_007)


def test_features_grow_stale_by_the_manual_clock(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A row is stale once the clock is moved past its max_staleness; it is served all the same."""
    log = pipeline_of("log")
    clock = ManualClock()
    with TestClient(replace(log, features=[replace(level, name="amount")]), clock=clock) as client:
        client.put(Profile, "a", level=2.0)
        body = b'{"amount":0,"label":"a"}'
        assert client.run([body]).view_rows[0].provenance.tolist() == [Provenance.FRESH]
        clock.advance(3_600_001)
        batch = client.run([body])
        assert batch.view_rows[0].provenance.tolist() == [Provenance.STALE]
        assert batch.on_demand["amount"].tolist() == [2.0]
        assert batch.degraded is not None


def test_client_puts_rows_from_a_data_frame(pipelines_dir: Path) -> None:
    """Ids and values as NumPy has them are taken; a value that does not fit its column is refused."""
    with TestClient.of_file(pipelines_dir / "payment.py", clock=ManualClock()) as client:
        profile = view_of(client, "CustomerProfile")
        client.put(profile, np.int64(4021), avg_amount=np.float32(200), chargebacks=np.int32(9), watched=np.bool_(True))
        assert client.predict(PAYMENT)["avg_amount"] == 200.0
        with pytest.raises(ValueError, match="chargebacks"):
            client.put(profile, 4021, chargebacks=3.7)


def activity_payment(number: int, at_s: int, **fields: Any) -> dict[str, Any]:
    """Return a payment of the activity pipeline, so many seconds into 2018-08-01."""
    time = datetime(2018, 8, 1, tzinfo=UTC) + timedelta(seconds=at_s)
    event = {"transaction_id": number, "customer_id": 7, "terminal_id": 3, "amount": 10.25, "time": time.isoformat()}
    return event | fields


def stream_of(client: TestClient, name: str) -> Any:
    """Return a stream of a client's pipeline."""
    return next(view.spec.stream for view in stream_views(client.plan.pipeline) if view.spec.stream.name == name)


def test_client_counts_each_request_for_the_next(pipelines_dir: Path) -> None:
    """A request that is an event does not see itself, unless a column says so; the very next one does."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        first = client.predict(activity_payment(1, 0))
        second = client.predict(activity_payment(2, 60, amount=20.5))
        assert [first[name] for name in ("count_5m", "seen_1d", "mean_5m", "spent_1d")] == [0, 0, 0.0, 10.25]
        assert [second[name] for name in ("count_5m", "seen_1d", "mean_5m", "spent_1d")] == [1, 1, 10.25, 30.75]
        third = client.predict(activity_payment(3, 60, customer_id=8))
        assert [third[name] for name in ("count_5m", "seen_1d", "spent_1d")] == [0, 2, 10.25]
        assert client.predict(activity_payment(4, 400))["count_5m"] == 0


def test_client_counts_requests_of_one_batch_for_each_other(pipelines_dir: Path) -> None:
    """By time and id, in whatever order they stand in the batch; one that comes again is counted once."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        batch = [activity_payment(number, at_s) for number, at_s in ((3, 20), (1, 10), (2, 10), (3, 20), (9, 10))]
        assert [answer["count_5m"] for answer in client.predict(batch)] == [3, 0, 1, 3, 2]
        assert client.predict(activity_payment(10, 30))["count_5m"] == 4


def test_client_says_which_request_was_lost_as_an_event(pipelines_dir: Path) -> None:
    """One that is too old is answered, degraded, and counted nowhere."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        client.predict([activity_payment(number, 5_000 + number) for number in range(3)])
        batch = client.run(
            [json.dumps(activity_payment(number, at_s)).encode() for number, at_s in ((8, 10), (9, 5_010))]
        )
        assert batch.degraded is not None
        assert [bool(each & Degraded.EVENT_LOST) for each in batch.degraded.tolist()] == [True, False]
        assert client.predict(activity_payment(10, 5_020))["count_1d"] == 4


def test_client_pushes_events(pipelines_dir: Path) -> None:
    """Events of a stream come beside the requests; what became of each is told in order."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        labels = stream_of(client, "labels")
        events = [
            {"transaction_id": number, "terminal_id": 3, "is_fraud": number % 2, "time": f"2018-07-2{number}T00:00:00Z"}
            for number in range(4)
        ]
        assert client.push(labels) == []
        assert client.push(labels, *events, events[3]) == [Fate.COUNTED] * 4 + [Fate.DUPLICATE]
        assert client.push(labels, events[0] | {"transaction_id": 99, "time": "2018-07-01T00:00:00Z"}) == [Fate.LATE]
        asked = activity_payment(1, 0)
        assert client.predict(asked)["fraud_share_7d"] == 0.5  # 2018-07-18 to 25, a week after
        assert client.predict(asked | {"terminal_id": 4})["fraud_share_7d"] == 0.0
        assert client.predict(asked)["count_1d"] == 0


def test_client_pushes_what_it_does_not_score(pipelines_dir: Path, pipeline_of: Callable[[str], Pipeline]) -> None:
    """A pipeline that does not record its requests has what is pushed, and nothing else."""
    pipeline = replace(pipeline_of("activity"), record_requests=False)
    with TestClient(pipeline, clock=ManualClock()) as client:
        payments = stream_of(client, "payments")
        for _ in range(2):
            assert client.predict(activity_payment(5, 50))["count_5m"] == 0
        assert client.push(payments, activity_payment(1, 0), activity_payment(5, 50)) == [Fate.COUNTED] * 2
        for _ in range(2):
            assert client.predict(activity_payment(5, 50))["count_5m"] == 1


def test_client_refuses_an_event_that_is_none(pipelines_dir: Path) -> None:
    """An event of another shape is the error with its path, and nothing of the call is counted."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        payments = stream_of(client, "payments")
        with pytest.raises(InvalidRequestError) as caught:
            client.push(payments, activity_payment(1, 0), activity_payment(2, 1, amount="much"))
        assert caught.value.where == "streams.payments"
        assert "$.amount" in caught.value.what
        assert client.predict(activity_payment(3, 10))["count_5m"] == 0
        with pytest.raises(KeyError):
            client.push(replace(payments, name="refunds"), activity_payment(1, 0))


def test_client_serves_requests_of_one_batch_that_are_hours_apart(pipelines_dir: Path) -> None:
    """A past day that is replayed in a hurry: each looks back from its own time, and none is stale."""
    with TestClient.of_file(pipelines_dir / "activity.py", clock=ManualClock()) as client:
        for batch in range(3):
            numbers = range(20 * batch, 20 * batch + 20)
            answered = client.run([json.dumps(activity_payment(number, 1_000 * number)).encode() for number in numbers])
            assert answered.degraded is None
            answers = [json.loads(body) for body in answered.bodies]
            assert [answer["count_1h"] for answer in answers] == [min(number, 3) for number in numbers]
            assert [answer["count_7d"] for answer in answers] == list(numbers)
