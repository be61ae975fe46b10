"""Materialisation: the latest good row of every entity reaches the store, whatever else the source holds."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailrace.batch import Provenance
from tailrace.errors import CompileError, SourceError
from tailrace.features.batch_views import BatchFeatureView, BatchViewSpec
from tailrace.features.rows import RowCodec
from tailrace.features.sources import CSV, SQL, Parquet, Source
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import Entity
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9

INTERRUPTED = """
import sys
from pathlib import Path
from tailrace.features.sources import Parquet
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.view_spec import Entity
from tailrace.offline.materialize import materialize
from tailrace.offline.options import MaterializeOptions

class Profile(BatchFeatureView):
    entity = Entity("customer", key="customer_id")
    source = Parquet("profile.parquet", time="as_of")
    amount: float = -1.0
    count: int = -1
    city: str = "?"

def wait_to_be_killed(done, total):
    if done >= 500:
        print(done, flush=True)
        sys.stdin.read()

folder = Path(sys.argv[1])
materialize(Profile.spec, folder, LmdbWriter(folder / "store"), options=MaterializeOptions(batch_rows=100),
            on_progress=wait_to_be_killed)
"""


def spec_of(source: Source) -> BatchViewSpec:
    """Return the spec of a view on a source."""

    class Profile(BatchFeatureView):
        amount: float = -1.0
        count: int = -1
        city: str = "?"

    entity = Entity("customer", key="customer_id")
    return type("Profile", (Profile,), {"entity": entity, "source": source}).spec  # type: ignore[attr-defined,no-any-return]


def at(now_ns: int) -> Callable[[], int]:
    """Return a clock that stands still."""
    return lambda: now_ns


class Run:
    """Materialises into memory, and reads back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: dict[bytes, bytes] = {}
        self.codec = RowCodec(spec_of(Parquet("x")))

    def materialize(self, source: Source, **options: Any) -> MaterializeReport:
        """Materialise a view of the source as of NOW."""
        return materialize(spec_of(source), self._folder, MemoryWriter(self.rows), **({"clock": at(NOW_NS)} | options))

    def read(self, *ids: Any) -> ViewRows:
        """Return what is served for some entities."""
        return self.codec.unpack(list(ids), [self.rows.get(self.codec.key(each)) for each in ids], NOW_NS)

    def amounts(self, *ids: Any) -> list[float]:
        """Return the served amounts; -1 where an entity is unknown."""
        return [float(amount) for amount in self.read(*ids).column("amount")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run with its sources in a folder of the test's."""
    return Run(tmp_path)


def write_parquet(path: Path, **columns: Any) -> None:
    """Write a Parquet file; the columns that a view needs and a test does not name are filled."""
    rows = len(next(iter(columns.values())))
    filled = {"customer_id": list(range(rows)), "amount": [0.0] * rows, "count": [0] * rows, "city": [""] * rows}
    pq.write_table(pa.table(filled | columns), path)


def write_csv(path: Path, *lines: str) -> None:
    """Write a CSV file under the usual header."""
    path.write_text("\n".join(["customer_id,amount,count,city,as_of", *lines]) + "\n")


def test_materialize_writes_the_latest_row_of_each_entity(tmp_path: Path, run: Run) -> None:
    """Of several rows the latest by time that is not later than now is served; later ones are counted."""
    times = [NOW - timedelta(days=days) for days in (3, 1, 2, 5, -1, -2)]
    write_parquet(
        tmp_path / "p.parquet", customer_id=[1, 1, 1, 2, 2, 3], amount=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], as_of=times
    )
    report = run.materialize(Parquet("p.parquet", time="as_of"))
    assert (report.read, report.written, report.bad, report.later) == (6, 2, 0, 2)
    assert run.amounts(1, 2, 3) == [2.0, 4.0, -1.0]
    assert run.read(1).data["$event"].tolist() == [NOW_NS - 86_400 * 10**9]


def test_materialize_serves_defaults_for_nulls(tmp_path: Path, run: Run) -> None:
    """A null is served as the column's default and noted; NaN is a number of its own."""
    write_parquet(tmp_path / "p.parquet", amount=[None, float("nan")], count=[None, 5], city=[None, "Köln"])
    report = run.materialize(Parquet("p.parquet"))
    rows = run.read(0, 1)
    assert report.bad == 0
    assert np.array_equal(rows.column("amount"), [-1.0, float("nan")], equal_nan=True)
    assert rows.column("count").tolist() == [-1, 5]
    assert rows.column("city").tolist() == ["?", "Köln"]
    assert rows.nulls is not None
    assert rows.nulls.tolist() == [[True] * 3, [False] * 3]


