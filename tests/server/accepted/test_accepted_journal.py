"""The journal: what is accepted is there for the next process, once, and what cannot be kept is not accepted."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError, StoreError
from tailrace.server.accepted.journal import (
    SET_ASIDE_MAX,
    Journal,
    Known,
    Refused,
    Result,
    Waiting,
    accepted_ns,
    new_id,
)

NOBODY = Known(b"", b"")


def open_journal(path: Path, **changes: Any) -> Journal:
    """Return a journal of usual bounds."""
    return Journal(path, **{"entries_max": 1_000, "bytes_max": 1 << 24, "retention_s": 60.0} | changes)


def do(journal: Journal, *works: Callable[[Any], Any]) -> Any:
    """Do some works in one transaction; return what the last returns."""
    return journal.transact(works)[-1]


def waiting(body: bytes = b"{}", pipeline: str = "log") -> Waiting:
    """Return a request."""
    return Waiting(new_id(), pipeline, "", b"application/json", b"", body)


def taken(journal: Journal, *slots: int, limit: int = 100) -> list[Waiting]:
    """Return what waits for some slots."""
    return [entry for _, entry in do(journal, partial(journal.take, slots, limit, ()))]


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file grow beyond what the journal's has, and no hole of it be written: a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, before[1]))  # its two roots alone
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_request_goes_from_hand_to_hand(tmp_path: Path) -> None:
    """Accepted, taken, finished, delivered: each once, and another process finds it where the last one left it."""
    journal, entry = open_journal(tmp_path / "a"), waiting()
    assert do(journal, partial(journal.accept, 3, entry, NOBODY)) == entry.id
    journal.close()
    journal = open_journal(tmp_path / "a")
    assert taken(journal, 0, 1) == []
    assert taken(journal, 1, 3) == [entry]
    result = Result(entry.id, "log", b"{}", time.time_ns())
    assert do(journal, partial(journal.finish, 3, result)) is True
    assert do(journal, partial(journal.finish, 3, result)) is False
    assert taken(journal, 3) == []
    assert do(journal, partial(journal.results, 10, ())) == [result]
    assert do(journal, partial(journal.results, 10, {entry.id})) == []
    do(journal, partial(journal.remove, result))
    assert do(journal, partial(journal.state, time.time_ns())) == (0, 0, 0, 0)
    journal.close()


def test_oldest_come_first_and_ids_tell_their_time(tmp_path: Path) -> None:
    """Of a slot in the order of their time, as many as are wanted; the state says how old the oldest is."""
    journal, entries = open_journal(tmp_path), []
    for _ in range(5):
        entries.append(waiting())
        do(journal, partial(journal.accept, 0, entries[-1], NOBODY))
        time.sleep(0.002)
    assert taken(journal, 0, limit=3) == entries[:3]
    ahead_ns = accepted_ns(entries[0].id) + 7 * NS_PER_S
    assert do(journal, partial(journal.state, ahead_ns))[:3] == (5, 0, 0)
    assert do(journal, partial(journal.state, ahead_ns)).oldest_ns == pytest.approx(7 * NS_PER_S)
    journal.close()


def test_same_request_is_accepted_once_until_it_is_forgotten(tmp_path: Path) -> None:
    """Its first id is given again; under another body it is refused; past its time it is a new one."""
    journal = open_journal(tmp_path, retention_s=60.0)
    first, again, known = waiting(), waiting(), Known(b"w" * 32, b"b" * 16)
    assert do(journal, partial(journal.accept, 0, first, known)) == first.id
    assert do(journal, partial(journal.accept, 1, again, known)) == first.id
    assert do(journal, partial(journal.accept, 0, waiting(), Known(b"w" * 32, b"c" * 16))) is Refused.OTHER_BODY
    assert taken(journal, 0, 1) == [first]
    assert do(journal, partial(journal.purge, time.time_ns() + 59 * NS_PER_S)) == 0
    assert do(journal, partial(journal.purge, time.time_ns() + 61 * NS_PER_S)) == 1
    assert do(journal, partial(journal.accept, 0, again, known)) == again.id
    journal.close()


def test_full_journal_accepts_nothing_and_still_lets_what_is_in_it_go(tmp_path: Path) -> None:
    """By its entries, results among them; and by its bytes."""
    journal = open_journal(tmp_path / "a", entries_max=2)
    first, second = waiting(), waiting()
    for entry in (first, second):
        assert do(journal, partial(journal.accept, 0, entry, NOBODY)) == entry.id
    assert do(journal, partial(journal.accept, 0, waiting(), NOBODY)) is Refused.FULL
    result = Result(first.id, "log", b"", 1)
    do(journal, partial(journal.finish, 0, result))
    assert do(journal, partial(journal.accept, 0, waiting(), NOBODY)) is Refused.FULL
    do(journal, partial(journal.remove, result))
    assert isinstance(do(journal, partial(journal.accept, 0, waiting(), NOBODY)), str)
    journal.close()
    journal, accepted = open_journal(tmp_path / "b", bytes_max=1 << 20), []
    while (found := do(journal, partial(journal.accept, 0, waiting(b"x" * 50_000), NOBODY))) is not Refused.FULL:
        accepted.append(found)
    assert 15 <= len(accepted) <= 25
    for entry_id in accepted:  # a result may be as large as its request
        result = Result(entry_id, "log", b"y" * 50_000, 1)
        assert do(journal, partial(journal.finish, 0, result))
        do(journal, partial(journal.remove, result))
    assert isinstance(do(journal, partial(journal.accept, 0, waiting(b"x" * 50_000), NOBODY)), str)
    journal.close()


def test_requests_of_a_pipeline_that_nobody_serves_are_passed_over_in_a_step(tmp_path: Path) -> None:
    """Two thousand of them, older than the others, cost the search no more than a few; the oldest comes first."""
    journal = open_journal(tmp_path, entries_max=1 << 20)
    entries = [waiting(pipeline=name) for name in ["gone"] * 2_000 + ["tip", "log", "tip"]]
    for entry, number in zip(entries[-3:], (2, 0, 1), strict=True):  # of a slot and a time each
        late = Waiting(f"{1 << 46 | number:012x}{entry.id[12:]}", entry.pipeline, "", b"", b"", b"{}")
        do(journal, partial(journal.accept, number, late, NOBODY))
    do(journal, *(partial(journal.accept, 1, entry, NOBODY) for entry in entries[:-3]))
    seen = 0

    class Counting(set[str]):
        def __contains__(self, entry_id: object) -> bool:
            nonlocal seen
            seen += 1
            return False

    served = ("log", "tip", "top")
    found = do(journal, partial(journal.take, range(256), 2, Counting(), pipelines=served))
    assert [(slot, entry.pipeline) for slot, entry in found] == [(0, "log"), (1, "tip")]
    assert seen == 3
    journal.close()


def test_results_of_one_pipeline_are_not_in_the_way_of_others(tmp_path: Path) -> None:
    """However many wait of one that has no room, the others' are found, the oldest of each first."""
    journal, results = open_journal(tmp_path), list[Result]()
    for pipeline in ["log"] * 50 + ["tip", "top"] * 2:
        entry = Waiting(f"{len(results):012x}{new_id()[12:]}", pipeline, "", b"application/json", b"", b"{}")
        results.append(Result(entry.id, pipeline, b"{}", 1))
        do(journal, partial(journal.accept, 0, entry, NOBODY))
        do(journal, partial(journal.finish, 0, results[-1]))
    found = do(journal, partial(journal.results, 1, (), rooms={"log": 0}))
    assert sorted(found, key=lambda each: each.id) == results[50:52]
    assert len(do(journal, partial(journal.results, 10, (), rooms={"log": 3, "top": 0}))) == 5
    ahead_ns = accepted_ns(results[0].id) + 7 * NS_PER_S
    assert do(journal, partial(journal.state, ahead_ns)).oldest_ns == pytest.approx(7 * NS_PER_S)
    journal.close()


