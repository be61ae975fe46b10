"""Shared answers over real connections: a leader that is gone, one that fails, callers who must not share."""

from __future__ import annotations

import ast
import asyncio
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from http_server import AMPLE, PATIENCE_S, RawClient, RunningServer, post, wait_for
from numpy.typing import NDArray

import tailrace as tr
import tailrace.server
from tailrace.batch import Batch, Call
from tailrace.deadline import MonotonicClock
from tailrace.errors import ServingError
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.shared import MetricBlock
from tailrace.monitor.snapshot import pipeline_snapshots
from tailrace.release.pinned import Release
from tailrace.server.declared import shape_of
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.logging import logger
from tailrace.server.options import ServeOptions
from tailrace.server.served import ServedPipelines


class Job(tr.Request):
    work: float
    id: str = ""


class Level(tr.Response):
    score: float
    id: str


class Gate:
    """Holds the model. asked: rows of each call of it; faults: calls yet to be failed."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.asked: list[int] = []
        self.faults = 0
        self.reset()

    def reset(self) -> None:
        """Let all through."""
        self.open.set()
        self.asked.clear()
        self.faults = 0


GATE = Gate()


class Gated:
    """Scores the work, on the inference thread, when the gate is open."""

    blocks = True

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the work as it is."""
        column: NDArray[Any] = feeds["features"][:, 0]
        GATE.asked.append(len(column))
        GATE.entered.release()
        assert GATE.open.wait(PATIENCE_S)
        if GATE.faults:
            GATE.faults -= 1
            raise RuntimeError("this one failed")
        return column


