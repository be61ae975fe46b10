"""A real Redis Cluster under what happens to one: slots that move, nodes that stop, a failover."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing

import counting
import pytest
import uvloop
from page_samples import key_of, page, row
from redis_cluster import MASTERS, RedisCluster
from redis_server import RedisServer

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import LeaseError, StoreError
from tailrace.features.stores.redis_cluster import RedisClusterStore
from tailrace.features.stores.redis_cluster_client import ClusterClient
from tailrace.features.stores.redis_slots import slot_of, slot_tags
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.loadtest.processes import free_port

KEYS = [b"{c:%d}V:1" % number for number in range(60)]
ROWS = {key: b"row of " + key for key in KEYS}
FAILOVER_S_MAX = 20.0


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """Yield a cluster with `ROWS`, and leave it whole behind."""
    redis_cluster.empty()
    with closing(RedisWriter(redis_cluster.url)) as writer:
        writer.exchange(ROWS.items(), ())
    yield redis_cluster
    for node in redis_cluster.nodes:
        if not node.is_running:
            node.start()
    redis_cluster.wait_until_whole()


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisClusterStore]:
    """Yield an open store."""
    store = RedisClusterStore(url, MonotonicClock())
    await store.open()
    try:
        yield store
    finally:
        store.close()
        await asyncio.sleep(0)


async def wait_for_rows(store: RedisClusterStore, limit_s: float = FAILOVER_S_MAX) -> None:
    """Fetch until the rows come; meanwhile every fetch ends by its deadline, and none gives anything else."""
    end_s = time.monotonic() + limit_s
    while True:
        began_s = time.monotonic()
        try:
            assert await store.fetch(KEYS, after_ms(50)) == list(ROWS.values())
            return
        except (TimeoutError, ConnectionError, StoreError):
            assert time.monotonic() - began_s < 1, "a fetch was late"
        assert time.monotonic() < end_s, "not recovered"
        await asyncio.sleep(0.01)


def reads_of(node: RedisServer) -> int:
    """Return how often a node has read from a connection, this one aside."""
    return int(node.ask("INFO", "STATS")["total_reads_processed"])


def test_cluster_is_read_in_one_round_trip_a_node(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """Sixty keys in as many slots are read in one write to each master, and none to a replica."""
    fetches, others_max = 100, 50  # what the nodes say to each other meanwhile
    masters = {node.port for node in cluster.masters()}

    async def scenario() -> dict[int, int]:
        async with opened(cluster.url) as store:
            await store.fetch(KEYS, after_ms(10_000))
            before = {node.port: reads_of(node) for node in cluster.nodes}
            for _ in range(fetches):
                assert await store.fetch(KEYS, after_ms(10_000)) == list(ROWS.values())
            return {node.port: reads_of(node) - before[node.port] for node in cluster.nodes}

    assert len({slot_of(key) for key in KEYS}) > 50
    for port, reads in runner.run(scenario()).items():
        least = fetches if port in masters else 0
        assert least <= reads < least + others_max


def test_cluster_sends_each_node_one_write(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """A batch over all nodes is one write to each of the three, whatever the number of its slots."""
    writes: list[int] = []

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            await store.fetch(KEYS, after_ms(10_000))
            for link in store._topology._links.values():
                connection = link.usable_connection()
                connection._transport = _Counted(connection._transport, writes)
            assert await store.fetch(KEYS, after_ms(10_000)) == list(ROWS.values())

    runner.run(scenario())
    assert len(writes) == MASTERS


class _Counted:
    """A transport that counts what is written."""

    def __init__(self, transport: asyncio.Transport, writes: list[int]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        """Write, and note how much."""
        self._writes.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def test_cluster_slot_that_moved_is_followed(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """MOVED costs a batch one more round trip, once; the writer follows as well."""
    slot = slot_of(KEYS[0])
    source = cluster.master_of(slot)
    target = next(node for node in cluster.masters() if node is not source)

    def move() -> None:
        cluster.begin_to_move(slot, target, [])
        cluster.end_to_move(slot, target)

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            await wait_for_rows(store)
            with closing(RedisWriter(cluster.url)) as writer:
                await asyncio.to_thread(move)
                assert await store.fetch(KEYS, after_ms(10_000)) == list(ROWS.values())
                assert store._topology.owner(slot)[1] == target.port
                run = await asyncio.to_thread(writer.begin_run, "Profile")
                rows = page(**{str(number): row(1) for number in range(60)})
                assert (await asyncio.to_thread(writer.write, run, rows)).written == 60
            assert await store.fetch(KEYS, after_ms(10_000)) == [row(1)] * len(KEYS)

    try:
        runner.run(scenario())
    finally:
        cluster.begin_to_move(slot, source, [])
        cluster.end_to_move(slot, source)


@pytest.mark.parametrize("moved", [[], [0], [1, 2], [0, 1, 2]])
def test_cluster_slot_that_is_moving_is_read_from_both(
    cluster: RedisCluster, runner: asyncio.Runner, moved: list[int]
) -> None:
    """Whichever keys of a slot are at its new node already, each is found, and what is at neither is told as absent."""
    keys = [b"{c:0}%d" % number for number in range(3)]
    slot = slot_of(keys[0])
    source = cluster.master_of(slot)
    target = next(node for node in cluster.masters() if node is not source)
    with closing(RedisWriter(cluster.url)) as writer:
        writer.exchange([(key, b"value of " + key) for key in keys], ())

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            asked = [*keys, b"{c:0}never", *KEYS]
            expected = [*(b"value of " + key for key in keys), None, *ROWS.values()]
            assert await store.fetch(asked, after_ms(10_000)) == expected
            cluster.begin_to_move(slot, target, [keys[number] for number in moved])
            for _ in range(3):
                assert await store.fetch(asked, after_ms(10_000)) == expected
            cluster.end_to_move(slot, target)
            assert await store.fetch(asked, after_ms(10_000)) == expected

    try:
        runner.run(scenario())
    finally:
        cluster.begin_to_move(slot, source, [])
        cluster.end_to_move(slot, source)


def test_cluster_writer_waits_for_a_slot_that_is_moving(cluster: RedisCluster) -> None:
    """A script whose keys are on both nodes is refused by Redis until the slot has moved: it is sent again."""
    slot = slot_of(key_of("0"))
    source = cluster.master_of(slot)
    target = next(node for node in cluster.masters() if node is not source)
    try:
        with closing(RedisWriter(cluster.url)) as writer:
            run = writer.begin_run("Profile")
            cluster.begin_to_move(slot, target, [key_of("0")])
            ended = threading.Timer(0.5, cluster.end_to_move, (slot, target))
            ended.start()
            assert writer.write(run, page(**{"0": row(2), "1": row(2)})).written == 2
            ended.join()
            assert (writer.get(key_of("0")), writer.get(key_of("1"))) == (row(2), row(2))
    finally:
        cluster.begin_to_move(slot, source, [])
        cluster.end_to_move(slot, source)


def test_cluster_map_that_two_threads_read_drops_a_node_once(cluster: RedisCluster) -> None:
    """One finds a node gone that the other has let go of just before."""

    class Gone:
        def close(self) -> None:
            for node in gone:  # as another thread does meanwhile
                client._nodes.pop(node, None)

    gone = [("gone", 1), ("gone", 2)]
    client = ClusterClient(cluster.url)
    client._nodes |= {node: Gone() for node in gone}
    client._read_map()
    assert not set(gone) & set(client._nodes)
    assert client.get_many(KEYS) == list(ROWS.values())
    client.close()


def test_cluster_failover_is_survived(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """A master that is killed costs defaults until its replica has its place; a writer waits for it."""
    victim = cluster.master_of(slot_of(counting.COUNTERS[0]))

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            await wait_for_rows(store)
            with closing(RedisWriter(cluster.url)) as writer:
                counting.count(writer, 3, "a")
                cluster_has_all = [node.ask("WAIT", 1, 5_000) for node in cluster.masters()]
                assert all(cluster_has_all)
                victim.kill()
                await wait_with(store, lambda: asyncio.to_thread(counting.count, writer, 3, "a"))
                assert [writer.get(key) for key in counting.COUNTERS] == [b"6"] * len(counting.COUNTERS)
                writer.exchange(ROWS.items(), ())
            await wait_for_rows(store)

    runner.run(scenario())


async def wait_with(store: RedisClusterStore, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work, and fetch meanwhile: each fetch ends by its deadline."""
    task = asyncio.ensure_future(work())
    while not task.done():
        began_s = time.monotonic()
        await asyncio.gather(store.fetch(KEYS, after_ms(50)), return_exceptions=True)
        assert time.monotonic() - began_s < 1, "a fetch was late"
        await asyncio.sleep(0.01)
    await task


