"""What a gRPC server serves: services, each with its methods by name, and the files that describe its messages.

A method of one message in and one out is a function of a call and the bytes of its message. It runs on the loop, and
never waits: it returns the bytes of the answer, the error that refuses the call, or None for a call that an endpoint
has taken, whose answer comes through `GrpcServer.deliver`:

    def infer(call: GrpcCall, body: bytes) -> Outcome:
        return call.accept(endpoint, body)

A method of any number of messages is a coroutine function of a `Stream`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tailrace.errors import ServingError
from tailrace.server.grpc.call import GrpcCall
from tailrace.server.grpc.stream import Stream

Outcome = bytes | ServingError | None
Unary = Callable[[GrpcCall, bytes], Outcome]
Streaming = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    name: with its package, as `tailrace.fraud.Predictor`. methods: of one message in and one out. streams: of any
    number. files: FileDescriptorProtos that declare it, serialised, each after those that it needs; reflection tells
    them. asks_key: whether its streams must show a key where calls must.
    """

    name: str
    methods: Mapping[str, Unary] = field(default_factory=dict)
    streams: Mapping[str, Streaming] = field(default_factory=dict)
    files: tuple[bytes, ...] = ()
    asks_key: bool = False
