"""Calls over gRPC by grpcio's own client: the same answers, errors and words as over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import WIRE, Caller, RunningGrpc, running_grpc, wire_of  # noqa: E402
from http_server import wait_for  # noqa: E402

from proto_types import compiled  # noqa: E402
from tailrace.errors import ServerError, SetupError  # noqa: E402
from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.request.priority import Priority  # noqa: E402
from tailrace.server.grpc import port  # noqa: E402
from tailrace.server.key_file import changing, make_key  # noqa: E402
from tailrace.server.keys import Keys  # noqa: E402
from tailrace.server.request_ids import RequestIds  # noqa: E402

BODY = b"\x09" + b"\0" * 6 + b"\xf8\x3f"


@pytest.fixture(scope="module")
def running(
    pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGrpc, Caller, grpc.Channel]]:
    """Return a server, a caller of it, and its channel."""
    pipeline = wire_of(pipeline_of("log"))
    messages = compiled(tmp_path_factory.mktemp("proto"), pipeline.request, pipeline.response, "wire")
    with running_grpc(pipeline) as server, server.channel() as channel:
        yield server, Caller(channel, messages), channel


Running = tuple[RunningGrpc, Caller, grpc.Channel]


def test_request_is_answered(running: Running) -> None:
    """By the message of its type."""
    _, caller, _ = running
    answer = caller.predict(caller.messages.Amount(amount=1.5, label="a"), timeout=10)
    assert answer.label == "a"
    assert answer.HasField("score")


def fault_of(call: Callable[[], object]) -> grpc.RpcError:
    """Return the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def told_by(fault: grpc.RpcError) -> dict[str, str]:
    """Return what stands behind an error."""
    return dict(fault.trailing_metadata() or ())


def batches_of(server: RunningGrpc) -> int:
    """Return how many batches were answered, once the last one is recorded."""
    server.http.settle()
    return server.http.batches("wire")


def test_array_is_answered_as_one_batch(running: Running) -> None:
    """In its order; one without requests has no answers."""
    server, caller, _ = running
    batches = batches_of(server)
    many = [caller.messages.Amount(amount=number + 1.0, label=str(number)) for number in range(5)]
    answer = caller.predict_many(caller.messages.AmountArray(items=many), timeout=10)
    assert [each.label for each in answer.items] == ["0", "1", "2", "3", "4"]
    assert batches_of(server) == batches + 1
    assert not caller.predict_many(caller.messages.AmountArray(), timeout=10).items


def test_calls_that_come_together_are_one_batch(running: Running) -> None:
    """Whatever their connections: those that the loop finds in one turn."""
    server, caller, _ = running
    batches = batches_of(server)
    pending = []
    with server.channel() as other:
        second = Caller(other, caller.messages)
        second.predict(caller.messages.Amount(amount=1.5), timeout=10)
        batches = batches_of(server)

        def call() -> None:
            pending.extend(
                each.predict.future(caller.messages.Amount(amount=1.5, label=str(number)), timeout=10)
                for number in range(8) for each in (caller, second)
            )  # fmt: skip
            wait_for(lambda: len(server.server.core._handed) == 16, "all calls have come")

        server.http.hold(call)
        assert [each.result().label for each in pending] == [str(number) for number in range(8) for _ in range(2)]
    assert batches_of(server) == batches + 1


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b"", "missing required field"),
        (b"\x09" + b"\0" * 6 + b"\xf8\x7f", "$.amount"),
        (b"\x09" + b"\0" * 5, "cut short"),
        (b"\x12\xff\xff\xff\xff\x0f", "$.label"),
        (b"\xfa\x7f\x00", "PredictMany"),
    ],
)
def test_fault_is_told_as_over_http(running: Running, body: bytes, details: str) -> None:
    """By the class's own code and its words; an array is not for `Predict`."""
    _, caller, channel = running
    fault = fault_of(lambda: caller.raw(channel)(body, timeout=10))
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details in fault.details()


def test_request_is_no_array(running: Running) -> None:
    """`PredictMany` says where it belongs."""
    _, caller, channel = running
    fault = fault_of(lambda: caller.raw(channel, "PredictMany")(b"\x09" + b"\0" * 8, timeout=10))
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Predict" in fault.details()


