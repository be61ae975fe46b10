"""Results on their way: to a real HTTP receiver and a real Redis, whatever these do."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from receiver import OTHER_SECRET, SECRET, Receiver, receiving

from features.redis_server import RedisServer
from tailrace.client import SignatureError, verify_webhook
from tailrace.errors import SetupError
from tailrace.response.destinations import Destination, RedisStream, Webhook
from tailrace.server.accepted.deliveries import TAKEN_MAX, Deliveries, Route, sender_of
from tailrace.server.accepted.journal import Journal, Known, Result, Waiting, new_id
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.accepted.secrets import Secrets
from tailrace.server.accepted.sending import SendError, wait_before
from tailrace.server.accepted.webhook import ANSWER_BYTES_MAX, WebhookSender
from tailrace.server.logging import logger


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a secret where the destinations of these tests look for it, and tries that follow at once."""
    monkeypatch.setenv("RESULTS_SECRET", SECRET)
    monkeypatch.setattr("tailrace.server.accepted.sending.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("tailrace.server.accepted.deliveries.BREAKER_LOOK_S", 0.01)


def webhook(receiver: Receiver, **changes: Any) -> Webhook:
    """Return the destination of a receiver."""
    return Webhook(receiver.url, secret_env="RESULTS_SECRET", **{"timeout": "5s"} | changes)


def result(request_id: str = "", pipeline: str = "log") -> Result:
    """Return what is to be delivered."""
    entry_id = new_id()
    return Result(entry_id, pipeline, json.dumps({"id": entry_id, "request_id": request_id}).encode(), time.time_ns())


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine."""

    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await work()

    return asyncio.run(limited())


def deliver(destination: Destination, results: list[Result], counts: list[str] | None = None) -> list[str]:
    """Deliver results side by side; return what became of each."""

    async def work() -> list[str]:
        sender = sender_of(destination)
        secrets = Secrets(destination, Path(), "log.results", logger())
        counted = [] if counts is None else counts
        route = Route(destination, sender, secrets, counted.append, logger())
        try:
            return list(await asyncio.gather(*map(route.deliver, results)))
        finally:
            sender.close()
            await asyncio.sleep(0)

    found: list[str] = run(work)
    return found


def test_results_arrive_signed_on_few_connections() -> None:
    """The receiver verifies each."""
    with receiving() as receiver:
        results, counts = [result() for _ in range(20)], list[str]()
        assert deliver(webhook(receiver, connections_max=2), results, counts) == [""] * 20
        assert sorted(receiver.ids) == sorted(each.id for each in results)
        assert counts == ["delivered"] * 20
        assert receiver.connections <= 2


@pytest.mark.parametrize("status", [500, 404, 301, 429])
def test_status_that_is_no_success_is_tried_again(status: int) -> None:
    """A redirection is no success, and is not followed."""
    with receiving() as receiver:
        left = [status] * 3
        receiver.status = lambda _: left.pop() if left else 200
        receiver.headers = {"location": receiver.url}
        counts: list[str] = []
        assert deliver(webhook(receiver), [result()], counts) == [""]
        assert counts == ["retried"] * 3 + ["delivered"]
        assert (len(receiver.refused), len(receiver.bodies)) == (3, 1)


def test_receiver_that_wants_a_result_no_more_is_not_asked_again() -> None:
    """410: set aside at once."""
    with receiving(status=410) as receiver:
        counts: list[str] = []
        (reason,) = deliver(webhook(receiver), [result()], counts)
        assert "410" in reason
        assert (counts, len(receiver.refused)) == (["set_aside"], 1)


def test_result_is_set_aside_past_its_deadline() -> None:
    """It has been tried until then, and says what the receiver said last."""
    with receiving(status=500) as receiver:
        counts: list[str] = []
        (reason,) = deliver(webhook(receiver, timeout="100ms", deadline="300ms"), [result()], counts)
        assert "500" in reason
        assert counts[-1] == "set_aside"
        assert counts.count("retried") >= 1


def test_retry_after_is_kept_to() -> None:
    """A receiver that asks for an hour is not asked within the deadline."""
    with receiving(status=503) as receiver:
        receiver.headers = {"retry-after": "3600"}
        counts: list[str] = []
        deliver(webhook(receiver, deadline="30m"), [result()], counts)
        assert (counts, len(receiver.refused)) == (["set_aside"], 1)


def test_one_result_that_a_receiver_cannot_take_keeps_no_other() -> None:
    """It goes on to be tried, beside those that arrive."""
    with receiving() as receiver:
        receiver.status = lambda request_id: 422 if request_id == "bad" else 200
        results = [result("bad"), *(result() for _ in range(5))]
        reasons = deliver(webhook(receiver, timeout="50ms", deadline="400ms"), results)
        assert [bool(reason) for reason in reasons] == [True] + [False] * 5
        assert len(receiver.bodies) == 5


def test_receiver_that_hangs_is_left_after_the_timeout() -> None:
    """The result is set aside past its deadline; no connection is used twice."""
    with receiving() as receiver:
        receiver.hangs = True
        began_s = time.monotonic()
        (reason,) = deliver(webhook(receiver, timeout="100ms", deadline="150ms"), [result()])
        assert "no answer within 0.1 s" in reason
        assert time.monotonic() - began_s < 5


def test_receiver_that_is_down_gets_all_when_it_is_back() -> None:
    """It is asked now and then meanwhile."""
    with receiving() as gone:
        port = gone.port
    results = [result() for _ in range(10)]

    async def work() -> list[str]:
        destination = Webhook(f"http://127.0.0.1:{port}/", secret_env="RESULTS_SECRET")
        sender = sender_of(destination)
        route = Route(destination, sender, Secrets(destination, Path(), "", logger()), lambda _: None, logger())
        delivering = asyncio.gather(*map(route.deliver, results))
        await asyncio.sleep(0.1)
        receiver = await asyncio.to_thread(Receiver, port)
        try:
            return list(await delivering)
        finally:
            sender.close()
            await asyncio.to_thread(receiver.close)
            assert sorted(receiver.ids) == sorted(each.id for each in results)

    assert run(work) == [""] * 10


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"40000\r\n" + b"x" * 0x40000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000,
        b"",
    ],
    ids=["nonsense", "says too much", "too long", "cut short", "endless head", "closed"],
)
def test_answer_that_is_none_is_a_failure_within_bounds(answer: bytes) -> None:
    """No HTTP, a body beyond the limit, or one that ends before its end."""
    assert ANSWER_BYTES_MAX < 0x40000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = WebhookSender(Webhook(f"http://127.0.0.1:{port}/x", secret_env="A", timeout="2s"))
        async with server:
            with pytest.raises(SendError):
                await sender.send({"webhook-id": "a"}, b"{}")
            sender.close()
            await asyncio.sleep(0.01)

    run(work)


def test_connection_that_the_receiver_closed_meanwhile_costs_no_try() -> None:
    """The request goes out again on a new one."""
    with receiving() as receiver:
        receiver.closes = True
        counts: list[str] = []
        destination = webhook(receiver, connections_max=1)
        assert deliver(destination, [result() for _ in range(3)], counts) == [""] * 3
        assert counts == ["delivered"] * 3


def test_results_are_added_to_a_redis_stream_signed(redis_server: RedisServer) -> None:
    """Each an entry with its id, the result and the signature over it."""
    import redis

    destination = RedisStream(redis_server.url, "results", secret_env="RESULTS_SECRET", entries_max=1_000)
    results = [result() for _ in range(5)]
    assert deliver(destination, results) == [""] * 5
    with redis.Redis.from_url(redis_server.url) as client:
        entries = [fields for _, fields in client.xrange("results")]
    for fields in entries:
        headers = {name.decode(): value.decode() for name, value in fields.items() if name.startswith(b"webhook-")}
        assert verify_webhook(SECRET, headers, fields[b"result"]) == fields[b"id"].decode()
        with pytest.raises(SignatureError):
            verify_webhook(OTHER_SECRET, headers, fields[b"result"])
    assert sorted(fields[b"id"].decode() for fields in entries) == sorted(each.id for each in results)


def test_redis_that_is_gone_for_a_while_gets_all(redis_server: RedisServer) -> None:
    """Killed before the results, and started again; the log names it without its password."""
    results = [result() for _ in range(3)]
    url = redis_server.url.replace("redis://", "redis://:hidden@")
    destination = RedisStream(redis_server.url, "results", secret_env="RESULTS_SECRET", timeout="1s")
    assert "hidden" not in sender_of(RedisStream(url, "results", secret_env="RESULTS_SECRET")).where
    redis_server.kill()
    counts: list[str] = []

    async def work() -> list[str]:
        sender = sender_of(destination)
        route = Route(destination, sender, Secrets(destination, Path(), "", logger()), counts.append, logger())
        delivering = asyncio.gather(*map(route.deliver, results))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(redis_server.start)
        try:
            return list(await delivering)
        finally:
            sender.close()

    assert run(work) == [""] * 3
    assert counts.count("delivered") == 3
    assert "retried" in counts


def test_delivered_result_is_gone_and_one_set_aside_is_kept(tmp_path: Path) -> None:
    """In the journal; so is one of a pipeline that declares nothing any more."""
    with receiving() as receiver:
        receiver.status = lambda request_id: 410 if request_id == "bad" else 200

        async def work() -> Any:
            journal = Journal(tmp_path, entries_max=10, bytes_max=1 << 22, retention_s=60)
            thread = JournalThread(journal)
            results = [result("bad"), result("good"), Result(new_id(), "gone", b"{}", 1)]
            for each in results:
                entry = Waiting(each.id, each.pipeline, "", b"", b"", b"{}")
                await thread.do(partial(journal.accept, 0, entry, Known(b"", b"")))
                await thread.do(partial(journal.finish, 0, each))
            destination, ended = webhook(receiver), asyncio.Event()
            sender = sender_of(destination)
            route = Route(destination, sender, Secrets(destination, Path(), "", logger()), lambda _: None, logger())
            deliveries = Deliveries(thread, {"log": route}, ended.set, logger())
            for each in results:
                deliveries.begin(each)
            while deliveries.under_way:
                ended.clear()
                await ended.wait()
            left = await thread.do(partial(journal.results, 10, ()))
            kept = await thread.do(journal.kept)
            deliveries.stop()
            thread.close()
            return results, left, kept

        results, left, kept = run(work)
        assert left == []
        told = {each.result.id: each.reason for each in kept}
        assert told.keys() == {results[0].id, results[2].id}
        assert "410" in told[results[0].id]
        assert "declares no results" in told[results[2].id]
        assert receiver.ids == [results[1].id]


def test_receiver_that_is_gone_keeps_no_other_pipelines_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results have their share of what may be under way, and no more; the other's all arrive meanwhile."""
    monkeypatch.setattr("tailrace.server.accepted.deliveries.UNDER_WAY_MAX", 8)
    monkeypatch.setattr("tailrace.server.accepted.sending.FIRST_WAIT_S", 60.0)
    with receiving(status=500) as gone, receiving() as receiver:

        async def work() -> int:
            thread = JournalThread(journal := Journal(tmp_path, entries_max=100, bytes_max=1 << 22, retention_s=60))
            for each in [result() for _ in range(20)] + [result(pipeline="tip") for _ in range(10)]:
                entry = Waiting(each.id, each.pipeline, "", b"", b"", b"{}")
                await thread.do(partial(journal.accept, 0, entry, Known(b"", b"")))
                await thread.do(partial(journal.finish, 0, each))
            routes, ended = {}, asyncio.Event()
            for name, destination in (("log", webhook(gone)), ("tip", webhook(receiver))):
                secrets = Secrets(destination, Path(), "", logger())
                routes[name] = Route(destination, sender_of(destination), secrets, lambda _: None, logger())
            deliveries = Deliveries(thread, routes, ended.set, logger())
            while len(receiver.bodies) < 10:
                ended.clear()
                skipped = frozenset(deliveries.under_way)
                for each in await thread.do(partial(journal.results, TAKEN_MAX, skipped, rooms=deliveries.rooms())):
                    deliveries.begin(each)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.05)
            under_way = len(deliveries.under_way)
            deliveries.stop()
            thread.close()
            return under_way

        assert run(work) <= 8
        assert len(set(receiver.ids)) == 10


