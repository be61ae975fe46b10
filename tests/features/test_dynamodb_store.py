"""DynamoDB under what it may do: keys left out, too many requests, slow answers, no table, no boto3."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing

import pytest
import uvloop
from dynamodb_proxy import DynamoProxy
from dynamodb_server import DynamoServer
from page_samples import page, row

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import LeaseError, NoStoreError, StoreError
from tailrace.features.stores.dynamodb import CALLS_MAX, KEYS_PER_CALL, DynamoStore
from tailrace.features.stores.dynamodb_lease import DynamoLease
from tailrace.features.stores.dynamodb_writer import DynamoWriter
from tailrace.features.stores.runs import PageCounts
from tailrace.loadtest.processes import free_port

pytestmark = pytest.mark.slow

KEYS = [b"{c:%d}V:1" % number for number in range(250)]
ROWS = {key: b"row of " + key for key in KEYS}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def proxy(dynamodb: DynamoServer) -> Iterator[DynamoProxy]:
    """Yield a proxy before the DynamoDB."""
    proxy = DynamoProxy(dynamodb.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def url(dynamodb: DynamoServer, proxy: DynamoProxy) -> str:
    """Return the URL, through the proxy, of a table with `ROWS`."""
    direct = dynamodb.url()
    with closing(DynamoWriter(direct)) as writer:
        writer.exchange(ROWS.items(), ())
    return direct.replace(dynamodb.endpoint, proxy.endpoint)


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[DynamoStore]:
    """Yield an open store."""
    store = DynamoStore(url, MonotonicClock())
    await store.open()
    try:
        yield store
    finally:
        store.close()


def test_dynamodb_is_asked_for_a_hundred_keys_a_call(url: str, proxy: DynamoProxy, runner: asyncio.Runner) -> None:
    """250 keys are three calls side by side, and no key is asked for twice."""
    proxy.wait_s = 0.3

    async def scenario() -> float:
        async with opened(url) as store:
            began_s = time.monotonic()
            assert await store.fetch([*KEYS, KEYS[0]], after_ms(20_000)) == [*ROWS.values(), ROWS[KEYS[0]]]
            return time.monotonic() - began_s

    took_s = runner.run(scenario())
    assert sorted(proxy.asked) == [50, KEYS_PER_CALL, KEYS_PER_CALL]
    assert took_s < 3 * proxy.wait_s, "one after the other"


def test_dynamodb_keys_that_are_left_out_are_asked_for_again(
    url: str, proxy: DynamoProxy, runner: asyncio.Runner
) -> None:
    """UnprocessedKeys and a refusal for too many requests are no answer: all values come."""
    proxy.leave_out, proxy.busy = 3, 2

    async def scenario() -> None:
        async with opened(url) as store:
            assert await store.fetch(KEYS, after_ms(20_000)) == list(ROWS.values())

    runner.run(scenario())
    assert len(proxy.asked) >= 3 + 3 + 2 - 2


@pytest.mark.parametrize("fault", ["leave_out", "busy", "wait_s"])
def test_dynamodb_that_puts_off_costs_the_deadline_at_most(
    url: str, proxy: DynamoProxy, runner: asyncio.Runner, fault: str
) -> None:
    """However it keeps a batch waiting, the batch ends; the next one is answered."""

    async def scenario() -> None:
        async with opened(url) as store:
            await store.fetch(KEYS[:1], after_ms(20_000))
            setattr(proxy, fault, 0.6 if fault == "wait_s" else 10**6)
            for _ in range(3):
                began_s = time.monotonic()
                with pytest.raises(TimeoutError):
                    await store.fetch(KEYS, after_ms(100))
                assert time.monotonic() - began_s < 0.5
            setattr(proxy, fault, 0)
            await asyncio.sleep(0.8)  # what is under way may still be waited for by the threads
            assert await store.fetch(KEYS, after_ms(20_000)) == list(ROWS.values())

    runner.run(scenario())


def test_dynamodb_calls_that_wait_are_bounded(url: str, proxy: DynamoProxy, runner: asyncio.Runner) -> None:
    """A DynamoDB that does not answer collects a bounded number of calls; what has given up is never sent."""
    proxy.wait_s = 0.5

    async def scenario() -> None:
        async with opened(url) as store:
            fetches = [store.fetch(KEYS[:1], after_ms(300)) for _ in range(CALLS_MAX + 10)]
            found = await asyncio.gather(*fetches, return_exceptions=True)
            kinds = [type(each) for each in found]
            assert kinds.count(TimeoutError) == CALLS_MAX
            assert kinds.count(ConnectionError) == 10
            proxy.wait_s = 0.0
            await asyncio.sleep(1.0)
            assert await store.fetch(KEYS[:1], after_ms(20_000)) == [ROWS[KEYS[0]]]
            assert len(proxy.asked) < CALLS_MAX / 2

    runner.run(scenario())


def test_dynamodb_that_is_gone_is_a_failure_of_the_batch(dynamodb: DynamoServer, runner: asyncio.Runner) -> None:
    """Nobody there, no such table: the store opens, and each batch is told."""

    async def scenario() -> None:
        async with opened(dynamodb.url(endpoint=f"http://127.0.0.1:{free_port()}")) as store:
            with pytest.raises(ConnectionError):
                await store.fetch(KEYS, after_ms(5_000))
        async with opened(dynamodb.url("never-made")) as store:
            with pytest.raises(StoreError, match="ResourceNotFoundException"):
                await store.fetch(KEYS, after_ms(5_000))

    runner.run(scenario())


def test_dynamodb_store_closed_fails_what_waits(url: str, proxy: DynamoProxy, runner: asyncio.Runner) -> None:
    """Closing ends the batches in flight, and later ones at once."""
    proxy.wait_s = 0.5

    async def scenario() -> None:
        async with opened(url) as store:
            waiting = asyncio.ensure_future(store.fetch(KEYS, after_ms(20_000)))
            await asyncio.sleep(0.05)
            store.close()
            with pytest.raises(ConnectionError, match="closed"):
                await waiting
            with pytest.raises(ConnectionError):
                await store.fetch(KEYS, after_ms(1_000))

    runner.run(scenario())


def test_dynamodb_writer_makes_its_table_only_if_it_may(dynamodb: DynamoServer) -> None:
    """A table that is not there is made by a materialisation, and by nobody else."""
    url = dynamodb.url()
    with pytest.raises(NoStoreError, match="no such table"):
        DynamoWriter(url, create=False)
    DynamoWriter(url).close()
    DynamoWriter(url, create=False).close()


def test_dynamodb_row_that_changes_between_look_and_write_is_looked_at_again(dynamodb: DynamoServer) -> None:
    """A newer row, or a tombstone, that another writes in between is not written over."""
    url = dynamodb.url()
    with closing(DynamoWriter(url)) as writer, closing(DynamoWriter(url)) as other:
        run = writer.begin_run("V")
        rows = page(a=row(5), b=row(5), c=row(5))
        look, left = writer._items.get_many, [{rows[0].key: row(9)}, {rows[1].tombstone: b"now"}]

        def look_and_be_overtaken(keys: Sequence[bytes]) -> dict[bytes, bytes]:
            found = look(keys)
            if left:
                other.exchange(left.pop().items(), ())
            return found

        writer._items.get_many = look_and_be_overtaken  # type: ignore[method-assign]
        assert writer.write(run, rows, newer_only=True) == PageCounts(written=1, older=1, forgotten=1)
        assert [other.get(each.key) for each in rows] == [row(9), None, row(5)]


def test_dynamodb_lease_of_a_killed_run_ends_by_itself(dynamodb: DynamoServer) -> None:
    """It is taken when its time is over; the run that lost it is told."""
    with closing(DynamoWriter(dynamodb.url())) as writer:
        lost = DynamoLease(writer._items, "Profile", lease_ms=200)
        lost._ended.set()  # as if its process had stopped
        lost._thread.join()
        with pytest.raises(LeaseError):
            writer.lease("Profile")
        time.sleep(0.3)
        lease = writer.lease("Profile")
        lost._ended.clear()
        renewal = threading.Thread(target=lost._renew_until_ended)
        renewal.start()
        renewal.join(10)
        with pytest.raises(LeaseError, match=lease.holder.who):
            lost.check()
        lost.close()
        with pytest.raises(LeaseError):
            writer.lease("Profile")
        lease.close()


def test_dynamodb_lease_is_renewed_while_its_holder_lives(dynamodb: DynamoServer) -> None:
    """It outlives its own time."""
    with closing(DynamoWriter(dynamodb.url())) as writer:
        lease = DynamoLease(writer._items, "Profile", lease_ms=600)
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            with pytest.raises(LeaseError):
                writer.lease("Profile")
            time.sleep(0.05)
        lease.check()
        lease.close()
        writer.lease("Profile").close()


def test_dynamodb_without_boto3_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StoreError) as caught:
        DynamoWriter("dynamodb://features?region=eu-west-1")
    assert "tailrace[dynamodb]" in caught.value.next
