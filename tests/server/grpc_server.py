"""A real gRPC server beside a `RunningServer`, on its loop and its engines; its clients are grpcio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import grpc
from http_server import PATIENCE_S, RunningServer, ample

from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import lock_path, locked, write_lock
from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.grpc.call import Desk
from tailrace.server.grpc.credentials import credentials_by
from tailrace.server.grpc.limits import GrpcLimits
from tailrace.server.grpc.predictor import predictor_of
from tailrace.server.grpc.server import GrpcServer
from tailrace.server.grpc.service import Service
from tailrace.server.keys import Callers
from tailrace.server.tls.certificates import TlsFiles

WIRE = "/tailrace.wire.Predictor"
NO_RETRIES = (("grpc.enable_retries", 0),)


class RunningGrpc:
    """A gRPC server of pipelines. http: the server whose engines it uses; address: where it listens."""

    def __init__(
        self,
        http: RunningServer,
        pipelines: Sequence[Pipeline],
        keys: Callers | None,
        tls: TlsFiles | None,
        **limits: Any,
    ) -> None:
        self.http = http
        self.is_closed = False
        self._pipelines = pipelines
        self._keys = keys
        self._tls = tls
        self._limits = limits
        self.port = http.on_loop(self._open)
        self.address = f"127.0.0.1:{self.port}"

    def _open(self) -> int:
        services = [service for each in self._pipelines if (service := predictor_of(each, self._endpoint(each)))]
        limits = GrpcLimits.of(self.http.options)
        for name, value in self._limits.items():
            limits = replace_limit(limits, name, value)
        desk = Desk(
            self.http.recorder.record_failure, self.http.engines[self._pipelines[0].name].clock.now_ns, self._keys
        )
        self.server = GrpcServer([*services, FAULTY], limits, desk, "r1")
        self.server.health.set(is_ready=True)
        return self.server.open("127.0.0.1:0", None if self._tls is None else credentials_by(self._tls))

    def _endpoint(self, pipeline: Pipeline) -> CallEndpoint:
        return next(each.requests for each in self.http.entrances if each.pipeline.name == pipeline.name)

    def close(self, within_s: float = 5.0) -> None:
        """Drain it, once."""
        if self.is_closed:
            return
        self.is_closed = True
        asyncio.run_coroutine_threadsafe(self.server.drain(within_s), self.http.loop).result(PATIENCE_S)

    @contextmanager
    def channel(self, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
        """Return a channel of its own connection."""
        own = ("grpc.use_local_subchannel_pool", 1)
        with grpc.insecure_channel(self.address, options=[own, *NO_RETRIES, *options]) as channel:
            yield channel


def replace_limit(limits: GrpcLimits, name: str, value: Any) -> GrpcLimits:
    """Return other limits."""
    import msgspec

    return msgspec.structs.replace(limits, **{name: value})


def fail(call: Any, body: bytes) -> bytes:
    """Fail, as a method of ours should not."""
    raise ZeroDivisionError("one of ours")


def forget(call: Any, body: bytes) -> None:
    """Take a call, and never answer it."""
    call.deadline_ns = 1


FAULTY = Service("test.Faulty", {"Fail": fail, "Forget": forget})


@contextmanager
def running_grpc(
    pipeline: Pipeline, *, keys: Callers | None = None, tls: TlsFiles | None = None, **limits: Any
) -> Iterator[RunningGrpc]:
    """Serve a pipeline, as it is called `wire`, by its own messages."""
    path = lock_path(pipeline.base_dir, pipeline.name)
    write_lock(locked(message_forms(pipeline.request, pipeline.response), None), path)
    try:
        with RunningServer([pipeline]) as http:
            server = RunningGrpc(http, [pipeline], keys, tls, **limits)
            try:
                yield server
            finally:
                server.close()
    finally:
        path.unlink(missing_ok=True)


def wire_of(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that sheds nothing, under a name of its own."""
    return ample(replace(pipeline, name="wire"))


class Caller:
    """Calls the service by protoc's messages. messages: its module."""

    def __init__(self, channel: grpc.Channel, messages: ModuleType) -> None:
        self.messages = messages
        self.predict = channel.unary_unary(
            f"{WIRE}/Predict", messages.Amount.SerializeToString, messages.Score.FromString
        )
        self.predict_many = channel.unary_unary(
            f"{WIRE}/PredictMany", messages.AmountArray.SerializeToString, messages.ScoreArray.FromString
        )

    def raw(self, channel: grpc.Channel, method: str = "Predict") -> Any:
        """Return what sends bytes as they are."""
        return channel.unary_unary(f"{WIRE}/{method}")
