"""Queries of a refresher on a Postgres: one that hangs holds up no other view and no stop, and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from refreshed_views import LIMIT_S, PIPELINE, Counts, declare
from serving import serving, wait_for

import tailrace.refresher as refresher_module
from offline.postgres_server import PASSWORD, PostgresServer
from programs import do_without
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S
from tailrace.features.stores.opening import open_writer
from tailrace.refresher import Refresher, query_limit_s, schedule


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Return a pipeline with two batch views, and their sources."""
    return declare(tmp_path / "app")


def test_query_may_take_the_time_between_two_refreshes() -> None:
    """A minute at least, an hour at most."""
    assert [query_limit_s(seconds * NS_PER_S) for seconds in (1, 600, 86_400)] == [60, 600, 3_600]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """Yield a running server."""
    folder = tmp_path / "postgres"
    folder.mkdir()
    try:
        server = PostgresServer(folder)
    except FileNotFoundError as missing:
        do_without(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def asks_postgres(declared: Path, server: PostgresServer) -> None:
    """Declare that one of the views is made by a query that takes for ever."""
    source = f'tr.SQL("spend.sql", on="{server.url}")'
    declared.write_text(PIPELINE.replace('tr.Parquet("spend.parquet")', source))
    (declared.parent / "spend.sql").write_text("SELECT 7 AS customer_id, 2.0 AS spend, pg_sleep(300)")


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_query_that_takes_too_long_keeps_no_other_view_waiting(
    declared: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, counted as failed, and the next view has its turn."""
    monkeypatch.setattr(refresher_module, "QUERY_S_MIN", 0.2)
    monkeypatch.setattr(refresher_module, "QUERY_S_MAX", 0.2)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    asks_postgres(declared, postgres)
    counts = Counts()
    refresher = Refresher(schedule(load_pipelines(declared), "memory:late"), counts, structlog.get_logger())
    refresher.refresh_due()
    assert (counts.done, counts.failed) == (["Rank"], ["Spend"])
    assert not running(postgres)


@pytest.mark.slow  # a server and a Postgres
@pytest.mark.parametrize("state", ["answers", "stands still"])
def test_stop_ends_a_query_that_runs_and_leaves_nothing(
    state: str, declared: Path, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresher ends long before the drain is over; no file is left, and no query in a Postgres that answers."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("TMPDIR", str(temporary))
    asks_postgres(declared, postgres)
    open_writer(schedule(load_pipelines(declared), None)[0].store).close()  # a server starts on a store that is there
    with serving(tmp_path / "log", declared, "--refresh", "--drain-s", "10") as server:
        wait_for(lambda: running(postgres), LIMIT_S)
        assert list(temporary.glob("tailrace-*"))
        if state == "stands still":
            postgres.pause()
        began_s = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began_s < 8
        assert not server.events("refresher killed")
        postgres.resume()
    wait_for(lambda: not running(postgres), LIMIT_S)
    assert not list(temporary.glob("tailrace-*"))


def running(server: PostgresServer) -> bool:
    """Return whether the query of a view runs in a Postgres."""
    return bool(server.ask("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%FETCH%' AND pid <> pg_backend_pid()"))
