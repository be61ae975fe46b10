"""Backfill: a changed stream view gets its history beside what comes, each event once, whenever a run is killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from customer_runs import command, write_pipeline

import tailrace as tr
from tailrace.errors import SourceError, StoreError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.catalogue import read_record
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.protocol import Changes
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.registration import register
from tailrace.ingest.use import note_use
from tailrace.offline.backfill import BackfillReport, backfill, settings_of
from tailrace.offline.inspection import inspect_entity
from tailrace.testing import ManualClock

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

BEGIN_S = 1_750_000_000
EVENTS = 3_000
CUT = 2_000
"""Events that have come before the view was changed."""
SPACING_S = 60


class Payment(tr.Request):
    payment_id: int
    customer_id: int
    amount: float
    time: float


stream = tr.Stream("payments", schema=Payment, time="time", id="payment_id", source=tr.Parquet("payments.parquet"))


def view_of(**columns: Any) -> StreamViewSpec:
    """Return the view with these columns."""
    body = {"entity": tr.Entity("customer", key="customer_id"), "stream": stream, **columns}
    kinds = {name: int if each.kind in ("count", "distinct") else float for name, each in columns.items()}
    view = type("Activity", (StreamFeatureView,), body | {"__annotations__": kinds})
    assert not view.spec.problems, view.spec.problems  # type: ignore[attr-defined]
    return view.spec  # type: ignore[attr-defined,no-any-return]


BEFORE = view_of(count_1h=tr.count(window="1h"))
CHANGED = view_of(
    count_1h=tr.count(window="1h"),
    spent_1d=tr.sum("amount", window="1d", decimals=2),
    first_30d=tr.first("amount", window="30d"),
    amounts_1d=tr.distinct("amount", window="1d"),
    largest=tr.max("amount", window="lifetime"),
)


def payments(numbers: Sequence[int]) -> list[Payment]:
    """Return events, each a minute after the one before."""
    return [
        Payment(payment_id=each, customer_id=each % 7, amount=(each * 37 % 900) / 100, time=BEGIN_S + each * SPACING_S)
        for each in numbers
    ]


def payment_in(year: int) -> Payment:
    """Return an event at the beginning of a year."""
    at_s = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    return Payment(payment_id=10**6 + year, customer_id=3, amount=1.0, time=at_s)


def write_history(folder: Path, numbers: Sequence[int], extra: Sequence[Payment] = ()) -> None:
    """Write events as the stream's history, in no order."""
    found = [*payments(np.random.default_rng(1).permutation(numbers).tolist()), *extra]
    rows = [{name: getattr(each, name) for name in Payment.__struct_fields__} for each in found]
    pq.write_table(pa.Table.from_pylist(rows), folder / "payments.parquet")


def count_in(spec: StreamViewSpec, writer: MemoryWriter, numbers: Sequence[int]) -> None:
    """Count events in as they come, as a process that goes on."""
    note_use(spec, writer, "server", time.time_ns())
    own = register(spec, ["pay"], writer, 0)
    applier = Applier(stream, [spec], writer, ManualClock(wall_ns=2 * BEGIN_S * 10**9), {spec.name: own.begins_ns})
    columns = DecodedEvents(stream).columns
    for begin in range(0, len(numbers), 100):
        applier.apply(columns(payments(numbers[begin : begin + 100])))


def run(spec: StreamViewSpec, writer: MemoryWriter, folder: Path) -> BackfillReport:
    """Backfill."""
    return backfill(spec, settings_of(folder, {"customer_id": int}, 1_024, 2), writer, pipeline="pay")


def values(spec: StreamViewSpec, writer: MemoryWriter) -> list[dict[str, Any]]:
    """Return what is served of every customer behind the last event."""
    at_ns = (BEGIN_S + EVENTS * SPACING_S) * 10**9
    return [inspect_entity([spec], customer, writer, at_ns)[0].values for customer in range(7)]


def truth() -> list[dict[str, Any]]:
    """Return what is served where the changed view was there from the first event on."""
    writer = MemoryWriter({})
    count_in(CHANGED, writer, range(EVENTS))
    return values(CHANGED, writer)


@pytest.fixture
def writer(tmp_path: Path) -> MemoryWriter:
    """Return a store in which the view was counted, was changed, and is counted again; beside it lies its history."""
    writer = MemoryWriter({})
    write_history(tmp_path, range(CUT + 50))  # it goes on beyond the cut: what comes is not counted twice
    count_in(BEFORE, writer, range(CUT))
    count_in(CHANGED, writer, range(CUT, EVENTS))
    return writer


