"""`tailrace serve --refresh`: views follow their sources, one that fails harms no other, and a stop is quick."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from serving import Server, serving, wait_for

import tailrace.refresher as refresher_module
from offline.postgres_server import PASSWORD, PostgresServer
from pipelines.model_graphs import linear
from programs import do_without
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.monitor.recorder import RefreshRecorder
from tailrace.offline.materialize import materialize
from tailrace.refresher import NICE, SCHED_SETATTR, Refresher, Rest, Scheduled, query_limit_s, schedule
from tailrace.testing import ManualClock

PIPELINE = """
import tailrace as tr

class Ask(tr.Request):
    customer_id: int
    shop_id: int

class Answer(tr.Response):
    spend: float
    rank: float

class Spend(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("spend.parquet")
    refresh = tr.every("1s", jitter="200ms")
    spend: float = -1.0

class Rank(tr.BatchFeatureView):
    entity = tr.Entity("shop", key="shop_id")
    source = tr.Parquet("rank.parquet")
    refresh = tr.every("1s")
    rank: float = -1.0

ask = tr.Pipeline(name="ask", request=Ask, response=Answer, features=[Spend, Rank], model=tr.Model("ask"),
                  budget=tr.Budget("200ms"))
"""
LIMIT_S = 20.0


def write(folder: Path, name: str, key: str, value: float, rows: int = 100) -> None:
    """Write a source in which every entity has one value, at once."""
    draft = folder / f"{name}.draft"
    pq.write_table(pa.table({key: range(rows), name: [value] * rows}), draft)
    draft.replace(folder / f"{name}.parquet")


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Return a pipeline with two batch views, and their sources."""
    folder = tmp_path / "app"
    (folder / "models").mkdir(parents=True)
    (folder / "pipeline.py").write_text(PIPELINE)
    linear(folder / "models", "ask", {"Spend.spend": 0.001, "Rank.rank": 0.001})
    write(folder, "spend", "customer_id", 1.0)
    write(folder, "rank", "shop_id", 1.0)
    return folder / "pipeline.py"


@pytest.fixture
def file(declared: Path) -> Path:
    """Return that pipeline, materialised once."""
    command = [str(Path(sys.executable).with_name("tailrace")), "materialize", str(declared)]
    subprocess.run(command, check=True, capture_output=True)
    return declared


def gives_way(pid: int) -> bool:
    """Say whether a process is nice, and takes the core from nobody when it wakes; its later threads are as it is."""
    is_batch = os.sched_getscheduler(pid) == os.SCHED_BATCH or platform.machine() not in SCHED_SETATTR
    return is_batch and os.getpriority(os.PRIO_PROCESS, pid) == NICE


def asked(server: Server) -> tuple[float, float]:
    """Return what is served of one customer and one shop."""
    body: Any = server.ask("ask", {"customer_id": 7, "shop_id": 7}).body
    return body["spend"], body["rank"]


def test_views_follow_their_sources_and_one_that_fails_harms_no_other(file: Path, tmp_path: Path) -> None:
    """A changed source is served soon; of a broken one the rows stay, it is told and counted, and the other goes on."""
    with serving(tmp_path / "log", file, "--refresh") as server:
        (refresher,) = server.companions()
        assert refresher["name"] == "refresher"
        wait_for(lambda: gives_way(refresher["pid"]), LIMIT_S)
        assert asked(server) == (1.0, 1.0)
        write(file.parent, "spend", "customer_id", 2.0)
        wait_for(lambda: asked(server) == (2.0, 1.0), LIMIT_S)
        (file.parent / "spend.parquet").write_bytes(b"no Parquet")
        write(file.parent, "rank", "shop_id", 3.0)
        wait_for(lambda: asked(server) == (2.0, 3.0), LIMIT_S)
        wait_for(lambda: server.metric("tailrace_refreshes_total", 'view="Spend"', 'outcome="failed"') >= 1, LIMIT_S)
        assert server.metric("tailrace_refreshes_total", 'view="Rank"', 'outcome="done"') >= 1
        assert server.metric("tailrace_view_refreshed_timestamp_seconds", 'view="Rank"') > 1.7e9
        assert "not" in json.dumps(server.events("view is not refreshed")[0])


def test_view_that_is_fresh_is_left_alone(file: Path, tmp_path: Path) -> None:
    """A start begins nothing anew that was whole a moment ago: the catalogue says when."""
    file.write_text(PIPELINE.replace('"1s", jitter="200ms"', '"1h"').replace('tr.every("1s")', 'tr.every("1h")'))
    with serving(tmp_path / "log", file, "--refresh") as server:
        wait_for(lambda: server.metric("tailrace_view_refreshed_timestamp_seconds") > 3e9, LIMIT_S)
        assert server.metric("tailrace_refreshes_total") == 0
        assert not server.events("view refreshed")


class Counts(RefreshRecorder):
    """Keeps what is counted in lists."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[str] = []

    def count(self, pipeline: str, view: str, outcome: str | None, whole_s: int | None = None) -> None:
        """Note the view of a refresh that is done, or has failed."""
        if outcome == "done":
            self.done.append(view)
        elif outcome == "failed":
            self.failed.append(view)


GIVING_WAY = """
import os, threading
from tailrace.refresher import give_way

def nice():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

before = nice()
writing = give_way()
print(nice(), os.sched_getscheduler(0), writing.submit(nice).result() - before)
"""


def test_thread_that_writes_keeps_its_priority() -> None:
    """All else of the process is the last that the kernel gives a core to."""
    done = subprocess.run([sys.executable, "-c", GIVING_WAY], check=True, capture_output=True, text=True)
    nice, policy, more = map(int, done.stdout.split())
    assert (nice, more) == (NICE, 0)
    assert policy == os.SCHED_BATCH or platform.machine() not in SCHED_SETATTR


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_refresh_holds_the_lock_of_lmdb_on_the_thread_that_writes(
    declared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its transactions that writes, and no other."""
    begun: list[tuple[bool, str]] = []
    transact = LmdbWriter._transact

    def noted(writer: LmdbWriter, work: Any, *, write: bool = True) -> Any:
        begun.append((write, threading.current_thread().name))
        return transact(writer, work, write=write)

    monkeypatch.setattr(LmdbWriter, "_transact", noted)
    counts = Counts()
    with ThreadPoolExecutor(1, "writing") as writing:
        refresher = Refresher(schedule(load_pipelines(declared), None), counts, structlog.get_logger(), thread=writing)
        refresher.refresh_due()
    assert sorted(counts.done) == ["Rank", "Spend"]
    assert {name for write, name in begun if write} == {"writing_0"}
    assert {name for write, name in begun if not write} == {threading.current_thread().name}


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_clock_that_is_set_back_delays_no_refresh(file: Path) -> None:
    """A clock that is ahead by a year at start makes all views due; once it is right, they are due as often as ever."""
    clock, counts = ManualClock(), Counts()
    year_ns, wall_ns = 365 * 86_400 * NS_PER_S, [time.time_ns()]
    wall_ns[0] += year_ns
    refresher = Refresher(
        schedule(load_pipelines(file), None), counts, structlog.get_logger(), lambda: wall_ns[0], clock.now_ns
    )
    refresher.refresh_due()
    assert sorted(counts.done) == ["Rank", "Spend"]
    wall_ns[0] -= year_ns
    refresher.refresh_due()
    assert len(counts.done) == 2
    clock.advance(1_200)
    refresher.refresh_due()
    assert sorted(counts.done) == ["Rank", "Rank", "Spend", "Spend"]


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_view_that_is_due_is_refreshed_by_one_of_several_servers(declared: Path) -> None:
    """Each looks first, and leaves what another has refreshed. A run that did not reach its end is no refresh."""
    declared.write_text(PIPELINE.replace('"1s", jitter="200ms"', '"60s"').replace('tr.every("1s")', 'tr.every("60s")'))
    pipelines, clock, counts = load_pipelines(declared), ManualClock(), [Counts(), Counts()]
    begin_ns = time.time_ns() - clock.now_ns()

    def wall_ns() -> int:
        return begin_ns + clock.now_ns()

    one, other = (
        Refresher(schedule(pipelines, None), each, structlog.get_logger(), wall_ns, clock.now_ns) for each in counts
    )
    spec, store = one.scheduled[0].view.spec, one.scheduled[0].store
    for _ in range(2):
        clock.advance(61_000)
        with closing(open_writer(store)) as writer, pytest.raises(KeyboardInterrupt):
            materialize(spec, declared.parent, writer, pipeline="ask", on_progress=interrupt, clock=wall_ns)
        one.refresh_due()
        assert sorted(counts[0].done) == ["Rank", "Spend"]
        counts[0].done.clear()
        other.refresh_due()
        assert counts[1].done == []


class LooksFirst(Refresher):
    """Looks whether a view is due when another does, and then goes on when it is told to."""

    def __init__(self, looked: threading.Barrier, may_go_on: threading.Event, *arguments: Any) -> None:
        self._looked: threading.Barrier | None = None
        super().__init__(*arguments)
        self._looked = looked
        self._may_go_on = may_go_on

    def _delay_ns(self, each: Scheduled) -> int:
        delay_ns = super()._delay_ns(each)
        if self._looked is not None:
            self._looked.wait(LIMIT_S)
            self._may_go_on.wait(LIMIT_S)
        return delay_ns


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_view_is_refreshed_once_by_two_that_look_at_once(declared: Path) -> None:
    """The second finds it due, then gets the lease when the first has ended: it looks again, and leaves the view."""
    pipelines, looked, counts = load_pipelines(declared), threading.Barrier(2), [Counts(), Counts()]
    at_once, behind = threading.Event(), threading.Event()
    at_once.set()
    one, other = (
        LooksFirst(looked, go_on, schedule(pipelines, "memory:looked"), each, structlog.get_logger())
        for go_on, each in zip((at_once, behind), counts, strict=True)
    )
    later = threading.Thread(target=other._refresh, args=(other.scheduled[0],))
    later.start()
    one._refresh(one.scheduled[0])
    behind.set()
    later.join(LIMIT_S)
    assert (counts[0].done, counts[1].done, counts[1].failed) == (["Spend"], [], [])
    assert other.scheduled[0].due_ns > time.monotonic_ns()


class LooksBadly(Refresher):
    """Cannot look at one view, for a reason that nobody thought of."""

    def _delay_in(self, writer: StoreWriter, each: Scheduled) -> int:
        if each.name == "Spend" and self.scheduled:
            raise RuntimeError("no eyes")
        return super()._delay_in(writer, each)


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_fault_that_nobody_thought_of_is_counted_and_harms_no_other_view(declared: Path) -> None:
    """The view is tried again later, as after any failure."""
    counts = Counts()
    refresher = LooksBadly([], counts, structlog.get_logger())
    refresher.scheduled = schedule(load_pipelines(declared), "memory:badly")
    refresher.refresh_due()
    assert (counts.done, counts.failed) == (["Rank"], ["Spend"])
    assert all(each.due_ns > time.monotonic_ns() for each in refresher.scheduled)


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


BROKEN = """
import pathlib, sys

def refresh_due(self):
    if pathlib.Path({switch!r}).exists():
        raise RuntimeError("no eyes")

if hasattr(sys.modules["__main__"], "Refresher"):
    sys.modules["__main__"].Refresher.refresh_due = refresh_due
"""


@pytest.mark.slow  # a server
def test_refresher_that_cannot_go_on_says_why(file: Path, tmp_path: Path) -> None:
    """The supervisor is told, and tells; the server serves on, and has a refresher again."""
    switch = tmp_path / "switch"
    file.write_text(PIPELINE + BROKEN.format(switch=str(switch)))
    with serving(tmp_path / "log", file, "--refresh") as server:
        switch.touch()
        wait_for(lambda: "the refresher cannot go on: RuntimeError: no eyes" in server.log.read_text(), LIMIT_S)
        switch.unlink()
        assert asked(server) == (1.0, 1.0)
        wait_for(lambda: len(server.events("refresher ready")) > 1, LIMIT_S)


def interrupt(done: int, total: int) -> None:
    """End a run as soon as it has begun."""
    raise KeyboardInterrupt


def test_rest_is_thrice_as_long_as_a_page_and_none_follows_the_sorting() -> None:
    """What the source takes to be read and sorted brings no rest; each page brings three times what it took."""
    clock, slept_s = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        slept_s[0] += seconds

    rest = Rest(lambda: False, lambda: clock[0], sleep)
    clock[0] += 5.0
    rest(0, 4_000)
    assert slept_s[0] == 0
    for page in (1, 2):
        clock[0] += 0.02
        rest(2_000 * page, 4_000)
        assert slept_s[0] == pytest.approx(0.06 * page)