def test_materialize_csv_counts_bad_rows_and_keeps_the_rest(tmp_path: Path, run: Run) -> None:
    """Every kind of bad row is counted, the first are told with line or row and content, and the good are written."""
    write_csv(
        tmp_path / "p.csv",
        "1,1.5,1,Rom,2025-06-01",
        "2,many,1,Rom,2025-06-01",  # text in a float column
        "x,1,1,Rom,2025-06-01",  # no int for a key
        ",1,1,Rom,2025-06-01",  # no key
        "3,1,99999999999999999999,Rom,2025-06-01",  # over int64
        "4,1,1.5,Rom,2025-06-01",  # not whole
        "5,1,1,Rom,yesterday",  # no time
        "6,1,1,Rom,",  # no time at all
        "7,1",  # too few values
        "8,1,1,Rom,2025-06-01,more",  # too many
        f"9,1,1,{'x' * 5_000},2025-06-01",  # a text over the limit
        '10,"2.5",2.0,"R,o""m",2025-06-01T10:00:00+02:00',
        "11,,,,2025-06-01",
    )
    report = run.materialize(CSV("p.csv", time="as_of"))
    assert (report.read, report.written, report.bad) == (13, 3, 10)
    rows = run.read(1, 10, 11, 4)
    assert rows.column("amount").tolist() == [1.5, 2.5, -1.0, -1.0]
    assert rows.column("city").tolist() == ["Rom", 'R,o"m', "?", "?"]
    assert rows.provenance.tolist() == [Provenance.FRESH] * 3 + [Provenance.DEFAULT]
    told = "\n".join(f"{row.where} {row.why} {row.content}" for row in report.examples)
    assert len(report.examples) == 5
    assert "line 10" in told
    assert "amount: 'many' is no float64" in told


def test_materialize_keeps_the_row_before_a_bad_one(tmp_path: Path, run: Run) -> None:
    """A bad row does not take its entity away: the last good row stays."""
    write_csv(tmp_path / "p.csv", "1,1.5,1,Rom,2025-06-01", "1,broken,1,Rom,2025-06-02")
    assert run.materialize(CSV("p.csv", time="as_of")).bad == 1
    assert run.amounts(1) == [1.5]


def test_materialize_refuses_what_a_column_cannot_hold(tmp_path: Path) -> None:
    """Overflow of a narrow type is a bad row, not infinity or another number."""

    class Narrow(BatchFeatureView):
        entity = Entity("customer", key="customer_id")
        source = Parquet("p.parquet")
        small: np.float32 = 0.0  # type: ignore[assignment]
        byte: np.uint8 = 0  # type: ignore[assignment]

    table = {"customer_id": [1, 2, 3, 4], "small": [1e300, 1.5, 0.0, float("inf")], "byte": [1.0, 255.0, 256.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    rows: dict[bytes, bytes] = {}
    report = materialize(Narrow.spec, tmp_path, MemoryWriter(rows))
    codec = RowCodec(Narrow.spec)
    found = codec.unpack([2, 4], [rows[codec.key(each)] for each in (2, 4)], 0)
    assert (report.bad, report.written) == (2, 2)
    assert found.data[["small", "byte"]].tolist() == [(1.5, 255), (float("inf"), 2)]


def test_materialize_sql_reads_files_beside_the_pipeline(tmp_path: Path, run: Run) -> None:
    """A SQL file's own paths are relative to the pipeline's folder, wherever the command runs."""
    write_parquet(tmp_path / "payments.parquet", customer_id=[1, 1, 2], amount=[1.0, 2.0, 5.0])
    (tmp_path / "profile.sql").write_text(
        "-- what they paid\nSELECT customer_id, sum(amount) AS amount, count(*) AS count, 'x' AS city\n"
        "FROM 'payments.parquet' GROUP BY ALL;\n"
    )
    report = run.materialize(SQL("profile.sql"))
    assert report.written == 2
    assert run.amounts(1, 2) == [3.0, 5.0]


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2025, 6, 1, 10), datetime(2025, 6, 1, 9)],
        [datetime(2025, 6, 1, 10, tzinfo=UTC), datetime(2025, 6, 1, 9, tzinfo=UTC)],
        ["2025-06-01 10:00:00", "2025-06-01 09:00:00"],
        ["2025-06-01T12:00:00+02:00", "2025-06-01T09:59:59Z"],
    ],
)
def test_materialize_takes_times_of_every_kind(tmp_path: Path, run: Run, times: list[Any]) -> None:
    """Timestamps with and without a zone (then UTC) and texts order rows alike."""
    write_parquet(tmp_path / "p.parquet", customer_id=[1, 1], amount=[1.0, 2.0], as_of=times)
    run.materialize(Parquet("p.parquet", time="as_of"))
    assert run.amounts(1) == [1.0]
    wanted = int(datetime(2025, 6, 1, 10, tzinfo=UTC).timestamp()) * 10**9
    assert run.read(1).data["$event"].tolist() == [wanted]


