"""Resumption: what a run that was interrupted has written is kept only where the next run would write the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailrace.features.batch_views import BatchFeatureView, BatchViewSpec
from tailrace.features.rows import RowCodec
from tailrace.features.sources import SQL, Parquet, Source
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.view_spec import Entity
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

DAY_NS = 86_400 * 10**9
NOW_NS = 20_000 * DAY_NS
CUSTOMER = Entity("customer", key="customer_id")


def spec_of(source: Source, entity: Entity = CUSTOMER, max_staleness: str | None = None) -> BatchViewSpec:
    """Return the spec of a view on a source."""

    class Profile(BatchFeatureView):
        amount: float = -1.0

    body = {"entity": entity, "source": source, "max_staleness": max_staleness}
    return type("Profile", (Profile,), body).spec  # type: ignore[attr-defined,no-any-return]


class Runs:
    """Runs on one store, in a folder with 30 rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: dict[bytes, bytes] = {}
        self.write("p.parquet", 30)

    def write(self, name: str, rows: int) -> None:
        """Write a source of so many rows."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"customer_id": range(rows), "account": range(100, 100 + rows), "amount": [1.0] * rows})
        pq.write_table(table, path)

    def query(self, text: str) -> SQL:
        """Return a SQL source of this text."""
        (self._folder / "profile.sql").write_text(text)
        return SQL("profile.sql")

    def go_on(self, spec: BatchViewSpec, now_ns: int = NOW_NS, **options: Any) -> MaterializeReport:
        """Run to the end."""
        chosen = MaterializeOptions(batch_rows=10, **options)
        return materialize(spec, self._folder, MemoryWriter(self.rows), options=chosen, clock=lambda: now_ns)

    def interrupt(self, spec: BatchViewSpec) -> None:
        """Run until 20 rows are written."""

        def fail(done: int, total: int) -> None:
            if done == 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            materialize(
                spec, self._folder, MemoryWriter(self.rows), options=MaterializeOptions(batch_rows=10),
                clock=lambda: NOW_NS, on_progress=fail,
            )  # fmt: skip

    def event_days(self, spec: BatchViewSpec) -> list[int]:
        """Return the days of the rows, by id."""
        codec = RowCodec(spec)
        found = codec.unpack(list(range(30)), [self.rows[codec.key(each)] for each in range(30)], NOW_NS)
        return [int(event_ns) // DAY_NS for event_ns in found.data["$event"]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Return runs on a store of the test's."""
    return Runs(tmp_path)


def test_interrupted_run_is_continued_from_the_same_source(runs: Runs) -> None:
    """What was written is not written again."""
    runs.interrupt(spec_of(Parquet("p.parquet")))
    report = runs.go_on(spec_of(Parquet("p.parquet")))
    assert (report.resumed, report.written) == (20, 10)


def test_interrupted_run_of_another_source_is_not_continued(runs: Runs) -> None:
    """A file that changed is read from its first row."""
    runs.interrupt(spec_of(Parquet("p.parquet")))
    runs.write("p.parquet", 31)
    report = runs.go_on(spec_of(Parquet("p.parquet")))
    assert (report.resumed, report.written, report.unchanged) == (0, 11, 20)


@pytest.mark.parametrize(
    ("entity", "take_over"), [(Entity("payer", key="customer_id"), False), (Entity("customer", key="account"), True)]
)
def test_interrupted_run_under_other_keys_is_not_continued(runs: Runs, entity: Entity, take_over: bool) -> None:
    """An entity that is renamed, or identified by another column, gets all of its rows under the new keys."""
    runs.interrupt(spec_of(Parquet("p.parquet")))
    report = runs.go_on(spec_of(Parquet("p.parquet"), entity), take_over=take_over)
    assert (report.resumed, report.written + report.unchanged) == (0, 30)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM 'parts/2025/p.parquet'",
        'SELECT * FROM "parts/2025/p.parquet"',
        "-- a customer's rows\nSELECT * FROM 'parts/2025/p.parquet'",
        "SELECT * FROM read_parquet('**/p.parquet')",
    ],
)
def test_interrupted_query_over_another_file_is_not_continued(runs: Runs, query: str) -> None:
    """The files of a query are known however they are quoted, and by `**` too."""
    runs.write("parts/2025/p.parquet", 30)
    source = runs.query(query)
    runs.interrupt(spec_of(source))
    runs.write("parts/2025/p.parquet", 31)
    assert runs.go_on(spec_of(source)).resumed == 0


def test_interrupted_query_over_the_same_files_is_continued(runs: Runs) -> None:
    """Quotes and stars of a query that name no file change nothing."""
    source = runs.query("SELECT *, '' AS \"none\" FROM 'p.parquet'")
    runs.interrupt(spec_of(source))
    assert runs.go_on(spec_of(source)).resumed == 20


def test_run_without_a_time_column_writes_what_is_left_as_of_then(runs: Runs) -> None:
    """Each row is as of when it is written, so those of a run that is finished a day later are not a day old."""
    spec = spec_of(Parquet("p.parquet"), max_staleness="2d")
    runs.interrupt(spec)
    assert runs.go_on(spec, NOW_NS + DAY_NS, resume_ns=5 * DAY_NS).resumed == 20
    assert runs.event_days(spec) == [20_000] * 20 + [20_001] * 10


def test_run_whose_rows_are_stale_by_now_is_not_continued(runs: Runs) -> None:
    """Rows that count as of when they were written are written again once they are older than `max_staleness`."""
    spec = spec_of(Parquet("p.parquet"), max_staleness="2d")
    runs.interrupt(spec)
    assert runs.go_on(spec, NOW_NS + 3 * DAY_NS, resume_ns=5 * DAY_NS).resumed == 0
    assert runs.event_days(spec) == [20_003] * 30
