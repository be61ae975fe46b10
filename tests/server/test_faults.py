"""Faults made for real under load: every call is answered, with the right entity's values or the declared defaults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from redis_proxy import RedisProxy
from serving import Server, connect, load, message, serving, start_serve, wait_for
from visits import BODIES, BUDGET_MS, CUSTOMERS, TRACE, check_answers, fill, source_of, spend_of, write

import tailrace as tr
from features.redis_server import RedisServer
from tailrace.compile.loading import load_pipelines
from tailrace.features.rows import RowCodec
from tailrace.loadtest.processes import is_running

RATE = 300.0
RECOVERY_S_MAX = 1.0
REQUEST = {"customer_id": 7, "shop_id": "shop-7"}


@pytest.fixture
def file(pipelines_dir: Path) -> Path:
    """Return the declaration that is served."""
    return pipelines_dir / "faulted.py"


@pytest.fixture
def redis(tmp_path: Path, file: Path) -> Iterator[RedisServer]:
    """Return a Redis that holds every row."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        fill(server.url, file)
        yield server
    finally:
        server.kill()


@pytest.fixture
def store(tmp_path: Path, file: Path) -> Path:
    """Return an LMDB directory that holds every row."""
    fill(str(tmp_path / "visits"), file)
    return tmp_path / "visits"


def source_now(server: Server) -> str:
    """Return where the values of an answer given now are from; "" where there is no answer."""
    answer = server.ask("faulted", REQUEST)
    return source_of(answer.body, partial=True) if answer.status == 200 else ""


def reasons_now(server: Server) -> set[str]:
    """Return why an answer given now is degraded."""
    return server.ask("faulted", REQUEST, dict([TRACE])).degraded


def fresh_after_s(server: Server, edition: str = "1") -> float:
    """Return how long it takes until an answer has the values of an edition again."""
    began_s = time.monotonic()
    wait_for(lambda: source_now(server) == edition, 10)
    return time.monotonic() - began_s


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_redis_stopped_under_load(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """While Redis is stopped for two seconds all get defaults; fresh values are back within a second of its return."""
    with serving(tmp_path / "log", file, "--store", redis.url) as server:
        assert source_now(server) == "1"
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=4.5, budget_ms=BUDGET_MS) as report:
            redis.pause()
            stopped_s = time.monotonic()
            try:
                wait_for(lambda: reasons_now(server) & {"store_timeout", "store_error"}, 1)
                wait_for(lambda: time.monotonic() - stopped_s > 2, 3)
            finally:
                redis.resume()
            recovered_s = fresh_after_s(server)
            sources = check_answers(report.result())
        assert recovered_s <= RECOVERY_S_MAX
        assert min(sources["1"], sources["default"]) > RATE
        degraded = server.metric("tailrace_degraded_total", 'reason="store_timeout"')
        degraded += server.metric("tailrace_degraded_total", 'reason="store_error"')
        assert degraded >= sources["default"]


def test_redis_killed_and_restarted_under_load(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """While Redis is gone all are answered with defaults, and fresh within a second of its return with its rows."""
    with serving(tmp_path / "log", file, "--store", redis.url) as server:
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=3.5, budget_ms=BUDGET_MS) as report:
            redis.kill()
            wait_for(lambda: "store_error" in reasons_now(server), 1)
            gone_s = time.monotonic()
            wait_for(lambda: time.monotonic() - gone_s > 1, 2)
            redis.start()
            fill(redis.url, file, 2)
            recovered_s = fresh_after_s(server, "2")
            sources = check_answers(report.result(), partial=True)
        assert recovered_s <= RECOVERY_S_MAX
        assert sources["2"] > 0
        assert sources["default"] > RATE / 2