def test_trace_and_id_come_back_behind_the_answer(running: Running) -> None:
    """As over HTTP: the layers' times and the release where they are asked for, the id wherever it was sent."""
    _, caller, _ = running
    request = caller.messages.Amount(amount=1.5)
    asked = (("x-trace", "1"), ("x-request-id", "r-7"))
    answer, call = caller.predict.with_call(request, metadata=asked, timeout=10)
    told = dict(call.trailing_metadata())
    assert told["x-request-id"] == "r-7"
    assert told["x-release"] == "r1"
    assert "inference;dur=" in told["server-timing"]
    _, call = caller.predict.with_call(request, timeout=10)
    assert not call.trailing_metadata()
    assert answer.HasField("score")
    fault = fault_of(lambda: caller.predict(caller.messages.Amount(), metadata=asked[1:], timeout=10))
    assert told_by(fault) == {"x-request-id": "r-7"}


def test_call_without_an_id_is_named_where_that_is_wanted(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with another id, behind its answer or its error; the caller's own stays."""
    server, caller, _ = running
    monkeypatch.setattr(server.server.desk, "ids", RequestIds())
    requests = [caller.messages.Amount(amount=amount) for amount in (1.5, 2.5)]
    named = [
        dict(caller.predict.with_call(each, timeout=10)[1].trailing_metadata())["x-request-id"] for each in requests
    ]
    fault = fault_of(lambda: caller.predict(caller.messages.Amount(amount=-1.0), timeout=10))
    assert len({*named, told_by(fault)["x-request-id"]}) == 3
    _, call = caller.predict.with_call(requests[0], metadata=(("x-request-id", "r-7"),), timeout=10)
    assert dict(call.trailing_metadata()) == {"x-request-id": "r-7"}


def test_trace_context_goes_with_the_call(running: Running) -> None:
    """To whoever asks the call where it comes from; what is malformed is as if it were not there."""
    server, caller, _ = running
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen = []
    method = server.server._unary[b"/tailrace.wire.Predictor/Predict"]
    server.server._unary[b"/tailrace.wire.Predictor/Predict"] = lambda call, body: (
        seen.append(call.origin()) or method(call, body)  # type: ignore[func-returns-value]
    )
    try:
        for sent in (parent, "nonsense"):
            caller.predict(caller.messages.Amount(amount=1.5), metadata=(("traceparent", sent),), timeout=10)
    finally:
        server.server._unary[b"/tailrace.wire.Predictor/Predict"] = method
    assert seen == [{"trace": parent[3:35], "client": "127.0.0.1"}, {"client": "127.0.0.1"}]


def test_grpc_timeout_is_the_deadline(running: Running) -> None:
    """A call whose own time is shorter than the pipeline's is held to it; what it waited for the loop counts too."""
    server, caller, _ = running
    seen: list[int] = []
    endpoint_of = server.server._unary[b"/tailrace.wire.Predictor/Predict"].__self__._endpoint  # type: ignore[attr-defined]
    accept = endpoint_of.accept
    endpoint_of.accept = lambda call, body, budget_ns: seen.append(budget_ns) or accept(call, body, budget_ns)  # type: ignore[func-returns-value]
    try:
        caller.predict(caller.messages.Amount(amount=1.5), timeout=5)
        caller.predict(caller.messages.Amount(amount=1.5))
        late: list[Any] = []

        def call() -> None:
            late.append(caller.predict.future(caller.messages.Amount(amount=1.5)))
            wait_for(lambda: server.server.core._handed, "the call has come")
            time.sleep(0.1)  # which is the loop's delay

        server.http.hold(call)
        late[0].result()
    finally:
        endpoint_of.accept = accept
    assert 3e9 < seen[0] <= 5.1e9  # the client rounds it up
    assert 19e9 < seen[1] <= 20e9
    assert seen[2] < 20e9 - 0.1e9


def test_shed_call_may_come_again_later(pipeline_of: Callable[[str], Pipeline], running: Running) -> None:
    """One whose time is over before it came is refused as `UNAVAILABLE`, and told when to come again."""
    server, caller, _ = running
    caller.predict(caller.messages.Amount(amount=1.5), timeout=10)
    method = server.server._unary[b"/tailrace.wire.Predictor/Predict"]

    def hurry(call: Any, body: bytes) -> Any:
        call.rpc.deadline_s = 1.0
        return method(call, body)

    server.server._unary[b"/tailrace.wire.Predictor/Predict"] = hurry
    try:
        fault = fault_of(lambda: caller.predict(caller.messages.Amount(amount=1.5)))
    finally:
        server.server._unary[b"/tailrace.wire.Predictor/Predict"] = method
    assert fault.code() is grpc.StatusCode.UNAVAILABLE
    assert told_by(fault)["grpc-retry-pushback-ms"] == "1000"


def test_method_that_there_is_not(running: Running) -> None:
    """It is said so, and counted."""
    _, _, channel = running
    fault = fault_of(lambda: channel.unary_unary("/tailrace.wire.Predictor/Other")(b"", timeout=10))
    assert fault.code() is grpc.StatusCode.UNIMPLEMENTED


def test_method_that_fails_takes_no_other_along(running: Running) -> None:
    """It is an internal error of that call, whose words tell nothing of ours."""
    _, caller, channel = running
    fault = fault_of(lambda: channel.unary_unary("/test.Faulty/Fail")(b"", timeout=10))
    assert fault.code() is grpc.StatusCode.INTERNAL
    assert "one of ours" not in fault.details()
    assert caller.predict(caller.messages.Amount(amount=1.5), timeout=10).HasField("score")


def test_lost_answer_is_answered(running: Running) -> None:
    """A call that a fault of ours has forgotten is told so, a second after its deadline."""
    server, _, channel = running
    pending = channel.unary_unary("/test.Faulty/Forget").future(b"", timeout=20)
    wait_for(lambda: server.server._waiting, "the call is forgotten")
    server.http.on_loop(server.server.sweep)
    assert fault_of(pending.result).code() is grpc.StatusCode.INTERNAL
    assert not server.server._waiting


def test_health_follows_readiness(running: Running) -> None:
    """Of the server, and of each service; of one that there is not it says so."""
    from grpc_health.v1 import health_pb2

    server, _, channel = running
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )  # fmt: skip
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service="tailrace.wire.Predictor"), timeout=20)  # fmt: skip
    response = health_pb2.HealthCheckResponse
    assert next(watch).status == response.SERVING
    for is_ready, status in ((False, response.NOT_SERVING), (True, response.SERVING)):
        server.http.on_loop(lambda is_ready=is_ready: server.server.health.set(is_ready=is_ready))
        for name in ("", "tailrace.wire.Predictor"):
            assert check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == status
        assert next(watch).status == status
    fault = fault_of(lambda: check(health_pb2.HealthCheckRequest(service="other"), timeout=10))
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    watch.cancel()
    wait_for(lambda: not server.server._tasks, "the watcher is gone")


