"""The conformance suite: what every online store promises, its reader and its writer, each store run for real.

A key of an entity has the entity in braces, as `KeyFormat` makes it: a cluster keeps those together.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import counting
import pytest
import uvloop
from counting import COUNTERS, Count
from page_samples import key_of, page, row

from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.errors import LeaseError, StoreError
from tailrace.features.stores.opening import open_store, open_writer
from tailrace.features.stores.protocol import OnlineStore, StoreWriter
from tailrace.features.stores.runs import PageCounts

FETCH_S_MAX = 20
ROWS_MANY = 501
"""More than Redis writes in one command."""
ROWS_MANY_DYNAMODB = 130
"""More than DynamoDB writes in one transaction, for which moto copies the whole table."""
WRITE = """
import sys
from tailrace.features.stores.opening import open_writer
writer = open_writer(sys.argv[1])
writer.exchange([(bytes.fromhex(key), bytes.fromhex(value)) for key, value in map(str.split, sys.stdin)], ())
writer.close()
"""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Yield a runner on each kind of loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def writer(url: str) -> Iterator[StoreWriter]:
    """Yield a writer of an empty store of each kind."""
    writer = open_writer(url)
    yield writer
    writer.close()


# -- reading ----------------------------------------------------------------------------------------------------------


def put(url: str, rows: dict[bytes, bytes]) -> None:
    """Write rows and let go of the store."""
    writer = open_writer(url)
    writer.exchange(rows.items(), ())
    writer.close()


def put_elsewhere(url: str, rows: dict[bytes, bytes]) -> None:
    """Write rows while a reader has the store open: from another process, unless the store is this process's own."""
    if url.startswith("memory:"):
        put(url, rows)
        return
    lines = "\n".join(f"{key.hex()} {value.hex()}" for key, value in rows.items())
    subprocess.run([sys.executable, "-c", WRITE, url], input=lines, text=True, check=True)


async def fetch(url: str, *batches: list[bytes]) -> list[list[bytes | None]]:
    """Open the store, fetch batches one after the other, and close it."""
    return await with_store(url, lambda: None, *batches)


async def with_store(url: str, between: Callable[[], None], *batches: list[bytes]) -> list[list[bytes | None]]:
    """Fetch batches from an open store, and do something between them."""
    store: OnlineStore = open_store(url, MonotonicClock())
    await store.open()
    try:
        found = []
        for index, keys in enumerate(batches):
            if index:
                between()
            found.append(await store.fetch(keys, time.monotonic_ns() + FETCH_S_MAX * NS_PER_S))
        return found
    finally:
        store.close()
        await asyncio.sleep(0)


def test_store_returns_values_in_order(url: str, runner: asyncio.Runner) -> None:
    """Each key's value stands in its place, None where there is none, a key asked twice twice."""
    put(url, {b"a": b"1", b"b": b"2", b"c": b""})
    (found,) = runner.run(fetch(url, [b"c", b"x", b"a", b"b", b"a"]))
    assert found == [b"", None, b"1", b"2", b"1"]


def test_store_asked_for_nothing_answers_nothing(url: str, runner: asyncio.Runner) -> None:
    """A batch without entities has no values."""
    put(url, {b"a": b"1"})
    assert runner.run(fetch(url, [])) == [[]]


def test_store_keeps_bytes_as_they_are(url: str, runner: asyncio.Runner) -> None:
    """Keys and values of any bytes, ends of lines and zeros too, come back the same."""
    rows = {bytes([byte, 0, 13, 10]): bytes([byte]) * byte for byte in range(256)}
    put(url, rows)
    (found,) = runner.run(fetch(url, list(rows)))
    assert found == list(rows.values())


