"""Feast's online store in SQLite, read as Feast has written it: one SELECT a view. Embedded: it never suspends.

    table PROJECT_VIEW (entity_key, feature_name, value, event_ts, …)      a row for each feature of an entity

From Feast's `infra/online_stores/sqlite.py`. It is opened for reading alone. While Feast writes, a read that finds the
file locked fails at once, and the views' defaults are the answer: for trying things out, as Feast says of it, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tailrace.deadline import Clock
from tailrace.errors import NoStoreError, StoreError
from tailrace.features.feast.codec import FeastCodec
from tailrace.features.feast.frames import Frames
from tailrace.features.feast.keys import NUMBER_BYTES
from tailrace.features.stores.feast_address import FeastAddress, FeastFields, FeastViews
from tailrace.features.view_spec import ViewSpec

KEYS_MAX: Final = 500
"""Asked for by one SELECT."""

_NEXT: Final = "see feature_store.yaml for the path and the project, and run `feast apply`"
_US_PER_S: Final = 1_000_000


class FeastSqliteStore:
    """Reads one SQLite file that Feast fills."""

    network: Final = False

    def __init__(self, url: str, clock: Clock) -> None:
        self._address = FeastAddress.parse(url)
        self._path = Path(self._address.place.partition(":")[2])
        self._views = FeastViews(self._address)
        self._frames: list[Frames] = []
        self._connection: sqlite3.Connection | None = None

    def codec(self, spec: ViewSpec) -> FeastCodec:
        """Return the codec of a view; see `ForeignStore`."""
        codec = self._views.codec(spec)
        for fields in self._views.fields[len(self._frames) :]:
            self._frames.append(Frames(len(fields.features)))
            self._check(fields)
        return codec

    async def open(self) -> None:
        """Open the file. Raises NoStoreError where there is none, StoreError where a view has no table in it."""
        if self._connection is not None:
            return
        if not self._path.is_file():
            raise NoStoreError("there is no such file", where=self._address.shown, next=_NEXT)
        uri = f"file:{quote(str(self._path.resolve()))}?mode=ro"
        try:
            self._connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
            for fields in self._views.fields:
                self._check(fields)
        except (sqlite3.Error, StoreError) as error:
            self.close()
            raise self._failure(error) if isinstance(error, sqlite3.Error) else error from None

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the frame of each key, in order, without suspending. Raises StoreError where it cannot be read."""
        by_view: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            by_view.setdefault(self._views.number(key), []).append(place)
        found: list[bytes | None] = [None] * len(keys)
        for number, places in by_view.items():
            frames, fields = self._frames[number], self._views.fields[number]
            stored = self._read(fields, list({keys[place][NUMBER_BYTES:] for place in places}))
            for place in places:
                values = stored.get(keys[place][NUMBER_BYTES:])
                if values is not None:
                    times = [event_ts for _, event_ts in values.values()]
                    parts = [values.get(feature, (None, None))[0] for feature in fields.features]
                    found[place] = frames.pack(keys[place], _oldest_ns(times), parts)
        return found

    def _read(self, fields: FeastFields, names: list[bytes]) -> dict[bytes, dict[str, tuple[bytes, Any]]]:
        """Return value and time of each feature that some entities have, by the entity's key."""
        found: dict[bytes, dict[str, tuple[bytes, Any]]] = {}
        for begin in range(0, len(names), KEYS_MAX):
            some = names[begin : begin + KEYS_MAX]
            marks = ",".join("?" * len(some))
            columns = f"entity_key, feature_name, value, event_ts FROM {self._table(fields)}"
            query = f"SELECT {columns} WHERE entity_key IN ({marks})"
            for key, feature, value, event_ts in self._ask(query, some):
                found.setdefault(key, {})[feature] = (value, event_ts)
        return found

    def _check(self, fields: FeastFields) -> None:
        """Raise StoreError where an open file has no table of a view."""
        if self._connection is not None:
            name = f"{self._address.project}_{fields.view}"
            if not self._ask("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [name]):
                raise StoreError(f"Feast has no table {name!r}", where=self._address.shown, next=_NEXT)

    def _table(self, fields: FeastFields) -> str:
        return '"' + f"{self._address.project}_{fields.view}".replace('"', '""') + '"'

    def _ask(self, query: str, values: Sequence[Any]) -> list[Any]:
        if self._connection is None:
            raise StoreError("not open", where=self._address.shown, next="open it first")
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"SQLite: {error}", where=self._address.shown, next=_NEXT)


def _oldest_ns(times: Sequence[Any]) -> int | None:
    """Return the oldest of an entity's times in ns; None where one cannot be read.

    Feast takes a time in UTC for one of the machine's own zone when it writes it as a number of seconds, and when it
    reads it; so is it done here. As a text it is UTC.
    """
    try:
        return min(map(_time_ns, times))
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _time_ns(event_ts: Any) -> int:
    moment = datetime.fromisoformat(event_ts) if isinstance(event_ts, str) else datetime.fromtimestamp(event_ts)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * _US_PER_S) * 1_000
