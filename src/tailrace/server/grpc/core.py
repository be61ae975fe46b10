"""gRPC's C core, driven by the layer of grpcio that its own servers stand on. No other file uses what it keeps private.

grpcio's asyncio server makes two tasks and six futures a call and takes new calls one at a time, so that batches stay
small: 118 µs of the core a call that returns a constant, where this takes 28 (docs/design.md, gRPC). A thread takes the
core's events and hands whole messages to the loop; all that have come meanwhile are one turn of it:

    C core ─▶ thread: Rpc, its message ─▶ loop: take(rpc, body) … answer(rpc, bytes) ─▶ C core
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from grpc._cython import cygrpc

from tailrace.deadline import NS_PER_MS
from tailrace.errors import MethodNotAllowedError, ServerError, ServingError, SetupError, UnavailableError

ASKED: Final = 64
"""Calls that the core may hand over before it hears from us again."""
SLOW_NS: Final = 10 * NS_PER_MS
"""A message that is on its way for so long gives its place to another connection's, where there is none: most come with
their heads."""
NOW: Final = 0.0
"""A deadline that is over."""
_OK: Final = cygrpc.StatusCode.ok
_NO_FLAGS: Final = 0
_END_S: Final = 2.0
"""How long cancelled calls, and the thread, may take to be gone."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Rpc:
    """One call as the core has it.

    deadline_s: on the wall clock. arrived_ns, answered_ns: monotonic; the second is 0 until an answer is on its way.
    """

    __slots__ = ("_core", "answered_ns", "arrived_ns", "call", "deadline_s", "metadata", "method")

    def __init__(self, core: Core, event: Any) -> None:
        self._core = core
        self.call = event.call
        self.method: bytes = event.call_details.method
        self.deadline_s: float = event.call_details.deadline
        self.metadata: Metadata = event.invocation_metadata
        self.arrived_ns = time.monotonic_ns()
        self.answered_ns = 0

    def peer(self) -> str:
        """Return the address of the caller, as the core writes it: `ipv4:127.0.0.1:50051`."""
        return str(self.call.peer().decode())

    def authentication(self) -> dict[bytes, Any] | None:
        """Return what the core knows of the caller by its certificate."""
        found: dict[bytes, Any] | None = cygrpc.auth_context(self.call)
        return found

    def on_message(self, event: Any) -> None:
        """Hand a message over; None where the client has ended without one. Called in the thread."""
        self._core.reading.pop(self, None)
        self._core.hand_over(self, event.batch_operations[0].message())

    def on_end(self, event: Any) -> None:
        """Forget a call that is over. Called in the thread."""
        self._core.calls.pop(self, None)