def test_store_holds_large_values_and_batches(url: str, runner: asyncio.Runner) -> None:
    """A megabyte in one value, and ten thousand keys in one batch; of DynamoDB, what it takes."""
    keys, size = (1_000, 350_000) if url.startswith("dynamodb:") else (10_000, 2**20)
    rows = {b"key %d" % index: b"value %d" % index for index in range(keys)} | {b"large": b"x" * size}
    put(url, rows)
    (found,) = runner.run(fetch(url, list(rows)))
    assert found == list(rows.values())


def test_store_sees_what_is_written_while_open(url: str, runner: asyncio.Runner) -> None:
    """A materialisation needs no restart of the server."""
    put(url, {b"a": b"old"})
    rows = {b"a": b"new", b"b": b"more"}
    found = runner.run(with_store(url, lambda: put_elsewhere(url, rows), [b"a", b"b"], [b"a", b"b"]))
    assert found == [[b"old", None], [b"new", b"more"]]


def test_store_answers_many_fetches_at_once(url: str, runner: asyncio.Runner) -> None:
    """Batches in flight together each get their own values."""
    put(url, {b"%d" % index: b"value %d" % index for index in range(100)})

    async def fetch_many() -> list[list[bytes | None]]:
        store = open_store(url, MonotonicClock())
        await store.open()
        deadline_ns = time.monotonic_ns() + FETCH_S_MAX * NS_PER_S
        found = await asyncio.gather(*(store.fetch([b"%d" % index], deadline_ns) for index in range(100)))
        store.close()
        return found

    assert runner.run(fetch_many()) == [[b"value %d" % index] for index in range(100)]


def test_store_can_be_opened_again_after_it_was_closed(url: str, runner: asyncio.Runner) -> None:
    """Closing lets go of everything; to open what is open changes nothing, and the same store may be opened anew."""
    put(url, {b"a": b"1"})

    async def scenario() -> None:
        store = open_store(url, MonotonicClock())
        for _ in range(2):
            await store.open()
            await store.open()
            assert await store.fetch([b"a"], time.monotonic_ns() + FETCH_S_MAX * NS_PER_S) == [b"1"]
            store.close()
            store.close()
            await asyncio.sleep(0)

    runner.run(scenario())
    assert runner.run(fetch(url, [b"a"])) == [[b"1"]]


def test_store_keeps_its_deadline(url: str, runner: asyncio.Runner) -> None:
    """A store that may wait asks nothing once the deadline has passed; one that never waits answers without it."""
    put(url, {b"a": b"1"})

    async def scenario() -> None:
        store = open_store(url, MonotonicClock())
        await store.open()
        late = store.fetch([b"a"], time.monotonic_ns() - 1)
        if store.network:
            with pytest.raises(TimeoutError):
                await late
        else:
            with pytest.raises(StopIteration) as stop:
                late.send(None)  # type: ignore[attr-defined]
            assert stop.value.value == [b"1"]
        assert await store.fetch([b"a"], time.monotonic_ns() + FETCH_S_MAX * NS_PER_S) == [b"1"]
        store.close()

    runner.run(scenario())


# -- writing under a run ----------------------------------------------------------------------------------------------


def test_writer_gets_and_deletes(writer: StoreWriter) -> None:
    """A writer reads back what it wrote, and removes what is there or not."""
    writer.exchange([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], ())
    assert writer.exchange([], ()) == 0
    assert writer.exchange([(b"d", b"4")], [b"b"]) == 1
    assert writer.exchange((), [b"never there"]) == 0
    assert [writer.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"3", None, None, b"4"]


def rows_many(url: str) -> int:
    """Return more rows than a store writes in one command."""
    return ROWS_MANY_DYNAMODB if url.startswith("dynamodb:") else ROWS_MANY


def test_writer_writes_rows_and_notes(url: str, writer: StoreWriter) -> None:
    """All are there afterwards, however many; to write them again changes nothing."""
    run, count = writer.begin_run("Profile"), rows_many(url)
    rows = page(**{f"k{index}": row(index) for index in range(count)})
    assert writer.write(run, rows, [(b"note", b"1"), (b"other note", b"2")]) == PageCounts(written=count)
    assert [writer.get(each.key) for each in rows] == [each.row for each in rows]
    assert (writer.get(b"note"), writer.get(b"other note")) == (b"1", b"2")
    assert writer.write(run, rows, [(b"note", b"3")], newer_only=True) == PageCounts(unchanged=count)
    assert writer.get(b"note") == b"3"


