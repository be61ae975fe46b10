"""The network store under real faults: Redis stopped, killed, slow, dribbling, refusing, answering nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from redis_server import RedisServer
from view_samples import WALL_NS, Profile, profile_rows

from tailrace.batch import Degraded, Provenance
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_address import RedisAddress
from tailrace.features.stores.redis_link import OUTSTANDING_MAX, FixedPlace, RedisLink
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.loadtest.processes import free_port
from tailrace.traffic import STORES

IDS = list(range(40, 60))
RECOVERED_S_MAX = 1.0
Relay = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


class FrozenWallClock(MonotonicClock):
    """The machine's clock, at the wall time of the sample rows."""

    @staticmethod
    def wall_ns() -> int:  # type: ignore[override]
        """Return the sample rows' time."""
        return WALL_NS


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


def fill(url: str, rows: dict[bytes, bytes]) -> None:
    """Write rows."""
    writer = RedisWriter(url)
    writer.exchange(rows.items(), ())
    writer.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    """Yield an open store."""
    store = RedisStore(url, FrozenWallClock())
    await store.open()
    try:
        yield store
    finally:
        store.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(relay: Relay) -> AsyncIterator[str]:
    """Yield the URL of a server that handles each connection with `relay`."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            await relay(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def relay_to(port: int, answer: Relay) -> Relay:
    """Return a relay to a real Redis, whose replies pass through `answer`."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", port)
        answering = asyncio.ensure_future(answer(redis_reader, writer))
        try:
            while data := await reader.read(65_536):
                redis_writer.write(data)
        finally:
            answering.cancel()
            redis_writer.close()

    return relay


async def wait_for_fresh(retrieval: Retrieval, since_s: float) -> None:
    """Read until the values are the right entity's again; fail when that takes over a second."""
    while True:
        (rows,) = await retrieval.read([IDS], after_ms(15))
        if rows.provenance[0] == Provenance.FRESH:
            assert rows.column("count").tolist() == list(range(len(IDS)))
            return
        assert set(rows.provenance.tolist()) == {Provenance.TIMEOUT}
        assert time.monotonic() - since_s < RECOVERED_S_MAX, "not recovered"
        await asyncio.sleep(0.002)


