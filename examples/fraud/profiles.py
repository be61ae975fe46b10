"""Profiles, events and labelled rows of the fraud example: what was known of a customer and a terminal, and when.

Time is cut at one midnight, `cutoff`. What is served are the profiles as of that midnight; the day behind it is held
back, and replayed to the server. The model learns from the rows of ten days before it, each with the profiles of
the midnight before that row: they stand in the file that is served from, where `tr.dataset` finds them. The last seven
days before the cut-off are left out, since at the cut-off their fraud is not yet told, and the first thirty of all,
since their windows are half empty. Profiles are SQL, run by DuckDB; windows over the events are Tailrace's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailrace.errors import SourceError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

HERE: Final = Path(__file__).parent
VIEWS: Final = {"CustomerProfile": "customer", "TerminalProfile": "terminal"}
"""The entity of each view; `<entity>_profile.sql` makes it."""

HELD_BACK_DAYS: Final = 1
TOLD_AFTER_DAYS: Final = 7
WARM_UP_DAYS: Final = 30
TRAINING_DAYS: Final = 10
DAYS_MIN: Final = WARM_UP_DAYS + 7 + TOLD_AFTER_DAYS + HELD_BACK_DAYS + 6  # 6: to find the right weekday
RECENT_DAYS: Final = 32
"""No window of the pipeline looks back further than to events of so many days before the cut-off."""
COLUMNS: Final = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")


@dataclass(frozen=True, slots=True)
class History:
    """Transactions in a database, moved in time by `shift_days`, with the midnight at which the past ends."""

    connection: duckdb.DuckDBPyConnection
    cutoff: date
    shift_days: int

    def write_profiles(self, entity: str, out: Path) -> int:
        """Write profiles as of the cut-off, which are served, and as of the midnight before each training row.

        Returns how many are served.
        """
        self._make_profiles(
            entity,
            f"SELECT {entity}_id, $cutoff AS as_of FROM transactions WHERE TX_DATETIME < $cutoff UNION "
            f"SELECT {entity}_id, TX_DATETIME::DATE FROM transactions WHERE TX_DATETIME BETWEEN $first AND $told",
        )
        in_order = f"FROM {entity}_profile ORDER BY {entity}_id, as_of"
        self.connection.execute(f"COPY ({in_order}) TO '{out}' (COMPRESSION zstd)")
        return self._number(self._at(f"SELECT count(*) FROM {entity}_profile WHERE as_of = $cutoff"))

    def write_events(self, payments: Path, labels: Path) -> None:
        """Write the payments and their labels as events, each a folder of three files.

        old.parquet, and recent.parquet of the last days before the cut-off, have what had come by then: labels come a
        week after their payments. live.parquet has what comes later.
        """
        told = self.cutoff - timedelta(days=TOLD_AFTER_DAYS)
        self._write_events(payments, "customer_id, terminal_id, round(TX_AMOUNT * 100) / 100 AS amount", self.cutoff)
        self._write_events(labels, "terminal_id, TX_FRAUD::BOOLEAN AS is_fraud", told)

    def _write_events(self, folder: Path, columns: str, until: date) -> None:
        """Write events in three files: before the last days before `until`, of these, and from then on."""
        folder.mkdir(parents=True, exist_ok=True)
        recent = until - timedelta(days=RECENT_DAYS)
        spans = {
            "old": f"TX_DATETIME < DATE '{recent}'",
            "recent": f"TX_DATETIME >= DATE '{recent}' AND TX_DATETIME < DATE '{until}'",
            "live": f"TX_DATETIME >= DATE '{until}'",
        }
        for name, where in spans.items():
            query = f"""
                SELECT TRANSACTION_ID::VARCHAR AS transaction_id, {columns}, TX_DATETIME AS time
                FROM transactions WHERE {where} ORDER BY TX_DATETIME, TRANSACTION_ID
            """
            self.connection.execute(f"COPY ({query}) TO '{folder / name}.parquet' (COMPRESSION zstd)")

    def training_rows(self) -> pa.Table:
        """Return the payments to learn from, in the order of time, under the request's names, with their label."""
        return self._rows("TX_DATETIME BETWEEN $first AND $told")

    def held_back_rows(self) -> pa.Table:
        """Return the payments behind the cut-off in the same way."""
        return self._rows("TX_DATETIME >= $cutoff")

    def _make_profiles(self, entity: str, wanted: str) -> None:
        """Make the table `<entity>_profile` with the profiles that the query `wanted` asks for."""
        self.connection.execute(f"CREATE OR REPLACE TABLE wanted AS {self._at(wanted)}")
        sql = (HERE / f"{entity}_profile.sql").read_text()
        self.connection.execute(f"CREATE OR REPLACE TABLE {entity}_profile AS {sql}")

    def _rows(self, where: str) -> pa.Table:
        query = f"""
            SELECT TRANSACTION_ID::VARCHAR AS transaction_id, customer_id, terminal_id,
                   round(TX_AMOUNT * 100) / 100 AS amount, TX_DATETIME AS time, TX_FRAUD AS is_fraud
            FROM transactions WHERE {where} ORDER BY TX_DATETIME, TRANSACTION_ID
        """
        return self.connection.sql(self._at(query)).to_arrow_table()

    def _at(self, query: str) -> str:
        """Return the query with this history's midnights in it."""
        days = self._number("SELECT epoch(min(TX_DATETIME)) // 86400 FROM transactions")
        told = self.cutoff - timedelta(days=TOLD_AFTER_DAYS)
        first = max(date(1970, 1, 1) + timedelta(days=days + WARM_UP_DAYS), told - timedelta(days=TRAINING_DAYS))
        moments = {
            "$first": f"DATE '{first}'",
            "$told": f"TIMESTAMP '{told}' - INTERVAL 1 MICROSECOND",
            "$cutoff": f"DATE '{self.cutoff}'",
        }
        for name, moment in moments.items():
            query = query.replace(name, moment)
        return query

    def _number(self, query: str) -> int:
        """Return the one number that a query gives."""
        return int(self.connection.execute(query).fetchall()[0][0])


