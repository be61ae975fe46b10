"""Definitions of a stream view that nobody uses any more: they go, and none that a server reads."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tailrace as tr
from tailrace.deadline import NS_PER_S
from tailrace.errors import LeaseError, SourceError, StoreError
from tailrace.features.catalogue import SchemaRecord, key_end, read_record, schema_name, use_key
from tailrace.features.keys import KeyFormat
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stores.runs import Run
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.ingest import registration
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.registration import begin_use, register
from tailrace.ingest.use import SILENT_NS, end_use, lapse, note_use
from tailrace.offline.backfill import BackfillReport, backfill, settings_of
from tailrace.offline.history import History, HistoryCounts
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
    note_use(spec, writer, "server", int(at_s) * NS_PER_S)
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


def write_history(folder: Path, events: int) -> None:
    """Write the first events as the stream's history."""
    rows = [{name: getattr(each, name) for name in Payment.__struct_fields__} for each in payments(range(EVENTS))]
    pq.write_table(pa.Table.from_pylist(rows).slice(0, events), folder / "payments.parquet")


def change(writer: StoreWriter, folder: Path) -> None:
    """Have the old definition counted, then the new one, whose history is counted in when the view is changed."""
    write_history(folder, EVENTS)
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


@pytest.fixture
def writer_of_old() -> StoreWriter:
    """Return a store in which the view was counted for half of the events."""
    writer = MemoryWriter({})
    serve(OLD, writer, range(30), BEGIN_S + 30)
    return writer


def test_definition_that_nobody_uses_is_removed(writer: StoreWriter, tmp_path: Path) -> None:
    """Its states and what is noted of it; the declared one, other views and entities stay. It may be declared again."""
    others = [b"{customer:1}Other:00000000", b"{shop:1}Activity:00000000"]
    writer.exchange([(key, b"of another view") for key in others], ())
    later_s = CHANGE_S + DAY_S
    note_use(NEW, writer, "server", later_s * NS_PER_S)
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
    note_use(OLD, writer, "server", (CHANGE_S + old_s) * NS_PER_S)
    if new_s is None:
        writer.exchange((), [use_key("Activity", schema_name(NEW.schema_id))])
    else:
        note_use(NEW, writer, "server", (CHANGE_S + new_s) * NS_PER_S)
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
    """A store in which a server on the old file notes its use right before a definition is marked, and goes on after.

    own: what the server is given.
    """

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__(rows)
        self._saw_mark = threading.Event()
        self.own: SchemaRecord | None = None
        self.server = threading.Thread(target=self._register)

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write; once a definition is marked, go on when the server has seen that."""
        is_mark = any(b'"is_mixed":true' in value for _, value in puts)
        if is_mark:
            note_use(OLD, MemoryWriter(self._rows), "late", CHANGE_S * NS_PER_S)
        removed = super().exchange(puts, removes)
        if is_mark:
            self.server.start()
            assert self._saw_mark.wait(10)
        return removed

    def _register(self) -> None:
        class Reading(MemoryWriter):
            def get(own, key: bytes) -> bytes | None:  # noqa: N805
                stored = MemoryWriter.get(own, key)
                if stored is not None and b'"is_mixed":true' in stored:
                    self._saw_mark.set()
                return stored

        self.own = begin_use(OLD, ["pay"], Reading(self._rows), "late", lambda: CHANGE_S * NS_PER_S, refuse=False)


def test_definition_of_a_server_that_starts_meanwhile_is_kept(tmp_path: Path) -> None:
    """It is as it was, whole, with all of its states; and the server counts into it, though it has read the mark."""
    rows: dict[bytes, bytes] = {}
    writer = Starting(rows)
    change(writer, tmp_path)
    note_use(NEW, writer, "server", (CHANGE_S + DAY_S) * NS_PER_S)
    before = records(writer), counts(OLD, writer)
    assert run(NEW, writer, tmp_path, CHANGE_S + DAY_S).retired == 0
    assert (records(writer), counts(OLD, writer)) == before
    writer.server.join(10)
    assert writer.own == records(writer)[schema_name(OLD.schema_id)]
    assert writer.own is not None
    assert writer.own.is_whole
    assert not writer.own.is_retiring


def test_server_that_starts_after_its_definition_has_gone_is_refused_or_begins_anew(tmp_path: Path) -> None:
    """A server is refused, since another definition has its history; who only counts registers it, cut where it is."""
    writer, later_s = MemoryWriter({}), CHANGE_S + DAY_S
    change(writer, tmp_path)
    note_use(NEW, writer, "server", later_s * NS_PER_S)
    assert run(NEW, writer, tmp_path, later_s).retired == CUSTOMERS
    with pytest.raises(StoreError, match="lacks its history"):
        begin_use(OLD, ["pay"], writer, "late", lambda: later_s * NS_PER_S, refuse=True)
    own = begin_use(OLD, ["pay"], writer, "late", lambda: later_s * NS_PER_S, refuse=False)
    assert (own.is_whole, own.begins_ns) == (False, (BEGIN_S + EVENTS) * NS_PER_S)


class Failing(MemoryWriter):
    """A store that fails when some of what is to go is gone."""

    def remove(self, run: Run, keys: Any) -> int:
        """Remove the first key, and fail."""
        super().remove(run, keys[:1])
        raise StoreError("the network is away", where="memory:", next="try again")


@pytest.mark.parametrize("again", ["removed", "declared"])
def test_killed_run_leaves_no_definition_that_is_served_in_part(
    tmp_path: Path, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not whole, and nobody counts into it, until the next run has removed it, or has filled it anew."""
    rows: dict[bytes, bytes] = {}
    writer, later_s = MemoryWriter(rows), CHANGE_S + DAY_S
    change(writer, tmp_path)
    note_use(NEW, writer, "server", later_s * NS_PER_S)
    with pytest.raises(StoreError):
        run(NEW, Failing(rows), tmp_path, later_s)
    assert len(states(OLD, writer)) == CUSTOMERS - 1
    left = records(writer)[schema_name(OLD.schema_id)]
    assert not left.is_fit
    if again == "removed":
        assert run(NEW, writer, tmp_path, later_s).retired == CUSTOMERS - 1
        assert states(OLD, writer) == []
        return
    monkeypatch.setattr(registration, "RETIRING_S", 0.1)
    with pytest.raises(StoreError, match="are being removed"):
        begin_use(OLD, ["pay"], writer, "server", lambda: later_s * NS_PER_S, refuse=False)
    with pytest.raises(StoreError, match="are being removed"):
        Applier(stream, [OLD], writer, ManualClock(), {"Activity": left.begins_ns})
    assert len(states(OLD, writer)) == CUSTOMERS - 1
    assert run(OLD, writer, tmp_path, later_s).events == EVENTS
    assert counts(OLD, writer) == TRUTH