def test_changed_view_is_as_if_it_had_been_there_from_the_first(writer: MemoryWriter, tmp_path: Path) -> None:
    """Every column of every entity; the view before is as it was; it is whole, and a second run does nothing."""
    before = values(BEFORE, writer)
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert [each.is_whole for each in record.schemas.values()] == [True, False]
    report = run(CHANGED, writer, tmp_path)
    assert (report.events, report.behind, report.entities, report.filled) == (CUT, 50, 7, 7)
    assert values(CHANGED, writer) == truth()
    assert values(BEFORE, writer) == before
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert all(each.is_whole for each in record.schemas.values())
    assert run(CHANGED, writer, tmp_path).was_whole


class FailingWriter(MemoryWriter):
    """A store whose second update fails, with half of it done."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__(rows)
        self._own = rows
        self.failed = False

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Write every other key, once."""
        if self.failed:
            super().update(changes, notes)
            return
        before = list(map(self._own.get, changes.keys))
        after = changes.values(range(len(before)), before, [False] * len(before))
        self._own |= {key: value for key, value in list(zip(changes.keys, after, strict=True))[::2] if value}
        self.failed = True
        raise StoreError("the network is away", where="memory:", next="try again")


def test_killed_run_counts_no_history_twice(writer: MemoryWriter, tmp_path: Path) -> None:
    """A state says itself that its history is in."""
    failing = FailingWriter(writer._rows)
    with pytest.raises(StoreError):
        run(CHANGED, failing, tmp_path)
    report = run(CHANGED, failing, tmp_path)
    assert (report.filled, report.before) == (3, 4)
    assert values(CHANGED, writer) == truth()


def test_first_backfill_cuts_behind_its_history(tmp_path: Path) -> None:
    """Before any event has come: the history is counted, and what comes later goes on behind it."""
    writer = MemoryWriter({})
    write_history(tmp_path, range(CUT))
    assert run(CHANGED, writer, tmp_path).events == CUT
    count_in(CHANGED, writer, range(CUT - 50, EVENTS))  # some of them again
    assert values(CHANGED, writer) == truth()


def test_event_of_the_future_moves_no_cut(tmp_path: Path) -> None:
    """It is left out and told; what comes after the run is counted, as without it."""
    writer = MemoryWriter({})
    write_history(tmp_path, range(CUT), [payment_in(2100), payment_in(9999)])
    report = run(CHANGED, writer, tmp_path)
    assert (report.events, report.ahead, report.bad) == (CUT, 2, 0)
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert [each.bad for each in record.schemas.values()] == [2]
    count_in(CHANGED, writer, range(CUT, EVENTS))
    assert values(CHANGED, writer) == truth()


def test_event_of_the_future_is_not_counted_behind_a_cut_there(tmp_path: Path) -> None:
    """Of a history that has nothing else: nothing is counted, and the view is not whole."""
    writer = MemoryWriter({})
    write_history(tmp_path, (), [payment_in(2100)])
    with pytest.raises(SourceError, match="no event of before"):
        run(CHANGED, writer, tmp_path)
    count_in(CHANGED, writer, range(EVENTS))
    assert values(CHANGED, writer) == truth()


def test_history_without_an_event_of_before_is_no_success(tmp_path: Path) -> None:
    """The view stays as it is, not whole."""
    writer = MemoryWriter({})
    write_history(tmp_path, range(CUT + 10, CUT + 20))
    count_in(BEFORE, writer, range(CUT))
    with pytest.raises(SourceError, match="no event of before"):
        run(CHANGED, writer, tmp_path)
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert [each.is_whole for each in record.schemas.values()] == [True, False]


def test_view_of_another_stream_or_a_source_is_refused() -> None:
    """Its states would be another's values unseen."""
    writer = MemoryWriter({})
    register(BEFORE, ["pay"], writer, 0)
    other = tr.Stream("refunds", schema=Payment, time="time", id="payment_id")
    body: dict[str, Any] = {"entity": tr.Entity("customer", key="customer_id"), "stream": other}
    body |= {"count_1h": tr.count(window="1h"), "__annotations__": {"count_1h": int}}
    view = type("Activity", (StreamFeatureView,), body)
    with pytest.raises(StoreError, match="is of stream 'payments'"):
        register(view.spec, ["pay"], writer, 0)  # type: ignore[attr-defined]
    assert not issubclass(view, BatchFeatureView)


def test_command_for_a_file_without_stream_views_is_an_error(tmp_path: Path) -> None:
    """It says so, and makes no store."""
    ended = command("backfill", write_pipeline(tmp_path / "pipeline.py"))
    assert ended.returncode != 0
    assert "the file declares no stream view" in ended.stderr
    assert not (tmp_path / "store").exists()