def test_materialize_takes_a_date_as_its_midnight(tmp_path: Path, run: Run) -> None:
    """A date is the moment it begins, in UTC."""
    write_parquet(tmp_path / "p.parquet", as_of=[date(2025, 6, 1)])
    run.materialize(Parquet("p.parquet", time="as_of"))
    assert run.read(0).data["$event"].tolist() == [int(datetime(2025, 6, 1, tzinfo=UTC).timestamp()) * 10**9]


def test_materialize_renames_columns(tmp_path: Path, run: Run) -> None:
    """`columns=` and `key=` name what the source calls otherwise."""
    table = {"ID": ["a", "b"], "Total Amount": [1.0, 2.0], "count": [1, 2], "city": ["", ""]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    run.materialize(Parquet("p.parquet", key="ID", columns={"amount": "Total Amount"}))
    assert run.amounts("a", "b") == [1.0, 2.0]


def test_materialize_reads_every_file_of_a_glob(tmp_path: Path, run: Run) -> None:
    """A source may lie in parts."""
    for part in (1, 2):
        write_parquet(tmp_path / f"part{part}.parquet", customer_id=[part], amount=[float(part)])
    run.materialize(Parquet("part*.parquet"))
    assert run.amounts(1, 2) == [1.0, 2.0]


@pytest.mark.parametrize(("key_type", "ids"), [(None, [7, 8]), (int, [7, 8]), (str, ["7", "8"])])
def test_materialize_writes_ids_as_the_request_has_them(
    tmp_path: Path, run: Run, key_type: type | None, ids: list[Any]
) -> None:
    """Ids of a CSV are numbers where most are, and what the request has where that is known."""
    write_csv(tmp_path / "p.csv", "7,1.0,1,,", "8,2.0,1,,")
    run.materialize(CSV("p.csv"), key_type=key_type)
    assert run.amounts(*ids) == [1.0, 2.0]


@pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(12, 2)])
def test_materialize_writes_whole_numbers_as_text_ids_without_a_point(tmp_path: Path, run: Run, kind: Any) -> None:
    """Ids that are floats, as pandas makes of integers with nulls, are the texts of the integers; 7.5 is no id."""
    write_parquet(tmp_path / "p.parquet", customer_id=pa.array([4021, None, 7.5], pa.float64()).cast(kind))
    report = run.materialize(Parquet("p.parquet"), key_type=str)
    assert (report.written, report.bad) == (1, 2)
    assert run.read("4021").provenance.tolist() == [Provenance.FRESH]


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.decimal128(3, 1)])
def test_materialize_takes_only_0_and_1_for_a_truth_value(tmp_path: Path, kind: Any) -> None:
    """Another number in a bool column is a bad row, not true; a null is the default."""

    class Flags(BatchFeatureView):
        entity = Entity("customer", key="customer_id")
        source = Parquet("p.parquet")
        blocked: bool = False

    values = [0, 1, 2, -1, None] if kind == pa.int64() else [0.0, 1.0, 2.0, 0.5, None]
    pq.write_table(pa.table({"customer_id": range(5), "blocked": pa.array(values).cast(kind)}), tmp_path / "p.parquet")
    rows: dict[bytes, bytes] = {}
    report = materialize(Flags.spec, tmp_path, MemoryWriter(rows))
    codec = RowCodec(Flags.spec)
    found = codec.unpack([0, 1, 4], [rows[codec.key(each)] for each in (0, 1, 4)], 0)
    assert (report.written, report.bad) == (3, 2)
    assert found.column("blocked").tolist() == [False, True, False]
    assert "blocked: " in report.examples[0].why


def test_materialize_without_the_file_says_where_it_looked(run: Run) -> None:
    """A missing file is told with its path."""
    for source in (Parquet("none.parquet"), CSV("none.csv"), SQL("none.sql")):
        with pytest.raises(SourceError, match=r"features\.Profile\.source.*none"):
            run.materialize(source)


def test_materialize_of_a_missing_column_suggests_one(tmp_path: Path, run: Run) -> None:
    """A column that is not there is told with the nearest that is."""
    pq.write_table(pa.table({"customer_id": [1], "amonut": [1.0], "count": [1], "city": [""]}), tmp_path / "p.parquet")
    with pytest.raises(SourceError, match="did you mean 'amonut'"):
        run.materialize(Parquet("p.parquet"))
    with pytest.raises(SourceError, match="no column 'as_of'"):
        run.materialize(Parquet("p.parquet", time="as_of", columns={"amount": "amonut"}))


