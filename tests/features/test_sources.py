"""Sources as they are declared: where a query may run, and what no declaration may hold."""

from __future__ import annotations

import pytest

from tailrace.errors import SetupError
from tailrace.features.sources import SQL, Engine


@pytest.mark.parametrize(
    ("on", "engine", "master"),
    [
        (None, Engine.DUCKDB, ""),
        ("postgresql://tailrace@db.internal:5433/shop?sslmode=require", Engine.POSTGRES, None),
        ("postgres:///shop?host=/run/postgresql", Engine.POSTGRES, None),
        ("postgresql://one:5432,two:5433/shop", Engine.POSTGRES, None),
        ("postgresql://db:5432/shop?application_name=etl@host", Engine.POSTGRES, None),
        ("postgresql://db:5432?application_name=etl", Engine.POSTGRES, None),
        ("postgresql://etl@[::1]:5432/shop", Engine.POSTGRES, None),
        ("postgresql://db/shop?options=-c%20app.word%3Dpassword=1", Engine.POSTGRES, None),
        ("spark://master:7077", Engine.SPARK, "spark://master:7077"),
        ("spark:local[2]", Engine.SPARK, "local[2]"),
        ("spark:yarn", Engine.SPARK, "yarn"),
        ("spark:k8s://https://10.0.0.1:443", Engine.SPARK, "k8s://https://10.0.0.1:443"),
    ],
)
def test_place_of_a_query_says_what_runs_it(on: str | None, engine: Engine, master: str | None) -> None:
    """A URL of Postgres, or a master of Spark's; without a place it is DuckDB, here."""
    source = SQL("profile.sql", on=on)
    assert source.engine is engine
    if master is not None:
        assert source.spark_master == master


@pytest.mark.parametrize(
    "on",
    [
        "postgresql://tailrace:s3cret@db/shop", "postgresql://tailrace:s3/cret@db/shop", "postgres://:s3cret@db",
        "postgresql://tailrace@db/shop?password=s3cret", "postgresql://db/shop?sslmode=require&PASSWORD=s3cret",
        "postgresql://db/shop?sslpassword=s3cret", "postgresql://db?password=s3cret",
        "postgresql://db/shop?p%61ssword=s3cret", "postgresql://db/shop?sslmode=require&sslp%61ssword=s3cret",
        "postgresql://tailrace:s3?cret@db/shop", "postgresql://tailrace:s3#cret@db/shop", "postgresql://u:s3@cret@db",
        "postgresql://db/shop?application_name=etl@host&password=s3cret", "postgresql://u:s3cret@db?application_name=a@b",
    ],
)  # fmt: skip
def test_password_in_a_place_is_refused_and_not_told(on: str) -> None:
    """A source is noted in the store and told in errors, so no part of a password may be in it."""
    with pytest.raises(SetupError, match="has a password") as caught:
        SQL("profile.sql", on=on)
    assert "cret" not in str(caught.value)
    assert "PGPASSWORD" in caught.value.next


@pytest.mark.parametrize("on", ["", "spark", "spark:", "spark://", "local[2]", "mysql://db/shop", "postgresql:shop", 5])
def test_place_that_is_none_is_refused(on: str) -> None:
    """With the places that there are."""
    with pytest.raises(SetupError, match=r"^profile\.sql: on= ") as caught:
        SQL("profile.sql", on=on)
    assert "spark:local[2]" in caught.value.next


@pytest.mark.parametrize(
    ("on", "dialect"), [(None, "spark"), ("postgresql://db/shop", "duckdb"), ("spark:local", "mysql")]
)
def test_dialect_that_cannot_be_run_is_refused(on: str | None, dialect: str) -> None:
    """What is translated is DuckDB's SQL for Spark; all else is written in the SQL of what runs it."""
    with pytest.raises(SetupError, match=repr(dialect)):
        SQL("profile.sql", on=on, dialect=dialect)


def test_source_is_noted_as_it_was_before_queries_had_places() -> None:
    """A store knows its views' sources by this text: what is not given must not change it."""
    assert repr(SQL("profile.sql", time="as_of")) == "SQL(path='profile.sql', time='as_of', key=None, columns={})"
    assert repr(SQL("p.sql", on="spark:yarn", dialect="duckdb")).endswith(
        "columns={}, on='spark:yarn', dialect='duckdb')"
    )