def test_fault_of_a_sender_is_a_failure_as_any() -> None:
    """What it should not raise loses no result: it is tried again, and set aside past its deadline."""

    class Faulty(WebhookSender):
        async def send(self, headers: Mapping[str, str], body: bytes) -> None:
            raise KeyError("a fault of ours")

    with receiving() as receiver:
        destination = webhook(receiver, timeout="50ms", deadline="100ms")
        route = Route(destination, Faulty(destination), Secrets(destination, Path(), "", logger()), print, logger())
        assert "a fault of ours" in run(lambda: route.deliver(result()))


def test_secret_of_a_file_is_changed_without_a_restart(tmp_path: Path) -> None:
    """A file that cannot be read meanwhile leaves the old one; one that is missing at the start is an error."""
    file = tmp_path / "secret"
    destination = Webhook("http://a/", secret_file="secret")
    with pytest.raises(SetupError, match="no secret to sign results with"):
        Secrets(destination, tmp_path, "log.results", logger())
    file.write_text(SECRET + "\n")
    secrets = Secrets(destination, tmp_path, "log.results", logger())
    first = secrets.now()
    file.write_text("hidden")
    assert secrets.now() == first
    file.unlink()
    assert secrets.now() == first
    (tmp_path / "new").write_text(f"{OTHER_SECRET} {SECRET}")
    (tmp_path / "new").rename(file)
    assert secrets.now()[1:] == first