def test_writer_leaves_newer_rows(writer: StoreWriter) -> None:
    """By event time an older row is left out, an equal one overwrites, an unchanged one is not written again."""
    run = writer.begin_run("Profile")
    writer.write(run, page(older=row(5), equal=row(5), newer=row(5), same=row(5, written=1)))
    rows = page(older=row(4), equal=row(5, b"other"), newer=row(6), same=row(5, written=2), new=row(-1))
    assert writer.write(run, rows, newer_only=True) == PageCounts(written=3, unchanged=1, older=1)
    found = {name: writer.get(key_of(name)) for name in ("older", "equal", "newer", "same", "new")}
    assert found == {
        "older": row(5), "equal": row(5, b"other"), "newer": row(6), "same": row(5, written=1), "new": row(-1),
    }  # fmt: skip
    assert writer.write(run, page(newer=row(1))) == PageCounts(written=1), "without newer_only any time overwrites"


@pytest.mark.parametrize(
    ("stored", "given"), [(-1, 0), (2**32 - 1, 2**32), (-(2**63), 2**63 - 1), (2**31 - 1, 2**31), (-(2**32), -1)]
)
def test_writer_orders_every_time(writer: StoreWriter, stored: int, given: int) -> None:
    """Times of any sign and size are compared as whole numbers of 64 bits."""
    run = writer.begin_run("Profile")
    writer.write(run, page(up=row(stored), down=row(given)))
    counts = writer.write(run, page(up=row(given), down=row(stored)), newer_only=True)
    assert counts == PageCounts(written=1, older=1)
    assert (writer.get(key_of("up")), writer.get(key_of("down"))) == (row(given), row(given))


def test_writer_leaves_out_who_is_forgotten(writer: StoreWriter) -> None:
    """A row whose entity has a tombstone is not written, also where one is there."""
    run = writer.begin_run("Profile")
    writer.write(run, page(gone=row(1)))
    writer.exchange([(each.tombstone, b"now") for each in page(gone=b"", never=b"")], [key_of("gone")])
    assert writer.write(run, page(gone=row(2), never=row(2), kept=row(2))) == PageCounts(written=1, forgotten=2)
    assert [writer.get(key_of(name)) for name in ("gone", "never", "kept")] == [None, None, row(2)]


def test_writer_overwrites_what_is_no_row(writer: StoreWriter) -> None:
    """A value that is cut short has no time that could be newer."""
    writer.exchange([(key_of("k"), b"short")], ())
    assert writer.write(writer.begin_run("Profile"), page(k=row(1)), newer_only=True).written == 1


def test_writer_refuses_a_run_that_is_not_the_last(writer: StoreWriter) -> None:
    """Once a later run has begun, an earlier one writes, notes and removes nothing; a run of another view may."""
    first, other = writer.begin_run("Profile"), writer.begin_run("Other")
    names = [f"k{index}" for index in range(20)]
    writer.write(first, page(**dict.fromkeys(names, row(1))))
    second = writer.begin_run("Profile")
    assert second.number == first.number + 1
    for name in [*names, "never"]:
        with pytest.raises(LeaseError, match=f"run {second.number} has begun since"):
            writer.write(first, page(**{name: row(9)}))
    with pytest.raises(LeaseError):
        writer.write(first, (), [(b"note", b"1")])
    with pytest.raises(LeaseError):
        writer.remove(first, [key_of(name) for name in names])
    assert [writer.get(key_of(name)) for name in [*names, "never"]] == [row(1)] * len(names) + [None]
    assert writer.get(b"note") is None
    assert writer.write(other, page(o=row(1))).written == 1
    assert writer.write(second, page(k0=row(2))).written == 1