def test_redis_answering_in_single_bytes(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """Replies that come byte by byte are put together: every answer is fresh and right."""
    proxy = RedisProxy(redis.port, piece_bytes=1)
    try:
        with (
            serving(tmp_path / "log", file, "--store", f"redis://127.0.0.1:{proxy.port}/0") as server,
            load(server.predict_url("faulted"), BODIES, rate=60, duration_s=2, budget_ms=BUDGET_MS) as report,
        ):
            sources = check_answers(report.result())
    finally:
        proxy.close()
    assert proxy.pieces > 100 * report.result().shots
    assert sources["1"] >= 0.9 * report.result().shots  # the proxy may be late on a busy machine


def test_hurried_call_beside_others(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """A call with little time gets defaults where the store is slow; the one it came with has the time of its own."""
    proxy = RedisProxy(redis.port)
    path, body = "/v1/pipelines/faulted/predict", json.dumps(REQUEST).encode()
    hurried = message(path, body, "X-Trace: 1", "X-Budget-Ms: 20")
    pair = hurried + message(path, body, "X-Trace: 1")
    try:
        with (
            serving(tmp_path / "log", file, "--store", f"redis://127.0.0.1:{proxy.port}/0") as server,
            connect(server.url) as sock,
            sock.makefile("rb") as stream,
        ):
            assert source_now(server) == "1"
            proxy.delay_s = 0.03  # past the budget of the one, within the 50 ms that features have of the other
            for _ in range(5):
                sock.sendall(pair)
                _, first, _ = read_answer(stream)
                status, second, head = read_answer(stream)
                assert first.get("title") == "Shed" or source_of(first) == "default"
                assert (status, source_of(second)) == (200, "1")
                assert b"degraded" not in head
    finally:
        proxy.close()


def read_answer(stream: BinaryIO) -> tuple[int, Any, bytes]:
    """Return status, body and head, in lower case, of the next answer on a connection."""
    status = int(stream.readline().split()[1])
    head = b"".join(iter(stream.readline, b"\r\n")).lower()
    return status, json.loads(stream.read(int(head.partition(b"content-length: ")[2].split()[0]))), head


# -- LMDB -------------------------------------------------------------------------------------------------------------


def break_by_removing(store: Path, _: Path) -> None:
    """Remove the directory."""
    shutil.rmtree(store)


def break_by_cutting(store: Path, _: Path) -> None:
    """Cut the file to a page and a half."""
    os.truncate(store / "data.mdb", 6_144)


def break_by_other_schema(store: Path, file: Path) -> None:
    """Put in its place a store whose rows are of other schemas, under the keys of these."""

    class CustomerSpend(tr.BatchFeatureView):
        entity = tr.Entity("customer", key="customer_id")
        source = tr.Parquet("customers.parquet")
        last: int = 0
        spend: float = -1.0

    class ShopRank(tr.BatchFeatureView):
        entity = tr.Entity("shop", key="shop_id")
        source = tr.Parquet("shops.parquet")
        rank: float = -1.0

    other = store.with_name("other")
    ids = list(range(CUSTOMERS))
    shops = [f"shop-{each}" for each in ids]
    spends = [spend_of(each + 1) for each in ids]
    customers, shop_ranks = (RowCodec(view.spec) for view in load_pipelines(file)[0].views)
    write(str(other), RowCodec(CustomerSpend.spec), ids, {"last": ids, "spend": spends}, under=customers)
    write(str(other), RowCodec(ShopRank.spec), shops, {"rank": spends}, under=shop_ranks)
    store.rename(store.with_name("old"))
    other.rename(store)


@pytest.mark.parametrize(
    "break_store",
    [
        break_by_cutting,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (break_by_removing, break_by_other_schema)),
    ],
)
def test_lmdb_broken_under_load(
    tmp_path: Path, file: Path, store: Path, break_store: Callable[[Path, Path], None]
) -> None:
    """A store broken under load gives defaults, told as degraded; a new one in its place is read within a second."""
    new = tmp_path / "new"
    fill(str(new), file, 2)
    with serving(tmp_path / "log", file, "--store", str(store)) as server:
        pid = server.workers()[0]["pid"]
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=2.5, budget_ms=BUDGET_MS) as report:
            assert source_now(server) == "1"
            break_store(store, file)
            wait_for(lambda: "store_error" in reasons_now(server), 1)
            assert source_now(server) == "default"
            if store.exists():
                store.rename(tmp_path / "broken")
            new.rename(store)
            recovered_s = fresh_after_s(server, "2")
            sources = check_answers(report.result())
        assert recovered_s <= RECOVERY_S_MAX
        assert min(sources["1"], sources["2"]) > 0
        assert server.metric("tailrace_degraded_total", 'reason="store_error"') >= sources["default"]
        assert server.workers()[0]["pid"] == pid
        (told,) = wait_for(lambda: server.events("answers degraded"), 3)
        assert (told["pipeline"], told["reason"]) == ("faulted", "store_error")


def test_lmdb_replaced_under_load(tmp_path: Path, file: Path, store: Path) -> None:
    """A store put in the place of another under load is read within a second; no answer mixes the two."""
    new = tmp_path / "new"
    fill(str(new), file, 2)
    with serving(tmp_path / "log", file, "--store", str(store)) as server:
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=2, budget_ms=BUDGET_MS) as report:
            assert source_now(server) == "1"
            store.rename(tmp_path / "old")
            new.rename(store)
            recovered_s = fresh_after_s(server, "2")
            sources = check_answers(report.result())
        assert recovered_s <= RECOVERY_S_MAX
        assert min(sources["1"], sources["2"]) > 0