def test_redis_stopped_gives_defaults_and_recovers(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A Redis stopped in its tracks costs no batch more than its deadline; within 1 s of its return it is served."""
    fill(redis_server.url, profile_rows(IDS))

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            retrieval = Retrieval([RowCodec(Profile.spec)], store, FrozenWallClock())
            await wait_for_fresh(retrieval, time.monotonic())
            redis_server.pause()
            began_s, reads = time.monotonic(), 0
            while time.monotonic() - began_s < 1.2:  # past the time after which the connection is given up
                (rows,) = await retrieval.read([IDS], after_ms(15))
                assert set(rows.provenance.tolist()) == {Provenance.TIMEOUT}
                reads += 1
                await asyncio.sleep(0.002)
            assert retrieval.breaker is not None
            assert retrieval.breaker.is_open
            assert reads > 200  # a batch that waited for its deadline each time would be one of 70
            redis_server.resume()
            await wait_for_fresh(retrieval, time.monotonic())

    runner.run(scenario())


def test_redis_stopped_and_back_at_once_mixes_nothing_up(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """Replies to batches that gave up are dropped in their places; later batches get their own."""
    fill(redis_server.url, {b"%d" % index: b"value %d" % index for index in range(100)})

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            redis_server.pause()
            for index in range(5):
                began_s = time.monotonic()
                with pytest.raises(TimeoutError):
                    await store.fetch([b"%d" % index], after_ms(10))
                assert time.monotonic() - began_s < 1
            redis_server.resume()
            for index in range(5, 100):
                assert await store.fetch([b"%d" % index], after_ms(10_000)) == [b"value %d" % index]

    runner.run(scenario())


def test_redis_killed_and_restarted_recovers(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """Killed, it gives defaults at once; restarted and filled, its values within 1 s."""
    fill(redis_server.url, profile_rows(IDS))

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            retrieval = Retrieval([RowCodec(Profile.spec)], store, FrozenWallClock())
            await wait_for_fresh(retrieval, time.monotonic())
            redis_server.kill()
            for _ in range(20):
                (rows,) = await retrieval.read([IDS], after_ms(15))
                assert set(rows.provenance.tolist()) == {Provenance.TIMEOUT}
                assert rows.degraded is not None
                assert rows.degraded[0] in {Degraded.STORE_ERROR, Degraded.STORE_TIMEOUT}
            await asyncio.to_thread(redis_server.start)
            began_s = time.monotonic()
            await asyncio.to_thread(fill, redis_server.url, profile_rows(IDS))
            while True:
                (rows,) = await retrieval.read([IDS], after_ms(50))
                if rows.provenance[0] == Provenance.FRESH:
                    break
                assert time.monotonic() - began_s < RECOVERED_S_MAX
                await asyncio.sleep(0.002)

    runner.run(scenario())


def test_redis_down_at_open_is_no_error(tmp_path: Path, runner: asyncio.Runner) -> None:
    """The store opens without Redis, fails at once, and connects when Redis comes."""
    server = RedisServer(tmp_path)

    async def scenario() -> None:
        async with opened(server.url) as store:
            with pytest.raises(ConnectionError, match=str(server.port)):
                await store.fetch([b"a"], after_ms(1_000))
            await asyncio.to_thread(server.start)
            began_s = time.monotonic()
            while True:
                with contextlib.suppress(ConnectionError):
                    assert await store.fetch([b"a"], after_ms(10_000)) == [None]
                    return
                assert time.monotonic() - began_s < RECOVERED_S_MAX
                await asyncio.sleep(0.005)

    try:
        runner.run(scenario())
    finally:
        server.kill()


def test_redis_answering_in_single_bytes_is_understood(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """Replies cut in the most awkward places come back whole and in order."""
    rows = {b"%d" % index: b"\r\n$3\r\n%d" % index for index in range(6)}
    fill(redis_server.url, rows)

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

    async def scenario() -> None:
        async with serving(relay_to(redis_server.port, dribble)) as url, opened(url) as store:
            batches = [list(rows), [b"3"], [b"missing", b"5"]]
            found = await asyncio.gather(*(store.fetch(keys, after_ms(20_000)) for keys in batches))
            assert found == [[rows.get(key) for key in keys] for keys in batches]

    runner.run(scenario())


def test_redis_reply_after_the_deadline_is_nobodys(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A reply held back past its deadline goes to no later batch, cancelled batches included."""
    fill(redis_server.url, {b"%d" % index: b"value %d" % index for index in range(10)})

    async def scenario() -> None:
        gate = asyncio.Event()
        gate.set()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                await gate.wait()
                writer.write(data)

        async with serving(relay_to(redis_server.port, hold)) as url, opened(url) as store:
            gate.clear()
            with pytest.raises(TimeoutError):
                await store.fetch([b"1", b"2"], after_ms(5))
            cancelled = asyncio.ensure_future(store.fetch([b"3"], after_ms(60_000)))
            await asyncio.sleep(0)
            cancelled.cancel()
            later = [asyncio.ensure_future(store.fetch([b"%d" % index], after_ms(20_000))) for index in (4, 5)]
            await asyncio.sleep(0)
            gate.set()
            assert await asyncio.gather(*later) == [[b"value 4"], [b"value 5"]]
            assert await store.fetch([b"6"], after_ms(20_000)) == [b"value 6"]
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    runner.run(scenario())


def test_redis_bytes_are_counted_both_ways(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A fetch counts the bytes of its command, and those of the values that come."""

    async def run() -> tuple[int, int]:
        async with opened(redis_server.url) as store:
            before = (STORES.sent, STORES.received)
            assert await store.fetch([b"counted", b"absent"], after_ms(1_000)) == [b"v" * 5_000, None]
            return STORES.sent - before[0], STORES.received - before[1]

    fill(redis_server.url, {b"counted": b"v" * 5_000})
    sent, received = runner.run(run())
    assert len(b"counted" + b"absent") < sent < 100
    assert 5_000 < received < 5_100


def test_redis_fetch_without_time_left_asks_nothing(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A deadline that has passed is told at once."""

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            with pytest.raises(TimeoutError):
                await store.fetch([b"a"], after_ms(-1))
            assert await store.fetch([b"a"], after_ms(10_000)) == [None]

    runner.run(scenario())


def test_redis_refusal_is_an_error_and_keeps_the_connection(tmp_path: Path, runner: asyncio.Runner) -> None:
    """A command that Redis refuses fails its batch only; the connection stays in step."""
    server = RedisServer(tmp_path, ["--requirepass", "", "--rename-command", "MGET", "MGET2"])
    server.start()

    async def scenario() -> None:
        async with opened(server.url) as store:
            for _ in range(3):
                with pytest.raises(StoreError, match="unknown command"):
                    await store.fetch([b"a"], after_ms(10_000))

    try:
        runner.run(scenario())
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"*1\r\n$1\r\nx\r\n", StoreError),
        (b"$1\r\nx\r\n", StoreError),
        (b":2\r\n", StoreError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectionError),
        (b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n+more than was asked\r\n", None),
    ],
)
def test_redis_nonsense_is_never_served(reply: bytes, error: type[Exception] | None, runner: asyncio.Runner) -> None:
    """A reply of another size or kind fails; one that nobody asked for ends the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        while await reader.read(65_536):
            writer.write(reply)

    async def scenario() -> None:
        async with serving(answer) as url, opened(url) as store:
            if error is None:
                assert await store.fetch([b"a", b"b"], after_ms(10_000)) == [b"x", b"y"]
                first = store._link._connection
                end_s = time.monotonic() + 5
                while store._link._connection is first and time.monotonic() < end_s:
                    await asyncio.sleep(0.001)
                assert store._link._connection is not first
                return
            with pytest.raises(error):
                await store.fetch([b"a", b"b"], after_ms(10_000))

    runner.run(scenario())


def test_redis_commands_in_line_are_bounded(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A Redis that does not answer collects a bounded number of commands, however slowly they come."""

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            redis_server.pause()
            deadline_ns = after_ms(2_000)
            fetches = [store.fetch([b"a"], deadline_ns) for _ in range(OUTSTANDING_MAX + 10)]
            found = await asyncio.gather(*fetches, return_exceptions=True)
            kinds = [type(each) for each in found]
            assert kinds.count(TimeoutError) == OUTSTANDING_MAX
            assert kinds.count(ConnectionError) == 10

    try:
        runner.run(scenario())
    finally:
        redis_server.resume()