def test_cluster_node_that_stops_costs_the_deadline_at_most(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """One node stopped in its tracks: other slots answer, its own are late; what comes late is nobody's."""
    slot = slot_of(KEYS[0])
    victim = cluster.master_of(slot)
    others = [key for key in KEYS if cluster.master_of(slot_of(key)) is not victim]

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            await wait_for_rows(store)
            victim.pause()
            try:
                for _ in range(5):
                    began_s = time.monotonic()
                    with pytest.raises(TimeoutError):
                        await store.fetch(KEYS, after_ms(20))
                    assert time.monotonic() - began_s < 1
                    assert await store.fetch(others, after_ms(1_000)) == [ROWS[key] for key in others]
            finally:
                victim.resume()
            for key in KEYS:
                assert await store.fetch([key], after_ms(10_000)) == [ROWS[key]]

    runner.run(scenario())


def test_cluster_that_is_not_there_fails_at_once_and_is_found_later(
    runner: asyncio.Runner, cluster: RedisCluster
) -> None:
    """The store opens without it; a first host that is gone is passed over."""

    async def scenario() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{free_port()}") as store:
            with pytest.raises(ConnectionError, match="no node is known to have slot"):
                await store.fetch(KEYS, after_ms(1_000))
        hosts = cluster.url.replace("//", f"//127.0.0.1:{free_port()},")
        async with opened(hosts) as store:
            await wait_for_rows(store)
            store.close()
            with pytest.raises(ConnectionError):
                await store.fetch(KEYS, after_ms(1_000))

    runner.run(scenario())


def test_cluster_of_one_server_that_is_none_is_told(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A plain Redis says that it has no cluster, and so does the store."""

    async def scenario() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{redis_server.port}") as store:
            with pytest.raises(ConnectionError, match="cluster support disabled"):
                await store.fetch(KEYS, after_ms(1_000))

    runner.run(scenario())


def test_cluster_run_has_a_mark_in_every_slot(cluster: RedisCluster) -> None:
    """A slot whose mark is lost refuses its run; a store whose number is lost gives none that was given before."""
    with closing(RedisWriter(cluster.url)) as writer:
        runs = [writer.begin_run("Profile") for _ in range(3)]
        marks = [b"tailrace:run:Profile:{%b}" % tag for tag in slot_tags()]
        assert [writer.get(mark) for mark in marks[::1_000]] == [runs[-1].mark] * 17
        assert sum(1 for _ in writer.scan(b"tailrace:run:Profile:", b"")) == len(marks)
        writer.exchange((), [marks[slot_of(key_of("a"))]])
        assert writer.write(runs[-1], page(b=row(1))).written == 1
        with pytest.raises(LeaseError, match="emptied"):
            writer.write(runs[-1], page(a=row(1)))
        writer.exchange((), [runs[-1].key])
        later = writer.begin_run("Profile")
        assert later.number == runs[-1].number + 1
        with pytest.raises(LeaseError, match=f"run {later.number} has begun since"):
            writer.write(runs[-1], page(b=row(2)))
        assert writer.write(later, page(a=row(2), b=row(2))).written == 2


def test_cluster_run_that_begins_beside_another_is_one_of_them(cluster: RedisCluster) -> None:
    """Of two runs that begin at the same time, one may write everywhere, the other nowhere."""
    found = []
    with closing(RedisWriter(cluster.url)) as one, closing(RedisWriter(cluster.url)) as other:
        threads = [
            threading.Thread(target=lambda each=each: found.append(each.begin_run("Profile"))) for each in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last, first = sorted(found, key=lambda run: -run.number)
        rows = page(**{str(number): row(3) for number in range(60)})
        for each in rows:
            with pytest.raises(LeaseError):
                one.write(first, [each])
        assert one.write(last, rows).written == len(rows)


def test_cluster_reads_that_are_cancelled_mix_nothing_up(cluster: RedisCluster, runner: asyncio.Runner) -> None:
    """Of 3,000 batches, many cancelled or out of time at any moment, none gets another's values; no reply is owed."""
    choose = random.Random(11)

    async def read(store: RedisClusterStore) -> bool:
        keys = choose.sample(KEYS, choose.randint(1, 20))
        task = asyncio.ensure_future(store.fetch(keys, after_ms(choose.choice([0.2, 0.5, 10_000]))))
        if choose.random() < 0.3:
            await asyncio.sleep(choose.choice([0, 0, 0.0005]))
            task.cancel()
        try:
            found = await task
        except (TimeoutError, asyncio.CancelledError):
            return False
        assert found == [ROWS[key] for key in keys]
        return True

    async def scenario() -> None:
        async with opened(cluster.url) as store:
            await wait_for_rows(store)
            served = 0
            for _ in range(100):
                served += sum(await asyncio.gather(*(read(store) for _ in range(30))))
            assert 300 < served < 3_000
            assert await store.fetch(KEYS, after_ms(10_000)) == list(ROWS.values())
            links = store._topology._links.values()
            assert all(not link.usable_connection().waiting for link in links)

    runner.run(scenario())
