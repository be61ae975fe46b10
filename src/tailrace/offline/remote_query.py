"""A SQL file that Postgres or Spark runs: its rows come as Arrow batches into the database that a source is read with.

SQL file --Postgres or Spark--> batches of some thousand rows --> the table `rows`, which DuckDB keeps on disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.errors import SourceError
from tailrace.features.sources import SQL, Engine
from tailrace.offline.database import DatabaseLimits, read_query
from tailrace.offline.outside_calls import OutsideCalls, never
from tailrace.offline.postgres import postgres_batches
from tailrace.offline.query_faults import QueryFaults
from tailrace.offline.spark import SparkQuery

if TYPE_CHECKING:
    import pyarrow as pa


def run_remote_query(
    connection: Any,
    source: SQL,
    view: str,
    base_dir: Path,
    limits: DatabaseLimits,
    folder: Path,
    is_stopping: Callable[[], bool] = never,
) -> Any:
    """Return the rows of a query that another engine runs as the table `rows`, with the place of each in `$row`.

    base_dir: the pipeline's folder, which names of files are relative to. folder: for what the engine writes itself.
    Raises SourceError, also for an answer that is not whole in time, and StoppedError where the run is to stop. Then no
    table is there, since a part of an answer is never taken for the whole, and no query goes on.
    """
    path = base_dir / source.path
    query = read_query(path)
    faults = QueryFaults(view, str(path), query)
    calls = OutsideCalls(limits.query_s, is_stopping)
    if source.engine is Engine.POSTGRES:
        assert source.on is not None
        return _load(connection, postgres_batches(source.on, query, faults, calls), faults)
    with SparkQuery(source, query, faults, base_dir, limits, folder, calls) as spark:
        return _load(connection, spark.batches(), faults)


def _load(connection: Any, batches: Iterator[pa.RecordBatch], faults: QueryFaults) -> Any:
    """Put batches into the table `rows`. There is at least one, which may be empty: it tells the columns."""
    import pyarrow as pa

    database, rows = connection.con, 0
    for batch in batches:
        _check_names(batch.schema.names, faults)
        places = pa.array(range(rows, rows + batch.num_rows), pa.int64())
        database.register("part", pa.Table.from_batches([batch]).append_column("$row", places))
        database.execute("INSERT INTO rows FROM part" if rows else "CREATE OR REPLACE TEMP TABLE rows AS FROM part")
        database.unregister("part")
        rows += batch.num_rows
    return connection.table("rows")


def _check_names(names: list[str], faults: QueryFaults) -> None:
    """Raise SourceError where two columns have one name; DuckDB takes `Amount` and `amount` for one."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise SourceError(
                f"the query of {faults.view} gives two columns {name!r}", where=faults.path,
                next="tell them apart with AS",
            )  # fmt: skip
        seen.add(name.lower())