def test_secret_of_a_file_that_was_read_half_written_is_read_again(tmp_path: Path) -> None:
    """Its end is written in the same moment of the disk's clock as its beginning was."""
    file, destination = tmp_path / "secret", Webhook("http://a/", secret_file="secret")
    file.write_text(SECRET)
    secrets = Secrets(destination, tmp_path, "log.results", logger())
    file.write_text("")
    times_ns = file.stat().st_atime_ns, file.stat().st_mtime_ns
    (first,) = secrets.now()
    file.write_text(f"{OTHER_SECRET} {SECRET}")
    os.utime(file, ns=times_ns)
    assert secrets.now()[1:] == (first,)


def test_secret_that_is_none_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable alone."""
    monkeypatch.setenv("RESULTS_SECRET", "hidden")
    with pytest.raises(SetupError, match="RESULTS_SECRET") as raised:
        Secrets(Webhook("http://a/", secret_env="RESULTS_SECRET"), Path(), "log.results", logger())
    assert "hidden" not in str(raised.value)


def test_waits_grow_to_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time, give or take a half, ten minutes at most."""
    monkeypatch.setattr("tailrace.server.accepted.sending.FIRST_WAIT_S", 1.0)
    assert [wait_before(tries, 0.5) for tries in (1, 2, 3, 10, 10_000)] == [1, 2, 4, 512, 600]
    assert (wait_before(3, 0.0), wait_before(3, 1.0)) == (2, 6)


def test_unused_port_is_told() -> None:
    """The reason of a result that is set aside says why."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        (reason,) = deliver(Webhook(url, secret_env="RESULTS_SECRET", timeout="50ms", deadline="100ms"), [result()])
    assert "Connect" in reason or "refused" in reason


def test_receiver_that_fails_is_asked_now_and_then_only() -> None:
    """Fifty results that all fail at once are not fifty tries each: the breaker lets a few through."""
    with receiving(status=500) as receiver:
        counts: list[str] = []
        deliver(webhook(receiver, timeout="100ms", deadline="600ms"), [result() for _ in range(50)], counts)
        assert counts.count("set_aside") == 50
        assert len(receiver.refused) < 150  # without one it is over 250
