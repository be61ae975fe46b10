"""Views whose query a Spark session runs: its rows are DuckDB's, and its faults leave nothing, with a real session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from customer_runs import Folder, write_parquet, write_pipeline
from spark_python import ROOT, find_spark_python

from tailrace.errors import SourceError
from tailrace.features.row_layout import WRITTEN_BYTE
from tailrace.features.sources import SQL
from tailrace.features.stores.memory import MemoryWriter
from tailrace.offline import spark
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.outside_calls import OutsideCalls, StoppedError
from tailrace.offline.query_faults import QueryFaults

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

ONE_CORE = "spark:local[1]"
CUSTOMERS = 6_000
QUERY = """
-- What each customer spent, and where last.
SELECT customer_id, sum(amount)::DECIMAL(18, 2) AS amount, count(*) FILTER (WHERE amount > 10) AS edition,
       max(city) AS city, max(time) AS as_of
FROM 'payments/*.parquet'
WHERE time > TIMESTAMP '2024-01-01 00:00:00'
GROUP BY ALL
"""


class Queries(Folder):
    """Runs over queries of Spark, into a store of memory."""

    def __init__(self, path: Path) -> None:
        self.rows: dict[bytes, bytes] = {}
        super().__init__(path, MemoryWriter(self.rows))

    def refused(self, query: str, **arguments: str) -> SourceError:
        """Return the error of a query, which leaves no row."""
        (self.path / "profile.sql").write_text(query)
        with pytest.raises(SourceError) as caught:
            self.run(SQL("profile.sql", on=ONE_CORE, **arguments))
        assert not [key for key in self.rows if key.startswith(b"{customer:")]
        return caught.value


@pytest.fixture(scope="module")
def spark_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python with PySpark."""
    return find_spark_python(tmp_path_factory.mktemp("spark") / "venv")


@pytest.fixture
def queries(tmp_path: Path) -> Queries:
    """Return what runs queries."""
    return Queries(tmp_path)