def test_definition_that_nobody_counts_into_is_cut_where_its_backfill_begins(
    writer_of_old: StoreWriter, tmp_path: Path
) -> None:
    """Whoever registered it has gone, and the old one was counted on: each event is in the history, or comes."""
    writer = writer_of_old
    serve(NEW, writer, range(30, 40), BEGIN_S + 40)
    end_use(NEW, writer, "server", (BEGIN_S + 41) * NS_PER_S)
    serve(OLD, writer, range(30, 50), BEGIN_S + 50)
    write_history(tmp_path, EVENTS - 5)
    report = run(NEW, writer, tmp_path, CHANGE_S)
    assert (report.events, report.behind, report.filled) == (50, 5, CUSTOMERS)
    serve(NEW, writer, range(50, EVENTS), CHANGE_S)
    assert counts(NEW, writer) == TRUTH


def test_definition_that_was_cut_anew_lacks_what_came_since_that_cut_alone(
    writer_of_old: StoreWriter, tmp_path: Path
) -> None:
    """Its history has what came between its use and the cut; from its next use on, the end of that counts again."""
    writer = writer_of_old
    serve(NEW, writer, range(30, 40), BEGIN_S + 40)
    end_use(NEW, writer, "server", (BEGIN_S + 41) * NS_PER_S)
    serve(OLD, writer, range(30, 50), BEGIN_S + 50)
    write_history(tmp_path, 50)
    run(NEW, writer, tmp_path, CHANGE_S)
    note_use(OLD, writer, "server", CHANGE_S * NS_PER_S)
    assert lapse(NEW, writer, (CHANGE_S + 1) * NS_PER_S) is None
    serve(OLD, writer, range(50, EVENTS), CHANGE_S + 2)
    cut_s, newest_s = BEGIN_S + 50, BEGIN_S + EVENTS - 1
    assert lapse(NEW, writer, (CHANGE_S + 3) * NS_PER_S) == ("Activity", cut_s * NS_PER_S, newest_s * NS_PER_S)
    note_use(NEW, writer, "next", (CHANGE_S + 4) * NS_PER_S)
    assert lapse(NEW, writer, (CHANGE_S + 5) * NS_PER_S) is None
    end_use(NEW, writer, "next", (CHANGE_S + 6) * NS_PER_S)
    note_use(OLD, writer, "server", (CHANGE_S + 8) * NS_PER_S)
    end_use(OLD, writer, "server", (CHANGE_S + 9) * NS_PER_S)
    ended_ns, until_ns = (CHANGE_S + 6) * NS_PER_S, (CHANGE_S + 9) * NS_PER_S
    assert lapse(NEW, writer, (CHANGE_S + 10) * NS_PER_S) == ("Activity", ended_ns, until_ns)


