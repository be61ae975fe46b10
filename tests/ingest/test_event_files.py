"""Files of events: a row that is no event is counted as bad, and a column of another type is told by its name."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from payments import BEGIN, counted, payment

import tailrace as tr
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.errors import SourceError
from tailrace.features.streams import Stream
from tailrace.ingest.files import EventFile
from tailrace.ingest.routes import streams_of
from tailrace.ingest.run import IngestReport, StreamWriters, ingest_pages

EVENTS = 20
BIG = 2**53 + 1
"""A whole number that no float holds."""


class Click(tr.Request):
    """An event of texts, which may lack all but its time and its id."""

    click_id: str
    at: float
    page: str = ""
    seconds: float | None = None


clicks = Stream("clicks", schema=Click, time="at", id="click_id")


def payments_table(**changed: pa.Array) -> pa.Table:
    """Return payments as a table, with some columns changed."""
    rows = [{**payment(number), "time": datetime.fromisoformat(payment(number)["time"])} for number in range(EVENTS)]
    table = pa.Table.from_pylist(rows)
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


class Runner:
    """Counts files into a store of its own."""

    def __init__(self, pipelines_dir: Path, store: str) -> None:
        self._pipelines = load_pipelines(pipelines_dir / "activity.py")
        (self.stream,) = (each for each in streams_of(self._pipelines) if each.name == "payments")
        self._store = store

    def ingest(self, path: Path) -> IngestReport:
        """Count a file in."""
        with closing(StreamWriters(self.stream, self._pipelines, lambda _: self._store, MonotonicClock())) as writers:
            return ingest_pages(self.stream, EventFile(path, self.stream).pages(), writers, lambda rows: None)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return an embedded store of this test's own, yet to be made."""
    return f"lmdb:{tmp_path / 'store'}"


@pytest.fixture
def runner(pipelines_dir: Path, store: str) -> Runner:
    """Return what counts payments in."""
    return Runner(pipelines_dir, store)


def write(table: pa.Table, path: Path) -> Path:
    """Write a table as its suffix says."""
    pq.write_table(table, path) if path.suffix == ".parquet" else pyarrow.csv.write_csv(table, path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("name", ["transaction_id", "customer_id", "terminal_id", "time"])
def test_row_without_time_id_or_key_is_bad_alone(
    name: str, suffix: str, runner: Runner, tmp_path: Path, pipelines_dir: Path, store: str
) -> None:
    """The others are counted; a view's key is as much needed as the time and the id."""
    table = payments_table()
    values = table[name].to_pylist()
    values[3] = None
    path = write(payments_table(**{name: pa.array(values, table[name].type)}), tmp_path / f"events{suffix}")
    report = runner.ingest(path)
    assert (report.counted, report.poison) == (EVENTS - 1, 1)
    assert counted(pipelines_dir, store) == EVENTS - 1


def test_ids_beside_a_null_are_exact(runner: Runner, tmp_path: Path) -> None:
    """Two ids that are one as floats are two events."""
    ids = pa.array([None, *range(BIG - 1, BIG + EVENTS - 2)], pa.int64())
    report = runner.ingest(write(payments_table(transaction_id=ids), tmp_path / "events.parquet"))
    assert (report.counted, report.duplicate, report.poison) == (EVENTS - 1, 0, 1)


def test_null_of_another_field_is_none(runner: Runner, tmp_path: Path, pipelines_dir: Path, store: str) -> None:
    """The event counts, its amount does not."""
    amounts = pa.array([None, *[1.0] * (EVENTS - 1)])
    report = runner.ingest(write(payments_table(amount=amounts), tmp_path / "events.parquet"))
    assert (report.counted, report.poison) == (EVENTS, 0)
    assert counted(pipelines_dir, store) == EVENTS


def test_whole_numbers_as_floats_are_taken(runner: Runner, tmp_path: Path) -> None:
    """As pandas writes a column with nulls."""
    ids = pa.array([float("nan"), *map(float, range(1, EVENTS))])
    report = runner.ingest(write(payments_table(customer_id=ids), tmp_path / "events.parquet"))
    assert (report.counted, report.poison) == (EVENTS - 1, 1)


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("transaction_id", pa.array([f"t{number}" for number in range(EVENTS)]), "int64"),
        ("customer_id", pa.array([number + 0.5 for number in range(EVENTS)]), "int64"),
        ("terminal_id", pa.array([2**64 - 1] * EVENTS, pa.uint64()), "int64"),
        ("amount", pa.array(["much"] * EVENTS), "float64"),
        ("time", pa.array([round(BEGIN.timestamp()) + number for number in range(EVENTS)]), "datetime64"),
    ],
    ids=["texts", "fractions", "beyond 64 bits", "words", "a time of no unit"],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_column_of_another_type_is_told(
    name: str, column: pa.Array, kind: str, suffix: str, runner: Runner, tmp_path: Path
) -> None:
    """By its name and the file's; nothing of it is counted."""
    path = write(payments_table(**{name: column}), tmp_path / f"events{suffix}")
    with pytest.raises(SourceError) as caught:
        runner.ingest(path)
    assert f"the column {name!r}" in str(caught.value)
    assert kind in str(caught.value)
    assert str(path) in str(caught.value)