def test_two_pipelines_share_one_store(tmp_path: Path, pipelines_dir: Path, store: Path) -> None:
    """A server of two pipelines on one LMDB directory, by two paths, serves both from it."""
    folder = tmp_path / "pipelines"
    shutil.copytree(pipelines_dir, folder)
    text = (folder / "faulted.py").read_text()
    (folder / "second.py").write_text(
        text.replace('name="faulted"', 'name="second"').replace("lmdb:visits", "lmdb:link")
    )
    store.rename(folder / "visits")
    (folder / "link").symlink_to(folder / "visits")
    with serving(tmp_path / "log", folder / "faulted.py", str(folder / "second.py")) as server:
        for name in ("faulted", "second"):
            assert source_of(server.ask(name, REQUEST).body) == "1"


def test_two_pipelines_of_one_name_are_refused(tmp_path: Path, file: Path, store: Path) -> None:
    """A file given twice, or a name in two files, is told at the start, and not as a broken store."""
    server = start_serve(tmp_path / "log", file, str(file), "--store", str(store))
    try:
        assert server.process.wait(30) == 1
    finally:
        server.end()
    assert "two pipelines are called 'faulted'" in server.log.read_text()


# -- the model --------------------------------------------------------------------------------------------------------


def test_model_cut_short_at_the_start(tmp_path: Path, pipelines_dir: Path) -> None:
    """A model file cut short ends the start with an error that names it, and leaves no worker."""
    folder = tmp_path / "pipelines"
    shutil.copytree(pipelines_dir, folder)
    model = folder / "models" / "log" / "model.onnx"
    os.truncate(model, model.stat().st_size // 2)
    server = start_serve(tmp_path / "log", folder / "log.py", "--workers", "2")
    try:
        assert server.process.wait(30) == 1
        assert not server.processes()
    finally:
        server.end()
    told = server.log.read_text()
    assert str(model) in told or "models/log" in told, told
    assert "next:" in told


def test_model_giving_nan_under_load(tmp_path: Path, pipelines_dir: Path) -> None:
    """A row whose score is NaN gets a problem, or the fallback where there is one; its neighbours get their scores."""
    bodies = [json.dumps({"amount": amount}).encode() for amount in (1.5, -1.0, 2.0)]
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server:
        for pipeline, bad_status in (("log", 500), ("log_with_fallback", 200)):
            with load(server.predict_url(pipeline), bodies, rate=RATE, duration_s=1, budget_ms=50) as report:
                answers = report.result()
            assert answers.errors == 0
            for slot, (status, body) in enumerate(zip(answers.record.statuses, answers.bodies, strict=True)):
                assert status == (bad_status if slot % 3 == 1 else 200)
                answer = json.loads(body or b"")
                if status == 500:
                    assert answer["title"] == "Inference failed"
                else:
                    assert answer["score"] == pytest.approx((0.405465, 0.5, 0.693147)[slot % 3], rel=1e-4)
        assert server.ask("log_with_fallback", {"amount": -1}, dict([TRACE])).degraded == {"model_error"}
        degraded = server.metric("tailrace_degraded_total", 'pipeline="log_with_fallback"', 'reason="model_error"')
        assert degraded == RATE / 3 + 1


# -- processes --------------------------------------------------------------------------------------------------------


def test_worker_killed_under_load(tmp_path: Path, file: Path, store: Path) -> None:
    """Of two workers one is killed: only what it had in flight fails, and it is replaced."""
    with serving(tmp_path / "log", file, "--store", str(store), "--workers", "2") as server:
        killed, other = server.workers()
        with load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=3.5, budget_ms=BUDGET_MS) as report:
            os.kill(killed["pid"], signal.SIGKILL)
            wait_for(lambda: server.workers()[0]["state"] == "ready" and server.workers()[0]["restarts"], 20)
            answers = report.result()
        after = server.workers()
        assert after[0]["pid"] != killed["pid"]
        assert not is_running(killed["pid"])
        assert (after[1]["pid"], after[1]["restarts"]) == (other["pid"], 0)
        assert set(answers.statuses) == {200}
        assert answers.unreadable == answers.unanswered == answers.unsent == 0
        assert answers.broken <= answers.plan.connections  # idle ones break too, but lose nothing
        assert answers.ok is not None
        assert answers.ok.p99_ns <= BUDGET_MS * 1e6
        assert {source_of(json.loads(body)) for body in answers.bodies if body} == {"1"}


def test_supervisor_stopped_under_load(tmp_path: Path, file: Path, store: Path) -> None:
    """On SIGTERM every request that a connection has taken is answered before the server goes."""
    with serving(tmp_path / "log", file, "--store", str(store), "--workers", "2") as server:
        pids = [worker["pid"] for worker in server.workers()]
        clients = [Client(server.url) for _ in range(16)]
        wait_for(lambda: all(client.answered > 20 for client in clients), 10)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert server.process.wait(20) == 0
    assert [client.fault for client in clients if client.fault] == []
    assert sum(client.told_to_close for client in clients) > 0
    assert not [pid for pid in pids if is_running(pid)]


