"""A store whose pages come from a slow disk, under load: defaults past the deadline, told, counted, and soon over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, load, serving, wait_for
from visits import BODIES, BUDGET_MS, check_answers, fill, source_of

from features.slow_disk import SlowDisk

RATE = 300.0
PAGE_MS = 30
"""A transaction begins with two pages: past the 50 ms that features have."""

FORGOTTEN = 5
RECOVERY_S_MAX = 1.0
LATE = ("tailrace_store_late_total", 'pipeline="faulted"')
REQUEST = {"customer_id": 7, "shop_id": "shop-7"}


@pytest.fixture
def disk(tmp_path: Path, pipelines_dir: Path) -> Iterator[SlowDisk]:
    """Yield a disk, fast until it is told otherwise, with a store of every row. Skipped where none can be had."""
    fill(str(tmp_path / "visits"), pipelines_dir / "faulted.py")
    (tmp_path / "slow").mkdir()
    disk = SlowDisk(tmp_path / "slow", tmp_path / "visits" / "data.mdb")
    if disk.refusal:
        disk.close()
        pytest.skip(disk.refusal)
    yield disk
    disk.close()


def is_fresh(server: Server) -> bool:
    """Return whether an answer given now has the store's values."""
    answer = server.ask("faulted", REQUEST)
    return answer.status == 200 and source_of(answer.body, partial=True) == "1"


def test_lmdb_pages_forgotten_under_load_on_a_slow_disk(tmp_path: Path, pipelines_dir: Path, disk: SlowDisk) -> None:
    """Each time that memory is lost calls get defaults in time; values are back by themselves within a second."""
    with serving(tmp_path / "log", pipelines_dir / "faulted.py", "--store", str(disk.path)) as server:
        assert is_fresh(server)
        assert server.metric("tailrace_store_seconds_count", 'pipeline="faulted"') > 0
        assert server.metric(*LATE) == 0
        pid = server.workers()[0]["pid"]
        disk.pause(PAGE_MS)
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=4, budget_ms=BUDGET_MS) as report:
            for _ in range(FORGOTTEN):
                late = server.metric(*LATE)
                disk.forget()
                wait_for(lambda late=late: server.metric(*LATE) > late, RECOVERY_S_MAX)
                wait_for(lambda: is_fresh(server), RECOVERY_S_MAX)
            sources = check_answers(report.result(), partial=True)
        assert min(sources["1"], sources["default"]) > 0
        assert server.metric(*LATE) >= FORGOTTEN
        assert server.metric("tailrace_degraded_total", 'reason="store_timeout"') >= sources["default"]
        assert server.workers()[0]["pid"] == pid
        (told, *_) = server.events("answers degraded")
        assert told["reason"] == "store_timeout"
        assert "fits in memory" in told["error"]


def test_lmdb_on_a_slow_disk_starts_without_a_fault(tmp_path: Path, pipelines_dir: Path, disk: SlowDisk) -> None:
    """A server that starts with nothing in memory is ready when its store is; nothing is late, nor logged."""
    disk.pause(PAGE_MS)
    disk.forget()
    with serving(tmp_path / "log", pipelines_dir / "faulted.py", "--store", str(disk.path)) as server:
        assert is_fresh(server)
        assert server.metric(*LATE) == 0
        assert not server.events("answers degraded")
        assert not server.events("store does not answer")