def test_definition_that_somebody_counts_into_stays_cut_where_it_began(
    writer_of_old: StoreWriter, tmp_path: Path
) -> None:
    """What has come since is in its states."""
    writer = writer_of_old
    serve(NEW, writer, range(30, EVENTS), BEGIN_S + 40)
    write_history(tmp_path, EVENTS)
    report = run(NEW, writer, tmp_path, BEGIN_S + 50)
    assert (report.events, report.behind) == (30, EVENTS - 30)
    assert counts(NEW, writer) == TRUTH


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("events", [30, 45, 48])
def test_definition_that_was_counted_into_keeps_what_a_history_that_is_behind_lacks(
    writer_of_old: StoreWriter, tmp_path: Path, events: int, is_killed: bool
) -> None:
    """Whoever counted has ended, or was killed some time after its last note; it lacks what came into the old alone."""
    writer, end_s = writer_of_old, BEGIN_S + (44 if is_killed else 50)
    serve(NEW, writer, range(30, 50), end_s)
    if not is_killed:
        end_use(NEW, writer, "server", end_s * NS_PER_S)
    later_s = end_s + SILENT_NS // NS_PER_S
    serve(OLD, writer, range(30, EVENTS - 5), later_s)
    write_history(tmp_path, events)
    report = run(NEW, writer, tmp_path, later_s)
    assert (report.events, report.behind) == (30, events - 30)
    assert sum(counts(NEW, writer)) == 50
    assert lapse(NEW, writer, (later_s + 1) * NS_PER_S) == ("Activity", end_s * NS_PER_S, (later_s + 1) * NS_PER_S)


def test_row_with_a_wrong_date_takes_nothing_away(writer_of_old: StoreWriter, tmp_path: Path) -> None:
    """One row of a history that is behind is later than all that was counted: it does not reach there."""
    writer = writer_of_old
    serve(NEW, writer, range(30, 50), BEGIN_S + 50)
    end_use(NEW, writer, "server", (BEGIN_S + 50) * NS_PER_S)
    serve(OLD, writer, range(30, EVENTS - 5), BEGIN_S + 55)
    rows = [{name: getattr(each, name) for name in Payment.__struct_fields__} for each in payments(range(30))]
    wrong = {"payment_id": 99, "customer_id": 1, "time": float(BEGIN_S + 54)}
    pq.write_table(pa.Table.from_pylist([*rows, wrong]), tmp_path / "payments.parquet")
    assert run(NEW, writer, tmp_path, BEGIN_S + 55).events == 30
    assert sum(counts(NEW, writer)) == 50


def test_new_cut_lies_before_what_comes_while_the_history_is_read(
    writer_of_old: StoreWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the history does not have; the first server on the new file counts it, or says that it is lacking."""
    writer = writer_of_old
    register(NEW, ["pay"], writer, (BEGIN_S + 30) * NS_PER_S)
    serve(OLD, writer, range(30, 50), BEGIN_S + 50)
    write_history(tmp_path, 50)
    read = History.counts

    def arriving(history: History) -> HistoryCounts:
        serve(OLD, writer, range(50, EVENTS), CHANGE_S)
        return read(history)

    monkeypatch.setattr(History, "counts", arriving)
    assert run(NEW, writer, tmp_path, CHANGE_S).events == 50
    assert records(writer)[schema_name(NEW.schema_id)].begins_ns == (BEGIN_S + 50) * NS_PER_S


def test_only_definition_keeps_what_was_counted_into_it(tmp_path: Path) -> None:
    """It is served without its history, where no other has one: a backfill that finds none takes nothing away."""
    writer = MemoryWriter({})
    register(NEW, ["pay"], writer, 0, is_empty_whole=False)
    serve(NEW, writer, range(EVENTS), BEGIN_S + EVENTS)
    write_history(tmp_path, 0)
    with pytest.raises(SourceError):
        run(NEW, writer, tmp_path, CHANGE_S)
    assert counts(NEW, writer) == TRUTH
