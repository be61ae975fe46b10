from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pytest
from protocol_server import ProtocolServer
from test_remote_client import client_of
from tree_models import draw_forest

import tailrace as tr
from tailrace.batch import Batch, Degraded
from tailrace.compile.checking import check_pipeline
from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import CompileError, DeadlineExceededError, InferenceError
from tailrace.inference.remote.failure import RemoteFault
from tailrace.inference.remote.pool import WAITING_MAX
from tailrace.inference.remote.stage import CALLS_MAX, RemoteStage, remote_stages
from tailrace.release.package import package
from tailrace.server.eager_loop import EagerLoop
from tailrace.testing import TestClient

FAR_NS = 10**18


class Row(tr.Request):
    a: float
    b: float = 0.0
    c: float = 0.0


class Scored(tr.Response):
    a: float
    score: float


@tr.on_demand
def d(request: Row) -> np.ndarray:
    """Return what JSON cannot hold for a = 13."""
    return np.where(request.a == 13, np.nan, 0.0)


def extra(request: Row) -> np.ndarray:
    """Return what the model computed here does not take."""
    return request.a


X = tr.RemoteInput("x", "float32")


def pipeline_of(model: Any, budget: str | tr.Budget = "5s", **more: Any) -> tr.Pipeline:
    """Return a pipeline around a model that gives each row its `a`."""
    return tr.Pipeline(
        name="remote", request=Row, response=Scored, features=[Row.a, Row.b, Row.c, d], model=model,
        budget=budget if isinstance(budget, tr.Budget) else tr.Budget(budget), **more,
    )  # fmt: skip


def scores_of(client: TestClient, *firsts: float) -> tuple[list[float], list[int]]:
    """Return the scores of one batch of rows, and why each is degraded."""
    batch = client.run([b'{"a": %r}' % first for first in firsts])
    degraded = [0] * batch.rows if batch.degraded is None else batch.degraded.tolist()
    return batch.scores.tolist(), degraded


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    """Yield a server."""
    with ProtocolServer() as found:
        yield found


DECLARED: dict[str, dict[str, Any]] = {
    "oip": {},
    "oip-binary": {"protocol": "oip-binary"},
    "tensorflow": {},
    "tensorflow-columns": {"protocol": "tensorflow-columns"},
    "torchserve": {"inputs": [X]},
}


@pytest.mark.parametrize("name", DECLARED)
def test_pipeline_has_a_remote_model(server: ProtocolServer, name: str) -> None:
    """A model at a server is declared by its address, and scores the rows of a pipeline."""
    model = tr.RemoteModel("fraud", url=server.url(name.partition("-")[0]), **DECLARED[name])
    with TestClient(pipeline_of(model)) as client:
        assert client.predict({"a": 0.25}) == {"a": 0.25, "score": 0.25}
        assert scores_of(client, 1.0, 2.0, 3.5) == ([1.0, 2.0, 3.5], [0, 0, 0])
    assert not any(stage.client.failures for stage in remote_stages(client.plan.inference.stage))


def test_tensors_travel_as_bytes_where_the_server_says_so() -> None:
    """A server with the extension gets no number as text."""
    with ProtocolServer(binary=True) as server:
        with TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.url()))) as client:
            assert scores_of(client, 1.0, 13.0) == ([1.0, 13.0], [0, 0])
        assert server.requests[-1].headers["content-type"] == "application/octet-stream"


REASONS = {
    "stall": Degraded.MODEL_TIMEOUT,
    "slow_head": Degraded.MODEL_TIMEOUT,
    "garbage": Degraded.MODEL_ERROR,
    "close_midway": Degraded.MODEL_ERROR,
    "other_id": Degraded.MODEL_ERROR,
    "other_model": Degraded.MODEL_ERROR,
    "rows_many": Degraded.MODEL_ERROR,
    "huge": Degraded.MODEL_ERROR,
    "status_503": Degraded.MODEL_ERROR,
}


