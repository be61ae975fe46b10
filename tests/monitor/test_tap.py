"""The way of a batch to the observer: what is read of the ring is what was served."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Batch, Call, Provenance, RemoteAsked, Trace
from tailrace.compile.binding import reader_of
from tailrace.compile.resolve import wire
from tailrace.compile.samples import Samples
from tailrace.compile.wiring import Origin
from tailrace.deadline import Clock
from tailrace.errors import ServerError
from tailrace.monitor.frames import Frame, FrameReader
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.predictions import LogChoice, Predictions
from tailrace.monitor.redacting import Redacting, redacted_fields, schema_that_redacts
from tailrace.monitor.ring import RingReader, RingWriter, make_ring_fd
from tailrace.monitor.tap import HELD_BATCHES_MAX, Tap
from tailrace.pipeline import Pipeline
from tailrace.testing import ManualClock, TestClient


class Timers:
    """A loop whose timers are kept."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Keep a timer."""
        self.due.append(callback)
        return callback


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def warning(self, event: str, **facts: Any) -> None:
        """Keep a line."""
        self.events.append({"event": event, **facts})


class Way:
    """A ring with both its ends."""

    def __init__(self, fd: int) -> None:
        self.ring, self.reader, self.frames = RingWriter(fd, 3), RingReader(fd), FrameReader()
        self.timers, self.log = Timers(), Log()

    def tap(self, pipeline: Pipeline, clock: Clock, *, traced: bool = False) -> Tap:
        """Return what writes to it."""
        return Tap(pipeline, "r1", self.ring, clock, self.timers, self.log, traced=traced)  # type: ignore[arg-type]

    def read(self) -> list[Predictions]:
        """Return what was written."""
        return [self.frames.read(data) for data in self.reader.read()]


@pytest.fixture
def way() -> Iterator[Way]:
    """Yield a ring of 1 MiB."""
    fd = make_ring_fd("test", 1 << 20)
    yield Way(fd)
    os.close(fd)


def failures(batch: Batch) -> list[bool]:
    """Return which rows of a batch have no score."""
    return [False] * batch.rows if batch.failed is None else batch.failed.tolist()


def bodies(client: TestClient, count: int) -> list[bytes]:
    """Return requests that differ."""
    return [Samples(client.plan).body(seed) for seed in range(count)]