def test_writer_refuses_a_run_from_before_the_store_was_emptied(writer: StoreWriter) -> None:
    """A number that is given again is not the same run."""
    first = writer.begin_run("Profile")
    writer.exchange((), set(writer.scan(b"", b"")))
    with pytest.raises(LeaseError, match="has been emptied"):
        writer.write(first, page(k=row(1)))
    assert writer.begin_run("Profile").number == first.number
    with pytest.raises(LeaseError, match="run 1 has begun since"):
        writer.write(first, page(k=row(1)))


def test_writer_scans_and_removes(writer: StoreWriter) -> None:
    """A scan gives the keys of one beginning and end, also with characters that a pattern would take for others."""
    names = [b"{c:%d}V:1" % index for index in range(25)]
    others = [b"{c:1}V:2", b"{c:1}W:1", b"{d:1}V:1", b"{c:[*?]\\}V:2", b"a", b"z", b"{c:\xff}V:3"]
    writer.exchange([(key, b"x") for key in [*names, *others]], ())
    assert sorted(set(writer.scan(b"{c:", b"}V:1"))) == sorted(names)
    assert set(writer.scan(b"{c:[*?]", b"")) == {b"{c:[*?]\\}V:2"}
    assert list(writer.scan(b"none", b"")) == []
    run = writer.begin_run("Profile")
    assert writer.remove(run, [*names, b"never there"]) == len(names)
    assert list(writer.scan(b"{c:", b"}V:1")) == []
    assert all(writer.get(key) == b"x" for key in others)


def test_lease_is_held_by_one(url: str) -> None:
    """A second run is told who holds it and since when; another view is free, and so is this one afterwards."""
    one, other = open_writer(url), open_writer(url) if not url.startswith("lmdb:") else None
    lease = one.lease("Profile")
    second = other or one  # LMDB's files may be opened only once by a process
    with pytest.raises(
        LeaseError, match=f"being written by {lease.holder.who} since {lease.holder.since[:10]}"
    ) as held:
        second.lease("Profile")
    assert "--wait" in held.value.next
    second.lease("Other").close()
    lease.check()
    lease.close()
    second.lease("Profile").close()
    one.close()
    if other is not None:
        other.close()


# -- updates ----------------------------------------------------------------------------------------------------------


def test_update_changes_values_by_what_they_are(writer: StoreWriter) -> None:
    """Each is asked for with what the store holds, and the notes are written with them."""
    writer.exchange([(COUNTERS[0], b"41")], ())
    writer.update(Count(), [(b"note", b"1"), (b"other note", b"2")])
    assert [writer.get(key) for key in COUNTERS] == [b"42", b"1", b"1", b"1", b"1"]
    assert (writer.get(b"note"), writer.get(b"other note")) == (b"1", b"2")


def test_update_of_nothing_writes_its_notes(writer: StoreWriter) -> None:
    """A change without keys is one."""
    writer.update(Count([]), [(b"note", b"1")])
    assert writer.get(b"note") == b"1"
    writer.update(Count([]))


def test_update_of_many_keys_changes_all(url: str, writer: StoreWriter) -> None:
    """More keys than one command takes."""
    changes = Count([b"{c:%d}V:2" % number for number in range(rows_many(url))])
    for _ in range(2):
        writer.update(changes)
    assert [writer.get(key) for key in changes.keys] == [b"2"] * rows_many(url)


def test_update_says_who_is_forgotten(writer: StoreWriter) -> None:
    """A key whose entity has a tombstone is told, and stays as it is where no value is given for it."""
    changes = Count()
    writer.exchange([(changes.tombstones[1], b"now"), (COUNTERS[1], b"7")], ())
    writer.update(changes)
    assert changes.calls == [([0, 1, 2, 3, 4], [False, True, False, False, False])]
    assert [writer.get(key) for key in COUNTERS] == [b"1", b"7", b"1", b"1", b"1"]