DECLARED = tr.Pipeline(
    name="log", request=Job, response=Level, features=[Job.work], model=tr.PythonModel("gated", Gated),
    budget=AMPLE, coalesce=tr.Coalesce(on=[Job.work]),
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Serve a pipeline that coalesces on its work, and keeps nothing."""
    with RunningServer([DECLARED]) as server:
        yield server


@pytest.fixture
def clients(server: RunningServer) -> Iterator[list[RawClient]]:
    """Return some clients, and close the gate until the test opens it."""
    clients = [server.connect() for _ in range(4)]
    GATE.reset()
    while GATE.entered.acquire(blocking=False):
        pass
    GATE.open.clear()
    yield clients
    GATE.reset()
    for client in clients:
        client.sock.close()


def job(work: float = 2.0, number: int = 0, *headers: str) -> bytes:
    """Return a request."""
    return post(msgspec.json.encode({"work": work, "id": f"j{number}"}), *headers)


def wait_in_model() -> None:
    """Wait until the model has been asked."""
    assert GATE.entered.acquire(timeout=PATIENCE_S)


def wait_following(server: RunningServer, calls: int) -> None:
    """Wait until so many calls follow another."""
    coalescing = server.engines["log"].coalescing
    assert coalescing is not None
    wait_for(lambda: server.on_loop(lambda: coalescing.calls_following) == calls, f"{calls} calls follow")


def test_leader_that_leaves_costs_its_followers_nothing(server: RunningServer, clients: list[RawClient]) -> None:
    """The leader's connection is reset while the model is at work; the others are answered by that work."""
    leader, *followers = clients
    leader.send(job())
    wait_in_model()
    for number, follower in enumerate(followers):
        follower.send(job(2.0, number, "X-Trace: 1"))
    wait_following(server, 3)
    leader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leader.sock.close()
    wait_for(lambda: len(server.http.connections) == 3, "the leader's connection is gone")
    GATE.open.set()
    answers = [follower.read() for follower in followers]
    assert [(answer.status, answer.json) for answer in answers] == [
        (200, {"score": 2.0, "id": f"j{number}"}) for number in range(3)
    ]
    assert all('coalesced;desc="in_flight"' in answer.headers["server-timing"] for answer in answers)
    assert GATE.asked == [1]


def test_answers_keep_their_order_on_one_connection(server: RunningServer, clients: list[RawClient]) -> None:
    """Requests that are sent one behind the other are answered so, whoever leads and whoever follows."""
    client = clients[0]
    client.send(b"".join(job(work, number) for number, work in enumerate((2.0, 3.0, 2.0, 3.0, 2.0))))
    wait_in_model()
    GATE.open.set()
    assert [client.read().json["id"] for _ in range(5)] == [f"j{number}" for number in range(5)]
    assert sum(GATE.asked) == 2


def test_follower_that_leaves_costs_nobody_anything(server: RunningServer, clients: list[RawClient]) -> None:
    """What is owed to a client that is gone is dropped."""
    leader, gone, *others = clients
    leader.send(job())
    wait_in_model()
    for client in (gone, *others):
        client.send(job())
    wait_following(server, 3)
    gone.sock.close()
    GATE.open.set()
    assert [client.read().status for client in (leader, *others)] == [200] * 3
    assert GATE.asked == [1]


def test_leader_that_fails_fails_alone(server: RunningServer, clients: list[RawClient]) -> None:
    """The model fails for the leader; a follower is computed in its place, for itself and the others."""
    leader, *followers = clients
    leader.send(job())
    wait_in_model()
    for follower in followers:
        follower.send(job())
    wait_following(server, 3)
    GATE.faults = 1
    GATE.open.set()
    assert leader.read().problem()["type"] == "urn:tailrace:inference-failed"
    assert [follower.read().json["score"] for follower in followers] == [2.0] * 3
    assert GATE.asked == [1, 1]


def test_callers_with_other_scopes_are_computed_apart(
    server: RunningServer, clients: list[RawClient], tmp_path: Path
) -> None:
    """Equal requests of two keys share where both open the same, and not where one opens more."""
    file, secrets = tmp_path / "keys.json", []
    with changing(file, create=True) as known:
        for scopes in (["pipelines/log"], ["pipelines/log"], ["pipelines/*"]):
            secret, key = make_key("caller", scopes)
            known.append(key)
            secrets.append(secret)
    shared = server.http.shared

    def begin(keys: Keys | None) -> None:
        shared.keys, shared.heads = keys, HeadMemory(shared.limits.body_bytes_max)

    server.on_loop(begin, Keys(file, shared.count_failure))
    try:
        for client, secret in zip(clients, secrets, strict=False):
            client.send(job(3.0, 0, f"Authorization: Bearer {secret}"))
            server.settle()
        wait_in_model()
        wait_following(server, 1)
        GATE.open.set()
        assert [client.read().status for client in clients[:3]] == [200] * 3
        assert sum(GATE.asked) == 2
    finally:
        server.on_loop(begin, None)


def test_tensors_share_and_keep_their_ids(server: RunningServer, clients: list[RawClient]) -> None:
    """Calls of the Open Inference Protocol follow each other, and each is told the id that it has sent."""
    leader, follower, *_ = clients
    for client, name in ((leader, "one"), (follower, "other")):
        inputs = [
            {"name": "work", "datatype": "FP64", "shape": [1], "data": [2.0]},
            {"name": "id", "datatype": "BYTES", "shape": [1], "data": [name]},
        ]
        body = msgspec.json.encode({"id": name, "inputs": inputs})
        client.send(post(body, path="/v2/models/log/infer"))
        if client is leader:
            wait_in_model()
    wait_following(server, 1)
    GATE.open.set()
    for client, name in ((leader, "one"), (follower, "other")):
        answer = client.read().json
        assert answer["id"] == name
        assert [each["data"] for each in answer["outputs"]] == [[2.0], [name]]
    assert GATE.asked == [1]


def test_answers_without_a_leader_s_codec_are_their_own(server: RunningServer, clients: list[RawClient]) -> None:
    """A follower that sends MessagePack is answered in it."""
    leader, follower, *_ = clients
    leader.send(job())
    wait_in_model()
    packed = msgspec.msgpack.encode({"work": 2.0, "id": "p"})
    follower.send(post(packed, "Content-Type: application/msgpack"))
    wait_following(server, 1)
    GATE.open.set()
    assert leader.read().headers["content-type"] == "application/json"
    answer = follower.read()
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(answer.body) == {"score": 2.0, "id": "p"}
    assert np.sum(GATE.asked) == 1


async def metrics_of_three_calls() -> MergedMetrics:
    """Serve the pipeline as a worker does, without its sockets; return what it counts of equal calls, three and one."""
    pipeline = replace(DECLARED, name="kept", coalesce=tr.Coalesce(on=[Job.work], ttl="1h"))
    clock, block = MonotonicClock(), MetricBlock.create(worker_layout([shape_of(pipeline)]))
    load = LoopLoad(asyncio.get_running_loop())
    release, options = Release(id="r", models=(), schemas={pipeline.name: ""}), ServeOptions(files=())
    every = ServedPipelines(release, options, block, load, clock, logger(), is_successor=False)
    served = await every.add(pipeline)
    endpoint, desk, wanted = served.endpoint(options), Answered(), 0
    for calls in (3, 1):
        for _ in range(calls):
            assert endpoint.accept(Call(desk, None, None, 0, 0, 1), b'{"work": 1.0}', AMPLE.total_ns) is None
        wanted += calls
        while desk.answers < wanted:
            await asyncio.sleep(0.001)
    every.look()
    metrics = merge_blocks([block])
    every.close()
    return metrics


class Answered:
    """A transport that counts answers."""

    answers = 0

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Count them."""
        self.answers += len(places)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Fail the test."""
        raise AssertionError(error)


def test_worker_counts_what_its_calls_share() -> None:
    """Four are answered, of which two were computed by the first and one was kept; one row was scored."""
    GATE.reset()
    metrics = asyncio.run(metrics_of_three_calls())
    (snapshot,) = pipeline_snapshots(metrics)
    assert (snapshot.requests, snapshot.rows, snapshot.coalesced) == (4, 1, {"in_flight": 2, "kept": 1})
    assert snapshot.coalesced_share == 0.75
    assert metrics.value("tailrace_coalesced_bytes", "kept") > 0


def test_calls_of_every_protocol_say_whose_they_are() -> None:
    """A class of calls that did not would share answers among callers who may not."""
    folder, found = Path(tailrace.server.__file__).parent, []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and "Call" in map(ast.unparse, node.bases):
                found.append(node.name)
                assert "callers" in {each.name for each in node.body if isinstance(each, ast.FunctionDef)}, node.name
    assert "HttpCall" in found
