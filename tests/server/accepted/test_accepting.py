"""What a worker does with `?mode=accepted`: validated, on disk before the answer, scored by the engine of all."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from http_server import Answer, RawClient, RunningServer, ample

from tailrace.batch import Batch
from tailrace.deadline import MonotonicClock
from tailrace.pipeline import Pipeline
from tailrace.response.destinations import Webhook
from tailrace.server.accepted.hand_note import HandNote
from tailrace.server.accepted.journal import Journal, Result, Waiting, new_id
from tailrace.server.accepted.opening import Accepting
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.logging import logger
from tailrace.server.options import ServeOptions

PATH = "/v1/pipelines/{}/predict?mode=accepted"
REQUEST = {"amount": 1.5, "label": "a"}
RESULTS = Webhook("http://127.0.0.1:1/", secret_env="RESULTS_SECRET")


class AcceptingServer:
    """A server in this process that accepts, and its journal, which a test looks into on the journal's own thread."""

    def __init__(self, server: RunningServer, folder: Path, **changes: Any) -> None:
        self.server = server
        self.folder = folder
        options = ServeOptions(files=(), accepted=str(folder), **changes)

        self.counted: list[str] = []

        class Counts:
            count = staticmethod(self.counted.append)

        def begin() -> Accepting:
            server.http.shared.heads = HeadMemory(1 << 20)  # of requests to the last one
            return Accepting(server.endpoints, options, 0, server.load, MonotonicClock(), "r1", Counts(), logger())

        self.accepting: Accepting = server.on_loop(begin)
        self.journal: Journal = self.accepting._thread.journal

    def start(self) -> None:
        """Begin to score."""
        self.server.on_loop(self.accepting.start)

    def do(self, work: Callable[[Any], Any]) -> Any:
        """Do some work in the journal."""

        async def ask() -> Any:
            return await self.accepting._thread.do(work)

        return asyncio.run_coroutine_threadsafe(ask(), self.server.loop).result(20)

    def results(self, count: int) -> list[dict[str, Any]]:
        """Return what is to be delivered, once there are so many."""
        end_s = time.monotonic() + 20
        while len(found := self.do(partial(self.journal.results, 1_000, ()))) < count:
            assert time.monotonic() < end_s, found
            time.sleep(0.005)
        return [json.loads(each.body) for each in found]

    def ask(self, body: bytes, *headers: str, pipeline: str = "log", path: str = "") -> Answer:
        """Send one request over a connection of its own."""
        with self.server.connect() as client:
            return client.ask(message(path or PATH.format(pipeline), body, *headers))

    def stop(self) -> None:
        """Finish what is in hand."""
        asyncio.run_coroutine_threadsafe(self.accepting.close(5.0), self.server.loop).result(20)


