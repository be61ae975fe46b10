"""The gRPC server of a worker: services on a port, and the transport of their calls.

    GrpcServer([*predictors, oip, …], limits, desk, release).open("127.0.0.1:50051")

It adds health (grpc.health.v1) and reflection to the services that it is given (service.py), and answers their calls:
`Core` hands over each call with its message, the service's method takes it, most often by an endpoint, and `deliver`
sends what comes of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

import structlog

from tailrace.batch import Batch, Call
from tailrace.deadline import NS_PER_S
from tailrace.errors import InvalidRequestError, RequestTimeoutError, ServerError, ServingError, UnavailableError
from tailrace.server.grpc.call import REQUEST_ID, Desk, GrpcCall, told_by
from tailrace.server.grpc.core import Core, Metadata, Rpc, failed
from tailrace.server.grpc.health import Health
from tailrace.server.grpc.limits import GrpcLimits
from tailrace.server.grpc.reflection import reflection_services
from tailrace.server.grpc.service import Service, Streaming, Unary
from tailrace.server.grpc.status import code_of, details_of, pushback_of
from tailrace.server.grpc.stream import Stream
from tailrace.server.http.framing import server_timing

LOST_NS: Final = 1 * NS_PER_S
"""A call that has no answer so long after its deadline will have none: something failed that should not."""


class GrpcServer:
    """Serves services on one port. It is the `Transport` of their calls. release: that it serves, told on request."""

    def __init__(self, services: Sequence[Service], limits: GrpcLimits, desk: Desk, release: str = "") -> None:
        self.health = Health([each.name for each in services])
        services = (*services, self.health.service(), *reflection_services([*services, self.health.service()]))
        self._unary: dict[bytes, Unary] = {}
        self._streaming: dict[bytes, Streaming] = {}
        self._keyed: set[bytes] = set()
        for service in services:
            self._unary |= {f"/{service.name}/{name}".encode(): take for name, take in service.methods.items()}
            streams = {f"/{service.name}/{name}".encode(): run for name, run in service.streams.items()}
            self._streaming |= streams
            self._keyed |= streams.keys() if service.asks_key else set()
        self.desk = desk
        self._limits = limits
        self._release = release
        self._waiting: dict[GrpcCall, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()
        self._failures: dict[str, int] = {}
        methods = dict.fromkeys(self._unary, True) | dict.fromkeys(self._streaming, False)
        self.core = Core(
            limits.options(), methods, self._take, calls_max=limits.calls_max, reading_max=limits.reading_max
        )

    def open(self, address: str, credentials: Any = None) -> int:
        """Serve at an address; return the port. Raises SetupError where it cannot be had."""
        return self.core.open(address, credentials)

    # -- a call comes in ----------------------------------------------------------------------------------------------

    def _take(self, rpc: Rpc, body: bytes | ServingError | None) -> None:
        """Take a call with its message, with what refuses it, or without one."""
        if rpc.answered_ns:
            return
        if isinstance(body, ServingError):
            self.desk.count_failure(type(body))
            self._fail(rpc, body)
        elif (method := self._unary.get(rpc.method)) is None:
            self._run(rpc)
        elif body is None:  # its client is gone, or has ended without a message; or that was too long
            self._fail(rpc, InvalidRequestError("the message did not come, or is too long"))
        else:
            self._serve(method, GrpcCall(self, None, None, 0, 0, 1, self.desk, rpc, told_by(rpc)), body)

    def _serve(self, method: Unary, call: GrpcCall, body: bytes) -> None:
        """Have a method take a call; answer at once what it answers or refuses."""
        self._waiting[call] = None
        try:
            outcome = method(call, body)
        except Exception as error:  # a method that fails takes no other call along
            outcome = ServerError(f"{type(error).__name__} in taking this call", next="see the server's log")
            outcome.__cause__ = error
            self.desk.count_failure(ServerError)
        if outcome is None:
            return
        if isinstance(outcome, bytes):
            del self._waiting[call]
            self.core.answer(call.rpc, outcome, self._trailing(call))
        else:
            self._log_failure(call.rpc, outcome)
            self.refuse(call, outcome)

    def _run(self, rpc: Rpc) -> None:
        """Run the method of a call of any number of messages."""
        stream = Stream(self.core, rpc)
        task = asyncio.get_running_loop().create_task(self._run_stream(stream))
        stream.watch(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_stream(self, stream: Stream) -> None:
        """Run a method to its end, and send the status."""
        code, details = 0, ""
        try:
            if stream.rpc.method in self._keyed:
                self.desk.caller_of(stream.rpc)
            await self._streaming[stream.rpc.method](stream)
        except ServingError as error:
            self.desk.count_failure(type(error))
            code, details = code_of(error), details_of(error)
        except asyncio.CancelledError:
            leaving = UnavailableError("the server is going away", next="call again")
            code, details = code_of(leaving), details_of(leaving)
        except Exception as error:
            fault = ServerError(f"{type(error).__name__} in answering this call", next="see the server's log")
            fault.__cause__ = error
            self._log_failure(stream.rpc, fault)
            code, details = code_of(fault), details_of(fault)
        stream.end(code, details)

    # -- an answer goes out -------------------------------------------------------------------------------------------

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the answers of some calls of a batch; see `Transport`."""
        calls: Sequence[Any] = batch.calls
        bodies, errors, waiting, answer = batch.bodies, batch.errors, self._waiting, self.core.answer
        ids = self.desk.ids
        for place in places:
            call = calls[place]
            waiting.pop(call, None)
            if ids is not None:
                call.take_id(ids)
            if place in errors:
                self._fail(call.rpc, errors[place], self._trailing(call, batch, place))
            elif call.told is None and ids is None:
                answer(call.rpc, bodies[place])
            else:
                answer(call.rpc, bodies[place], self._trailing(call, batch, place))

    def refuse(self, call: Call, error: ServingError) -> None:
        """Send an error in place of an answer."""
        own = cast(GrpcCall, call)
        self._waiting.pop(own, None)
        self._fail(own.rpc, error, self._trailing(own))

    def _fail(self, rpc: Rpc, error: ServingError, trailing: Metadata = ()) -> None:
        self.core.refuse(rpc, code_of(error), details_of(error), (*trailing, *pushback_of(error)) or None)

    def _trailing(self, call: GrpcCall, batch: Batch | None = None, place: int = 0) -> Metadata:
        """Return what is told behind an answer: the request's id and, where that is asked for, how it was answered."""
        if call.told is None and not call.given_id:
            return ()
        told: Metadata = ((REQUEST_ID, call.request_id),) if call.request_id else ()
        if call.is_traced and batch is not None:
            told += (("server-timing", server_timing(batch, place).decode()), ("x-release", self._release))
        return told

    # -- time goes by -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Once a second: end what is too slow to send, or to read, and answer what a fault of ours has lost.

        Raises ServerError where the core's thread has ended.
        """
        failed(self.core)
        self._failures.clear()
        now_ns = self.desk.now_ns()
        late_ns = time.monotonic_ns() - int(self._limits.request_s * NS_PER_S)
        for rpc in [rpc for rpc in list(self.core.reading) if rpc.arrived_ns < late_ns]:
            self.core.reading.pop(rpc, None)
            self.desk.count_failure(RequestTimeoutError)
            self._fail(rpc, RequestTimeoutError("the message took too long to come"))
        for rpc in [rpc for rpc in list(self.core.calls) if 0 < rpc.answered_ns < late_ns]:
            self.core.cancel(rpc)
        for call in [call for call in self._waiting if call.deadline_ns + LOST_NS < now_ns]:
            self.desk.count_failure(ServerError)
            self.refuse(call, ServerError("the answer to this call was lost", next="see the server's log"))

    async def drain(self, within_s: float) -> None:
        """Tell the clients to go elsewhere, answer what is in flight, and close."""
        self.health.set(is_ready=False)
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        with suppress(RuntimeError):
            await self.core.close(within_s)

    def _log_failure(self, rpc: Rpc, error: ServingError) -> None:
        """Log that code behind a method raised, at most once a second."""
        if isinstance(error, ServerError):
            method = rpc.method.decode()
            calls = self._failures[method] = self._failures.get(method, 0) + 1
            if calls == 1:
                cause = error.__cause__ or error
                self._log.error("calls failed", method=method, error=repr(cause), exc_info=cause)
