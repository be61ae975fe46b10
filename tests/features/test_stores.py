"""The conformance suite: what every online store does alike, its writer included."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.stores.opening import open_store, open_writer
from tailrace.features.stores.protocol import OnlineStore

FETCH_S_MAX = 20
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
    """A megabyte in one value, and ten thousand keys in one batch."""
    rows = {b"key %d" % index: b"value %d" % index for index in range(10_000)} | {b"large": b"x" * 2**20}
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
    """Closing lets go of everything."""
    put(url, {b"a": b"1"})
    for _ in range(2):
        assert runner.run(fetch(url, [b"a"])) == [[b"1"]]


def test_store_writer_gets_and_deletes(url: str) -> None:
    """A writer reads back what it wrote, and removes what is there or not."""
    writer = open_writer(url)
    writer.exchange([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], ())
    writer.exchange([], ())
    writer.exchange((), [b"b"])
    writer.exchange((), [b"never there"])
    found = [writer.get(key) for key in (b"a", b"b", b"c")]
    writer.close()
    assert found == [b"3", None, None]


@pytest.mark.parametrize("text", ["postgres://host/db", "lmdb:", "", "redis://host:notaport", "redis://host/name"])
def test_store_url_of_no_store_is_an_error(text: str) -> None:
    """The message says what may be written instead."""
    with pytest.raises(StoreError) as caught:
        open_store(text, MonotonicClock())
    assert caught.value.next


def test_store_error_does_not_tell_the_password() -> None:
    """A URL's password stands in no message."""
    for text in ("redis://user:secret@host:notaport", "rediss://:secret@h/0?ssl_ca_certs=/missing", "ftp://u:secret@h"):
        with pytest.raises(StoreError) as caught:
            open_store(text, MonotonicClock())
        assert "secret" not in str(caught.value)
