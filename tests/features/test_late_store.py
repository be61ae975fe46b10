"""What the embedded store's deadline costs, and what is answered when it passes, on clocks that tests make."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from view_samples import WALL_NS, Address, Profile, address_rows, profile_rows, run_now

from tailrace.batch import Degraded, Provenance
from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.features.late import LateError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores import lmdb
from tailrace.features.stores.lmdb import KEYS_A_LOOK, LATE_NS, LATE_READS_MAX, LmdbStore
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.testing import ManualClock

IDS = [1, 2, 3]
NAMES = ["x", "y"]
KEYS = [*RowCodec(Profile.spec).keys(IDS), *RowCodec(Address.spec).keys(NAMES)]
NEVER_NS = 1 << 62


class TickingClock(ManualClock):
    """A clock that goes on by a millisecond whenever it is read, as if each key were read from a disk."""

    def __init__(self) -> None:
        super().__init__(wall_ns=WALL_NS)
        self.reads = 0
        self.tick_ms = 1

    def now_ns(self) -> int:
        """Return the time, and go on."""
        now_ns = super().now_ns()
        self.reads += 1
        self.advance(self.tick_ms)
        return now_ns


@pytest.fixture
def clock() -> TickingClock:
    """Return a clock that ticks with each reading."""
    return TickingClock()


@pytest.fixture
def store(tmp_path: Path, clock: TickingClock) -> Iterator[LmdbStore]:
    """Yield a store with three profiles and two addresses, open."""
    writer = LmdbWriter(tmp_path / "store")
    writer.exchange((profile_rows(IDS) | address_rows(NAMES)).items(), ())
    writer.close()
    store = LmdbStore(tmp_path / "store", clock)
    run_now(store.open())
    with closing(store):
        yield store


@pytest.fixture
def pages_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there always have been another page that came from the disk."""
    monkeypatch.setattr(lmdb, "page_faults", itertools.count(1 << 40).__next__)


@pytest.fixture
def one_key_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be looked at before each key, so that the deadline can pass between any two."""
    monkeypatch.setattr(lmdb, "_IN_TIME", (True,))


def instructions(store: LmdbStore, keys: list[bytes]) -> int:
    """Return how many instructions Python interprets in a fetch."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    run = store.fetch(keys, NEVER_NS)
    sys.settrace(trace)
    try:
        run_now(run)
    finally:
        sys.settrace(None)
    return count


def test_warm_store_pays_for_its_deadline_in_no_instruction_a_key(store: LmdbStore, tmp_path: Path) -> None:
    """A fetch interprets as many instructions for a thousand keys as for one, and few; no thread is there for it."""
    fast = LmdbStore(tmp_path / "store", MonotonicClock())
    store.close()
    run_now(fast.open())
    with closing(fast):
        instructions(fast, KEYS[:1])  # from 3.12 on the first look at a frame misses what came before it
        few, many = instructions(fast, KEYS[:1]), instructions(fast, KEYS * 200)
        assert few == many < 160
        assert fast.warming is not None
        fast.warming.join()
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]