def test_line_with_a_number_over_64_bits_is_bad_alone(runner: Runner, tmp_path: Path) -> None:
    """In the id and in a key; so is a line without a key."""
    bad = [{"transaction_id": 2**64}, {"customer_id": -(2**63) - 1}, {"terminal_id": None}]
    events = [*map(payment, range(EVENTS)), *(payment(EVENTS + at) | each for at, each in enumerate(bad))]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    report = runner.ingest(path)
    assert (report.counted, report.poison) == (EVENTS, len(bad))


def test_texts_and_what_may_be_absent(tmp_path: Path) -> None:
    """Categories and whole numbers are texts as well; NaN is no time, a null number is NaN."""
    table = pa.table({
        "click_id": pa.array([1.0, None, 3.0]), "at": [5.0, 6.0, float("nan")],
        "page": pa.array(["home", None, "home"]).dictionary_encode(), "seconds": pa.array([None, 2, 3]),
    })  # fmt: skip
    path = write(table, tmp_path / "clicks.parquet")
    (page,) = EventFile(path, clicks).pages()
    events = page.read(())
    assert (page.rows, len(events), events.times.tolist()) == (3, 1, [5_000_000_000])
    assert events.ids is not None
    assert events.ids.tolist() == [b"1"]
    assert events.field("page").tolist() == ["home"]
    assert str(events.field("seconds")[0]) == "nan"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_file_of_a_changed_schema_is_refused(suffix: str, runner: Runner, tmp_path: Path) -> None:
    """A column that is gone is told by its name, and how a renamed one is found; one that is new is no fault."""
    table = payments_table().append_column("channel", pa.array(["web"] * EVENTS))
    renamed = write(table.rename_columns({"amount": "amount_eur"}), tmp_path / f"renamed{suffix}")
    with pytest.raises(SourceError, match="has no column 'amount'") as caught:
        runner.ingest(renamed)
    assert "columns={'amount': …}" in str(caught.value)
    assert runner.ingest(write(table, tmp_path / f"more{suffix}")).counted == EVENTS


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_file_that_is_cut_short_counts_no_event_twice(
    suffix: str, runner: Runner, tmp_path: Path, pipelines_dir: Path, store: str
) -> None:
    """What of it can be read may be counted; the whole file, given then, counts the rest."""
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".jsonl":
        whole.write_text("".join(f"{json.dumps(payment(number))}\n" for number in range(EVENTS)))
    else:
        write(payments_table(), whole)
    content, cut = whole.read_bytes(), tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) - 25])
    first = 0
    if suffix == ".jsonl":
        report = runner.ingest(cut)
        first = report.counted
        assert (first, report.poison) == (EVENTS - 1, 1)
    else:
        with pytest.raises(SourceError, match=r"cannot be read|column"):
            runner.ingest(cut)
    report = runner.ingest(whole)
    assert (report.counted, report.duplicate) == (EVENTS - first, first)
    assert counted(pipelines_dir, store) == EVENTS