def test_reflection_tells_the_messages(running: Running) -> None:
    """A client that knows nothing finds the service, and calls it by what it is told."""
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    _, _, channel = running
    told = ProtoReflectionDescriptorDatabase(channel)
    assert {"tailrace.wire.Predictor", "grpc.health.v1.Health"} <= set(told.get_services())
    pool = DescriptorPool(told)
    method = pool.FindServiceByName("tailrace.wire.Predictor").FindMethodByName("Predict")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(f"{WIRE}/Predict", request.SerializeToString, response.FromString)
    assert call(request(amount=1.5, label="told"), timeout=10).label == "told"


def test_key_is_asked_for(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> None:
    """As over HTTP: without one, with a wrong one, with one of another pipeline, and with a good one; then revoked."""
    file = tmp_path / "keys"
    made = {scope: make_key("caller", [scope]) for scope in ("pipelines/wire", "pipelines/other")}
    with changing(file, create=True) as known:
        known.extend(key for _, key in made.values())
    good, other = (secret for secret, _ in made.values())
    keys = Keys(file, lambda kind: None)
    body = b"\x09" + b"\0" * 7 + b"\x40"
    with running_grpc(wire_of(pipeline_of("log")), keys=keys) as server, server.channel() as channel:
        predict = channel.unary_unary(f"{WIRE}/Predict")

        def code(*metadata: tuple[str, str]) -> grpc.StatusCode:
            try:
                predict(body, metadata=metadata, timeout=10)
            except grpc.RpcError as fault:
                found: grpc.StatusCode = fault.code()
                return found
            return grpc.StatusCode.OK

        bearer = "authorization", f"Bearer {good}"
        assert code() is grpc.StatusCode.UNAUTHENTICATED
        assert code(("x-api-key", good[:-1] + "?")) is grpc.StatusCode.UNAUTHENTICATED
        assert code(("x-api-key", other)) is grpc.StatusCode.PERMISSION_DENIED
        assert code(bearer) is code(("x-api-key", good)) is grpc.StatusCode.OK
        assert code(bearer, ("x-api-key", other)) is grpc.StatusCode.UNAUTHENTICATED
        empty = fault_of(lambda: channel.unary_unary(f"{WIRE}/PredictMany")(b"", timeout=10))
        assert empty.code() is grpc.StatusCode.UNAUTHENTICATED
        told = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        question = b"\x3a\x00"  # list_services
        refused = fault_of(lambda: next(told(iter([question]), timeout=10)))
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        assert b"wire" in next(told(iter([question]), metadata=[("x-api-key", other)], timeout=10))
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        with changing(file) as known:
            known[:] = [key for key in known if key.id != made["pipelines/wire"][1].id]
        server.http.on_loop(keys.look)
        assert code(bearer) is grpc.StatusCode.UNAUTHENTICATED


def test_priority_is_taken_where_callers_may_say_it(running: Running) -> None:
    """As over HTTP: elsewhere it is passed over, and one that there is not is told."""
    server, caller, _ = running
    request, desk, name = caller.messages.Amount(amount=1.5), server.server.desk, b"/tailrace.wire.Predictor/Predict"
    method, seen = server.server._unary[name], []

    def look(call: Any, body: bytes) -> Any:
        seen.append(call.admitted(method.__self__._endpoint)._priority)  # type: ignore[attr-defined]
        return method(call, body)

    server.server._unary[name] = look
    try:
        for desk.with_priority in (False, True):
            caller.predict(request, metadata=(("x-priority", "low"),), timeout=10)
        server.server._unary[name] = method
        fault = fault_of(lambda: caller.predict(request, metadata=(("x-priority", "urgent"),), timeout=10))
    finally:
        desk.with_priority, server.server._unary[name] = False, method
    assert seen == [Priority.NORMAL, Priority.LOW]
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_call_that_takes_too_long_does_not_hold_up_the_end(pipeline_of: Callable[[str], Pipeline]) -> None:
    """What is not answered within the drain is cancelled, and told so."""
    with running_grpc(wire_of(pipeline_of("log"))) as server, server.channel() as channel:
        pending = channel.unary_unary("/test.Faulty/Forget").future(b"", timeout=20)
        wait_for(lambda: server.server._waiting, "the call has come")
        server.close(within_s=0.05)
        assert fault_of(pending.result).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_thread_that_ends_is_told(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A fault of ours there would leave the worker deaf: its sweep fails, which ends it for a successor."""
    with running_grpc(wire_of(pipeline_of("log"))) as server, server.channel() as channel:
        channel.unary_unary(f"{WIRE}/Predict")(BODY, timeout=10)
        server.server.core.hand_over = lambda rpc, body: 1 / 0  # type: ignore[assignment, method-assign]
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"{WIRE}/Predict")(BODY, timeout=0.3)
        with pytest.raises(ServerError, match="thread has ended"):
            server.http.on_loop(server.server.sweep)
        server.is_closed = True  # there is nobody who could


def test_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    monkeypatch.setattr(port, "NEEDED", ("no_such_library",))
    with pytest.raises(SetupError, match=r"tailrace\[grpc\]"):
        port.check_installed()
