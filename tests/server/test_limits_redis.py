"""Buckets that servers share through a real Redis: no token twice, and no request that fails or waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from http_server import RawClient, post, wait_for
from redis_proxy import RedisProxy
from serving import serving
from structlog.testing import capture_logs

from features.redis_server import RedisServer
from tailrace.deadline import MonotonicClock
from tailrace.errors import SetupError
from tailrace.request.limit import Limit
from tailrace.server.key_file import changing, make_key
from tailrace.server.limiting.bucket import Bucket
from tailrace.server.limiting.redis_lender import PREFIX, Leases, RedisAccount
from tailrace.server.options import ServeOptions

LIMIT = Limit(rate="100/s", burst=50)
PATIENCE_S = 20.0


class Worker:
    """A worker's bucket of one limit, and what renews it. failures: rounds that brought nothing."""

    def __init__(self, url: str, name: str, workers: int = 1, limit: Limit = LIMIT) -> None:
        self.failures = 0
        self.leases = Leases(url, name, MonotonicClock(), workers, self._count)
        self.account: RedisAccount = self.leases.account("keys/one", limit)
        self.bucket = Bucket(self.account)
        self.task = asyncio.get_running_loop().create_task(self.leases.run())

    def _count(self) -> None:
        self.failures += 1

    def take(self, most: int = 1_000) -> int:
        """Take tokens until there are none, in no time; return how many there were."""
        began_s = time.monotonic()
        taken = 0
        while taken < most and self.bucket.take():
            taken += 1
        assert time.monotonic() - began_s < 0.2  # nobody waits for Redis
        return taken

    async def end(self) -> None:
        """Stop renewing."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"still not: {what}"
        await asyncio.sleep(0.005)


def run(test: Callable[..., Coroutine[Any, Any, None]], url: str, workers: int = 2) -> None:
    """Run a test with some workers, which end with it."""

    async def whole() -> None:
        found = [Worker(url, f"w{number}", workers) for number in range(workers)]
        try:
            await test(*found)
        finally:
            for worker in found:
                await worker.end()

    asyncio.run(whole())


async def meet(*workers: Worker) -> None:
    """Have each worker take a token, and be heard."""
    for worker in workers:
        worker.take(1)
    await until(lambda: all(worker.account.is_heard for worker in workers), "heard")


def test_workers_get_the_rate_together(redis_server: RedisServer) -> None:
    """Two workers that take all they can get the burst and the rate, and neither gets nothing."""

    async def test(one: Worker, two: Worker) -> None:
        began_s = time.monotonic()
        await meet(one, two)
        taken = [1, 1]
        while time.monotonic() - began_s < 0.8:
            for place, worker in enumerate((one, two)):
                taken[place] += worker.take()
            await asyncio.sleep(0.002)
        allowed = 50 + 100 * (time.monotonic() - began_s)
        assert sum(taken) <= allowed + 1
        assert sum(taken) >= 0.6 * allowed
        assert min(taken) >= 0.15 * sum(taken)
        assert one.failures + two.failures == 0

    run(test, redis_server.url)


def test_worker_alone_has_all_of_it(redis_server: RedisServer) -> None:
    """What another worker does not use any more is lent to the one that asks."""

    async def test(one: Worker, two: Worker) -> None:
        await meet(one, two)
        await until(lambda: "keys/one" not in one.leases._in_use, "one has given its part back")
        one.bucket.look()
        one.bucket.look()

        def left() -> int:
            two.bucket.charge(-two.take(1))  # it is used, and gives back
            return two.bucket.left()[0] if two.account.is_heard else 0

        await until(lambda: left() >= 45, "two has nearly all")
        assert two.take() >= 40

    run(test, redis_server.url)


def test_what_was_taken_before_redis_was_heard_is_owed(redis_server: RedisServer) -> None:
    """A bucket that is new goes by the worker's own part, and pays for it: nobody gets a burst from each worker."""

    async def test(one: Worker, two: Worker) -> None:
        assert one.take() == two.take() == 25  # each its part of the burst
        await until(lambda: one.account.is_heard and two.account.is_heard, "heard")
        one.take(), two.take()  # who was heard first was lent what the other had taken already: a part too much, once
        await until(lambda: not one.leases._wanted.is_set() and not one.account.owed, "told")
        began_s = time.monotonic()
        assert one.take() + two.take() <= 2
        await until(lambda: one.take() + two.take() > 2, "the debt is paid")
        assert time.monotonic() - began_s > 0.1
        assert int(redis_server.ask("HGET", PREFIX + "keys/one", "full")) > 0
        assert redis_server.ask("PTTL", PREFIX + "keys/one") > 0

    run(test, redis_server.url)


def away(how: str, server: RedisServer) -> Awaitable[None]:
    """Take Redis away."""
    server.kill() if how == "killed" else server.pause()
    return asyncio.sleep(0)


@pytest.mark.parametrize("how", ["killed", pytest.param("stopped", marks=pytest.mark.slow)])
def test_redis_that_is_away_fails_nobody(redis_server: RedisServer, how: str) -> None:
    """While Redis is killed or stopped each worker has its part, told once and counted; afterwards they share again."""

    async def test(one: Worker, two: Worker) -> None:
        await meet(one, two)
        await away(how, redis_server)
        await until(lambda: one.failures >= 2 and two.failures >= 2, "failures are counted")
        await until(lambda: not one.account.is_heard and not two.account.is_heard, "their parts are too old")
        assert 20 <= one.take() <= 26
        assert 20 <= two.take() <= 26
        if how == "killed":
            redis_server.start()
        else:
            redis_server.resume()

        def heard() -> bool:
            one.take(1), two.take(1)
            return one.account.is_heard and two.account.is_heard

        await until(heard, "heard again")
        assert one.account.owed <= LIMIT.tokens_max

    with capture_logs() as logs:
        run(test, redis_server.url)
    told = [log["event"] for log in logs]
    assert sum(event.startswith("limits are not shared") for event in told) == 2  # once a worker
    assert told.count("limits are shared again") == 2