def message(path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of one POST."""
    fields = "".join(f"{header}\r\n" for header in headers)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def running(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve two small pipelines."""
    with RunningServer(
        [replace(ample(pipeline_of(name)), results=RESULTS) for name in ("log", "log_with_fallback")]
    ) as server:
        yield server


@pytest.fixture
def accepting(running: RunningServer, tmp_path: Path) -> Iterator[AcceptingServer]:
    """Accept into a journal of this test's own; nothing is scored before `start`."""
    server = AcceptingServer(running, tmp_path / "accepted")
    yield server
    server.stop()


def test_accepted_request_is_answered_202_and_scored_as_a_live_one(accepting: AcceptingServer) -> None:
    """Its result has the answer of a live call, the id that its caller got, the release and the caller's own id."""
    body = json.dumps(REQUEST).encode()
    answer = accepting.ask(body, "X-Request-Id: a1")
    assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
    assert answer.headers["x-request-id"] == "a1"
    assert accepting.counted == ["log"]
    accepting.start()
    (result,) = accepting.results(1)
    live = accepting.ask(body, path="/v1/pipelines/log/predict")
    assert result["response"] == live.json
    told = {name: result[name] for name in ("id", "request_id", "status", "pipeline", "release")}
    assert told == {
        "id": answer.json["id"],
        "request_id": "a1",
        "status": "answered",
        "pipeline": "log",
        "release": "r1",
    }


@pytest.mark.parametrize("kind", ["msgpack", "gzip", "zstd", "array"])
def test_request_of_any_codec_becomes_a_result_in_json(accepting: AcceptingServer, kind: str) -> None:
    """MessagePack, gzip, and an array, of which the response is an array."""
    body, headers, wanted = json.dumps(REQUEST).encode(), [], REQUEST["label"]
    if kind == "msgpack":
        body, headers = msgspec.msgpack.encode(REQUEST), ["Content-Type: application/msgpack"]
    elif kind == "gzip":
        body, headers = gzip.compress(body), ["Content-Encoding: gzip"]
    elif kind == "zstd":
        body, headers = pytest.importorskip("backports.zstd").compress(body), ["Content-Encoding: ZSTD"]
    else:
        body = json.dumps([REQUEST, REQUEST]).encode()
    assert accepting.ask(body, *headers).status == 202
    accepting.start()
    (result,) = accepting.results(1)
    found = result["response"]
    assert (found[1] if kind == "array" else found)["label"] == wanted


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"{", [], 400, "truncated"),
        (b'{"amount": "a"}', [], 422, "Expected"),
        (b'{"amount": 1, "amount": 2}', [], 400, "twice"),
        (b"{}", ["Content-Encoding: br"], 415, "br"),
        (b'{"amount": 1}', ["X-Request-Id: " + "a" * 128], 400, "128 bytes"),
        (b'{"amount": 1}', ["X-Budget-Ms: soon"], 400, "X-Budget-Ms"),
    ],
)
def test_request_that_is_not_valid_is_refused_at_once(
    accepting: AcceptingServer, body: bytes, headers: list[str], status: int, said: str
) -> None:
    """It is never on disk."""
    answer = accepting.ask(body, *headers)
    assert answer.status == status
    assert said in answer.problem()["detail"]
    assert accepting.do(partial(accepting.journal.state, time.time_ns()))[:2] == (0, 0)


@pytest.mark.parametrize("query", ["mode=sometimes", "mode=", "mode=accepted&mode=accepted", "a=b&mode=Accepted"])
def test_other_mode_is_refused(accepting: AcceptingServer, query: str) -> None:
    """What is asked for twice is no mode either; other names say nothing."""
    answer = accepting.ask(b"{}", path=f"/v1/pipelines/log/predict?{query}")
    assert (answer.status, answer.problem()["pointer"]) == (400, "mode")
    live = accepting.ask(json.dumps(REQUEST).encode(), path="/v1/pipelines/log/predict?modes=accepted&x")
    assert live.status == 200


def test_pipeline_without_results_says_what_to_declare(http_server: RunningServer) -> None:
    """Nothing is accepted where it would go nowhere."""
    with http_server.connect() as client:
        answer = client.ask(message(PATH.format("payment"), b"{}"))
    assert answer.status == 400
    assert "results=tr.Webhook" in answer.problem()["next"]
    assert "--accepted" in answer.problem()["next"]


def test_same_request_id_is_scored_once(accepting: AcceptingServer) -> None:
    """Each of its repetitions gets the first one's id; another body is refused; another pipeline's is another."""
    body = json.dumps(REQUEST).encode()
    with accepting.server.connect() as client:  # its head is remembered, and the id varies in it
        asks = [client.ask(message(PATH.format("log"), body, f"X-Request-Id: {name}")) for name in ("a1", "a2") * 3]
    ids = [answer.json["id"] for answer in asks]
    assert len(set(ids)) == 2
    assert ids[0] == ids[2] == ids[4]
    other = accepting.ask(b'{"amount": 2}', "X-Request-Id: a1")
    assert (other.status, other.problem()["pointer"]) == (422, "X-Request-Id")
    assert accepting.ask(body, "X-Request-Id: a1", pipeline="log_with_fallback").json["id"] not in ids
    accepting.start()
    assert len(accepting.results(3)) == 3
    assert accepting.ask(body, "X-Request-Id: a1").json["id"] == ids[0]
    assert sorted(accepting.counted) == ["log", "log", "log_with_fallback"]


