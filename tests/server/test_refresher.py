"""`tailrace serve --refresh`: views follow their sources, one that fails harms no other, and a stop is quick."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from refreshed_views import LIMIT_S, PIPELINE, Counts, declare, write
from serving import Server, serving, wait_for

from tailrace.compile.loading import load_pipelines
from tailrace.core_share import SCHED_SETATTR
from tailrace.deadline import NS_PER_S
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.offline.materialize import materialize
from tailrace.refresher import NICE, Refresher, Rest, Scheduled, schedule
from tailrace.testing import ManualClock


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Return a pipeline with two batch views, and their sources."""
    return declare(tmp_path / "app")


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


GIVING_WAY = """
import os, threading
from tailrace.refresher import writing_thread

def nice():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

before = nice()
writing = writing_thread()
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
