"""Views whose query a Postgres runs: what its values become, and what its faults, with a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from customer_runs import NOW_NS, Folder, spec_of, write_pipeline
from payment_history import FEATURES, Payments
from postgres_server import PASSWORD, PostgresServer

import tailrace as tr
from programs import do_without
from tailrace.batch import Provenance
from tailrace.errors import SourceError
from tailrace.features.row_layout import EVENT_BYTE
from tailrace.features.rows import RowCodec
from tailrace.features.sources import SQL
from tailrace.features.stores.memory import MemoryWriter
from tailrace.offline import outside_calls, postgres
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.outside_calls import StoppedError
from tailrace.offline.progress import source_files

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Yield a running server with profiles of five customers, of which a test changes none."""
    try:
        server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    except FileNotFoundError as missing:
        do_without(str(missing))
    try:
        server.start()
        server.execute("""
            CREATE TABLE profiles (customer_id bigint, amount numeric, edition numeric(20, 2), city text,
                                   as_of timestamptz, tags text[], spent money, seen timestamp);
            INSERT INTO profiles VALUES
                (0, 0.1, 5.00, 'Köln', '2025-06-15 12:00+02', '{a}', 1, '2025-06-15 10:00'),
                (1, 12345678901234.56, 9007199254740993, NULL, '2025-06-15 09:59:59.999999Z', NULL, 1, NULL),
                (2, NULL, NULL, '', '2025-06-01', NULL, 1, NULL),
                (3, 'NaN', 7, 'a,"b"', 'infinity', NULL, 1, NULL),
                (0, 0.7, 1, 'old', '2025-06-15 11:59+02', NULL, 1, NULL),
                (4, 1, 1.5, 'half', '2025-06-01', NULL, 1, NULL)""")
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give libpq the password, and nothing else of ours."""
    for name in [each for each in os.environ if each.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


class Queries(Folder):
    """Runs over queries of one server, into a store of memory."""

    def __init__(self, path: Path, url: str) -> None:
        self.rows: dict[bytes, bytes] = {}
        super().__init__(path, MemoryWriter(self.rows))
        self.url = url
        self.limit_s = 60.0

    def ask(self, query: str = "SELECT 1", url: str = "", time: str | None = "as_of") -> MaterializeReport:
        """Materialise the rows of a query."""
        (self.path / "profile.sql").write_text(query)
        return self.run(SQL("profile.sql", time, on=url or self.url), limits=DatabaseLimits(query_s=self.limit_s))

    def refused(self, query: str = "SELECT 1", url: str = "") -> SourceError:
        """Return the error of a query, which leaves no row and tells no password."""
        with pytest.raises(SourceError) as caught:
            self.ask(query, url)
        assert PASSWORD not in str(caught.value)
        assert not [key for key in self.rows if key.startswith(b"{customer:")]
        return caught.value


@pytest.fixture
def queries(tmp_path: Path, server: PostgresServer) -> Queries:
    """Return what runs queries of the server."""
    return Queries(tmp_path, server.url)


VALUES = "SELECT customer_id, amount, edition, city, as_of FROM profiles"


def test_values_of_postgres_are_what_their_columns_declare(queries: Queries) -> None:
    """Amounts keep their last digit, nulls are defaults, times have their zone, `infinity` is still to come."""
    report = queries.ask(VALUES + ";\n-- all of them\n")
    assert (report.read, report.written, report.bad, report.later) == (6, 3, 1, 1)
    assert report.examples[0].why == "edition: '1.50' is no int64"
    codec = RowCodec(spec_of(SQL("profile.sql")))
    rows = codec.unpack([0, 1, 2, 3, 4], [queries.writer.get(codec.key(each)) for each in range(5)], NOW_NS)
    assert rows.column("amount").tolist() == [0.1, 12345678901234.56, -1.0, -1.0, -1.0]
    assert rows.column("edition").tolist() == [5, 9007199254740993, -1, -1, -1]
    assert rows.column("city").tolist() == ["Köln", "?", "", "?", "?"]
    assert [each == Provenance.DEFAULT for each in rows.provenance.tolist()] == [False, False, False, True, True]
    stored = [queries.writer.get(codec.key(each)) or b"" for each in (0, 1)]
    times = [int.from_bytes(each[EVENT_BYTE : EVENT_BYTE + 8], "little") for each in stored]
    assert [datetime.fromtimestamp(each // 10**9, UTC).isoformat() for each in times] == [
        "2025-06-15T10:00:00+00:00", "2025-06-15T09:59:59+00:00",
    ]  # fmt: skip


def test_rows_that_did_not_change_are_not_written_again(queries: Queries) -> None:
    """Of a table in which one customer has changed, one row is written."""
    assert queries.ask(VALUES).written == len([key for key in queries.rows if key.startswith(b"{customer:")]) == 3
    again = queries.ask(VALUES)
    assert (again.written, again.unchanged) == (0, 3)
    changed = (
        "SELECT customer_id, amount, edition, CASE customer_id WHEN 2 THEN 'new' ELSE city END AS city, as_of FROM ("
    )
    report = queries.ask(f"{changed}{VALUES}) AS p")
    assert (report.written, report.unchanged) == (1, 2)


def test_answer_of_several_fetches_is_whole(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it ends within a fetch or with one, every row comes once."""
    monkeypatch.setattr(postgres, "_FETCH", 'FETCH FORWARD 10 FROM "tailrace"')
    for rows in (29, 30, 31):
        report = queries.ask(f"SELECT i AS customer_id, 1.0 AS amount, 1 AS edition, 'x' AS city FROM "
                             f"generate_series(1, {rows}) i", time=None)  # fmt: skip
        assert report.read == report.written + report.unchanged == rows