def test_full_disk_is_507_and_never_202(accepting: AcceptingServer) -> None:
    """The writes of the journal's file fail; when there is room again, requests are accepted again."""
    body = json.dumps(REQUEST | {"label": "x" * 100_000}).encode()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, before[1]))
    try:
        answers = [accepting.ask(body, f"X-Request-Id: {number}") for number in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [answer.status for answer in answers] == [507] * 3
    assert answers[0].problem()["type"] == "urn:tailrace:insufficient-storage"
    assert accepting.do(partial(accepting.journal.state, time.time_ns())).waiting == 0
    assert accepting.ask(body, "X-Request-Id: 0").status == 202


def test_journal_that_is_full_is_503(running: RunningServer, tmp_path: Path) -> None:
    """With Retry-After; live calls go on."""
    server = AcceptingServer(running, tmp_path, accepted_max=2)
    body = json.dumps(REQUEST).encode()
    answers = [server.ask(body) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 503]
    assert answers[2].headers["retry-after"] == "1"
    assert server.ask(body, path="/v1/pipelines/log/predict").status == 200
    server.stop()


def test_disk_that_does_not_answer_is_504_and_holds_no_live_call_up(accepting: AcceptingServer) -> None:
    """The lock is held elsewhere; within its budget the caller knows that it does not know, and asks again later."""
    body = json.dumps(REQUEST).encode()
    held = accepting.journal._environment.begin(write=True)  # as another process that is stopped with it
    try:
        with accepting.server.connect() as client:
            client.send(message(PATH.format("log"), body, "X-Request-Id: a1", "X-Budget-Ms: 50"))
            assert accepting.ask(body, path="/v1/pipelines/log/predict").status == 200
            answer = client.read()
            assert (answer.status, answer.problem()["type"]) == (504, "urn:tailrace:deadline-exceeded")
            assert accepting.ask(body, "X-Budget-Ms: 20").status == 504
    finally:
        held.abort()
    assert accepting.ask(body, "X-Request-Id: a1").status == 202
    accepting.start()
    assert len(accepting.results(2)) == 2  # what was written after all is scored, once for each id


def test_row_without_a_score_is_a_failed_result(accepting: AcceptingServer) -> None:
    """A logarithm below zero: tried as often as it says, then delivered as a problem."""
    from tailrace.server.accepted import backlog

    assert backlog.TRIES_MAX == 3
    accepting.ask(b'{"amount": -1}')
    accepting.ask(b'{"amount": 1}')
    accepting.accepting.backlog._retry_ns = 0
    accepting.start()
    results = accepting.results(2)
    failed = next(each for each in results if each["status"] == "failed")
    assert failed["error"]["type"] == "urn:tailrace:inference-failed"
    assert "response" not in failed


def test_request_that_ends_processes_is_set_apart_and_answered(accepting: AcceptingServer) -> None:
    """Three processes have ended with it in hand: it is delivered as failed, and its neighbour is scored."""
    ids = [accepting.ask(json.dumps(REQUEST).encode()).json["id"] for _ in range(2)]
    note = HandNote(accepting.folder, 0)
    for ends in range(3):  # what a process that is killed in a group leaves, and then with one alone
        note.write(dict.fromkeys(ids[: 2 - min(ends, 1)], ends))
    accepting.start()
    results = {each["id"]: each for each in accepting.results(2)}
    assert (results[ids[0]]["status"], results[ids[1]]["status"]) == ("failed", "answered")
    assert "processes have ended" in results[ids[0]]["error"]["detail"]


def test_note_that_cannot_be_read_counts_nothing(tmp_path: Path) -> None:
    """It is missing, or cut short."""
    note = HandNote(tmp_path, 1)
    assert note.read() == {}
    note.write({"a": 0, "b": 2})
    note.write({"a": 1})
    assert note.read() == {"a": 2}
    (tmp_path / "in-hand.1").write_bytes(b'{"a"')
    assert note.read() == {}


def test_what_a_slot_that_is_gone_left_is_shared_out(accepting: AcceptingServer) -> None:
    """A server with fewer workers scores what those of its last run had accepted."""
    entry = Waiting(new_id(), "log", "", b"application/json", b"", json.dumps(REQUEST).encode())
    from tailrace.server.accepted.journal import Known

    accepting.do(partial(accepting.journal.accept, 7, entry, Known(b"", b"")))
    for _ in range(70):  # of a pipeline that is not served: more than are taken at once, and none holds it up
        unknown = Waiting(new_id(), "gone", "", b"application/json", b"", b"{}")
        accepting.do(partial(accepting.journal.accept, 0, unknown, Known(b"", b"")))
    accepting.start()
    assert accepting.results(1)[0]["id"] == entry.id
    assert accepting.do(partial(accepting.journal.state, time.time_ns())).waiting == 70


def test_caller_that_is_gone_leaves_its_request(accepting: AcceptingServer) -> None:
    """It was on its way to the disk: it is scored, and delivered to where results go."""
    held = accepting.journal._environment.begin(write=True)
    client: RawClient = accepting.server.connect()
    client.send(message(PATH.format("log"), json.dumps(REQUEST).encode()))
    accepting.server.settle()
    client.sock.close()
    accepting.server.settle()
    held.abort()
    accepting.start()
    assert accepting.results(1)[0]["status"] == "answered"


def test_accepted_requests_go_into_the_batches_of_live_calls(accepting: AcceptingServer) -> None:
    """One engine, and so one batch for what comes in one tick; a caller of HTTP gets its own answer out of it."""
    seen: list[Batch] = []
    engine = accepting.server.engines["log"]

    class Watching:
        def record(self, batch: Batch, finished_ns: int) -> None:
            seen.append(batch)

    engine._recorders = (*engine._recorders, Watching())
    try:
        for _ in range(5):
            accepting.ask(json.dumps(REQUEST).encode())
        accepting.start()
        accepting.results(5)
    finally:
        engine._recorders = engine._recorders[:-1]
    assert sum(len(batch.calls) for batch in seen) == 5
    assert len(seen) < 5


def test_result_that_another_process_wrote_is_not_written_twice(accepting: AcceptingServer) -> None:
    """An old worker and its successor may both have a request in hand."""
    entry_id = accepting.ask(json.dumps(REQUEST).encode()).json["id"]
    first = Result(entry_id, "log", b'{"id": 1}', 1)
    assert accepting.do(partial(accepting.journal.finish, 0, first))
    accepting.start()
    time.sleep(0.05)
    assert accepting.results(1) == [{"id": 1}]


def test_work_that_may_wait_goes_to_disk_with_what_may_not(accepting: AcceptingServer) -> None:
    """One transaction, at once; alone it goes when its time is over."""
    thread, transactions = accepting.accepting._thread, list[int]()
    transact = accepting.journal.transact

    def counting(works: Any) -> Any:
        transactions.append(len(works))
        return transact(works)

    accepting.journal.transact = counting  # type: ignore[method-assign]

    async def ask() -> float:
        began_s = time.monotonic()
        patient = thread.do(lambda _: 1, linger_s=10.0)
        assert await thread.do(lambda _: 2) == 2
        assert await patient == 1
        assert await thread.do(lambda _: 3, linger_s=0.02) == 3
        return time.monotonic() - began_s

    took_s = asyncio.run_coroutine_threadsafe(ask(), accepting.server.loop).result(20)
    assert 0.02 <= took_s < 5
    assert transactions == [2, 1]


def test_requests_of_an_array_are_told_to_limits(accepting: AcceptingServer) -> None:
    """An accepted array counts for its requests, as one that is waited for does."""
    from tailrace.deadline import MonotonicClock as Clock
    from tailrace.request.limit import Limit
    from tailrace.server.limiting.limiter import Declared, Limiter

    class Recorder:
        def count(self, pipeline: str, reason: str) -> None:
            """Count nothing."""

    limiter = Limiter({"pipelines/log": Declared(Limit(rate="10/h"))}, Clock(), Recorder())
    methods: Any = accepting.server.http.shared.routes[b"/v1/pipelines/log/predict"]
    usual = methods[b"POST"]
    methods[b"POST"] = limiter.within(usual)
    try:
        answers = [accepting.ask(json.dumps([REQUEST] * 6).encode()).status for _ in range(3)]
    finally:
        methods[b"POST"] = usual
    assert answers == [202, 202, 429]


def test_accepting_asks_for_the_pipelines_key_and_tells_callers_apart(
    accepting: AcceptingServer, tmp_path: Path
) -> None:
    """No key, one of another pipeline, one that is revoked: 401, 403, 401. Two callers' equal ids are two requests."""
    file, found = tmp_path / "keys.json", []
    for scope in ("pipelines/log", "pipelines/log", "pipelines/other"):
        with changing(file, create=True) as keys:
            secret, key = make_key("a", (scope,))
            keys.append(key)
            found.append((key.id, f"X-API-Key: {secret}"))
    shared = accepting.server.http.shared

    def begin(keys: Keys | None) -> None:
        shared.keys, shared.heads = keys, HeadMemory(1 << 20)

    door = Keys(file, lambda kind: None)
    accepting.server.on_loop(begin, door)
    try:
        body = json.dumps(REQUEST).encode()
        (first, one), (_, two), (_, other) = found
        assert [accepting.ask(body, *shown).status for shown in ([], [other])] == [401, 403]
        ids = {accepting.ask(body, shown, "X-Request-Id: a1").json["id"] for shown in (one, two, one)}
        assert len(ids) == 2
        with changing(file) as keys:
            keys[:] = [key for key in keys if key.id != first]
        accepting.server.on_loop(door.look)
        assert [accepting.ask(body, shown).status for shown in (one, two)] == [401, 202]
    finally:
        accepting.server.on_loop(begin, None)


def test_request_that_the_server_has_had_no_time_for_is_failed_in_the_end(
    running: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is always busy scores none; past the retention its receiver is told."""
    monkeypatch.setattr("tailrace.server.accepted.backlog.BUSY_SHARE_MAX", -1.0)
    server = AcceptingServer(running, tmp_path, accepted_retention_s=1.0)
    server.ask(json.dumps(REQUEST).encode())
    server.start()
    (result,) = server.results(1)
    assert (result["status"], result["error"]["status"]) == ("failed", 504)
    server.stop()


def test_nothing_is_scored_while_a_live_call_waits(accepting: AcceptingServer) -> None:
    """An engine that has a call in its queue is left to it."""
    accepting.ask(json.dumps(REQUEST).encode())
    admission = accepting.server.engines["log_with_fallback"].admission

    def wait(rows: int) -> None:
        admission.rows_waiting += rows

    accepting.server.on_loop(wait, 1)
    try:
        accepting.start()
        time.sleep(0.1)
        assert (
            HandNote(accepting.folder, 0).read() == {}
        )  # nothing is in hand: a process that ends now has ended by itself
        assert accepting.do(partial(accepting.journal.results, 10, ())) == []
    finally:
        accepting.server.on_loop(wait, -1)
    assert accepting.results(1)
    assert HandNote(accepting.folder, 0).read() == {}


def test_answer_comes_once_where_the_disk_is_done_as_time_runs_out(accepting: AcceptingServer) -> None:
    """The loop was held past a call's time while its request came to disk: it hears one of the two."""
    body = json.dumps(REQUEST).encode()
    with accepting.server.connect() as client:
        client.send(message(PATH.format("log"), body, "X-Budget-Ms: 30"))
        accepting.server.settle()
        accepting.server.hold(lambda: time.sleep(0.1))
        assert client.read().status in (202, 504)
        assert client.ask(message(PATH.format("log"), body)).status == 202


def test_bodies_that_wait_for_the_disk_have_a_bound(
    accepting: AcceptingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it 503, until the disk has them; nothing of them is counted then."""
    monkeypatch.setattr("tailrace.server.accepted.endpoint.BYTES_MAX", 150)
    body = json.dumps(REQUEST | {"label": "x" * 200}).encode()
    acceptance = accepting.server.http.shared.routes[b"/v1/pipelines/log/predict"][b"POST"].accepting._acceptance  # type: ignore[union-attr]
    held = accepting.journal._environment.begin(write=True)
    try:
        with accepting.server.connect() as client:
            client.send(message(PATH.format("log"), body))
            accepting.server.settle()
            refused = accepting.ask(body)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            held.abort()
            assert client.read().status == 202
    finally:
        held.abort()
    assert accepting.ask(body).status == 202
    assert acceptance.bytes == 0


def test_request_that_a_process_ended_with_is_scored_alone(accepting: AcceptingServer) -> None:
    """So that the next end is told of it, and of no neighbour; without any, requests go in together."""
    ids = [accepting.ask(json.dumps(REQUEST).encode()).json["id"] for _ in range(3)]
    backlog = accepting.accepting.backlog
    together = accepting.do(backlog._take)
    backlog._ends[ids[1]] = 1
    alone = accepting.do(backlog._take)
    assert sorted(entry.id for _, entry in together) == sorted(ids)
    assert [entry.id for _, entry in alone] == [ids[1]]