@pytest.mark.parametrize("fault", REASONS)
def test_faults_are_answered_by_the_fallback_within_the_budget(server: ProtocolServer, fault: str) -> None:
    """Whatever the server does, a call gets the declared score in time, and the answer says why."""
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model, "80ms" if REASONS[fault] is Degraded.MODEL_TIMEOUT else "3s")) as client:
        server.fault = fault
        began_s = time.monotonic()
        assert scores_of(client, 1.0, 2.0) == ([0.5, 0.5], [REASONS[fault]] * 2)
        assert time.monotonic() - began_s < 1.0  # the budget, and what a busy machine makes of it
        server.fault = ""
        assert scores_of(client, 1.0, 2.0) == ([1.0, 2.0], [0, 0])


@pytest.mark.parametrize("fault", ["stall", "garbage"])
def test_server_left_alone_is_answered_for_with_what_it_did(server: ProtocolServer, fault: str) -> None:
    """Once the breaker is open the fallback answers at once, for the reason for which it opened."""
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model, "30ms" if fault == "stall" else "3s")) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        server.fault = fault
        for _ in range(3):
            scores_of(client, 1.0)
        asked = len(server.requests)
        assert stage.client.breaker.is_open
        assert scores_of(client, 1.0) == ([0.5], [REASONS[fault]])
        assert len(server.requests) == asked


@pytest.mark.parametrize("inference", ["10ms", "15ms", "16ms", "40ms"])
def test_stalled_server_with_a_second_model_is_left_alone(
    server: ProtocolServer, local_model: Path, inference: str
) -> None:
    """The time kept for the second model is none of the server's: late in the rest, it opens the breaker."""
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Model("local", path=local_model))
    with TestClient(pipeline_of(model, tr.Budget("200ms", inference=inference))) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        server.fault = "stall"
        for _ in range(4):
            scores_of(client, 1.0)
        assert stage.client.breaker.is_open


class Slow:
    """A cheap model that waits for something else, for as long as the row says."""

    blocks = True

    def predict(self, feeds: Any) -> np.ndarray:
        """Return a score of which nobody is sure."""
        time.sleep(max(float(feeds["features"][:, 1].max()), 0.0))
        return np.full(len(feeds["features"]), 0.5)

    def examples(self, rows: int) -> dict[str, np.ndarray]:
        """Return rows that wait for nothing."""
        return {"features": np.zeros((rows, 4), np.float32)}


@pytest.mark.parametrize("budget_ms", [None, 30])
def test_stalled_server_behind_a_slow_cheap_model_is_left_alone(server: ProtocolServer, budget_ms: int | None) -> None:
    """What a cascade keeps for it is enough to tell; a caller who leaves it none opens the breaker for nobody."""
    cheap, far = tr.PythonModel("cheap", Slow()), tr.RemoteModel("fraud", url=server.url())
    cascade = tr.Cascade("both", cheap, far, unsure=(0.0, 1.0))
    with TestClient(pipeline_of(cascade, tr.Budget("200ms", inference="80ms"))) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        server.delay_s = 0.002
        assert scores_of(client, 1.0) == ([1.0], [0])  # else nobody knows what to keep for it
        server.fault = "stall"
        for _ in range(6):
            call = client.submit({"a": 1.0, "b": 0.2}, budget_ms=budget_ms)
            while not client.turns.is_idle:
                client.turn()
            assert call.batch is not None
        assert stage.client.breaker.is_open is (budget_ms is None)