@pytest.fixture
def with_spark(spark_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions live in the Python that has PySpark."""
    monkeypatch.setattr(spark.sys, "executable", str(spark_python))
    monkeypatch.setattr(spark, "find_spec", lambda name: name)


def write_payments(folder: Path) -> None:
    """Write two files of payments: to the cent, with nulls, and at both hours that New York calls half past one."""
    for file in range(2):
        at = datetime(2024, 11, 3, 5, 30, 0, 123_456, UTC)
        ids = [place % CUSTOMERS for place in range(2 * CUSTOMERS)]
        write_parquet(folder / "payments" / f"{file}.parquet", {
            "customer_id": ids,
            "amount": pa.array([None if each % 7 == 0 else Decimal(each * 7 + file).scaleb(-2) for each in ids],
                               pa.decimal128(12, 2)),
            "city": [None if each % 5 == 0 else f"Köln {each}" for each in ids],
            "time": pa.array([at + timedelta(hours=each % 3) for each in ids], pa.timestamp("us", tz="UTC")),
        })  # fmt: skip


def materialized(python: Path, folder: Path, source: str) -> tuple[dict[str, object], dict[bytes, bytes]]:
    """Run `tailrace materialize`; return what it prints, and each row but for the time of writing."""
    file = write_pipeline(folder / "visits_pipeline.py", source)
    store = folder / f"store of {len(source)}"
    script = "from tailrace.cli.main import main; main()"
    settings = {"PYTHONPATH": str(ROOT / "src"), "TZ": "America/New_York"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", script, "materialize", str(file), "--json", "--store", f"lmdb:{store}"],
        capture_output=True, text=True, env={**os.environ, **settings}, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # nothing of what Spark logs
    import lmdb

    with lmdb.open(str(store), readonly=True, lock=False) as environment, environment.begin() as transaction:
        rows = {bytes(key): value[:WRITTEN_BYTE] + value[WRITTEN_BYTE + 8 :] for key, value in transaction.cursor()}
    return json.loads(done.stdout), {key: row for key, row in rows.items() if key.startswith(b"{customer:")}


@pytest.mark.slow  # it installs Spark, and starts a session
@pytest.mark.timeout(900)
def test_query_gives_the_same_rows_on_duckdb_and_on_spark(spark_python: Path, tmp_path: Path) -> None:
    """One file, one declaration but for its place, the same bytes in the store; whatever zone the machine is in."""
    write_payments(tmp_path)
    (tmp_path / "profile.sql").write_text(QUERY)
    here, expected = materialized(spark_python, tmp_path, 'tr.SQL("profile.sql", time="as_of")')
    there, found = materialized(
        spark_python, tmp_path, f'tr.SQL("profile.sql", time="as_of", on="{ONE_CORE}", dialect="duckdb")'
    )
    assert (here["read"], here["written"], here["bad"]) == (CUSTOMERS, CUSTOMERS, 0)
    assert (there["read"], there["written"], there["bad"]) == (CUSTOMERS, CUSTOMERS, 0)
    assert len(expected) == CUSTOMERS
    assert found == expected
    left = {path.name for path in tmp_path.iterdir()} - {"payments", "profile.sql", "visits_pipeline.py"}
    assert {name[:8] for name in left} == {"store of"}  # Spark leaves no folder of its own


MISTAKEN = {
    "syntax": ("SELECT 1 AS customer_id\nFORM nowhere", {}, "2:1", "Syntax error"),
    "column": ("SELECT id AS customer_id,\n  wealth FROM range(3)", {}, "2:3", "wealth"),
    "translated": ("SELECT 1 AS customer_id\n  FROM (SELECT 1", {"dialect": "duckdb"}, "2:16", "Expecting )"),
    "array": (
        "SELECT id AS customer_id, array(id) AS city FROM range(3)",
        {},
        "",
        "gives 'city', which is array<bigint>",
    ),
    "two columns": ("SELECT id AS customer_id, 1 AS city, 2 AS city FROM range(3)", {}, "", "two columns 'city'"),
}
"""A query, how it is declared, its place in the file, a part of what is said."""


@pytest.mark.slow  # a session each
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_spark")
@pytest.mark.parametrize("kind", MISTAKEN)
def test_mistaken_query_is_told_with_its_place(kind: str, queries: Queries) -> None:
    """In one line, without what Java says beside it."""
    query, arguments, place, what = MISTAKEN[kind]
    error = queries.refused(query, **arguments)
    assert what in error.what
    assert error.where == f"{queries.path / 'profile.sql'}{place and ':'}{place}"


@pytest.mark.slow  # a session
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_spark")
def test_row_that_fails_leaves_nothing(queries: Queries) -> None:
    """The rows before it are a part of the answer, and no part is taken for the whole."""
    failing = "IF(id = 60000, raise_error('no such city'), 'x') AS city"
    query = f"SELECT id AS customer_id, 1.0 AS amount, 1 AS edition, {failing} FROM range(0, 80000, 1, 4)"
    error = queries.refused(query)
    assert "so nothing of it is written" in error.what
    assert "no such city" in error.what


@pytest.mark.slow  # a session
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_spark")
@pytest.mark.parametrize("end", ["it is killed", "its asker is gone"])
def test_session_that_ends_in_the_middle_leaves_no_answer_and_no_java(end: str, tmp_path: Path) -> None:
    """A stream that ends between two batches reads like one that is whole, and is none."""
    query = "SELECT id AS customer_id FROM range(0, 5000000, 1, 50)"
    faults = QueryFaults("Profile", "profile.sql", query)
    source = SQL("profile.sql", on=ONE_CORE)
    with spark.SparkQuery(source, query, faults, tmp_path, DatabaseLimits(), tmp_path, OutsideCalls(60)) as session:
        batches = session.batches()
        assert sum(next(batches).num_rows for _ in range(3)) > 0
        own = session._process.pid
        javas = [pid for pid in children_of(own) if runs_java(pid)]
        assert javas
        if end == "it is killed":
            os.kill(own, signal.SIGKILL)
        else:
            session._process.stdin.close()  # as the kernel does for one that is killed
        with pytest.raises(SourceError, match="so nothing of it is written"):
            list(batches)
    assert not any(map(runs_java, javas))


@pytest.mark.slow  # a session
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_spark")
@pytest.mark.parametrize("end", ["it is late", "its run is to stop"])
def test_session_that_takes_too_long_is_ended_with_its_java(end: str, tmp_path: Path) -> None:
    """Within seconds, whatever the query computes; its folder can be removed then."""
    query = "SELECT count(DISTINCT id % 1000000007) AS customer_id FROM range(0, 1000000000000)"
    faults, source = QueryFaults("Profile", "profile.sql", query), SQL("profile.sql", on=ONE_CORE)
    javas: list[int] = []

    def is_stopping() -> bool:
        javas[:] = [pid for pid in children_of(session._process.pid) if runs_java(pid)] or javas
        return bool(javas) and time.monotonic() - began_s > 12 and end == "its run is to stop"

    calls = OutsideCalls(12 if end == "it is late" else 300, is_stopping)
    began_s = time.monotonic()
    told = pytest.raises(SourceError, match="longer than 12 s") if end == "it is late" else pytest.raises(StoppedError)
    with told, spark.SparkQuery(source, query, faults, tmp_path, DatabaseLimits(), tmp_path, calls) as session:
        list(session.batches())
    assert time.monotonic() - began_s < 30
    assert javas
    assert not any(map(runs_java, javas))


def children_of(parent: int) -> list[int]:
    """Return the processes that a process, or one of its own, has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, rest = int(each.parent.name), each.read_text().rpartition(")")[2].split()
            if int(rest[1]) == parent:
                found += [pid, *children_of(pid)]
    return found


def runs_java(pid: int) -> bool:
    """Return whether a process is a Java that runs: one that has ended may be there, but not its program."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").endswith("/java")
    return False


def test_missing_java_is_told_with_what_to_install(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of Spark is started."""
    monkeypatch.setattr(spark, "find_spec", lambda name: name)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    error = queries.refused("SELECT 1 AS customer_id")
    assert "Spark cannot be asked: there is no Java in JAVA_HOME, /nowhere" in error.what
    assert "openjdk-17-jre-headless" in error.next


def test_missing_pyspark_is_told_with_its_extra(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install 'tailrace[offline]'` brings none."""
    monkeypatch.setattr(spark, "find_spec", lambda name: None)
    assert queries.refused("SELECT 1 AS customer_id").next == "pip install 'tailrace[spark]'"