def test_connections_pending_at_the_stop_are_answered(tmp_path: Path, file: Path, store: Path) -> None:
    """What the kernel has accepted before the end is served, and a connection after it is refused; none is reset."""
    request = message("/v1/pipelines/faulted/predict", json.dumps(REQUEST).encode())
    with serving(tmp_path / "log", file, "--store", str(store)) as server, ExitStack() as stack:
        pid = server.workers()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        streams = []
        for _ in range(200):
            sock = stack.enter_context(connect(server.url))
            sock.sendall(request)
            streams.append(stack.enter_context(sock.makefile("rb")))
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.events("stopping"), 5)
        os.kill(pid, signal.SIGCONT)
        for stream in streams:
            status, body, _ = read_answer(stream)
            assert (status, source_of(body)) == (200, "1")
        with pytest.raises(ConnectionRefusedError):
            connect(server.url)
        assert server.process.wait(20) == 0


def test_workers_of_a_killed_supervisor_refuse_connections(tmp_path: Path, file: Path, store: Path) -> None:
    """Workers left alone answer what has begun, and take nothing more meanwhile."""
    request = message("/v1/pipelines/faulted/predict", json.dumps(REQUEST).encode())
    with serving(tmp_path / "log", file, "--store", str(store), "--workers", "2") as server:
        pids = [worker["pid"] for worker in server.workers()]
        clients = [connect(server.url) for _ in range(20)]
        for client in clients:
            client.sendall(request[:30])
        server.process.kill()
        wait_for(lambda: is_refused(server.url), 5)
        assert all(is_running(pid) for pid in pids)
        for client in clients:
            client.sendall(request[30:])
            with client, client.makefile("rb") as stream:
                assert read_answer(stream)[0] == 200
        wait_for(lambda: not any(is_running(pid) for pid in pids), 10)


def is_refused(url: str) -> bool:
    """Say whether a connection is refused."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


class Client(threading.Thread):
    """Asks again and again, on one connection as long as it may, until the server takes no more connections."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.answered = 0
        self.told_to_close = 0
        self.fault = ""
        self.start()

    def run(self) -> None:
        """Ask; what is sent on a connection that was not refused must be answered."""
        with suppress(ConnectionRefusedError):
            while not self.fault:
                self._use(connect(self._url))

    def _use(self, sock: socket.socket) -> None:
        """Ask on one connection, until it is told to close."""
        request = message("/v1/pipelines/faulted/predict", json.dumps(REQUEST).encode())
        with sock, sock.makefile("rb") as stream:
            on_this = 0
            while True:
                try:
                    sock.sendall(request)
                    status = stream.readline()
                except OSError as error:
                    status = repr(error).encode()
                if not status.startswith(b"HTTP/1.1 200"):
                    self.fault = f"{status!r} after {on_this} answers"
                    return
                head = b"".join(iter(stream.readline, b"\r\n")).lower()
                stream.read(int(head.partition(b"content-length: ")[2].split()[0]))
                self.answered += 1
                on_this += 1
                if b"connection: close" in head:
                    self.told_to_close += 1
                    return


# -- clients ----------------------------------------------------------------------------------------------------------


def break_off(url: str, stack: ExitStack) -> None:
    """Be gone in the middle of a request, and between a request and its answer."""
    request = message("/v1/pipelines/faulted/predict", BODIES[1])
    for index in range(100):
        with connect(url) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a FIN
            sock.sendall(request if index % 2 else request[: len(request) // 2])


def idle(url: str, stack: ExitStack) -> None:
    """Hold 500 connections and say nothing."""
    for _ in range(500):
        stack.enter_context(connect(url))


def read_slowly(url: str, stack: ExitStack) -> None:
    """Ask as much as the connection takes, and read nothing."""
    requests = message("/v1/pipelines/faulted/predict", BODIES[1], "X-Trace: 1") * 100
    for _ in range(10):
        sock = stack.enter_context(connect(url))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(200):
                sock.send(requests)


@pytest.mark.parametrize(
    "misbehave", [break_off, *(pytest.param(each, marks=pytest.mark.slow) for each in (idle, read_slowly))]
)
def test_neighbours_of_bad_clients(
    tmp_path: Path, file: Path, store: Path, misbehave: Callable[[str, ExitStack], None]
) -> None:
    """Whatever other clients do, a client that behaves is answered within budget, with its own entity's values."""
    with serving(tmp_path / "log", file, "--store", str(store)) as server:
        with (
            ExitStack() as stack,
            load(server.predict_url("faulted"), BODIES, rate=RATE, duration_s=2, budget_ms=BUDGET_MS) as report,
        ):
            misbehave(server.url, stack)
            sources = check_answers(report.result())
        assert set(sources) == {"1"}
        assert server.workers()[0]["restarts"] == 0
        wait_for(lambda: server.metric("tailrace_in_flight") == 0, 10)