class Refusal(Count):
    """Fails when it is asked."""

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Raise StoreError."""
        raise StoreError("refused")


def test_update_that_fails_may_come_again(writer: StoreWriter) -> None:
    """What raises changes nothing and notes nothing, and the writer goes on."""
    with pytest.raises(StoreError, match="refused"):
        writer.update(Refusal(), [(b"note", b"1")])
    assert [writer.get(key) for key in [*COUNTERS, b"note"]] == [None] * 6
    writer.update(Count(), [(b"note", b"1")])
    assert [writer.get(key) for key in [*COUNTERS, b"note"]] == [b"1"] * 6


class Overtaken(Count):
    """Has another write in between, the first time that it is asked."""

    def __init__(self, url: str, puts: dict[bytes, bytes]) -> None:
        super().__init__()
        self._url = url
        self._puts = puts

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Return the next numbers, of values that are old by then."""
        if not self.calls:
            other = open_writer(self._url)
            other.exchange(self._puts.items(), ())
            other.close()
        return super().values(places, before, forgotten)


@pytest.mark.parametrize("value", [b"70", b"8", b"712345", b""])
def test_update_that_is_overtaken_is_made_again(url: str, writer: StoreWriter, value: bytes) -> None:
    """A key that another changes in between is asked for once more, alone, also where it only got longer or shorter.

    A store that lets nobody write in between cannot be overtaken.
    """
    if url.startswith(("lmdb:", "memory:")):
        pytest.skip("nobody else can write while it is asked")
    writer.exchange([(COUNTERS[2], b"7")], ())
    changes = Overtaken(url, {COUNTERS[2]: value})
    writer.update(changes)
    assert [places for places, _ in changes.calls] == [[0, 1, 2, 3, 4], [2]]
    assert [writer.get(key) for key in COUNTERS] == [b"1", b"1", b"%d" % (int(value or 0) + 1), b"1", b"1"]


def test_update_that_is_overtaken_by_forgetting_writes_nothing_of_it(url: str, writer: StoreWriter) -> None:
    """An entity that is forgotten between the look and the write stays so: its key is asked for once more."""
    if url.startswith(("lmdb:", "memory:")):
        pytest.skip("nobody else can write while it is asked")
    changes = Overtaken(url, {Count().tombstones[2]: b"now"})
    writer.update(changes, [(b"note", b"1")])
    assert changes.calls[1:] == [([2], [True])]
    assert [writer.get(key) for key in [*COUNTERS, b"note"]] == [b"1", b"1", None, b"1", b"1", b"1"]


def test_updates_of_two_processes_lose_nothing(url: str) -> None:
    """Whatever two processes, or two threads, do to the same keys at once, every change is counted."""
    times = 40
    program = str(Path(counting.__file__))
    if url.startswith("memory:"):
        own = open_writer(url)
        counting.count(own, times, "a")
        counting.count(own, times, "b")
        own.close()
    else:
        others = [
            subprocess.Popen([sys.executable, program, url, str(times), name])  # both write all keys
            for name in ("a", "b")
        ]
        assert [other.wait() for other in others] == [0, 0]
    writer = open_writer(url)
    assert [writer.get(key) for key in COUNTERS] == [b"%d" % (2 * times)] * len(COUNTERS)
    assert [writer.get(b"note of a"), writer.get(b"note of b")] == [b"%d" % times] * 2
    writer.close()


def test_updates_of_two_threads_lose_nothing(url: str) -> None:
    """Two writers of one process do not lose each other's changes either."""
    if url.startswith(("lmdb:", "memory:")):
        pytest.skip("one writer a process")
    writers = [open_writer(url) for _ in range(2)]
    threads = [
        threading.Thread(target=counting.count, args=(each, 40, str(index))) for index, each in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writers[0].get(key) for key in COUNTERS] == [b"80"] * len(COUNTERS)
    for each in writers:
        each.close()