def test_materialize_of_an_impossible_type_is_an_error(tmp_path: Path, run: Run) -> None:
    """A list cannot be a float, and a number of seconds is no time."""
    write_parquet(tmp_path / "p.parquet", amount=[[1.0], [2.0]])
    with pytest.raises(SourceError, match="cannot be a float64"):
        run.materialize(Parquet("p.parquet"))
    write_parquet(tmp_path / "p.parquet", as_of=[1, 2])
    with pytest.raises(SourceError, match="cannot be a time"):
        run.materialize(Parquet("p.parquet", time="as_of"))


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_materialize_of_a_file_cut_short_is_an_error(tmp_path: Path, run: Run, kept: int) -> None:
    """A Parquet file that lost its end is told, and nothing is written."""
    write_parquet(tmp_path / "p.parquet", amount=[float(each) for each in range(1_000)])
    content = (tmp_path / "p.parquet").read_bytes()
    (tmp_path / "p.parquet").write_bytes(content[:kept])
    with pytest.raises(SourceError, match="cannot be read"):
        run.materialize(Parquet("p.parquet"))
    assert not [key for key in run.rows if key.startswith(b"{")]


def test_materialize_of_bad_rows_only_is_an_error(tmp_path: Path, run: Run) -> None:
    """If nothing fits, the declaration is wrong."""
    write_csv(tmp_path / "p.csv", "1,a,1,,2025-06-01", "2,b,1,,2025-06-01")
    with pytest.raises(SourceError, match="all 2 rows are bad; the first: amount: 'a'"):
        run.materialize(CSV("p.csv", time="as_of"))


def test_materialize_of_a_broken_query_is_an_error(tmp_path: Path, run: Run) -> None:
    """A SQL file that does not run says what DuckDB said."""
    (tmp_path / "p.sql").write_text("SELECT nothing FROM nowhere")
    with pytest.raises(SourceError, match="nowhere"):
        run.materialize(SQL("p.sql"))


def test_materialize_of_a_mistaken_view_is_an_error(tmp_path: Path) -> None:
    """A view's own mistakes come first."""

    class Wrong(BatchFeatureView):
        amount: float = 0.0

    with pytest.raises(CompileError, match="2 mistakes"):
        materialize(Wrong.spec, tmp_path, MemoryWriter({}))


def test_materialize_of_an_empty_source_is_an_error_unless_allowed(tmp_path: Path, run: Run) -> None:
    """No rows are most likely a mistake upstream."""
    write_csv(tmp_path / "p.csv")
    with pytest.raises(SourceError, match="the source has no rows"):
        run.materialize(CSV("p.csv", time="as_of"))
    report = run.materialize(CSV("p.csv", time="as_of"), options=MaterializeOptions(allow_empty=True))
    assert (report.read, report.written, report.bad) == (0, 0, 0)


def test_materialize_tells_its_progress(tmp_path: Path, run: Run) -> None:
    """Each batch is told with how many rows there will be."""
    write_parquet(tmp_path / "p.parquet", amount=[0.0] * 25)
    told: list[tuple[int, int]] = []
    run.materialize(
        Parquet("p.parquet"),
        options=MaterializeOptions(batch_rows=10),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 25), (10, 25), (20, 25), (25, 25)]


def test_materialize_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A run that is killed is continued by the next, which writes the rest only; the one after starts anew."""
    count = 2_000
    source = Parquet("profile.parquet", time="as_of")
    write_parquet(
        tmp_path / "profile.parquet",
        customer_id=list(range(count))[::-1], amount=[float(each) for each in range(count)][::-1],
        as_of=[datetime(2025, 1, 1)] * count,
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "500\n"
        process.send_signal(signal.SIGKILL)
    spec = spec_of(source)
    writer = LmdbWriter(tmp_path / "store")
    report = materialize(spec, tmp_path, writer, options=MaterializeOptions(batch_rows=100))
    codec = RowCodec(spec)
    ids = list(range(count))
    rows = codec.unpack(ids, [writer.get(codec.key(each)) for each in ids], NOW_NS)
    assert (report.resumed, report.written) == (500, count - 500)
    assert rows.column("amount").tolist() == [float(each) for each in ids]
    assert set(rows.provenance.tolist()) == {Provenance.FRESH}
    again = materialize(spec, tmp_path, writer)
    assert (again.resumed, again.written, again.unchanged) == (0, 0, count)
    writer.close()
