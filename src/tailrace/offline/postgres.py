"""Runs a query on a Postgres server, and gives its rows as Arrow batches: through a cursor, some thousand at a time.

The cursor is read in one read-only transaction, so that all rows are of one moment, and a replica answers it too.
Numbers and booleans are read as they are. All else comes as the text that Postgres writes, in UTC, and is cast to what
a column declares as the values of a CSV are: an amount keeps its last digit, and `infinity` is a time like any other.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tailrace.errors import SourceError
from tailrace.offline.outside_calls import GRACE_S, LateError, OutsideCalls
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
    # Where the server can (14, not on Windows), it looks for us while a query runs, and ends that where we are gone.
    "SELECT set_config(name, '2s', false) FROM pg_settings WHERE name = 'client_connection_check_interval' "
    "AND setting = '0' AND version() ~ 'linux|darwin|bsd'",
)
_TIMEOUT: Final = "SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'"  # 0: there is none
_CONNECTION: Final = {
    "connect_timeout": "10", "application_name": "tailrace", "client_encoding": "utf8",
    "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "60000",
}  # fmt: skip
"""Seconds, but for the last, of milliseconds. Each is left out where the URL, a variable or the service says it."""
_NOWHERE: Final = "/nowhere"
"""As a host it is a folder of sockets: where it is missing, nobody is asked."""

_NUMBERS: Final = {"bool": "bool_", "int2": "int16", "int4": "int32", "int8": "int64", "float4": "float32",
                   "float8": "float64"}  # fmt: skip
"""The types that are read as they are: how Postgres calls them, and how pyarrow does."""
_UNREADABLE: Final = frozenset({"money", "bytea"})  # the text of money is in the words of a country

_NEXT_CONNECT: Final = (
    "see that the server is there and lets this user in; the password comes from PGPASSWORD or ~/.pgpass"
)
_NEXT_QUERY: Final = "correct the query: one SELECT in Postgres' SQL"
_NEXT_TIME: Final = (
    "make the query cheaper, or give it more time: tailrace materialize --query-limit, or "
    'on="postgresql://…?options=-c%20statement_timeout%3D10min"'
)
_QUERY_CANCELED: Final = "57014"


def postgres_batches(url: str, query: str, faults: QueryFaults, calls: OutsideCalls) -> Iterator[pa.RecordBatch]:
    """Give the rows of a query, the columns with the first batch, which may be empty.

    url: of the database; libpq finds the password, in the environment or in ~/.pgpass. calls: how the server is asked.
    Raises SourceError, also where the answer is not whole in time, and StoppedError; the query is ended then.
    """
    try:
        import psycopg
    except ImportError:
        raise SourceError("a query on Postgres needs psycopg", where=faults.path,
                          next="pip install 'tailrace[postgres]'") from None  # fmt: skip
    rows = 0
    try:
        connection = calls.call(partial(_connect, psycopg, url, calls))
    except psycopg.Error as error:
        raise faults.unreachable("Postgres", _message(error), _NEXT_CONNECT) from None
    except LateError as error:
        raise faults.unreachable("Postgres", str(error), _NEXT_CONNECT) from None
    asked = _Asked(connection, calls)
    try:
        cursor = asked.declare(query)
        columns: list[_Column] | None = None
        while columns is None or cursor.rowcount:
            asked.run(partial(cursor.execute, _FETCH))
            columns = columns or [_Column(each, connection.adapters.types, faults) for each in cursor.description]
            if not columns:  # a SELECT of none is a query in Postgres
                raise faults.refused("it selects no column", _NEXT_QUERY)
            if cursor.rowcount or not rows:
                yield _batch(columns, cursor.fetchall())
            rows += cursor.rowcount
        asked.run(connection.rollback)  # a pooler in between keeps its own connection for the next who comes
    except psycopg.Error as error:
        raise _told(error, rows, faults) from None
    except LateError as error:
        raise faults.refused(f"{error}, behind {rows:,} rows", _NEXT_TIME) from None
    finally:
        asked.close()


def _connect(psycopg: Any, url: str, calls: OutsideCalls) -> Any:
    """Return a connection whose transactions only read, and that gives all but numbers as text."""
    from psycopg.types.string import TextLoader

    settings = psycopg.conninfo.conninfo_to_dict(url)
    settings |= {name: value for name, value in _CONNECTION.items() if name not in _said(psycopg, settings)}
    connection = psycopg.connect(**settings, prepare_threshold=None)  # a pooler in between may know of none prepared
    if calls.left_behind:  # nobody waits for it any more
        connection.close()
    connection.read_only = True
    for each in connection.adapters.types:
        if each.name not in _NUMBERS:
            connection.adapters.register_loader(each.oid, TextLoader)
    return connection


def _said(psycopg: Any, settings: dict[str, Any]) -> set[str]:
    """Return the settings that the URL, libpq's variables or its service file say.

    Only libpq knows them all, and it tells of a connection alone, be it one that has failed before anybody was asked.
    """
    nowhere = psycopg.conninfo.make_conninfo("", **settings | {"host": _NOWHERE, "hostaddr": "", "port": "1"})
    connection = psycopg.pq.PGconn.connect_start(nowhere.encode())
    try:
        return {each.keyword.decode() for each in connection.info if each.val is not None}
    finally:
        connection.finish()


class _Asked:
    """A server that is asked one query. Its calls are ended by a word to it, or, where it is silent, by the socket."""

    def __init__(self, connection: Any, calls: OutsideCalls) -> None:
        self._connection = connection
        self._calls = calls

    def declare(self, query: str) -> Any:
        """Begin the transaction, and return a cursor of the query's rows.

        The server has a limit too, since it may outlive us: a little more, so that it is we who tell. One that the URL
        or the role says is kept, and holds here too where it is longer.
        """
        cursor = self._connection.cursor()
        self.run(partial(cursor.execute, _TIMEOUT))
        ((own_ms,),) = cursor.fetchall()
        settings = list(_SETTINGS)
        if own_ms:
            self._calls.extend(own_ms / 1_000)
        else:
            settings.append(f"SET statement_timeout = {math.ceil((self._calls.limit_s + GRACE_S) * 1_000)}")
        for setting in settings:
            self.run(partial(cursor.execute, setting))
        self.run(partial(cursor.execute, _DECLARE + query))
        return cursor

    def run(self, work: Callable[[], object]) -> None:
        """Have the server do something. Raises as `OutsideCalls.call` does."""
        self._calls.call(work, (self._cancel, self._cut))

    def close(self) -> None:
        """Let go, which ends the transaction; a connection that a call still uses is left to it."""
        if not self._calls.left_behind:
            self._connection.close()

    def _cancel(self) -> None:
        self._connection.cancel_safe(timeout=GRACE_S)

    def _cut(self) -> None:
        """Shut the socket down, for whoever waits on it; it is closed by its owner."""
        with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as own:
            own.shutdown(socket.SHUT_RDWR)


class _Column:
    """One column of an answer: its name, and its type in Arrow. Raises SourceError for a type that no value is of."""

    def __init__(self, description: Any, types: Any, faults: QueryFaults) -> None:
        import pyarrow as pa

        known = types.get(description.type_code)
        kind = known.name if known is not None else "text"
        if kind in _UNREADABLE or (known is not None and description.type_code == known.array_oid):
            raise faults.unreadable(description.name, f"{kind}[]" if kind not in _UNREADABLE else kind, "Postgres")
        self.name = description.name
        self.arrow = getattr(pa, _NUMBERS.get(kind, "string"))()

    def array(self, values: Sequence[Any]) -> Any:
        """Return some of its values in Arrow."""
        import pyarrow as pa

        return pa.array(values, self.arrow)


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
