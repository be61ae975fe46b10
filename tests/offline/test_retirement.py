"""Definitions of a stream view that nobody uses any more: they go, and none that a server reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tailrace as tr
from tailrace.deadline import NS_PER_S
from tailrace.errors import LeaseError, StoreError
from tailrace.features.catalogue import SchemaRecord, key_end, read_record, schema_name, use_key
from tailrace.features.keys import KeyFormat
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stores.runs import Run
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.registration import note_use, register
from tailrace.offline.backfill import BackfillReport, backfill, settings_of
from tailrace.offline.inspection import inspect_entity
from tailrace.testing import ManualClock

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

BEGIN_S = 1_750_000_000
CHANGE_S = BEGIN_S + 1_000
DAY_S = 86_400
EVENTS = 60
CUSTOMERS = 7


class Payment(tr.Request):
    payment_id: int
    customer_id: int
    time: float


stream = tr.Stream("payments", schema=Payment, time="time", id="payment_id", source=tr.Parquet("payments.parquet"))


def view_of(window: str) -> StreamViewSpec:
    """Return the view with a window of this length."""
    body = {"entity": tr.Entity("customer", key="customer_id"), "stream": stream, "n": tr.count(window=window)}
    spec: StreamViewSpec = type("Activity", (StreamFeatureView,), body | {"__annotations__": {"n": int}}).spec  # type: ignore[attr-defined]
    return spec


OLD, NEW = view_of("1h"), view_of("2h")


def payments(numbers: range) -> list[Payment]:
    """Return events, each a second after the one before."""
    return [Payment(payment_id=each, customer_id=each % CUSTOMERS, time=BEGIN_S + each) for each in numbers]


def serve(spec: StreamViewSpec, writer: StoreWriter, numbers: range, at_s: float) -> None:
    """Count events in as a server that starts at a time does."""
    note_use(spec, writer, int(at_s) * NS_PER_S)
    own = register(spec, ["pay"], writer, int(at_s) * NS_PER_S)
    clock = ManualClock(wall_ns=int(at_s) * NS_PER_S)
    Applier(stream, [spec], writer, clock, {spec.name: own.begins_ns}).apply(
        DecodedEvents(stream).columns(payments(numbers))
    )


def run(spec: StreamViewSpec, writer: StoreWriter, folder: Path, at_s: float, keep_s: int = DAY_S) -> BackfillReport:
    """Backfill at a time."""
    settings = settings_of(folder, {"customer_id": int}, 1_024, 2)
    return backfill(spec, settings, writer, pipeline="pay", wall_ns=lambda: int(at_s) * NS_PER_S,
                    keep_old_ns=keep_s * NS_PER_S)  # fmt: skip


def states(spec: StreamViewSpec, writer: StoreWriter) -> list[bytes]:
    """Return the keys of a definition's states."""
    keys = KeyFormat("customer", key_end(spec.name, schema_name(spec.schema_id)))
    return list(writer.scan(keys.begin, keys.end))


def records(writer: StoreWriter) -> dict[str, SchemaRecord]:
    """Return what the store notes of the definitions."""
    record = read_record(writer.get, "Activity")
    assert record is not None
    return record.schemas


def counts(spec: StreamViewSpec, writer: StoreWriter) -> list[int]:
    """Return what is served of every customer behind the last event."""
    at_ns = (BEGIN_S + EVENTS) * NS_PER_S
    return [inspect_entity([spec], each, writer, at_ns)[0].values["n"] for each in range(CUSTOMERS)]


TRUTH = [len(range(each, EVENTS, CUSTOMERS)) for each in range(CUSTOMERS)]


def change(writer: StoreWriter, folder: Path) -> None:
    """Have the old definition counted, then the new one, whose history is counted in when the view is changed."""
    rows = [{name: getattr(each, name) for name in Payment.__struct_fields__} for each in payments(range(EVENTS))]
    pq.write_table(pa.Table.from_pylist(rows), folder / "payments.parquet")
    serve(OLD, writer, range(EVENTS - 10), BEGIN_S + EVENTS)
    serve(NEW, writer, range(EVENTS - 10, EVENTS), CHANGE_S)
    report = run(NEW, writer, folder, CHANGE_S)
    assert (report.was_whole, report.retired) == (False, 0)


@pytest.fixture
def writer(url: str, tmp_path: Path) -> Iterator[StoreWriter]:
    """Yield a store of each kind in which a view was changed."""
    with closing(open_writer(url)) as writer:
        change(writer, tmp_path)
        yield writer


def test_definition_that_nobody_uses_is_removed(writer: StoreWriter, tmp_path: Path) -> None:
    """Its states and what is noted of it; the declared one, other views and entities stay. It may be declared again."""
    others = [b"{customer:1}Other:00000000", b"{shop:1}Activity:00000000"]
    writer.exchange([(key, b"of another view") for key in others], ())
    later_s = CHANGE_S + DAY_S
    note_use(NEW, writer, later_s * NS_PER_S)
    report = run(NEW, writer, tmp_path, later_s)
    assert (report.was_whole, report.retired) == (True, CUSTOMERS)
    assert states(OLD, writer) == []
    assert records(writer).keys() == {schema_name(NEW.schema_id)}
    assert writer.get(use_key("Activity", schema_name(OLD.schema_id))) is None
    assert counts(NEW, writer) == TRUTH
    assert [writer.get(key) for key in others] == [b"of another view"] * 2
    assert run(NEW, writer, tmp_path, later_s).retired == 0
    assert not register(OLD, ["pay"], writer, later_s * NS_PER_S).is_whole
    assert run(OLD, writer, tmp_path, later_s).events == EVENTS
    assert counts(OLD, writer) == TRUTH