def test_store_in_memory_starts_no_thread(store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has had a second thread pays for it with every lock and system call."""
    store.close()
    (tmp_path / "store" / "data.mdb").read_bytes()
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    warm = LmdbStore(tmp_path / "store", MonotonicClock())
    run_now(warm.open())
    with closing(warm):
        assert warm.warming is not None
        assert not warm.warming.is_running
        assert not started


def test_warm_store_reads_the_clock_once_every_few_keys_and_once_a_batch(store: LmdbStore, clock: TickingClock) -> None:
    """The clock is looked at before every fourth key, and once behind the last."""
    before = clock.reads
    run_now(store.fetch(KEYS * 8, NEVER_NS))
    assert clock.reads - before == len(KEYS) * 8 / KEYS_A_LOOK + 1


@pytest.mark.usefixtures("pages_from_disk")
def test_late_store_reads_no_more_than_a_few_keys_past_its_deadline(store: LmdbStore, clock: TickingClock) -> None:
    """What was begun in time is read to its end: the keys of one look at the clock."""
    with pytest.raises(LateError) as late:
        run_now(store.fetch(KEYS * 8, ManualClock.now_ns(clock) + 2 * NS_PER_MS - 1))
    assert len(late.value.rows) == 2 * KEYS_A_LOOK


@pytest.mark.usefixtures("pages_from_disk", "one_key_a_look")
@pytest.mark.parametrize("in_time", range(len(KEYS)))
def test_late_store_gives_the_first_keys_in_order(store: LmdbStore, clock: TickingClock, in_time: int) -> None:
    """Wherever the deadline passes, what was read is the rows of the first keys, each its own."""
    whole = run_now(store.fetch(KEYS, NEVER_NS))
    with pytest.raises(LateError) as late:
        run_now(store.fetch(KEYS, ManualClock.now_ns(clock) + in_time * NS_PER_MS - 1))
    assert late.value.rows == whole[:in_time]


@pytest.mark.usefixtures("pages_from_disk", "one_key_a_look")
def test_late_store_gives_all_rows_if_only_the_last_one_was_late(store: LmdbStore, clock: TickingClock) -> None:
    """What has been read is served, and the store is left alone all the same."""
    deadline_ns = ManualClock.now_ns(clock) + len(KEYS) * NS_PER_MS - 1
    assert None not in run_now(store.fetch(KEYS, deadline_ns))
    with pytest.raises(LateError, match="left alone"):
        run_now(store.fetch(KEYS, NEVER_NS))


@pytest.mark.usefixtures("pages_from_disk", "one_key_a_look")
@pytest.mark.parametrize("in_time", range(len(KEYS)))
def test_retrieval_of_a_late_store_serves_what_was_in_time(store: LmdbStore, clock: TickingClock, in_time: int) -> None:
    """Rows read by the deadline have their values; the others are the view's defaults, and say so."""
    retrieval = Retrieval([RowCodec(Profile.spec), RowCodec(Address.spec)], store, clock)
    begins_ns = ManualClock.now_ns(clock) + NS_PER_MS  # the retrieval's own look at the clock
    profile, address = run_now(retrieval.read([IDS, NAMES], begins_ns + in_time * NS_PER_MS - 1))
    assert profile.column("count").tolist() == [0, 1, 2][:in_time] + [-1] * (3 - in_time)
    countries = ["country of x", "country of y"][: max(in_time - 3, 0)]
    assert address.column("country").tolist() == countries + ["??"] * (2 - len(countries))
    provenance = [*profile.provenance.tolist(), *address.provenance.tolist()]
    assert provenance == [Provenance.FRESH] * in_time + [Provenance.TIMEOUT] * (5 - in_time)
    reasons = [reason for rows in (profile, address) for reason in
               ([0] * len(rows) if rows.degraded is None else rows.degraded.tolist())]  # fmt: skip
    assert reasons == [0] * in_time + [Degraded.STORE_TIMEOUT] * (5 - in_time)
    assert isinstance(retrieval.failure, LateError)


@pytest.mark.usefixtures("pages_from_disk", "one_key_a_look")
def test_retrieval_keeps_rows_that_are_unknown_apart_from_those_that_are_late(
    store: LmdbStore, clock: TickingClock
) -> None:
    """An unknown entity that was looked for in time is a plain default."""
    retrieval = Retrieval([RowCodec(Profile.spec)], store, clock)
    (rows,) = run_now(retrieval.read([[2, 99, 3]], ManualClock.now_ns(clock) + 3 * NS_PER_MS - 1))
    assert rows.provenance.tolist() == [Provenance.FRESH, Provenance.DEFAULT, Provenance.TIMEOUT]


def test_retrieval_past_its_deadline_reads_what_is_in_memory(store: LmdbStore, clock: TickingClock) -> None:
    """A batch that comes late is no reason to leave out what costs less than defaults."""
    retrieval = Retrieval([RowCodec(Profile.spec)], store, clock)
    clock.tick_ms = 0
    clock.advance(1_000)
    (rows,) = run_now(retrieval.read([IDS], 1))
    assert rows.provenance.tolist() == [Provenance.FRESH] * 3
    assert retrieval.failure is None


@pytest.mark.usefixtures("pages_from_disk", "one_key_a_look")
def test_retrieval_tells_how_long_its_store_took(store: LmdbStore, clock: TickingClock) -> None:
    """Each fetch is told once, a late one as late; a batch of a store that is left alone asked for none."""
    seen: list[tuple[int, bool]] = []
    retrieval = Retrieval([RowCodec(Profile.spec)], store, clock)
    retrieval.observe_fetch = lambda took_ns, is_late: seen.append((took_ns // NS_PER_MS, is_late))
    run_now(retrieval.read([IDS], NEVER_NS))
    assert seen == [(5, False)]
    run_now(retrieval.read([IDS], ManualClock.now_ns(clock) + 3 * NS_PER_MS))
    assert seen[1:] == [(5, True)]
    run_now(retrieval.read([IDS], NEVER_NS))
    assert isinstance(retrieval.failure, LateError)
    assert len(seen) == 2


def test_late_store_reads_on_while_nothing_comes_from_the_disk(store: LmdbStore, clock: TickingClock) -> None:
    """A deadline that passed for another reason costs no value, up to a bound: the store is not to blame."""
    clock.tick_ms = 0
    clock.advance(1_000)
    assert None not in run_now(store.fetch(KEYS, 0))
    clock.tick_ms = 1
    for _ in range(2):  # the first left nothing behind
        assert None not in run_now(store.fetch(KEYS, 0))
    with pytest.raises(LateError) as late:
        run_now(store.fetch(KEYS * 20, 0))
    assert len(late.value.rows) == KEYS_A_LOOK * LATE_READS_MAX * LATE_NS // NS_PER_MS