def test_redis_password_and_database_are_used(tmp_path: Path, runner: asyncio.Runner) -> None:
    """The URL's password and database are what reader and writer enter with; a wrong password is told."""
    server = RedisServer(tmp_path, ["--requirepass", "p@ss"])
    server.start()
    url = f"redis://:p%40ss@127.0.0.1:{server.port}/3"

    async def scenario() -> None:
        async with opened(url) as store:
            assert await store.fetch([b"a"], after_ms(10_000)) == [b"in three"]
        async with opened(server.url.replace("//", "//:wrong@")) as store:
            with pytest.raises(ConnectionError, match="AUTH"):
                await store.fetch([b"a"], after_ms(10_000))
        async with opened(url.replace("/3", "/0")) as store:
            assert await store.fetch([b"a"], after_ms(10_000)) == [None]

    try:
        fill(url, {b"a": b"in three"})
        with pytest.raises(StoreError, match="PING"):
            RedisWriter(server.url)
        runner.run(scenario())
    finally:
        server.kill()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_redis_over_tls_is_checked_and_read(tmp_path: Path, runner: asyncio.Runner) -> None:
    """With rediss:// the server's certificate is verified against the authority that the URL names."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no",
               "--tls-ca-cert-file", str(certificate)]  # fmt: skip
    server = RedisServer(tmp_path, options, tls=True)
    server.start()
    url = f"{server.url}?ssl_ca_certs={certificate}"

    async def scenario() -> None:
        async with opened(url) as store:
            assert await store.fetch([b"a"], after_ms(10_000)) == [b"1"]
        async with opened(server.url) as store:
            with pytest.raises(ConnectionError, match="certificate"):
                await store.fetch([b"a"], after_ms(10_000))

    try:
        fill(url, {b"a": b"1"})
        runner.run(scenario())
    finally:
        server.kill()


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "[::1", "."])
def test_redis_host_that_is_no_name_is_refused(host: str) -> None:
    """What no resolver takes is told when the store is made, without the password."""
    with pytest.raises(StoreError, match="not an address") as caught:
        RedisStore(f"redis://:secret@{host}", FrozenWallClock())
    assert caught.value.where == f"redis://{host}"


def test_redis_host_that_cannot_be_asked_for_is_as_one_that_is_down(runner: asyncio.Runner) -> None:
    """A resolver that raises something else than its own error holds up no start, and every fetch says why."""

    async def scenario() -> None:
        store = RedisStore("redis://localhost", FrozenWallClock())
        address = replace(RedisAddress.parse("redis://localhost"), host="a..b")
        store._link = RedisLink(FixedPlace(address), address.url, FrozenWallClock())
        await asyncio.wait_for(store.open(), 5)
        with pytest.raises(ConnectionError, match="label"):
            await store.fetch([b"a"], after_ms(1_000))
        store.close()

    runner.run(scenario())


def test_redis_writer_without_a_server_says_where() -> None:
    """A writer that cannot connect tells the address."""
    port = free_port()
    with pytest.raises(StoreError, match=str(port)):
        RedisWriter(f"redis://127.0.0.1:{port}")


def test_redis_store_closed_fails_what_waits(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """Closing ends the batches in flight, and later ones at once."""

    async def scenario() -> None:
        async with opened(redis_server.url) as store:
            redis_server.pause()
            waiting = asyncio.ensure_future(store.fetch([b"a"], time.monotonic_ns() + 60 * NS_PER_S))
            await asyncio.sleep(0)
            store.close()
            with pytest.raises(ConnectionError):
                await waiting
            with pytest.raises(ConnectionError):
                await store.fetch([b"a"], after_ms(10_000))

    try:
        runner.run(scenario())
    finally:
        redis_server.resume()