def load_history(data: Path, start: date, threads: int = 2) -> History:
    """Read transactions, and move them by whole weeks so that the day that is held back is `start`.

    Weekday and time of day stay; so that both can be kept, up to six days at the end of the file are left out.
    Raises SourceError: a file that is not Parquet, lacks a column, or holds too few days.
    """
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    check_columns(connection, data)
    first, last = connection.execute(
        "SELECT min(TX_DATETIME)::DATE, max(TX_DATETIME)::DATE FROM read_parquet(?)", [str(data)]
    ).fetchall()[0]
    days = (last - first).days + 1 if first else 0
    if days < DAYS_MIN:
        raise SourceError(
            f"the transactions span {days} days; {DAYS_MIN} are needed",
            where=str(data),
            next=f"simulate more: python examples/fraud/simulate.py FILE --days {DAYS_MIN}",
        )
    cutoff = last - timedelta(days=HELD_BACK_DAYS - 1)
    cutoff -= timedelta(days=(cutoff - start).days % 7)
    shift_days = (start - cutoff).days
    connection.execute(
        """
        CREATE TABLE transactions AS
        SELECT TRANSACTION_ID, CUSTOMER_ID AS customer_id, TERMINAL_ID AS terminal_id,
               TX_AMOUNT::DOUBLE AS TX_AMOUNT, TX_FRAUD, TX_DATETIME::TIMESTAMP + to_days(?::INTEGER) AS TX_DATETIME
        FROM read_parquet(?) WHERE TX_DATETIME < ?
        """,
        [shift_days, str(data), cutoff + timedelta(days=HELD_BACK_DAYS)],
    )
    return History(connection, start, shift_days)


def check_columns(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Raise SourceError unless the file is Parquet and has the columns of a transaction."""
    import duckdb

    if not data.is_file():
        raise SourceError("there is no such file", where=str(data), next="give --data a Parquet file of transactions")
    try:
        description = connection.execute("DESCRIBE FROM read_parquet(?)", [str(data)]).fetchall()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"the file cannot be read: {reason}", where=str(data), next="write it as Parquet") from None
    missing = set(COLUMNS) - {row[0] for row in description}
    if missing:
        raise SourceError(
            f"the file lacks the columns {', '.join(sorted(missing))}",
            where=str(data),
            next=f"give it the columns {', '.join(COLUMNS)}",
        )