def test_what_is_read_is_what_was_served(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """Requests, features, provenance, scores, decisions and times of many batches, row by row."""
    pipeline = pipeline_of("payment")
    clock = ManualClock(wall_ns=1_750_000_000 * 10**9)
    with TestClient(pipeline, clock=clock) as client:
        tap = way.tap(pipeline, clock)
        client.put(pipeline.views[0], 0, avg_amount=12.5)
        parts = bodies(client, 9)
        batches = [client.run(parts[:1]), client.run(parts[1:6]), client.run(parts[6:])]
        for batch in batches:
            tap.record(batch, batch.marks_ns[-1] + 1_000)
        assert way.read() == []
        tap.flush()
    (found,) = way.read()
    assert (found.pipeline, found.release, found.slot, found.rows) == ("payment", "r1", 3, 9)
    for text, body in zip(found.requests, parts, strict=True):
        assert json.loads(text).items() >= json.loads(body).items()
    assert np.array_equal(found.scores, np.concatenate([batch.scores for batch in batches]))
    amounts = np.concatenate([batch.request.amount for batch in batches])
    assert np.array_equal(found.features["amount"], amounts)
    for place, view in enumerate(pipeline.views):
        expected = np.concatenate([batch.view_rows[place].provenance for batch in batches])
        assert np.array_equal(found.provenance[view.__name__], expected)
    column = found.features["CustomerProfile.avg_amount"]
    assert np.array_equal(column, np.concatenate([batch.views[0].avg_amount for batch in batches]))
    assert found.decisions is not None
    assert np.array_equal(found.decisions, np.concatenate([batch.decisions for batch in batches]))
    assert found.row_request is None
    assert np.all(found.whole_ns >= found.waits_ns)
    assert np.all(found.answered_ns >= 1_750_000_000 * 10**9)
    assert found.layers_ns.shape == (9, 5)


def test_decisions_that_are_classes_of_the_model_have_their_names(way: Way) -> None:
    """Where the declaration names none, they are known once the model is loaded; a line can be made of them."""
    pipeline = tr.Pipeline(
        name="sorted", request=Sorted, response=Sort, features=[Sorted.amount], decision=tr.labels(),
        model=tr.PythonModel("three", Three, classes=("low", "middle", "high")), budget=tr.Budget("1s"),
    )  # fmt: skip
    clock = ManualClock()
    with TestClient(pipeline, clock=clock) as client:
        tap = Tap(pipeline, "r1", way.ring, clock, way.timers, way.log, labels=client.plan.postprocess.labels)  # type: ignore[arg-type]
        batch = client.run([b'{"amount": 1}', b'{"amount": 2}'])
        tap.record(batch, batch.marks_ns[-1])
        tap.flush()
    (found,) = way.read()
    assert found.labels == ("low", "middle", "high")
    assert log_table(found).column("decision").to_pylist() == ["middle", "high"]


class Sorted(tr.Request):
    amount: int


class Sort(tr.Response):
    decision: str


class Three:
    """Gives the class of the amount."""

    def predict(self, feeds: dict[str, Any]) -> Any:
        """Return a row of three scores each."""
        return np.eye(3)[feeds["features"][:, 0].astype(int) % 3]


def test_call_is_told_with_its_route_and_trace_where_spans_are_made(
    pipeline_of: Callable[[str], Pipeline], way: Way
) -> None:
    """What spans need of each call is in the frame, and not in that of a server that makes none."""
    pipeline, clock = pipeline_of("payment"), ManualClock()
    trace = Trace(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"a=1")
    with TestClient(pipeline, clock=clock) as client:
        first, second = bodies(client, 2)
        for traced in (True, False):
            tap = way.tap(pipeline, clock, traced=traced)
            asked = client.run([first])
            asked.calls = [Told(asked.calls[0].transport, None, None, 5, 0, 1, trace)]
            asked.remote = [RemoteAsked("far", 7, 9, True)]
            for batch in (asked, client.run([second])):
                tap.record(batch, batch.marks_ns[-1])
            tap.flush()
    found, without = way.read()
    assert without.calls is None
    assert found.calls is not None
    assert found.calls.routes == ["POST /v1/pipelines/payment/predict", ""]
    assert (found.calls.parents, found.calls.states) == ([trace.parent, b""], [trace.state, b""])
    assert (found.calls.request_call.tolist(), found.calls.batch.tolist()) == ([0, 1], [0, 1])
    assert found.calls.arrivals_ns[0] == 5
    epoch_ns = clock.wall_ns() - clock.now_ns()
    assert found.calls.remote == {0: [RemoteAsked("far", 7 + epoch_ns, 9 + epoch_ns, True)]}


class Told(Call, gc=False, eq=False):
    """A call that tells its trace."""

    told: Trace

    @property
    def trace(self) -> Trace | None:
        """The trace."""
        return self.told

    @property
    def route(self) -> str:
        """The route."""
        return "POST /v1/pipelines/payment/predict"


def test_request_of_many_rows_is_read_as_its_rows(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """Each row knows its request; values of the request's own entity are repeated."""
    pipeline = pipeline_of("ranking")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        for items in ([1, 2, 3], [4]):
            tap.record(client.run([json.dumps({"user_id": 1, "item_ids": items}).encode()]), 10**9)
        tap.flush()
    (found,) = way.read()
    assert found.row_request is not None
    assert found.row_request.tolist() == [0, 0, 0, 1]
    assert len(found.requests) == 2
    assert found.features["UserProfile.affinity"].tolist() == [0.5] * 4
    assert found.provenance["UserProfile"].tolist() == [Provenance.DEFAULT] * 4
    assert found.rows == 4


@pytest.mark.parametrize("name", ["kinds", "pairs", "topics", "derived", "activity"])
def test_pipelines_of_every_kind_are_read(pipeline_of: Callable[[str], Pipeline], way: Way, name: str) -> None:
    """Texts, vectors, windows, keys of two parts, keys that another view gives: every feature, as the model had it."""
    pipeline = pipeline_of(name)
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batches = [client.run(bodies(client, 3)), client.run(bodies(client, 2))]
        for batch in batches:
            tap.record(batch, 10**9)
        tap.flush()
    assert way.log.events == []
    (found,) = way.read()
    assert found.rows == sum(batch.rows for batch in batches)
    for feature, read in wire(pipeline).features.items():
        expected = np.concatenate([reader_of(read).read(batch) for batch in batches])
        assert found.features[feature].tolist() == pytest.approx(expected.tolist(), nan_ok=True)
        assert found.features[feature].dtype == expected.dtype
    assert np.array_equal(found.scores, np.concatenate([batch.scores for batch in batches]), equal_nan=True)
    assert found.failed.tolist() == [failed for batch in batches for failed in failures(batch)]


def test_arrays_and_errors_are_told_with_their_calls(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """Each request of an array has its call's times; one that is answered with an error has its kind."""
    pipeline = pipeline_of("log")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        array = b'[{"amount": 1.0}, {"amount": 2.0}]'
        batch = client.run([array, b'{"amount": 3.0}', b'{"amount": -1.0}'])
        assert list(batch.errors) == [2]
        tap.record(batch, 10**9)
        tap.record(client.run([b'{"amount": 4.0}']), 10**9)
        tap.flush()
    (found,) = way.read()
    assert [json.loads(text)["amount"] for text in found.requests] == [1.0, 2.0, 3.0, -1.0, 4.0]
    assert found.features["amount"].tolist() == [1.0, 2.0, 3.0, -1.0, 4.0]
    assert [bool(error) for error in found.errors] == [False, False, False, True, False]
    assert found.failed.tolist() == [False, False, False, True, False]


def test_calls_that_broke_off_and_calls_that_others_answered_are_told_without_rows(
    pipeline_of: Callable[[str], Pipeline], way: Way
) -> None:
    """Beside others and alone: the request, its error, or what it was answered; its batch has no columns."""
    pipeline = pipeline_of("log")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        whole = client.run([b'{"amount": 1.0}'])
        asked = client.run([b'[{"amount": 2.0}, {"amount": 3.0}]', b'{"amount": 4.0}'])
        broken = Batch(asked.calls, 5, 9, marks_ns=[5, 6], errors=dict.fromkeys((0, 1), ServerError("it raised")))
        kept = Batch(whole.calls, 7, 9, coalesced="kept", responses=whole.responses, requests=whole.requests)
        for alone in (False, True):
            tap.record_coalesced(kept, 10)
            tap.record(broken, 10)
            if not alone:
                tap.record(whole, 10)
            tap.flush()
    beside, alone_ = way.read()
    assert [json.loads(text)["amount"] for text in beside.requests] == [1.0, 2.0, 3.0, 4.0, 1.0]
    assert beside.errors == ["", "internal-error", "internal-error", "internal-error", ""]
    assert (beside.coalesced, beside.rows, beside.places.tolist()) == (["", "", "", "", "kept"], 1, [0])
    assert beside.answers is not None
    assert beside.answers[:4] == [b""] * 4
    assert json.loads(beside.answers[4]) == msgspec.to_builtins(whole.responses[0])
    assert beside.layers_ns[1].tolist() == [1, 0, 0, 0, 0]
    assert (alone_.rows, alone_.errors) == (0, beside.errors[1:])
    assert log_table(alone_).schema.equals(log_table(beside).schema)


def test_what_is_to_be_logged_is_told_with_the_frame(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """The observer knows no pipeline: the share, what is kept always, and after how long a request is slow."""
    pipeline = replace(pipeline_of("log"), log=tr.Log(0.25, keep=("slow",)))
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        tap.record(client.run([b'{"amount": 1.0}']), 10)
        tap.flush()
    (found,) = way.read()
    assert found.choice == LogChoice(0.25, ("slow",), pipeline.budget.total_ns)


def test_answers_of_requests_with_secrets_are_not_told(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """An answer may repeat what the request hides."""
    pipeline = replace(pipeline_of("log"), request=Secret, features=[Secret.amount])
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batch = client.run([b'{"amount": 1.0, "card": "4111"}'])
        tap.record_coalesced(
            Batch(batch.calls, 7, 9, coalesced="kept", responses=batch.responses, requests=batch.requests), 10
        )
        tap.flush()
    (found,) = way.read()
    assert json.loads(found.requests[0])["card"] == "xxxx"
    assert found.answers == [b""]


def test_redacted_fields_of_answers_are_masked(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """Also where the request hides nothing: an answer is kept where another's computation has answered."""
    pipeline = replace(pipeline_of("log"), request=Plain, features=[Plain.amount], response=Hiding)
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batch = client.run([b'{"amount": 2.0}'])
        kept = Batch(batch.calls, 7, 9, coalesced="kept", responses=batch.responses, requests=batch.requests)
        tap.record_coalesced(kept, 10)
        tap.flush()
    (found,) = way.read()
    assert found.answers is not None
    assert json.loads(found.answers[0]) == {"score": 0, "decision": "low"}


def test_columns_of_a_function_that_gives_now_one_kind_of_number_now_another_are_told(
    pipeline_of: Callable[[str], Pipeline], way: Way
) -> None:
    """Whole numbers, others, and one value for all rows, which has no memory of its own."""
    pipeline = pipeline_of("payment")
    name = next(name for name, read in wire(pipeline).features.items() if read.origin is Origin.ON_DEMAND)
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        columns = [np.array([1, 2]), np.array([0.5, 1.5]), np.broadcast_to(np.array(7), (2,))]
        for column in columns:
            batch = client.run(bodies(client, 2))
            batch.on_demand[name] = column
            tap.record(batch, 10)
        tap.flush()
    (found,) = way.read()
    assert found.features[name].tolist() == [1.0, 2.0, 0.5, 1.5, 7.0, 7.0]


def test_batches_are_written_after_a_while_or_when_they_are_many(
    pipeline_of: Callable[[str], Pipeline], way: Way
) -> None:
    """One timer, from the first that is held; and none is held beyond a number of them."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batch = client.run(bodies(client, 1))
        for _ in range(HELD_BATCHES_MAX):
            tap.record(batch, 10**9)
        assert [found.rows for found in way.read()] == [HELD_BATCHES_MAX]
        tap.record(batch, 10**9)
        for timer in way.timers.due:
            timer()
    assert [found.rows for found in way.read()] == [1]


def test_frame_is_made_in_steps_between_which_the_loop_is_free(
    pipeline_of: Callable[[str], Pipeline], way: Way
) -> None:
    """Hundreds of batches take a millisecond: who called meanwhile had waited. At the end all is written at once."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batch = client.run(bodies(client, 1))
        tap.record(batch, 10**9)
        way.timers.due.pop()()
        assert not way.read()
        tap.record(batch, 10**9)
        tap.record(batch, 10**9)
        for step in way.timers.due:
            step()
        assert [found.rows for found in way.read()] == [1, 2]
        tap.record(batch, 10**9)
        way.timers.due[-1]()
        tap.record(batch, 10**9)
        tap.flush()
        assert [found.rows for found in way.read()] == [1, 1]
        for step in way.timers.due:  # which were under way have nothing left to do
            step()
        assert not way.read()


def test_batches_that_are_too_long_together_are_written_apart(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """A frame takes a quarter of the ring: of long requests a few have come to that, and all were lost."""
    pipeline = pipeline_of("log")
    label = "x" * 30_000
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batches = [client.run([msgspec.json.encode({"amount": amount, "label": label})]) for amount in range(1, 20)]
        for number, batch in enumerate(batches[:15]):
            tap.record(batch, number)
        for number, batch in enumerate(batches[15:], 15):
            tap.record_coalesced(
                Batch(batch.calls, 7, 9, coalesced="kept", responses=batch.responses, requests=batch.requests), number
            )
        tap.flush()
    found = way.read()
    amounts = [json.loads(request)["amount"] for each in found for request in each.requests]
    assert (amounts, way.reader.take_lost()) == (list(range(1, 20)), 0)
    assert 1 < len(found) <= 8


def test_batch_that_is_too_long_alone_is_counted(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """It costs no other one, and is told of."""
    pipeline = pipeline_of("log")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock(10**12))
        for label in ("x" * 400_000, "short"):
            tap.record(client.run([msgspec.json.encode({"amount": 1.0, "label": label})]), 10)
        tap.flush()
    (found,) = way.read()
    assert (json.loads(found.requests[0])["label"], way.reader.take_lost()) == ("short", 1)
    assert [event["event"] for event in way.log.events] == ["predictions are not logged"]


def test_nothing_that_was_held_is_kept(pipeline_of: Callable[[str], Pipeline], way: Way) -> None:
    """Calls are made without the collector, so that what holds one past its time holds its connection for ever."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock())
        batch = client.run(bodies(client, 1))
        call = batch.calls[0]
        before = sys.getrefcount(batch), sys.getrefcount(call), sys.getrefcount(batch.scores)
        tap.record(batch, 10**9)
        assert sys.getrefcount(batch) == before[0] + 1
        tap.flush()
        assert (sys.getrefcount(batch), sys.getrefcount(call), sys.getrefcount(batch.scores)) == before


def test_what_cannot_be_written_is_counted_and_told_once(
    pipeline_of: Callable[[str], Pipeline], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the tap is no fault of the batch."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        tap = way.tap(pipeline, ManualClock(10**12))
        batch = client.run(bodies(client, 4))
        batch.scores = object()  # type: ignore[assignment]
        for _ in range(2):
            tap.record(batch, 10**9)
            tap.flush()
    assert way.read() == []
    assert way.reader.take_lost() == 8
    assert [event["event"] for event in way.log.events] == ["predictions are not logged"]


class Holder(msgspec.Struct):
    """Whose a card is."""

    name: Annotated[str, tr.REDACTED]
    country: str


class Card(tr.Request):
    """A request with something to hide."""

    number: Annotated[str, tr.REDACTED]
    amount: float
    holder: Holder


class Secret(tr.Request):
    """A request with something to hide beside its amount."""

    amount: float
    card: Annotated[str, tr.REDACTED]
    label: str = ""


class Hiding(tr.Response):
    """An answer with something to hide."""

    score: Annotated[float, tr.REDACTED]
    decision: str


class Plain(tr.Request):
    """A request without."""

    amount: float


def test_redacted_fields_are_masked_in_what_is_kept() -> None:
    """Nested ones too; a type that has none costs nothing."""
    assert redacted_fields(Card) == {"number", "holder"}
    assert (redacted_fields(Plain), schema_that_redacts(Plain)) == (frozenset(), None)
    schema = schema_that_redacts(Card)
    assert schema is not None
    card = Card(number="4111", amount=3.5, holder=Holder("Ada", "GB"))
    kept = Redacting(schema).mask(msgspec.json.encode(card))
    assert json.loads(kept) == {"number": "xxxx", "amount": 3.5, "holder": {"name": "xxx", "country": "GB"}}


def test_frames_of_another_kind_are_refused() -> None:
    """Nothing is made of what is no frame, or of another version."""
    with pytest.raises(ValueError, match="no frame"):
        FrameReader().read(b"\xc1")
    with pytest.raises(ValueError, match="no frame"):
        FrameReader().read(msgspec.msgpack.encode([1, 2]))
    assert Frame.__struct_config__.array_like