def test_query_without_rows_is_an_empty_source(queries: Queries) -> None:
    """Its columns are known all the same."""
    assert queries.refused(f"{VALUES} WHERE false").what == "the source has no rows"


def test_text_in_a_query_names_no_file_here(queries: Queries) -> None:
    """What stands in quotes is Postgres' own: a file of that name may change as it likes."""
    query = f"{VALUES} WHERE city <> 'profile.*'"
    (queries.path / "profile.sql").write_text(query)
    (queries.path / "profile.csv").touch()
    spec = spec_of(SQL("profile.sql", on=queries.url))
    assert set(source_files(spec, queries.path)) == {str(queries.path / "profile.sql")}
    assert len(source_files(spec_of(SQL("profile.sql")), queries.path)) == 2


MISTAKEN = {
    "syntax": ("SELECT customer_id\nFORM profiles", "2:6", "syntax error"),
    "column": (f"{VALUES}\nWHERE 'ü' <> 'é' AND wealth > 1", "2:22", 'column "wealth" does not exist'),
    "table": ("SELECT *\n  FROM nowhere", "2:8", 'relation "nowhere" does not exist'),
    "no column": ("SELECT FROM profiles", "", "it selects no column"),
    "value": ("SELECT 1 / (customer_id - 1) AS amount FROM profiles", "", "division by zero"),
    "two columns": ("SELECT city, edition AS city FROM profiles", "", "gives two columns 'city'"),
    "array": ("SELECT tags FROM profiles", "", "gives 'tags', which is text[]"),
    "money": ("SELECT spent FROM profiles", "", "gives 'spent', which is money"),
    "writing": ("SELECT nextval('counter')", "", "read-only transaction"),
}
"""A query, its place in the file, a part of what is said."""


@pytest.mark.parametrize("kind", MISTAKEN)
def test_mistaken_query_is_told_with_its_place(kind: str, queries: Queries, server: PostgresServer) -> None:
    """The line and column are the file's own, where Postgres knows them."""
    if kind == "writing":
        server.execute("CREATE SEQUENCE IF NOT EXISTS counter")
    query, place, what = MISTAKEN[kind]
    error = queries.refused(query)
    assert what in error.what
    assert error.where == f"{queries.path / 'profile.sql'}{place and ':'}{place}"
    assert error.next


def test_query_that_takes_too_long_is_ended_by_the_server(queries: Queries) -> None:
    """The URL says how long, in Postgres' own words."""
    error = queries.refused("SELECT pg_sleep(60)", f"{queries.url}?options=-c%20statement_timeout%3D50ms")
    assert "canceling statement due to statement timeout" in error.what
    assert "statement_timeout" in error.next


SLOW = "SELECT 1 AS customer_id, pg_sleep(300)"


