"""A view of customers whose values say whose they are and of which edition: a mixed row, or an old one, is seen."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.batch import Provenance
from tailrace.features.batch_views import BatchFeatureView, BatchViewSpec
from tailrace.features.catalogue import ViewRecord, read_record, schema_name
from tailrace.features.rows import RowCodec
from tailrace.features.sources import Parquet, Source
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.view_spec import Entity
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
DAY_NS = 86_400 * 10**9
ROWS = 40
PAGE = 10
SOURCE = Parquet("profile.parquet", time="as_of")

PIPELINE = """
import tailrace as tr

class Visit(tr.Request):
    customer_id: int

class Answer(tr.Response):
    score: float

class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = {source}
    amount: float = -1.0
    edition: int = -1
    city: str = "?"

visits = tr.Pipeline(
    name="{name}", request=Visit, response=Answer, features=[Profile], model=tr.Model("visits"),
    budget=tr.Budget("50ms"), store="lmdb:store",
)
"""

STOPPING = """
import sys
from pathlib import Path
from tailrace.compile.loading import load_pipelines
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.offline.materialize import materialize
from tailrace.offline.options import MaterializeOptions

file, url, rows, lease_ms = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def stop(done, total):
    if done == rows:
        print(done, flush=True)
        sys.stdin.readline()

(pipeline,) = load_pipelines(file)
(view,) = pipeline.views
writer = RedisWriter(url, lease_ms=lease_ms) if url.startswith("redis") else open_writer(url)
materialize(
    view.spec, pipeline.base_dir, writer, pipeline=pipeline.name, options=MaterializeOptions(batch_rows=10),
    on_progress=stop, key_type=int,
)
"""


def spec_of(source: Source, entity: str = "customer", **attributes: Any) -> BatchViewSpec:
    """Return the spec of the view, as it is in `PIPELINE`; attributes: more of them."""

    class Profile(BatchFeatureView):
        amount: float = -1.0
        edition: int = -1
        city: str = "?"

    body = {"entity": Entity(entity, key="customer_id"), "source": source, **attributes}
    return type("Profile", (Profile,), body).spec  # type: ignore[attr-defined,no-any-return]


def changed_spec(source: Source = SOURCE, **columns: Any) -> BatchViewSpec:
    """Return the spec of the view after its columns were changed to these, given with their defaults."""
    body: dict[str, Any] = {"entity": Entity("customer", key="customer_id"), "source": source, **columns}
    annotations = {name: type(default) for name, default in columns.items()}
    return type("Profile", (BatchFeatureView,), body | {"__annotations__": annotations}).spec  # type: ignore[attr-defined,no-any-return]


def schema_of(spec: BatchViewSpec) -> str:
    """Return the name of a view's schema."""
    return schema_name(RowCodec(spec).schema_id)


def profiles(edition: int, ids: range = range(ROWS), as_of: datetime | None = NOW) -> dict[str, list[Any]]:
    """Return an edition of the customers' columns. as_of: None leaves the time out."""
    columns: dict[str, list[Any]] = {
        "customer_id": list(ids),
        "amount": [each + edition / 8 for each in ids],
        "edition": [edition] * len(ids),
        "city": [f"city {each} of {edition}" for each in ids],
    }
    return columns if as_of is None else columns | {"as_of": [as_of] * len(ids)}


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write a Parquet file and rename it to its place, as a job should."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    pq.write_table(pa.table(columns), new)
    new.rename(path)


def csv_lines(columns: dict[str, list[Any]]) -> list[str]:
    """Return the lines of a CSV file, without its header."""
    return [",".join(map(str, values)) + "\n" for values in zip(*columns.values(), strict=True)]


def write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write a CSV file."""
    path.write_text("".join([",".join(columns) + "\n", *csv_lines(columns)]))


def write_pipeline(
    path: Path, source: str = 'tr.Parquet("profile.parquet", time="as_of")', name: str = "visits"
) -> Path:
    """Write the file of a pipeline with this source; return its path."""
    path.write_text(PIPELINE.format(source=source, name=name))
    return path


def editions(writer: StoreWriter, spec: BatchViewSpec, ids: range = range(ROWS)) -> list[int | None]:
    """Return which edition of each customer a store holds, None where it holds none. Fails for a mixed row."""
    codec = RowCodec(spec)
    found = codec.unpack(list(ids), [writer.get(codec.key(each)) for each in ids], NOW_NS)
    assert not found.errors
    columns = [found.column(name).tolist() for name in ("amount", "edition", "city")]
    held: list[int | None] = []
    for entity, provenance, amount, edition, city in zip(ids, found.provenance.tolist(), *columns, strict=True):
        is_there = provenance != Provenance.DEFAULT
        if is_there:
            assert (amount, city) == (entity + edition / 8, f"city {entity} of {edition}"), "a mixed row"
        held.append(edition if is_there else None)
    return held


def amounts(writer: StoreWriter, spec: BatchViewSpec) -> list[float]:
    """Return the amounts that are served under a schema."""
    codec = RowCodec(spec)
    rows = [writer.get(codec.key(each)) for each in range(ROWS)]
    return codec.unpack(list(range(ROWS)), rows, NOW_NS).column("amount").tolist()  # type: ignore[no-any-return]


class Folder:
    """Runs over sources in one folder, into one store, in this process."""

    def __init__(self, path: Path, writer: StoreWriter) -> None:
        self.path = path
        self.writer = writer

    def run(
        self,
        source: Source | None = None,
        *,
        spec: BatchViewSpec | None = None,
        now_ns: int = NOW_NS,
        clock: Callable[[], int] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        pipeline: str = "visits",
        **options: Any,
    ) -> MaterializeReport:
        """Materialise the view from a source, as of a moment."""
        return materialize(
            spec or spec_of(source or SOURCE),
            self.path,
            self.writer,
            pipeline=pipeline,
            options=MaterializeOptions(**{"batch_rows": PAGE} | options),
            on_progress=on_progress,
            clock=clock or (lambda: now_ns),
            key_type=int,
        )

    def interrupt(self, rows: int, source: Source | None = None, **arguments: Any) -> None:
        """Run until so many rows are written, and no further."""

        def fail(done: int, total: int) -> None:
            if done == rows:
                raise KeyboardInterrupt

        try:
            self.run(source, on_progress=fail, **arguments)
        except KeyboardInterrupt:
            return
        raise AssertionError(f"it went on behind row {rows}")

    def editions(self, spec: BatchViewSpec | None = None, ids: range = range(ROWS)) -> list[int | None]:
        """Return which edition of each customer the store holds."""
        return editions(self.writer, spec or spec_of(Parquet("profile.parquet")), ids)


def record_of(folder: Folder) -> ViewRecord:
    """Return what the store notes of the view."""
    record = read_record(folder.writer.get, "Profile")
    assert record is not None
    return record


@contextmanager
def stopped_run(file: Path, url: str, rows: int, lease_ms: int = 30_000) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that materialises a pipeline's view, and stands still once so many rows are written.

    A line on its standard input lets it go on. It is killed at the end, if it is still there.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", STOPPING, str(file), url, str(rows), str(lease_ms)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{rows}\n", process.stderr and process.stderr.read()
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `tailrace` as a process of its own; return how it ended."""
    words = [sys.executable, "-W", "ignore", "-m", "tailrace.cli.main", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


def days(count: float) -> timedelta:
    """Return so many days."""
    return timedelta(days=count)