@pytest.mark.slow
def test_slow_redis_fails_nobody(redis_server: RedisServer) -> None:
    """Replies that come after the time a round has are as none; nobody waits, and none is taken for the next one's."""
    proxy = RedisProxy(redis_server.port)

    async def test(one: Worker) -> None:
        await meet(one)
        proxy.delay_s = 0.4
        await until(lambda: one.failures >= 2, "failures are counted")
        await until(lambda: not one.account.is_heard, "its part is too old")
        assert 40 <= one.take() <= 50
        proxy.delay_s = 0.0
        await until(lambda: one.take(1) >= 0 and one.account.is_heard, "heard again")

    try:
        run(test, f"redis://127.0.0.1:{proxy.port}/0", 1)
    finally:
        proxy.close()


LIES = [
    b"+OK\r\n", b"*0\r\n", b"*4\r\n:-5\r\n:0\r\n:0\r\n:1\r\n", b"*4\r\n:1000000\r\n:0\r\n:0\r\n:1\r\n",
    b"*4\r\n:1\r\n:0\r\n:0\r\n:0\r\n", b"*4\r\n+a\r\n+b\r\n+c\r\n+d\r\n", b"-ERR no\r\n", b"HTTP/1.1 400\r\n\r\n", b"",
]  # fmt: skip


@pytest.mark.parametrize(
    "lie",
    [pytest.param(lie, marks=() if place in (0, 3) else pytest.mark.slow) for place, lie in enumerate(LIES)],
    ids=range(len(LIES)),
)
def test_nonsense_in_place_of_redis_fails_nobody(lie: bytes) -> None:
    """Whatever answers there, a worker goes on with its part, and takes no token that was not lent."""

    async def whole() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (data := await reader.read(65_536)) and lie:
                writer.write(lie if b"EVAL" in data else b"+OK\r\n" * data.count(b"CLIENT"))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        worker = Worker(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", "w")
        try:
            assert 50 <= worker.take() <= 60
            await until(lambda: worker.failures >= 1, "a failure is counted")
            assert not worker.account.is_heard
            assert worker.take() <= 40
        finally:
            await worker.end()
            server.close()

    asyncio.run(whole())


def test_clock_of_redis_that_was_set_back_shuts_nobody_out_for_long(redis_server: RedisServer) -> None:
    """A bucket that is said to be full in a year is empty for an hour, and not for the year."""

    async def test(one: Worker) -> None:
        redis_server.ask("HSET", PREFIX + "keys/one", "full", 4_000_000_000_000_000)
        await meet(one)
        tokens, wait_ns = one.account.left()
        assert tokens == 0
        assert wait_ns <= 3_601 * 10**9

    run(test, redis_server.url, 1)


@pytest.mark.parametrize("url", ["redis+cluster://a:1", "http://a", "lmdb:x", "redis://a:b/c", "redis://h/0?x=1"])
def test_what_is_no_redis_is_refused_at_the_start(url: str) -> None:
    """A server says so before it serves, and tells no password."""
    with pytest.raises(SetupError) as found:
        ServeOptions(files=(), limits_redis=url)
    assert "secret" not in str(found.value)
    with pytest.raises(SetupError) as found:
        ServeOptions(files=(), limits_redis="redis://:secret@h:x/0")
    assert "secret" not in str(found.value)


PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

class Rules:
    def predict(self, feeds):
        return feeds["features"][:, 0]

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.PythonModel("own", Rules), budget=tr.Budget("5s"), limit_per_key=tr.Limit(rate="60/m"))
"""


@pytest.mark.slow
def test_servers_share_a_key_and_outlive_their_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    """Two servers give a key one burst; while their Redis is dead every call is answered, and the metrics tell it."""
    file, pipeline = tmp_path / "keys.json", tmp_path / "pipeline.py"
    pipeline.write_text(PIPELINE)
    secret, key = make_key("one", ["pipelines/pay"])
    with changing(file, create=True) as known:
        known.append(key)
    request = post('{"amount": 1.0}', f"X-API-Key: {secret}", path="/v1/pipelines/pay/predict")
    options = ("--keys", str(file), "--limits-redis", redis_server.url)
    with (
        serving(tmp_path / "log1", pipeline, *options) as one,
        serving(tmp_path / "log2", pipeline, *options) as two,
        ExitStack() as stack,
    ):
        places = [server.url.removeprefix("http://").partition(":") for server in (one, two)]
        clients = [stack.enter_context(RawClient((host, int(port)))) for host, _, port in places]

        def statuses(calls: int) -> list[int]:
            return [clients[n % 2].ask(request).status for n in range(calls)]

        began_s = time.monotonic()
        for client in clients:
            assert client.ask(request).status == 200
        time.sleep(0.2)
        taken = 2 + statuses(300).count(200)
        assert 55 <= taken <= 75 + (time.monotonic() - began_s)
        redis_server.kill()
        found: list[int] = []

        def is_told() -> bool:
            found.extend(statuses(50))
            return all(each.metric("tailrace_limit_lease_failures_total") > 0 for each in (one, two))

        wait_for(is_told, "both count it")
        assert set(found) <= {200, 429}
        redis_server.start()

        def is_shared_again() -> bool:
            return set(statuses(2)) <= {200, 429} and all(each.events("limits are shared again") for each in (one, two))

        wait_for(is_shared_again, "both share again")