def running(server: PostgresServer) -> int:
    """Return how many queries of ours run in the server."""
    return server.ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%tailrace%' AND state <> 'idle' "
                      "AND pid <> pg_backend_pid()")[0][0]  # fmt: skip


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_query_past_the_limit_is_ended_in_the_server_too(
    queries: Queries, server: PostgresServer, temporary: Path
) -> None:
    """It is told with the way to more time; nothing of it runs, and nothing lies on the disk."""
    queries.limit_s = 0.3
    error = queries.refused(SLOW)
    assert "it takes longer than 0.3 s, behind 0 rows" in error.what
    assert "--query-limit" in error.next
    assert running(server) == 0
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("begin", ["is running", "is yet to be connected to"])
def test_server_that_stands_still_is_left(
    begin: str, queries: Queries, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """Its kernel takes what is sent, so no setting of the connection finds out; it is cut off, and forgotten."""
    monkeypatch.setattr(outside_calls, "GRACE_S", 0.1)
    queries.limit_s = 0.3
    pausing = threading.Timer(0.15 if begin == "is running" else 0, server.pause)
    pausing.start()
    if begin != "is running":
        pausing.join()
    began_s = time.monotonic()
    try:
        error = queries.refused(SLOW)
    finally:
        pausing.join()
        server.resume()
    assert time.monotonic() - began_s < 5
    assert "it takes longer than 0.3 s" in error.what
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("end", ["it is told to stop", "it is interrupted"])
def test_query_of_a_run_that_ends_is_ended(end: str, queries: Queries, server: PostgresServer, temporary: Path) -> None:
    """The run ends soon, and leaves no query in the server and no file."""
    (queries.path / "profile.sql").write_text(SLOW)
    spec = spec_of(SQL("profile.sql", on=queries.url))
    began_s = time.monotonic()

    def is_stopping() -> bool:
        is_time = running(server) > 0
        if is_time and end == "it is interrupted":
            raise KeyboardInterrupt
        return is_time

    with pytest.raises(StoppedError if end == "it is told to stop" else KeyboardInterrupt):
        materialize(spec, queries.path, queries.writer, is_stopping=is_stopping)
    assert time.monotonic() - began_s < 5
    assert running(server) == 0
    assert not list(temporary.iterdir())


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_that_is_interrupted_leaves_no_query_and_no_file(
    number: signal.Signals, queries: Queries, server: PostgresServer, temporary: Path
) -> None:
    """Ctrl-C, and what a timer or a scheduler sends."""
    (queries.path / "profile.sql").write_text(SLOW)
    file = write_pipeline(queries.path / "visits_pipeline.py", f'tr.SQL("profile.sql", on="{queries.url}")')
    command = [sys.executable, "-W", "ignore", "-m", "tailrace.cli.main", "materialize", str(file)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE) as process:
        end_s = time.monotonic() + 30
        while not running(server):
            assert process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(10) != 0
    assert running(server) == 0
    assert not list(temporary.iterdir())


SETTINGS = "SELECT 1 AS customer_id, 1 AS amount, 1 AS edition, current_setting('{}') AS city"


def setting(queries: Queries, name: str, url: str = "") -> str:
    """Return what a setting is in the transaction of a query, of a store of its own."""
    queries.rows.clear()
    queries.ask(SETTINGS.format(name), url, time=None)
    codec = RowCodec(spec_of(SQL("profile.sql")))
    return codec.unpack([1], [queries.writer.get(codec.key(1))], NOW_NS).column("city").tolist()[0]


def test_server_has_the_limit_too_unless_the_url_says_another(queries: Queries) -> None:
    """It may outlive us. What the URL says is kept, and where it is longer than the limit it holds for both."""
    assert setting(queries, "statement_timeout") == f"{queries.limit_s + outside_calls.GRACE_S:.0f}s"
    url = f"{queries.url}?options=-c%20statement_timeout%3D"
    assert setting(queries, "statement_timeout", url + "5s") == "5s"
    queries.rows.clear()
    queries.limit_s = 0.05
    slow = SETTINGS.format("statement_timeout") + " FROM pg_sleep(0.1)"
    assert queries.ask(slow, url + "5s", time=None).read == 1


def test_settings_of_the_connection_may_stand_anywhere(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default of ours is taken only where neither the URL, nor a variable, nor the service says one."""
    assert setting(queries, "application_name") == "tailrace"
    (queries.path / "services").write_text("[shop]\napplication_name=of the service\n")
    monkeypatch.setenv("PGSERVICEFILE", str(queries.path / "services"))
    assert setting(queries, "application_name", f"{queries.url}?service=shop") == "of the service"
    monkeypatch.setenv("PGSERVICE", "shop")
    assert setting(queries, "application_name") == "of the service"
    monkeypatch.delenv("PGSERVICE")
    monkeypatch.setenv("PGAPPNAME", "of the variable")
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    assert setting(queries, "application_name") == "of the variable"
    assert setting(queries, "client_encoding").lower() == "latin1"
    assert setting(queries, "application_name", f"{queries.url}?application_name=url") == "url"


def test_numeric_keeps_its_last_digit_as_a_text(queries: Queries) -> None:
    """Zeros too: 10.00 is a price. As an int it is 10."""
    queries.ask("SELECT 1.0 AS customer_id, 1 AS amount, 10.00 AS edition, 10.00 AS city", time=None)
    codec = RowCodec(spec_of(SQL("profile.sql")))
    rows = codec.unpack([1], [queries.writer.get(codec.key(1))], NOW_NS)
    assert (rows.column("city").tolist(), rows.column("edition").tolist()) == (["10.00"], [10])


def test_connection_that_is_cut_in_the_middle_leaves_nothing(queries: Queries) -> None:
    """The rows before the cut are a part of the answer, and no part is taken for the whole."""
    cut = "CASE WHEN i = 12000 THEN pg_terminate_backend(pg_backend_pid()) END"
    error = queries.refused(f"SELECT i AS customer_id, 1.0 AS amount, 1 AS edition, 'x' AS city, now() AS as_of, {cut} "
                            f"FROM generate_series(1, 20000) i")  # fmt: skip
    assert "broke off behind 10,000 rows, so nothing of it is written" in error.what


def test_server_that_is_gone_is_told(queries: Queries, server: PostgresServer) -> None:
    """Where it was looked for, and what to see to."""
    gone = queries.url.replace(str(server.port), "1")
    error = queries.refused(url=gone)
    assert error.what.startswith("Postgres cannot be asked: ")
    assert "127.0.0.1" in error.what
    assert "PGPASSWORD" in error.next


def test_wrong_password_is_told_without_it(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is, and where the right one is looked for."""
    monkeypatch.setenv("PGPASSWORD", "another-word")
    error = queries.refused()
    assert "password authentication failed for user" in error.what
    assert "another-word" not in str(error)


def test_password_may_stand_in_the_file_of_passwords(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every client of Postgres reads it."""
    monkeypatch.delenv("PGPASSWORD")
    (queries.path / "passwords").write_text(f"127.0.0.1:*:*:tailrace:{PASSWORD}\n")
    (queries.path / "passwords").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(queries.path / "passwords"))
    assert queries.ask(VALUES).written == 3


def test_history_of_a_stream_may_be_a_table_of_postgres(queries: Queries, server: PostgresServer) -> None:
    """A training set of it is that of the same events in a file."""
    payments = Payments(queries.path, rows=100)
    requests = payments.labelled()
    expected = tr.dataset(payments.pipeline, requests).select(list(FEATURES))
    server.execute("CREATE TABLE labels (transaction_id int, terminal_id int, is_fraud int, time timestamptz)")
    labels = zip(*payments.labels.to_pydict().values(), strict=True)
    rows = ", ".join(f"({number}, {terminal}, {is_fraud}, '{at}')" for number, terminal, is_fraud, at in labels)
    server.execute(f"INSERT INTO labels VALUES {rows}")
    (queries.path / "labels.sql").write_text("SELECT * FROM labels ORDER BY is_fraud")
    (queries.path / "labels.parquet").unlink()
    declared = payments.file.read_text()
    payments.file.write_text(
        declared.replace('tr.Parquet("labels.parquet")', f'tr.SQL("labels.sql", on="{server.url}")')
    )
    assert tr.dataset(payments.pipeline, requests).select(list(FEATURES)).equals(expected)


def test_missing_driver_is_told_with_its_extra(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install 'tailrace[offline]'` brings none."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert queries.refused().next == "pip install 'tailrace[postgres]'"


# -- a table that does not fit in memory, in a process of its own ------------------------------------------------------

COMMAND = """
import re, sys
from tailrace.cli.main import main
try:
    main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    sys.stderr.write(f"\\npeak {int(peak) // 1_024}")
"""


@pytest.mark.slow  # it reads some 300 MB
def test_table_is_read_in_bounded_memory(queries: Queries) -> None:
    """A million rows of 300 bytes take little more memory than ten thousand."""
    peaks = []
    for rows in (10_000, 1_000_000):
        (queries.path / "profile.sql").write_text(f"""
            SELECT i % 1000 AS customer_id, 1.5 AS amount, 1 AS edition, repeat(md5(i::text), 9) AS city
            FROM generate_series(1, {rows}) i""")
        file = write_pipeline(queries.path / "visits_pipeline.py", f'tr.SQL("profile.sql", on="{queries.url}")')
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", COMMAND, "materialize", str(file), "--json", "--memory-mb", "64",
             "--store", str(queries.path / str(rows))],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (json.loads(done.stdout)["read"], json.loads(done.stdout)["written"]) == (rows, 1_000)
        peaks.append(int(done.stderr.rpartition("peak ")[2]))
    assert peaks[1] < peaks[0] + 150, peaks
