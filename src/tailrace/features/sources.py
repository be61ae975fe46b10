"""Where a batch view's rows come from: Parquet, CSV, or a SQL file. Frozen declarations without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl

from tailrace.deadline import parse_duration
from tailrace.errors import SetupError
from tailrace.features.keys import KeyFields

_PASSWORD_WORDS: Final = frozenset({"password", "sslpassword"})
_ON_NEXT: Final = (
    'write on="postgresql://USER@HOST/DATABASE", "spark://HOST:PORT" or "spark:MASTER", as in "spark:local[2]"'
)


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


class Engine(Enum):
    """What runs a query. The value is the name of its SQL."""

    DUCKDB = "duckdb"
    POSTGRES = "postgres"
    SPARK = "spark"


@dataclass(frozen=True, slots=True)
class SQL(Source):
    """A .sql file holding one SELECT; the files it names are relative to the pipeline's folder.

    on: where it runs. None: in this process, by DuckDB. "postgresql://USER@HOST:PORT/DATABASE": on a Postgres server,
        whose password comes from PGPASSWORD or ~/.pgpass. "spark://HOST:PORT", or "spark:MASTER" for any other master
        ("spark:local[2]", "spark:yarn"): in a Spark session.
    dialect: "duckdb" where the file is written in DuckDB's SQL and Spark runs it: then it is translated. None: it is
        written in the SQL of what runs it.

    Raises SetupError for a place that is none, or that holds a password: sources are noted in the store and in errors.
    """

    on: str | None = field(default=None, kw_only=True)
    dialect: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.on is not None:
            _check_place(self.path, self.on)
        known = {None, self.engine.value} | ({Engine.DUCKDB.value} if self.engine is Engine.SPARK else set())
        if self.dialect not in known:
            raise SetupError(
                f"a query in the SQL of {self.dialect!r} cannot be run by {self.engine.value}", where=self.path,
                next='leave dialect= out; or write dialect="duckdb", for a query in DuckDB\'s SQL that Spark runs',
            )  # fmt: skip

    def __repr__(self) -> str:
        # A store notes the sources of its views by this text, so that what is not given must not be in it.
        given = [("path", self.path), ("time", self.time), ("key", self.key), ("columns", self.columns)]
        given += [(name, value) for name, value in (("on", self.on), ("dialect", self.dialect)) if value is not None]
        return f"SQL({', '.join(f'{name}={value!r}' for name, value in given)})"

    @property
    def engine(self) -> Engine:
        """What runs the query."""
        if self.on is None:
            return Engine.DUCKDB
        return Engine.SPARK if self.on.startswith("spark:") else Engine.POSTGRES

    @property
    def spark_master(self) -> str:
        """The master of the Spark session that runs the query, as Spark writes it."""
        on = self.on or ""
        return on if on.startswith("spark://") else on.removeprefix("spark:")


def _check_place(path: str, on: str) -> None:
    """Raise SetupError for what is no place of a query, without a word of it: it may hold a password."""
    scheme, _, rest = on.partition(":") if isinstance(on, str) else ("", "", "")
    if not rest.strip("/") or scheme not in {"postgresql", "postgres", "spark"}:
        raise SetupError("on= names no place where a query can run", where=path, next=_ON_NEXT)
    if scheme != "spark" and not rest.startswith("//"):
        raise SetupError("on= is no URL of a Postgres database", where=path, next=_ON_NEXT)
    if _has_password(rest.removeprefix("//")):
        raise SetupError(
            "on= has a password, which stores and messages would tell", where=path,
            next="take it out of the URL, and give it in PGPASSWORD or in ~/.pgpass",
        )  # fmt: skip


def _has_password(place: str) -> bool:
    """Return whether what follows the scheme of a URL has a password, in front of its host or among its parameters.

    It is taken apart as libpq does: what stands before an @ ahead of the first slash are user and password, whatever
    else is in it. `urllib.parse.urlsplit` ends the host at a ? or a #, and would leave the rest of a password unseen.
    """
    hosts, _, rest = place.partition("/")
    path, _, parameters = f"{hosts.rpartition('@')[2]}/{rest}".partition("?")
    # A slash in a password cuts the URL in two. libpq refuses it then, but the text is noted first.
    user = f"{hosts}/{path}" if "@" in path else hosts
    names = {name.lower() for name, _ in parse_qsl(parameters, keep_blank_values=True)}
    return ":" in user.rpartition("@")[0] or not names.isdisjoint(_PASSWORD_WORDS)


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
