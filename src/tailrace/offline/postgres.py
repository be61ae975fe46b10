"""Runs a query on a Postgres server, and gives its rows as Arrow batches: through a cursor, some thousand at a time.

The cursor is read in one read-only transaction, so that all rows are of one moment, and a replica answers it too.
Numbers and booleans are read as they are. All else comes as the text that Postgres writes, in UTC, and is cast to what
a column declares as the values of a CSV are: an amount keeps its last digit, and `infinity` is a time like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from tailrace.errors import SourceError
from tailrace.offline.query_faults import QueryFaults

if TYPE_CHECKING:
    import pyarrow as pa

FETCH_ROWS: Final = 5_000
"""Rows that are in memory at a time."""

_DECLARE: Final = 'DECLARE "tailrace" NO SCROLL CURSOR FOR '
_FETCH: Final = f'FETCH FORWARD {FETCH_ROWS} FROM "tailrace"'
_SETTINGS: Final = (
    "SET TIME ZONE 'UTC'",
    "SET DateStyle = 'ISO'",
    "SET cursor_tuple_fraction = 1",  # every row is read: a plan that is quick for the first ones is none for all
)
_CONNECTION: Final = {
    "connect_timeout": "10", "application_name": "tailrace", "client_encoding": "utf8",
    "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "60000",
}  # fmt: skip
"""Seconds, but for the last, of milliseconds. A URL may say otherwise."""

_NUMBERS: Final = {"bool": "bool_", "int2": "int16", "int4": "int32", "int8": "int64", "float4": "float32",
                   "float8": "float64"}  # fmt: skip
"""The types that are read as they are: how Postgres calls them, and how pyarrow does."""
_UNREADABLE: Final = frozenset({"money", "bytea"})  # the text of money is in the words of a country

_NEXT_CONNECT: Final = (
    "see that the server is there and lets this user in; the password comes from PGPASSWORD or ~/.pgpass"
)
_NEXT_QUERY: Final = "correct the query: one SELECT in Postgres' SQL"
_NEXT_TIME: Final = (
    'give it more time, as in on="postgresql://…?options=-c%20statement_timeout%3D10min", or make the query cheaper'
)
_QUERY_CANCELED: Final = "57014"


def postgres_batches(url: str, query: str, faults: QueryFaults) -> Iterator[pa.RecordBatch]:
    """Give the rows of a query, the columns with the first batch, which may be empty. Raises SourceError.

    url: of the database; libpq finds the password, in the environment or in ~/.pgpass.
    """
    try:
        import psycopg
    except ImportError:
        raise SourceError("a query on Postgres needs psycopg", where=faults.path,
                          next="pip install 'tailrace[postgres]'") from None  # fmt: skip
    rows = 0
    try:
        connection = _connect(psycopg, url)
    except psycopg.Error as error:
        raise faults.unreachable("Postgres", _message(error), _NEXT_CONNECT) from None
    with closing(connection):
        try:
            cursor = _declare(connection, query)
            columns: list[_Column] | None = None
            while columns is None or cursor.rowcount:
                cursor.execute(_FETCH)
                columns = columns or [_Column(each, connection.adapters.types, faults) for each in cursor.description]
                if not columns:  # a SELECT of none is a query in Postgres
                    raise faults.refused("it selects no column", _NEXT_QUERY)
                if cursor.rowcount or not rows:
                    yield _batch(columns, cursor.fetchall())
                rows += cursor.rowcount
        except psycopg.Error as error:
            raise _told(error, rows, faults) from None
        finally:
            with suppress(psycopg.Error):  # the connection may be gone
                connection.rollback()


def _connect(psycopg: Any, url: str) -> Any:
    """Return a connection whose transactions only read, and that gives all but numbers as text."""
    from psycopg.types.string import TextLoader

    settings = _CONNECTION | psycopg.conninfo.conninfo_to_dict(url)
    connection = psycopg.connect(**settings, prepare_threshold=None)  # a pooler in between may know of none prepared
    connection.read_only = True
    for each in connection.adapters.types:
        if each.name not in _NUMBERS:
            connection.adapters.register_loader(each.oid, TextLoader)
    return connection


def _declare(connection: Any, query: str) -> Any:
    """Begin the transaction, and return a cursor of the query's rows."""
    cursor = connection.cursor()
    for setting in _SETTINGS:
        cursor.execute(setting)
    cursor.execute(_DECLARE + query)
    return cursor


class _Column:
    """One column of an answer: its name, and its type in Arrow. Raises SourceError for a type that no value is of."""

    def __init__(self, description: Any, types: Any, faults: QueryFaults) -> None:
        import pyarrow as pa

        known = types.get(description.type_code)
        kind = known.name if known is not None else "text"
        if kind in _UNREADABLE or (known is not None and description.type_code == known.array_oid):
            raise faults.unreadable(description.name, f"{kind}[]" if kind not in _UNREADABLE else kind, "Postgres")
        self.name = description.name
        self.is_number = kind == "numeric"
        self.arrow = getattr(pa, _NUMBERS.get(kind, "string"))()

    def array(self, values: Sequence[Any]) -> Any:
        """Return some of its values in Arrow. A numeric that is whole is written without a point, as an id is."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = pa.array(values, self.arrow)
        return pc.replace_substring_regex(array, r"\.0+$", "") if self.is_number else array


def _batch(columns: Sequence[_Column], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    values = list(zip(*rows, strict=True)) if rows else [() for _ in columns]
    arrays = [column.array(each) for column, each in zip(columns, values, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _told(error: Any, rows: int, faults: QueryFaults) -> SourceError:
    """Return what an error of Postgres comes to."""
    if error.sqlstate == _QUERY_CANCELED:
        return faults.refused(f"{_message(error)}, behind {rows:,} rows", _NEXT_TIME)
    # The server's own words come with a code; a connection that is lost has none, or one of its shutdown.
    if error.sqlstate is None or error.sqlstate.startswith(("57P", "08")):
        return faults.broken_off("Postgres", rows, _message(error))
    position = error.diag.statement_position
    place = None if position is None else faults.place_of(int(position) - 1 - len(_DECLARE))
    return faults.refused(_message(error), _NEXT_QUERY, place)


def _message(error: Any) -> str:
    return str(error.diag.message_primary or error)