class Core:
    """One server of the C core.

    methods: which there are, and whether each is of one message. take: is called on the loop for each call of one
    message with it, or with the error that refuses the call, and for others with b"" at their beginning. calls: that
    are not over; reading: those whose message is on its way; lasting: those of any number of messages, which leave a
    quarter of the places to the others: they last, and who watches health shows no key. fault: what has ended the
    thread.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, int]],
        methods: Mapping[bytes, bool],
        take: Callable[[Rpc, bytes | ServingError | None], None],
        *,
        calls_max: int,
        reading_max: int,
    ) -> None:
        self.calls: dict[Rpc, None] = {}
        self.reading: dict[Rpc, None] = {}
        self.lasting: dict[Rpc, None] = {}
        self.fault: BaseException | None = None
        self._methods = methods
        self._take = take
        self._calls_max = calls_max
        self._lasting_max = calls_max - calls_max // 4
        self._reading_max = reading_max
        self._loop = asyncio.get_running_loop()
        self._handed: deque[tuple[Rpc, bytes | ServingError | None]] = deque()
        self._is_due = self._is_owed = False
        logging.getLogger(cygrpc.__name__).addFilter(_is_ours)
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._poll, name="grpc", daemon=True)
        self._ended = asyncio.Event()

    def open(self, address: str, credentials: Any = None) -> int:
        """Listen, and take calls; return the port. Raises SetupError where the address cannot be had."""
        secret = () if credentials is None else (credentials._credentials,)
        try:
            port = int(self._server.add_http2_port(address.encode(), *secret))
        except RuntimeError:
            port = 0
        if not port:
            raise SetupError("cannot listen for gRPC", where=address, next="choose another port or host")
        self._server.start()
        for _ in range(ASKED):
            self._ask()
        self._thread.start()
        return port

    # -- on the loop --------------------------------------------------------------------------------------------------

    def answer(self, rpc: Rpc, body: bytes, trailing: Metadata | None = None) -> None:
        """Send an answer. A caller that is gone is passed over."""
        self._finish(rpc, (cygrpc.SendMessageOperation(body, _NO_FLAGS),), trailing, _OK, b"")

    def refuse(self, rpc: Rpc, code: int, details: str, trailing: Metadata | None = None) -> None:
        """Send a status in place of an answer, or behind the messages of a stream."""
        self._finish(rpc, (), trailing, code, details.encode())

    def _finish(self, rpc: Rpc, message: tuple[Any, ...], trailing: Metadata | None, code: int, details: bytes) -> None:
        if rpc.answered_ns or rpc not in self.calls:
            return
        rpc.answered_ns = time.monotonic_ns()
        begin = cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)
        status = cygrpc.SendStatusFromServerOperation(trailing, code, details, _NO_FLAGS)
        close = cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)
        rpc.call.start_server_batch((begin, *message, status, close), rpc.on_end)

    def cancel(self, rpc: Rpc) -> None:
        """End a call whose client does not read its answer."""
        rpc.call.cancel()

    def start(self, rpc: Rpc, operations: Sequence[Any], on_event: Callable[[Any], None]) -> None:
        """Begin something else of a call. on_event: is called in the thread."""
        rpc.call.start_server_batch(tuple(operations), on_event)

    async def close(self, within_s: float) -> None:
        """Take no new connections and no new calls, tell the clients so, and wait for the calls that there are."""
        self._server.shutdown(self._queue, self._on_shutdown)
        if not await self._wait_ended(within_s):
            self._server.cancel_all_calls()
            await self._wait_ended(_END_S)
        self._queue.shutdown()
        self._thread.join(_END_S)

    async def _wait_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        return self._ended.is_set()

    def _take_handed(self) -> None:
        """Take all that has come since this was due."""
        self._is_due = False
        handed, take = self._handed, self._take
        for _ in range(len(handed)):
            take(*handed.popleft())

    # -- in the thread ------------------------------------------------------------------------------------------------

    def hand_over(self, rpc: Rpc, body: bytes | ServingError | None) -> None:
        """Have the loop take something, with all that is there now."""
        self._handed.append((rpc, body))
        self._is_owed = not self._is_due

    def _wake(self) -> None:
        """Wake the loop, which takes what has been handed over."""
        self._is_owed, self._is_due = False, True
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take_handed)

    def _poll(self) -> None:
        """Take events until the queue is shut.

        What has come together wakes the loop once: woken by the first call, it would take the interpreter from the
        others, and make a batch of that one alone.
        """
        kinds = cygrpc.CompletionType
        try:
            while (kind := (event := self._queue.poll(NOW if self._is_owed else None)).completion_type) != (
                kinds.queue_shutdown
            ):
                if kind != kinds.queue_timeout:
                    event.tag(event)
                    del event  # which would keep its call from ending
                if self._is_owed and (kind == kinds.queue_timeout or len(self._handed) >= ASKED):
                    self._wake()
        except BaseException as error:  # told to the sweep, which ends the worker for a successor
            self.fault = error

    def _ask(self) -> None:
        """Let the core hand over one more call."""
        with suppress(ValueError):  # it is ending
            self._server.request_call(self._queue, self._queue, self._on_call)

    def _on_call(self, event: Any) -> None:
        """Take a call whose head has come; its message is awaited."""
        if not event.success:  # the server closes, and this asks no more
            return
        self._ask()
        rpc = Rpc(self, event)
        self.calls[rpc] = None
        is_unary = self._methods.get(rpc.method)
        if is_unary is None or len(self.calls) > self._calls_max or not self._has_place(rpc):
            self.hand_over(rpc, self._refusal(is_unary))
        elif is_unary:
            self.reading[rpc] = None
            rpc.call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), rpc.on_message)
        elif len(self.lasting) >= self._lasting_max:
            self.hand_over(rpc, UnavailableError("too many streams are open", next="try again later"))
        else:
            self.lasting[rpc] = None
            self.hand_over(rpc, b"")

    def on_left(self, rpc: Rpc) -> None:
        """Forget a call of any number of messages that is over. Called in the thread."""
        self.calls.pop(rpc, None)
        self.lasting.pop(rpc, None)

    def _has_place(self, rpc: Rpc) -> bool:
        """Say whether a message may be awaited; where too many are, a newcomer takes the place of one that is slow.

        Else who opens many calls and sends nothing would have all the places.
        """
        if len(self.reading) < self._reading_max:
            return True
        oldest = next(iter(self.reading), rpc)  # the loop's sweep may have ended them meanwhile
        if rpc.arrived_ns - oldest.arrived_ns < SLOW_NS or rpc.peer() == oldest.peer():
            return False
        self.reading.pop(oldest, None)
        oldest.call.cancel()
        return True

    def _refusal(self, is_unary: bool | None) -> ServingError:
        """Return why a call is refused before its message is read."""
        if is_unary is None:
            return MethodNotAllowedError("no such method", next="ask the server's reflection for those that there are")
        if len(self.calls) > self._calls_max:
            return UnavailableError("too many calls are open", next="try again later, or another server")
        return UnavailableError("too many messages are on their way", next="try again later, or another server")

    def _on_shutdown(self, event: Any) -> None:
        """Hear that no call is left."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ended.set)


def _is_ours(record: logging.LogRecord) -> bool:
    """Say whether a line is for the log: not one for each header that is no text, with all that it says, a key too."""
    return not str(record.msg).startswith("Invalid encoding")


def failed(core: Core) -> None:
    """Raise what has ended the core's thread, if anything has."""
    if core.fault is not None:
        raise ServerError(f"gRPC's thread has ended: {core.fault!r}") from core.fault