@pytest.mark.parametrize(
    ("old_s", "new_s", "now_s", "keep_s"),
    [
        (DAY_S, DAY_S, DAY_S, DAY_S),
        (1, DAY_S, DAY_S, DAY_S),
        (-500, DAY_S - 1, DAY_S - 1, DAY_S),
        (0, None, 9 * DAY_S, DAY_S),
        (0, 0, 9 * DAY_S, DAY_S),
        (0, 9 * DAY_S, 0, DAY_S),
        (0, 1_000, 1_000, 0),
    ],
    ids=["used now", "used within the time", "not whole for so long", "the new one is not served yet",
         "this clock is ahead", "a server's clock is ahead", "at once"],
)  # fmt: skip
def test_definition_that_may_be_used_is_kept(
    old_s: int, new_s: int | None, now_s: int, keep_s: int, tmp_path: Path
) -> None:
    """Times of use, and of the run, after the change. Nothing of it is touched."""
    writer = MemoryWriter({})
    change(writer, tmp_path)
    note_use(OLD, writer, (CHANGE_S + old_s) * NS_PER_S)
    if new_s is None:
        writer.exchange((), [use_key("Activity", schema_name(NEW.schema_id))])
    else:
        note_use(NEW, writer, (CHANGE_S + new_s) * NS_PER_S)
    before = records(writer), counts(OLD, writer)
    assert run(NEW, writer, tmp_path, CHANGE_S + now_s, keep_s).retired == 0
    assert (records(writer), counts(OLD, writer)) == before


def test_definition_beside_one_that_lacks_its_history_is_kept(tmp_path: Path) -> None:
    """A server on the new file cannot start: the old one is what is served."""
    writer = MemoryWriter({})
    serve(OLD, writer, range(EVENTS - 10), BEGIN_S + EVENTS)
    serve(NEW, writer, range(EVENTS - 10, EVENTS), CHANGE_S + DAY_S)
    pq.write_table(pa.table({"payment_id": [1], "customer_id": [1], "time": [0.0]}), tmp_path / "payments.parquet")
    third = view_of("3h")
    register(third, ["pay"], writer, 0)
    with pytest.raises(LeaseError), closing(writer.lease("Activity")):
        run(NEW, writer, tmp_path, CHANGE_S + DAY_S)
    run(third, writer, tmp_path, CHANGE_S + DAY_S)
    assert len(records(writer)) == 3
    assert len(states(OLD, writer)) == CUSTOMERS


class Starting(MemoryWriter):
    """A store in which a server on the old file starts right before a definition is marked."""

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write, after the server has noted that it uses the definition."""
        if any(b'"is_mixed":true' in value for _, value in puts):
            note_use(OLD, MemoryWriter(self._rows), CHANGE_S * NS_PER_S)
        return super().exchange(puts, removes)


def test_definition_of_a_server_that_starts_meanwhile_is_kept(tmp_path: Path) -> None:
    """It is as it was: whole, with all of its states."""
    rows: dict[bytes, bytes] = {}
    writer = Starting(rows)
    change(writer, tmp_path)
    note_use(NEW, writer, (CHANGE_S + DAY_S) * NS_PER_S)
    before = records(writer), counts(OLD, writer)
    assert run(NEW, writer, tmp_path, CHANGE_S + DAY_S).retired == 0
    assert (records(writer), counts(OLD, writer)) == before


class Failing(MemoryWriter):
    """A store that fails when some of what is to go is gone."""

    def remove(self, run: Run, keys: Any) -> int:
        """Remove the first key, and fail."""
        super().remove(run, keys[:1])
        raise StoreError("the network is away", where="memory:", next="try again")


@pytest.mark.parametrize("again", ["removed", "declared"])
def test_killed_run_leaves_no_definition_that_is_served_in_part(tmp_path: Path, again: str) -> None:
    """It is not whole, and counts nothing, until the next run has removed it; or it is declared and filled anew."""
    rows: dict[bytes, bytes] = {}
    writer, later_s = MemoryWriter(rows), CHANGE_S + DAY_S
    change(writer, tmp_path)
    note_use(NEW, writer, later_s * NS_PER_S)
    with pytest.raises(StoreError):
        run(NEW, Failing(rows), tmp_path, later_s)
    assert len(states(OLD, writer)) == CUSTOMERS - 1
    left = records(writer)[schema_name(OLD.schema_id)]
    assert not left.is_fit
    if again == "removed":
        assert run(NEW, writer, tmp_path, later_s).retired == CUSTOMERS - 1
        assert states(OLD, writer) == []
        return
    serve(OLD, writer, range(EVENTS, EVENTS + 9), later_s)
    assert len(states(OLD, writer)) == CUSTOMERS - 1
    assert run(OLD, writer, tmp_path, later_s).events == EVENTS
    assert counts(OLD, writer) == TRUTH