def test_disk_without_room_keeps_nothing_and_takes_again_when_there_is_some(tmp_path: Path) -> None:
    """The transaction fails as a whole, with a StoreError; what was there before is there after."""
    journal, entry = open_journal(tmp_path), waiting()
    do(journal, partial(journal.accept, 0, entry, NOBODY))
    with full_disk(tmp_path):
        for _ in range(3):
            with pytest.raises(StoreError, match="cannot be"):
                do(journal, partial(journal.accept, 0, waiting(b"x" * 200_000), NOBODY))
    assert taken(journal, 0) == [entry]
    later = waiting(b"x" * 200_000)
    assert do(journal, partial(journal.accept, 0, later, NOBODY)) == later.id
    assert taken(journal, 0) == [entry, later]
    journal.close()


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """What stands in its place is a file."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="accepted requests cannot be kept"):
        open_journal(tmp_path / "file")


def test_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds requests as they came."""
    journal = open_journal(tmp_path / "a")
    assert {oct((tmp_path / each).stat().st_mode & 0o777) for each in ("a/data.mdb", "a/lock.mdb")} == {"0o600"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    journal.close()


def test_result_that_is_set_aside_is_kept_for_its_time(tmp_path: Path) -> None:
    """With its reason, so many at most; then it goes."""
    assert SET_ASIDE_MAX > 100
    journal, entry = open_journal(tmp_path), waiting()
    result = Result(entry.id, "log", b"{}", 1)
    do(journal, partial(journal.accept, 0, entry, NOBODY), partial(journal.finish, 0, result))
    do(journal, partial(journal.set_aside, result, "gone"))
    do(journal, partial(journal.set_aside, result, "twice"))
    (kept,) = do(journal, journal.kept)
    assert (kept.result, kept.reason) == (result, "gone")
    assert do(journal, partial(journal.state, time.time_ns()))[:3] == (0, 0, 1)
    assert do(journal, partial(journal.purge, time.time_ns() + 61 * NS_PER_S)) == 1
    assert do(journal, journal.kept) == []
    journal.close()


KILLED = """
import sys, os, time
from functools import partial
from tailrace.server.accepted.journal import *
journal = Journal(sys.argv[1], entries_max=10**6, bytes_max=1 << 28, retention_s=60)
while True:
    entry = Waiting(new_id(), "log", "", b"", b"", os.urandom(5_000))
    journal.transact([partial(journal.accept, 0, entry, Known(b"", b""))])
    os.write(1, entry.id.encode() + b"\\n")
"""


def test_what_was_said_to_be_accepted_outlives_a_kill(tmp_path: Path) -> None:
    """A kill -9 in the midst of writing, and another process at its lock: nothing that was told is lost."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip().decode() for _ in range(30)]
        journal = open_journal(tmp_path, bytes_max=1 << 28)
        taken(journal, 0)
        os.kill(writer.pid, signal.SIGKILL)
        told += [line.decode() for line in writer.stdout.read().split()]
    found = [entry.id for entry in taken(journal, 0, limit=10**6)]
    assert set(told) <= set(found)
    assert len(found) - len(told) <= 1
    assert len(found) == len(set(found))
    journal.close()


def test_what_cannot_be_read_is_set_aside_and_holds_nothing_up(tmp_path: Path) -> None:
    """A request and a result of another form; what comes behind them is found, and neither is ever sent."""
    journal, entry = open_journal(tmp_path), waiting()
    first, second = new_id(), new_id()

    def spoil(transaction: Any) -> None:
        transaction.put(b"\0\0of a log" + first.encode(), b"\xc1", db=journal._waiting)
        transaction.put(b"of a log" + second.encode(), b"\x93\xa1a", db=journal._results)

    do(journal, spoil, partial(journal.accept, 1, entry, NOBODY))
    assert taken(journal, 0, 1) == [entry]
    assert do(journal, partial(journal.results, 10, ())) == []
    assert do(journal, partial(journal.state, time.time_ns()))[:3] == (1, 0, 2)
    assert not do(journal, partial(journal.put_back, first))
    journal.close()


def test_command_shows_what_is_set_aside_and_has_it_delivered_again(tmp_path: Path) -> None:
    """Beside a server that has the directory open; an id that is not there is told."""
    runner, journal, entry = CliRunner(), open_journal(tmp_path), waiting()
    with pytest.raises(StoreError, match="no accepted requests"):
        runner.invoke(app, ["accepted", str(tmp_path / "none")], catch_exceptions=False)
    result = Result(entry.id, "log", b'{"id":1}', 1)
    do(journal, partial(journal.accept, 0, entry, NOBODY), partial(journal.finish, 0, result))
    do(journal, partial(journal.set_aside, result, "the receiver answered 410"))
    journal.close()  # a process opens LMDB's files once
    shown = runner.invoke(app, ["accepted", str(tmp_path)]).output
    assert "0 to be delivered" in shown
    assert entry.id in shown
    assert "answered 410" in shown
    with pytest.raises(SetupError, match="is not set aside"):
        runner.invoke(app, ["accepted", str(tmp_path), "--retry", "x"], catch_exceptions=False)
    told = json.loads(runner.invoke(app, ["accepted", str(tmp_path), "--json"]).stdout)
    assert told["set_aside"][0]["result"] == '{"id":1}'
    done = runner.invoke(app, ["accepted", str(tmp_path), "--retry", "all", "--json"])
    assert json.loads(done.stdout)["delivery"] == 1
    journal = open_journal(tmp_path)
    (again,) = do(journal, partial(journal.results, 10, ()))
    assert (again.id, again.body) == (result.id, result.body)
    assert again.made_ns > result.made_ns
    journal.close()