@pytest.mark.parametrize(("fault", "error"), [("stall", DeadlineExceededError), ("garbage", InferenceError)])
def test_without_a_fallback_a_fault_is_an_error(server: ProtocolServer, fault: str, error: type[Exception]) -> None:
    """Where nothing is declared to answer in its place, a call fails, and never gets a number."""
    budget = "80ms" if fault == "stall" else "3s"
    with TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.url()), budget)) as client:
        server.fault = fault
        with pytest.raises(error):
            client.predict({"a": 1.0})


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a model on the same features, that gives every row a score of its own."""
    folder, names = tmp_path_factory.mktemp("local"), ["a", "b", "c", "d"]
    graph = folder / "forest.onnx"
    graph.write_bytes(draw_forest(3, features=4, trees=3, leaves=8).graph("Sigmoid"))
    rows = np.random.default_rng(4).normal(size=(300, 4))
    out = folder / "local"
    package(graph, pa.table({name: rows[:, index] for index, name in enumerate(names)}), name="local", out=out)
    return out


def test_second_model_is_computed_here(server: ProtocolServer, local_model: Path) -> None:
    """A packaged model stands in for the server, for the rows that it did not score, and in time."""
    second = tr.Model("local", path=local_model, fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(second)) as client:
        expected, _ = scores_of(client, 1.0, -1.0)
    with TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.url(), fallback=second), "400ms")) as client:
        for server.fault, reason in (("garbage", Degraded.MODEL_ERROR), ("stall", Degraded.MODEL_TIMEOUT)):
            assert scores_of(client, 1.0, -1.0) == (expected, [reason] * 2)
        server.fault = ""
        assert scores_of(client, 1.0, -1.0) == ([1.0, -1.0], [0, 0])


def test_remote_model_is_a_member_like_any(server: ProtocolServer, local_model: Path) -> None:
    """In a cascade it is asked for the unsure rows alone, and where it fails the cheap score stands."""
    cheap = tr.Model("local", path=local_model)
    with TestClient(pipeline_of(cheap)) as client:
        scores, _ = scores_of(client, 1.0, -1.0, 0.25, 2.0)
    low, high = sorted(scores)[1:3]
    unsure = [low <= score <= high for score in scores]
    remote = tr.RemoteModel("fraud", url=server.url())
    with TestClient(pipeline_of(tr.Cascade("both", cheap, remote, unsure=(low, high)))) as client:
        asked = len(server.requests)
        expected = [
            first if far else own for first, own, far in zip((1.0, -1.0, 0.25, 2.0), scores, unsure, strict=True)
        ]
        assert scores_of(client, 1.0, -1.0, 0.25, 2.0) == (expected, [0] * 4)
        assert json.loads(server.requests[asked].body)["inputs"][0]["shape"] == [sum(unsure), 4]
        server.fault = "garbage"
        assert scores_of(client, 1.0, -1.0, 0.25, 2.0) == (scores, [Degraded.MODEL_ERROR * far for far in unsure])
    with TestClient(pipeline_of(tr.Ensemble("mean", [cheap, remote]))) as client:
        server.fault = ""
        assert scores_of(client, 1.0)[0] == pytest.approx([(1.0 + scores[0]) / 2])


def test_row_that_json_cannot_hold_is_not_asked(server: ProtocolServer) -> None:
    """A row with NaN takes the fallback where the protocol is JSON; its neighbours are scored in one call."""
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        asked = len(server.requests)
        assert scores_of(client, 1.0, 13.0, 3.0) == ([1.0, 0.5, 3.0], [0, Degraded.MODEL_ERROR, 0])
        assert len(server.requests) == asked + 1
        assert scores_of(client, 13.0) == ([0.5], [Degraded.MODEL_ERROR])
        assert len(server.requests) == asked + 1


@pytest.mark.parametrize("name", ["oip", "tensorflow"])
def test_row_that_the_server_refuses_does_not_cost_its_neighbours(server: ProtocolServer, name: str) -> None:
    """The server answers 500, or 400, for a batch with a bad row: that row alone takes the fallback."""
    server.poison = 25.0
    model = tr.RemoteModel("fraud", url=server.url(name), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        asked = len(server.requests)
        scores, degraded = scores_of(client, *map(float, range(20, 36)))
        assert scores == [0.5 if row == 25 else row for row in range(20, 36)]
        assert degraded == [Degraded.MODEL_ERROR if row == 25 else 0 for row in range(20, 36)]
        assert len(server.requests) == asked + 9
        (stage,) = remote_stages(client.plan.inference.stage)
        assert not stage.client.breaker.is_open


def test_search_for_bad_rows_is_bounded(server: ProtocolServer) -> None:
    """A server that fails for every row is asked a few times for a batch, then left alone."""
    server.fault = "status_500"
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        asked = len(server.requests)
        assert scores_of(client, *map(float, range(64)))[0] == [0.5] * 64
        assert len(server.requests) - asked <= CALLS_MAX + 1
        for _ in range(3):
            scores_of(client, 1.0)
        (stage,) = remote_stages(client.plan.inference.stage)
        assert stage.client.breaker.is_open


@pytest.mark.parametrize("status", [400, 500])
def test_server_that_refuses_every_batch_is_left_alone(server: ProtocolServer, status: int) -> None:
    """Whatever the status: a batch of which no row is scored is no row's fault. Of one row alone nobody can tell."""
    server.fault = f"status_{status}"
    model = tr.RemoteModel("fraud", url=server.url(), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        for _ in range(3):
            scores_of(client, 1.0)
        assert stage.client.breaker.is_open is (status == 500)
        for _ in range(4):
            scores_of(client, 1.0, 2.0, 3.0)
        assert stage.client.breaker.is_open


def test_call_of_rows_at_fault_opens_the_breaker_for_nobody(server: ProtocolServer) -> None:
    """A caller whose rows are all refused says nothing of the server while it scores the rows of others."""
    server.poison = 25.0
    model = tr.RemoteModel("fraud", url=server.url("tensorflow"), fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        bad = b'[{"a": 25.0}, {"a": 25.0}, {"a": 25.0}]'
        for _ in range(6):
            assert client.run([bad]).scores.tolist() == [0.5] * 3
            assert scores_of(client, 1.0) == ([1.0], [0])
        for _ in range(3):
            assert client.run([bad]).scores.tolist() == [0.5] * 3
            assert client.run([bad, b'{"a": 2.0}']).scores.tolist() == [0.5, 0.5, 0.5, 2.0]
        assert not stage.client.breaker.is_open


def test_calls_refused_one_after_the_other_open_the_breaker(server: ProtocolServer) -> None:
    """One is its caller's fault as far as is known; the next ones, or several in one batch, are the server's."""
    server.fault = "status_400"
    model = tr.RemoteModel("fraud", url=server.url("tensorflow"), fallback=tr.Constant(0.5))
    bad = b'[{"a": 1.0}, {"a": 2.0}]'
    for bodies, batches in (([bad], 4), ([bad, bad], 3)):
        with TestClient(pipeline_of(model)) as client:
            (stage,) = remote_stages(client.plan.inference.stage)
            for place in range(batches):
                assert not stage.client.breaker.is_open, place
                client.run(bodies)
            assert stage.client.breaker.is_open


def test_call_of_more_parts_than_may_wait_is_scored_whole(server: ProtocolServer) -> None:
    """The parts that have no connection wait in the stage, each is asked for, and none is refused as too many."""
    model = tr.RemoteModel("fraud", url=server.url(), rows_max=1, connections_max=4)
    with TestClient(pipeline_of(model)) as client:
        rows = [float(row) for row in range(20, WAITING_MAX + 40)]
        assert [each["score"] for each in client.predict([{"a": row} for row in rows])] == rows
        assert server.at_once_most <= server.connections - 2 == 4  # two said what the model is


def test_parts_that_are_not_begun_in_time_take_the_fallback(server: ProtocolServer) -> None:
    """While the server stalls the rest of a large call waits no longer than the deadline, and is counted late."""
    model = tr.RemoteModel("fraud", url=server.url(), rows_max=2, connections_max=2, fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model, "80ms")) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        server.fault = "stall"
        found = client.predict([{"a": float(row)} for row in range(20, 61)])
        assert [row["score"] for row in found] == [0.5] * 41
        assert stage.client.failures == {RemoteFault.LATE: 21}
        server.fault = ""
        assert scores_of(client, 1.0) == ([1.0], [0])


def test_loop_turns_between_the_parts_of_a_large_call(server: ProtocolServer) -> None:
    """What else the worker has to do comes in between: to encode all parts at once would take as long as they are."""
    client = client_of(server)
    encode, turns, seen = client.protocol.encode, [0], []

    def noted(*given: Any) -> Any:
        seen.append(turns[0])
        return encode(*given)

    client.protocol.encode = noted  # type: ignore[method-assign]
    firsts: Any = Firsts()
    clock = MonotonicClock()
    signature = client.protocol._signature  # type: ignore[attr-defined]
    stage = RemoteStage("fraud", signature, [firsts], client, clock, budget=tr.Budget("10s"), rows_max=2)

    async def large() -> None:
        async def turn() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        batch = Batch([], 0, clock.now_ns() + 5_000 * NS_PER_MS, True, rows=16)
        await stage.score(batch, None, batch.deadline_ns)
        turning.cancel()

    asyncio.run(large())
    assert len(set(seen)) == len(seen) == 8


@pytest.mark.parametrize("rows", [3, 17])
def test_batch_that_has_not_waited_before_is_scored_in_parts(server: ProtocolServer, rows: int) -> None:
    """What finds its features in the cache runs in no task until it waits for the server, however many parts it has."""
    client = client_of(server)
    clock = MonotonicClock()
    firsts: Any = Firsts()
    signature = client.protocol._signature  # type: ignore[attr-defined]
    stage = RemoteStage("fraud", signature, [firsts], client, clock, budget=tr.Budget("10s"), rows_max=5)
    batch = Batch([], 0, clock.now_ns() + 5_000 * NS_PER_MS, True, rows=rows)
    found: list[Any] = []

    async def score() -> None:
        found.append(await stage.score(batch, None, batch.deadline_ns))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.create_future()
        loop.call_soon(lambda: begun.set_result(EagerLoop(loop).create_task(score())))
        await (await begun)

    asyncio.run(main())
    assert found[0].scores.tolist() == list(range(rows))
    assert found[0].degraded is None


def test_parts_end_with_the_batch_that_is_cancelled(server: ProtocolServer) -> None:
    """Their places are free again: the next batch is scored."""
    client = client_of(server)
    clock = MonotonicClock()
    firsts: Any = Firsts()
    signature = client.protocol._signature  # type: ignore[attr-defined]
    stage = RemoteStage(
        "fraud", signature, [firsts], client, clock, budget=tr.Budget("10s"), rows_max=2, in_flight_max=2
    )

    async def main() -> None:
        server.fault = "stall"
        batch = Batch([], 0, clock.now_ns() + 5_000 * NS_PER_MS, True, rows=9)
        task = asyncio.ensure_future(stage.score(batch, None, batch.deadline_ns))
        while server.at_once_most < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.fault = ""
        batch = Batch([], 0, clock.now_ns() + 5_000 * NS_PER_MS, True, rows=9)
        assert (await stage.score(batch, None, batch.deadline_ns)).scores.tolist() == list(range(9))
        assert asyncio.all_tasks() - {asyncio.current_task()} == {client.pool._keeper}

    asyncio.run(main())


def test_large_batch_goes_in_parts(server: ProtocolServer) -> None:
    """A call of more rows than the server takes is several of its calls, side by side."""
    server.delay_s = 0.02
    model = tr.RemoteModel("fraud", url=server.url(), rows_max=4)
    with TestClient(pipeline_of(model)) as client:
        found = client.predict([{"a": float(row)} for row in range(10)])
        assert [row["score"] for row in found] == list(range(10))
        assert server.at_once_most == 3


def test_server_that_is_down_keeps_no_declared_model_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    """A worker is replaced during an outage: it starts, answers by the fallback, and by the server when it is back."""
    server = ProtocolServer()
    url, port = server.url(), server.port
    server.close()
    with pytest.raises(CompileError) as caught:
        TestClient(pipeline_of(tr.RemoteModel("fraud", url=url, fallback=tr.Constant(0.5))))
    (problem,) = caught.value.problems
    assert str(port) in problem.what
    assert "declare inputs and output" in problem.next
    model = tr.RemoteModel("fraud", url=url, inputs=[X], output="score", fallback=tr.Constant(0.5))
    with TestClient(pipeline_of(model)) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        assert "taken as declared" in stage.notice
        assert scores_of(client, 1.0) == ([0.5], [Degraded.MODEL_ERROR])


def test_second_model_is_no_sign_of_what_a_lost_one_takes(local_model: Path) -> None:
    """A server that was not found may take a feature that its fallback does not: the feature is not called useless."""
    server = ProtocolServer()
    url = server.url()
    server.close()
    features = [Row.a, Row.b, Row.c, d, tr.on_demand(extra)]
    for fallback in (tr.Constant(0.5), tr.Model("local", path=local_model)):
        pipeline = replace(pipeline_of(tr.RemoteModel("fraud", url=url, fallback=fallback)), features=features)
        with pytest.raises(CompileError) as caught:
            TestClient(pipeline)
        assert [problem.where for problem in caught.value.problems] == [f"model 'fraud' at {url}"]


def test_check_tells_of_a_remote_model(server: ProtocolServer) -> None:
    """A check shows what fills its inputs, and says what its server said."""
    found = asyncio.run(check_pipeline(pipeline_of(tr.RemoteModel("fraud", url=server.url())), None, MonotonicClock()))
    assert [each.name for each in found.inputs] == ["a", "b", "c", "d"]
    assert not found.warnings
    server.fault = "status_503"
    found = asyncio.run(check_pipeline(pipeline_of(tr.RemoteModel("fraud", url=server.url())), None, MonotonicClock()))
    assert ["answered 503" in warning for warning in found.warnings] == [True]


def test_token_is_taken_from_the_environment(server: ProtocolServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The declaration names a variable; without it the pipeline does not start, with it each request has the header."""
    model = tr.RemoteModel("fraud", url=server.url(), authorization="FRAUD_TOKEN")
    for value in ("", "Bearer one\r\nX: two"):
        monkeypatch.setenv("FRAUD_TOKEN", value)
        with pytest.raises(CompileError, match="FRAUD_TOKEN") as caught:
            TestClient(pipeline_of(model))
        assert "Bearer" not in str(caught.value)
    monkeypatch.setenv("FRAUD_TOKEN", "Bearer three")
    with TestClient(pipeline_of(model)) as client:
        client.predict({"a": 1.0})
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer three"}
    assert "three" not in repr(model)


class Firsts:
    """Fills the input `x` with a number a row, counting on from one."""

    name = "x"

    def __init__(self) -> None:
        self.begin = 0.0

    def fill(self, batch: Batch) -> Any:
        """Return a row for each, of four columns."""
        return np.repeat(batch.started_ns + np.arange(batch.rows, dtype=np.float32), 4).reshape(-1, 4)


def test_batches_in_flight_keep_their_scores_apart(server: ProtocolServer) -> None:
    """Many batches wait for the server at once, as many as there are connections; each gets its own scores."""
    server.delay_s = 0.01
    client = client_of(server, connections_max=8)
    clock = MonotonicClock()
    assembler: Any = Firsts()
    signature = client.protocol._signature  # type: ignore[attr-defined]
    budget = tr.Budget("10s")
    stage = RemoteStage("fraud", signature, [assembler], client, clock, budget=budget, in_flight_max=8)

    async def many() -> None:
        deadline_ns = clock.now_ns() + 5_000 * NS_PER_MS
        batches = [Batch([], place * 100, deadline_ns, True, rows=1 + place % 5) for place in range(40)]
        found = await asyncio.gather(*(stage.score(batch, None, deadline_ns) for batch in batches))
        for batch, scored in zip(batches, found, strict=True):
            assert scored.degraded is None
            assert scored.scores.tolist() == [batch.started_ns + row for row in range(batch.rows)]
        picked = np.array([3, 1])
        batch = Batch([], 700, deadline_ns, True, rows=5)
        assert (await stage.score(batch, picked, deadline_ns)).scores.tolist() == [703, 701]

    asyncio.run(many())
    assert server.connections == server.at_once_most == 8


DISAGREEMENTS: list[tuple[dict[str, Any], str]] = [
    ({"inputs": [tr.RemoteInput("y")]}, "its server has the inputs x, and others are declared"),
    ({"inputs": [tr.RemoteInput("x", "float64")]}, "its input 'x' is declared float64, and the server takes float32"),
    (
        {"inputs": [tr.RemoteInput("x", features=["a", "b"])]},
        "its input 'x' has 4 columns, and the features that fill it have 2",
    ),
    ({"output": "scores"}, "its server has no output 'scores'"),
    ({"classes": ["x", "y", "z"]}, "its output 'score' has 1 columns, for 3 expected"),
    ({"column": 2}, "its output has 1 columns, and column 2 is to be the score"),
]


@pytest.mark.parametrize(("declared", "what"), DISAGREEMENTS)
@pytest.mark.parametrize("name", ["oip", "tensorflow"])
def test_declaration_is_held_against_the_server(
    server: ProtocolServer, name: str, declared: dict[str, Any], what: str
) -> None:
    """What the server says of its model and the declaration does not fit is a mistake before traffic."""
    with pytest.raises(CompileError) as caught:
        TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.url(name), **declared)))
    assert what in [problem.what for problem in caught.value.problems]
    assert all(problem.next for problem in caught.value.problems)


def test_model_of_other_columns_is_a_mistake(server: ProtocolServer) -> None:
    """A server whose model has another number of inputs than the pipeline has features is refused."""
    server.width = 5
    with pytest.raises(CompileError, match="its input 'x' has 5 columns, and the features that fill it have 4"):
        TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.url())))


def test_unknown_model_is_a_mistake(server: ProtocolServer) -> None:
    """A server that has no such model is told of, with what it said."""
    with pytest.raises(CompileError, match="answered 404"):
        TestClient(pipeline_of(tr.RemoteModel("fraud", url=server.root + "/v2/models/other")))


class Words(tr.Request):
    taste: Annotated[list[float], tr.Field(min_length=3, max_length=3)]
    age: float


class Meaning(tr.Response):
    meaning: Annotated[list[float], tr.Embedding()]


def test_vectors_go_in_and_out(server: ProtocolServer) -> None:
    """A feature of three numbers fills three columns of an input; an output of three is an embedding."""
    server.fault = "three_columns"
    inputs = [tr.RemoteInput("x")]
    pipeline = tr.Pipeline(
        name="words", request=Words, response=Meaning, features=[Words.taste, Words.age], budget=tr.Budget("5s"),
        model=tr.RemoteModel("fraud", url=server.url("torchserve"), inputs=inputs, vector=3),
    )  # fmt: skip
    with TestClient(pipeline) as client:
        assert client.predict({"taste": [0.5, 2.0, 3.0], "age": 9.0}) == {"meaning": [0.5, 0.5, 0.5]}
        assert json.loads(server.requests[-1].body) == {"instances": [[0.5, 2.0, 3.0, 9.0]]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vector": 3, "classes": ["a", "b"]}, "vector is the number of an embedding's columns"),
    ({"url": "http://host/models/fraud"}, "shows no protocol"),
    ({"url": "http://user:secret-7@host/v2/models/fraud"}, "holds a password"),
    ({"url": "ftp://host/v2/models/fraud"}, "not an address"),
    ({"protocol": "grpc"}, "the protocol is 'grpc'"),
    ({"protocol": "torchserve"}, "is no model's path by torchserve"),
    ({"inputs": []}, "its inputs are a list"),
    ({"fallback": 0.5}, "the fallback is 0.5"),
    ({"authorization": "Bearer x"}, "names an environment variable"),
    ({"connections_max": 0}, "connections_max is 1 to"),
    ({"rows_max": 10**6}, "rows_max 1 to"),
]


@pytest.mark.parametrize(("arguments", "what"), WRONG)
def test_declaration_that_cannot_be_meant_is_refused(arguments: dict[str, Any], what: str) -> None:
    """What no server can be is an error where it is written, and shows no password."""
    with pytest.raises(ValueError, match=what) as caught:
        tr.RemoteModel("fraud", **{"url": "http://host/v2/models/fraud/versions/3", **arguments})
    assert "secret-7" not in str(caught.value)


PATHS: list[tuple[str, str, str, str]] = [
    ("http://host:8000/v2/models/fraud/versions/3", "oip", "fraud", "3"),
    ("https://host/serving/v2/models/fraud", "oip", "fraud", ""),
    ("http://host:8501/v1/models/fraud/labels/canary", "tensorflow", "fraud", "canary"),
    ("http://host:8080/predictions/fraud/3.0", "torchserve", "fraud", "3.0"),
]


@pytest.mark.parametrize(("url", "api", "name", "version"), PATHS)
def test_url_says_protocol_name_and_version(url: str, api: str, name: str, version: str) -> None:
    """An address is enough to know how a model is asked."""
    model = tr.RemoteModel("own", url=url)
    assert (model.api, model.remote_name, model.version) == (api, name, version)
