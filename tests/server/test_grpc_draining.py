"""A gRPC server that goes away: what has come is answered, clients are told, and what is open is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import WIRE, running_grpc, wire_of  # noqa: E402
from grpc_wire import GOAWAY, WireClient  # noqa: E402
from http_server import PATIENCE_S, wait_for  # noqa: E402

from tailrace.pipeline import Pipeline  # noqa: E402

BODY = b"\x09" + b"\0" * 6 + b"\xf8\x3f"
WATCH = "/grpc.health.v1.Health/Watch"


def test_what_has_come_is_answered(pipeline_of: Callable[[str], Pipeline]) -> None:
    """The drain begins while eight calls wait for the loop: all are answered, an idle client is told, watchers too."""
    with running_grpc(wire_of(pipeline_of("log"))) as server, server.channel() as channel:
        predict = channel.unary_unary(f"{WIRE}/Predict")
        watch = channel.unary_stream(WATCH)(b"", timeout=20)
        assert next(watch) == b"\x08\x01"  # SERVING
        assert predict(BODY, timeout=10)
        pending: list[Any] = []

        def call_and_drain() -> None:
            pending.extend(predict.future(BODY, timeout=20) for _ in range(8))
            wait_for(lambda: len(server.server.core._handed) == 8, "all calls have come")
            pending.append(asyncio.run_coroutine_threadsafe(server.server.drain(5.0), server.http.loop))

        with WireClient(server.port) as idle:
            server.http.hold(call_and_drain)
            *calls, drained = pending
            assert all(each.result() for each in calls)
            assert next(watch) == b"\x08\x02"  # NOT_SERVING
            drained.result(PATIENCE_S)
            assert GOAWAY in {kind for kind, _, _, _ in idle.frames_to([])}
        server.is_closed = True
        with pytest.raises(grpc.RpcError) as caught:
            predict(BODY, timeout=1)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_calls_that_are_open_are_bounded(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Watchers count too; once one has left there is a place again."""
    with running_grpc(wire_of(pipeline_of("log")), calls_max=2) as server, server.channel() as channel:
        predict = channel.unary_unary(f"{WIRE}/Predict")
        watchers = [channel.unary_stream(WATCH)(b"", timeout=20) for _ in range(2)]
        assert [next(each) for each in watchers] == [b"\x08\x01"] * 2
        with pytest.raises(grpc.RpcError) as caught:
            predict(BODY, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "open" in caught.value.details()
        watchers[0].cancel()
        wait_for(lambda: len(server.server.core.calls) == 1, "one has left")
        assert predict(BODY, timeout=10)


def test_client_that_goes_is_passed_over(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Its call is computed with its neighbour's, whose answer comes as ever; nothing is left of it."""
    with running_grpc(wire_of(pipeline_of("log"))) as server, server.channel() as channel, server.channel() as other:
        for each in (channel, other):
            assert each.unary_unary(f"{WIRE}/Predict")(BODY, timeout=10)
        pending: list[Any] = []

        def call_and_leave() -> None:
            pending.extend(each.unary_unary(f"{WIRE}/Predict").future(BODY, timeout=20) for each in (channel, other))
            wait_for(lambda: len(server.server.core._handed) == 2, "both calls have come")
            pending[0].cancel()

        server.http.hold(call_and_leave)
        assert pending[1].result()
        wait_for(lambda: not server.server.core.calls, "no call is open")
        assert not server.server._waiting
