"""Calls over gRPC through a real nginx and a real HAProxy, configured as exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import NO_RETRIES, Caller, RunningGrpc, running_grpc, wire_of  # noqa: E402
from real_proxies import PROXIES, start_proxy, steady_ports  # noqa: E402

from proto_types import compiled  # noqa: E402
from tailrace.pipeline import Pipeline  # noqa: E402

PATIENCE_S = 10.0


@dataclass
class Front:
    """A server, and a caller of it that goes through a proxy. channel: of the caller."""

    server: RunningGrpc
    caller: Caller
    channel: Any


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Start a proxy in front of a server of both protocols."""
    name, folder, pipeline = request.param, tmp_path_factory.mktemp(request.param), wire_of(pipeline_of("log"))
    messages = compiled(tmp_path_factory.mktemp("proto"), pipeline.request, pipeline.response, "wire")
    with ExitStack() as stack:
        server = stack.enter_context(running_grpc(pipeline))
        routes = server.http.http.shared.routes
        routes[b"/readyz"] = routes[b"/livez"]  # type: ignore[index]
        (port,) = steady_ports(1)
        start_proxy(stack, name, folder, pipeline, server.http.address, grpc=(port, server.port))
        options = [("grpc.use_local_subchannel_pool", 1), *NO_RETRIES]
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
        yield Front(server, Caller(channel, messages), channel)


def test_calls_come_through(front: Front) -> None:
    """One after the other, and many at once on one connection: each has its own answer."""
    messages = front.caller.messages

    def ask(number: int) -> str:
        request = messages.Amount(amount=2.0, label=f"caller {number}")
        return str(front.caller.predict(request, timeout=PATIENCE_S).label)

    assert ask(0) == "caller 0"
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(64))) == [f"caller {number}" for number in range(64)]


def test_array_comes_through(front: Front) -> None:
    """A message of many requests."""
    messages = front.caller.messages
    items = [messages.Amount(amount=2.0, label="x" * 500) for _ in range(100)]
    assert len(front.caller.predict_many(messages.AmountArray(items=items), timeout=PATIENCE_S).items) == 100


def test_faults_and_deadlines_come_through(front: Front) -> None:
    """The status, its words and what stands behind it; a deadline is the server's too."""
    with pytest.raises(grpc.RpcError) as caught:
        front.caller.raw(front.channel)(b"\xff", timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        front.caller.predict(front.caller.messages.Amount(amount=-1.0), timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.INTERNAL  # the model has no score for it
    front.server.http.hold(lambda: late(front))
    assert front.caller.predict(front.caller.messages.Amount(amount=2.0), timeout=PATIENCE_S).HasField("score")


def late(front: Front) -> None:
    """Assert that a call ends at its deadline, whatever the server does."""
    with pytest.raises(grpc.RpcError) as caught:
        front.caller.predict(front.caller.messages.Amount(amount=2.0), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata_come_through(front: Front) -> None:
    """A request id there and back."""
    request, metadata = front.caller.messages.Amount(amount=2.0), (("x-request-id", "r-7"),)
    _, call = front.caller.predict.with_call(request, timeout=PATIENCE_S, metadata=metadata)
    assert dict(call.trailing_metadata())["x-request-id"] == "r-7"
