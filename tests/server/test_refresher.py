"""`tailrace serve --refresh`: views follow their sources, one that fails harms no other, and a stop is quick."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from serving import Server, serving, wait_for

from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S
from tailrace.features.stores.opening import open_writer
from tailrace.monitor.recorder import RefreshRecorder
from tailrace.offline.materialize import materialize
from tailrace.refresher import NICE, SCHED_SETATTR, Refresher, Rest, schedule
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
    """Keeps what is counted in a list."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def count(self, pipeline: str, view: str, outcome: str | None, whole_s: int | None = None) -> None:
        """Note the view of a refresh that is done."""
        if outcome == "done":
            self.done.append(view)


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
