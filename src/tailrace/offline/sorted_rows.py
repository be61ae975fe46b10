"""The good rows of a source, sorted by key and time: a table in its database, which DuckDB keeps on disk as need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tailrace.errors import SourceError


class SortedRows:
    """Sorts the rows of a query, once, and reads them page by page. count: how many there are.

    query: gives `$key`, `$time`, `columns` and `$row`, the place of a row in the source. unique: the column that tells
    rows of one key apart. It comes before the place; of rows with the same value the first is kept. told: makes an
    error of the user's of one of the database's, `errors`.
    """

    def __init__(
        self,
        connection: Any,
        query: str,
        columns: Sequence[str],
        unique: str | None,
        errors: tuple[type[BaseException], ...],
        told: Callable[[BaseException], SourceError],
    ) -> None:
        self._database = connection.con
        self._names = ", ".join(f'"{name}"' for name in ("$place", "$key", "$time", *columns))
        self._errors = errors
        self._told = told
        order = ", ".join(f'"{name}"' for name in ("$key", "$time", *([unique] if unique else []), "$row"))
        self._placed = f'SELECT *, row_number() OVER () - 1 AS "$place" FROM (FROM {{}} ORDER BY {order})'
        try:
            self.count = self._sort(query, unique)
        except errors as error:
            raise told(error) from None

    def page(self, begin: int, rows_max: int) -> Any:
        """Return some of the rows in order, as a pyarrow table: `$key`, `$time`, and the columns."""
        query = f'SELECT {self._names} FROM ready WHERE "$place" >= {begin} AND "$place" < {begin + rows_max}'
        try:
            page = self._database.sql(query).to_arrow_table()
        except self._errors as error:
            raise self._told(error) from None
        places = page["$place"].to_numpy()
        return page if np.all(places[1:] > places[:-1]) else page.take(np.argsort(places))  # it is in order, mostly

    def limit_memory(self, memory_mb: int) -> None:
        """Keep no more of the rows in memory than that; the others stay on disk."""
        with suppress(*self._errors):  # it cannot go below what it just uses
            self._database.execute(f"SET memory_limit = '{memory_mb}MiB'")

    def _sort(self, query: str, unique: str | None) -> int:
        """Make the table; return how many rows it has."""
        database = self._database
        database.execute(f"CREATE TEMP TABLE ready AS {self._placed.format(f'({query})')}")
        if unique is None:
            return int(database.execute("SELECT count(*) FROM ready").fetchall()[0][0])
        rows, values = database.execute(f'SELECT count(*), count(DISTINCT "{unique}") FROM ready').fetchall()[0]
        if rows == values:
            return int(rows)
        first = f'row_number() OVER (PARTITION BY "$key", "{unique}" ORDER BY "$row") = 1'
        kept = f'(SELECT * EXCLUDE "$place" FROM ready QUALIFY {first})'
        database.execute(f"CREATE TEMP TABLE kept AS {self._placed.format(kept)}")
        database.execute("DROP TABLE ready")
        database.execute("ALTER TABLE kept RENAME TO ready")
        return int(database.execute("SELECT count(*) FROM ready").fetchall()[0][0])
