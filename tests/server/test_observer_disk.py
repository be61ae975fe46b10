"""A server's log on disks that fail: every call is answered, what waits is written later, what is lost is told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from logged_disk import HangingDisk, SmallDisk
from serving import Server, serving, wait_for
from test_observer import FILE, LIMIT_S, ask, ids, observer_of

pytestmark = pytest.mark.slow

LOGGED = "tailrace_predictions_logged_total"
LOST = "tailrace_predictions_lost_total"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline whose score is a hundredth of what it is asked."""
    path = tmp_path / "ask.py"
    path.write_text(FILE)
    return path


def numbered(first: int, count: int) -> list[str]:
    """Return the ids of such requests, in the order of texts."""
    return sorted(f"r{number}" for number in range(first, first + count))


def has_logged(server: Server, count: int) -> None:
    """Wait until so many requests are written."""
    wait_for(lambda: server.metric(LOGGED) == count, LIMIT_S)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    """Yield a disk of a quarter of a MiB."""
    disk = SmallDisk(tmp_path / "disk", 256 << 10)
    yield disk
    disk.close()


def test_full_disk_costs_no_request_and_nothing_of_the_log(file: Path, tmp_path: Path, small: SmallDisk) -> None:
    """What came while it was full is there once there is room, and only once."""
    log = small.path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, 3)
        has_logged(server, 3)
        small.fill()
        ask(server, 3, 50)
        (told,) = wait_for(lambda: server.events("predictions wait for the disk"), LIMIT_S)
        assert "No space left" in told["cause"]
        assert server.metric(LOGGED) < 53
        observer = observer_of(server)
        small.clear()
        has_logged(server, 53)
        assert ids(log) == numbered(0, 53)
        assert observer_of(server) == observer
        assert server.metric(LOST) == 0
    assert ids(log) == numbered(0, 53)
    assert not list(log.rglob("*.arrows"))


def test_disk_that_cannot_be_written_is_written_once_it_can(file: Path, tmp_path: Path) -> None:
    """It is told why nothing is logged; all is there when it is mounted anew."""
    disk = SmallDisk(tmp_path / "disk", 1 << 20, is_read_only=True)
    try:
        with serving(tmp_path / "out", file, "--log", str(disk.path / "log")) as server:
            ask(server, 0, 5)
            (told,) = wait_for(lambda: server.events("predictions wait for the disk"), LIMIT_S)
            assert "Read-only" in told["cause"]
            disk.allow_writing()
            has_logged(server, 5)
            assert server.metric(LOST) == 0
        assert ids(disk.path / "log") == numbered(0, 5)
    finally:
        disk.close()


def test_log_that_is_removed_while_serving_is_begun_anew(file: Path, tmp_path: Path) -> None:
    """What comes next is in the directory of that name, and the server's log says what was done to it."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, 3)
        has_logged(server, 3)
        shutil.rmtree(log)
        ask(server, 3, 4)
        has_logged(server, 7)
        assert ids(log) == numbered(3, 4)
        assert server.events("a draft of the log was changed by others")
    assert ids(log) == numbered(3, 4)


def test_draft_that_is_cut_while_serving_hides_no_later_request(file: Path, tmp_path: Path) -> None:
    """Requests behind the cut are found, and what is whole before it."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        for first in (0, 3):
            ask(server, first, 3)
            has_logged(server, first + 3)
        (draft,) = log.rglob("*.arrows")
        os.truncate(draft, draft.stat().st_size - 10)
        ask(server, 6, 3)
        has_logged(server, 9)
        assert set(ids(log)) >= {"r0", *numbered(6, 3)}
    assert set(ids(log)) >= {"r0", *numbered(6, 3)}


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[HangingDisk]:
    """Yield a disk that can be made to hang."""
    disk = HangingDisk(tmp_path / "disk", tmp_path / "image")
    yield disk
    disk.close()


def test_disk_that_hangs_holds_up_no_request_and_loses_none(file: Path, tmp_path: Path, hanging: HangingDisk) -> None:
    """The observer lives on, reads on and is not replaced; once the disk goes on all is written."""
    log = hanging.path / "log"
    options = ("--log", str(log), "--frozen-s", "2", "--heartbeat-s", "0.5")
    with serving(tmp_path / "out", file, *options) as server:
        ask(server, 0, 3)
        has_logged(server, 3)
        observer = observer_of(server)
        hanging.freeze()
        began_s = time.monotonic()
        number = 3
        while time.monotonic() < began_s + 5:
            asked_s = time.monotonic()
            ask(server, number, 1)
            assert time.monotonic() < asked_s + 0.5
            number += 1
        assert server.metric(LOGGED) < number
        assert observer_of(server) == observer
        assert server.events("predictions wait for the disk")
        hanging.thaw()
        has_logged(server, number)
        assert ids(log) == numbered(0, number)
        assert server.metric(LOST) == 0


def test_server_ends_though_its_disk_hangs(file: Path, tmp_path: Path, hanging: HangingDisk) -> None:
    """What is not written by then is lost, which is told; what was is there."""
    log = hanging.path / "log"
    with serving(tmp_path / "out", file, "--log", str(log), "--drain-s", "3") as server:
        ask(server, 0, 3)
        has_logged(server, 3)
        hanging.freeze()
        ask(server, 3, 3)
        time.sleep(2)
        began_s = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() < began_s + 15
        hanging.thaw()
        wait_for(lambda: not server.processes(), LIMIT_S)
    assert set(ids(log)) >= set(numbered(0, 3))
