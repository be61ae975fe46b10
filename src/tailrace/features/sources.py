"""Where a batch view's rows come from: Parquet, CSV, or a SQL file. Frozen declarations without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tailrace.deadline import parse_duration
from tailrace.features.keys import KeyFields


@dataclass(frozen=True, slots=True)
class Source:
    """What every source declares.

    path: absolute, or relative to the folder of the pipeline's file; Parquet and CSV take a glob ("data/*.parquet").
    time: the column that says when a row was true (a timestamp, a date, or text; without a zone it is UTC). The latest
        row of an entity is served. None: every row counts as of when it is materialised.
    key: the column of the entity's id, a tuple of columns where several fields make it; None means they are named as
        the entity's key.
    columns: the source's name of a view's column, where they differ.
    """

    path: str
    time: str | None = None
    key: KeyFields | None = field(default=None, kw_only=True)
    columns: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)

    def column(self, name: str) -> str:
        """Return the source's name of a view's column."""
        return self.columns.get(name, name)


@dataclass(frozen=True, slots=True)
class Parquet(Source):
    """Parquet files."""


@dataclass(frozen=True, slots=True)
class CSV(Source):
    """CSV files with a header line. Every value is read as text and then cast to its column's type; "" is null."""

    delimiter: str = field(default=",", kw_only=True)


@dataclass(frozen=True, slots=True)
class SQL(Source):
    """A .sql file holding one SELECT, run by DuckDB; the files it names are relative to the pipeline's folder."""


@dataclass(frozen=True, slots=True)
class Every:
    """How often a view is to be materialised again. jitter: how much later at most, at random."""

    text: str
    jitter: str = "0s"

    @property
    def duration_ns(self) -> int:
        """The interval. Raises ValueError where the text is not a duration."""
        return parse_duration(self.text)

    @property
    def jitter_ns(self) -> int:
        """How much later it may be. Raises ValueError where that is not a duration."""
        return parse_duration(self.jitter)


def every(interval: str, jitter: str = "0s") -> Every:
    """Return a refresh interval: `every("1h", jitter="5m")`, for `tailrace serve --refresh`."""
    return Every(interval, jitter)
