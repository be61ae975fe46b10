"""A call over gRPC: what its caller asks for beside the message, and how an endpoint takes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tailrace.batch import Call, Source, Trace
from tailrace.deadline import NS_PER_S
from tailrace.errors import ServingError
from tailrace.request.priority import Priority
from tailrace.server.certified import Certified
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.grpc.core import Rpc
from tailrace.server.grpc.peer import peer_of
from tailrace.server.keys import Caller, Callers
from tailrace.server.proxies import Proxies
from tailrace.server.request_ids import RequestIds, id_in_body
from tailrace.server.trace_context import trace_of
from tailrace.server.wishes import REQUEST_ID_BYTES_MAX, read_priority

REQUEST_ID: Final = "x-request-id"
TRACE: Final = "x-trace"
PRIORITY: Final = "x-priority"
READ: Final = frozenset({REQUEST_ID, TRACE, PRIORITY, "traceparent", "tracestate"})
"""The metadata that a call is read for, beside its key."""


class Desk:
    """What the calls of one gRPC server share.

    keys: one of which a call of an endpoint must show; None asks for none. count_failure: is called for a call that
    reaches no pipeline. now_ns: the clock of deadlines. proxies: that are believed who calls, where there are some.
    with_priority: whether a caller may say one. ids: names the calls whose callers do not, where that is wanted.
    """

    def __init__(
        self,
        count_failure: Callable[[type[ServingError]], None],
        now_ns: Callable[[], int],
        keys: Callers | None = None,
        proxies: Proxies | None = None,
        ids: RequestIds | None = None,
        *,
        with_priority: bool = False,
    ) -> None:
        self.with_priority = with_priority
        self.ids = ids
        self.count_failure = count_failure
        self.now_ns = now_ns
        self.keys = keys
        self.proxies = proxies
        self._certified = keys if isinstance(keys, Certified) else None

    def callers_of(self, rpc: Rpc) -> Callers | None:
        """Return what tells the callers of a call's connection: its certificate, where callers have such."""
        if self._certified is None or (peer := peer_of(rpc.authentication())) is None:
            return self.keys
        return self._certified.visitor_of(peer).callers

    def caller_of(self, rpc: Rpc) -> Caller | None:
        """Return who calls, by a key that is valid, whatever it opens; None where nobody is asked.

        Raises UnauthorizedError.
        """
        keys = self.callers_of(rpc)
        if keys is None:
            return None
        headers = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in rpc.metadata
            if name in ("authorization", "x-api-key") and isinstance(value, str)
        ]
        caller = keys.caller(headers)
        if (fault := caller.fault(None)) is not None:
            raise fault
        return caller


class GrpcCall(Call, gc=False, eq=False):
    """A call over gRPC.

    told: what its metadata says of `READ`, None for nothing. caller: who has shown a key. given_id: what the server
    has named it, where its caller has not.
    """

    desk: Desk
    rpc: Rpc
    told: dict[str, str] | None
    caller: Caller | None = None
    given_id: str = ""

    def accept(self, endpoint: CallEndpoint, body: bytes) -> ServingError | None:
        """Have an endpoint take this call; return why it is refused, None where it is answered later.

        The caller must have a key for the endpoint, where keys are asked for. Its deadline is the pipeline's, or
        sooner if it says so; what the call has waited for the loop counts.
        """
        try:
            admitted = self.admitted(endpoint)
        except ServingError as fault:
            self.desk.count_failure(type(fault))
            return fault.bare()
        now_ns = self.desk.now_ns()
        waited_ns = max(now_ns - self.rpc.arrived_ns, 0)
        budget_ns = admitted.budget_ns - waited_ns
        if (left_s := self.rpc.deadline_s - time.time()) * NS_PER_S < budget_ns:
            budget_ns = int(left_s * NS_PER_S)
        refusal = admitted.accept(self, body, max(budget_ns, 1))
        self.arrival_ns = min(self.arrival_ns or now_ns, now_ns - waited_ns)
        return refusal

    def admitted(self, endpoint: CallEndpoint) -> CallEndpoint:
        """Return an endpoint as this caller has it. Raises UnauthorizedError, ForbiddenError or ClientError."""
        asked, caller = self._priority() if self.desk.with_priority else None, self.known()
        if caller is None:
            return endpoint if asked is None else endpoint.at_priority(asked)
        return caller.admitted(endpoint, asked)

    def known(self) -> Caller | None:
        """Return who calls, looked at once; see `Desk.caller_of`."""
        if self.caller is None:
            self.caller = self.desk.caller_of(self.rpc)
        return self.caller

    def _priority(self) -> Priority | None:
        """Return the level that the caller asks for, if it does. Raises ClientError for one that there is not."""
        return None if self.told is None or PRIORITY not in self.told else read_priority(self.told[PRIORITY].encode())

    @property
    def callers(self) -> bytes:
        """The scope of its caller, by its key; see `Call`."""
        return b"" if self.caller is None else self.caller.scopes

    @property
    def request_id(self) -> str:
        """The id that is told back: the caller's, or one that the server has given it.

        Empty for none, and for one that no metadata may have.
        """
        text = "" if self.told is None else self.told.get(REQUEST_ID, "")[:REQUEST_ID_BYTES_MAX]
        return (text if text.isascii() and text.isprintable() else "") or self.given_id

    def take_id(self, ids: RequestIds) -> None:
        """Have an id: the caller's, also of the Open Inference Protocol's message; else one of the server's."""
        if not self.request_id:
            self.given_id = id_in_body(self.codec) or ids.take().decode()

    def identify(self) -> str:
        """Return its id, given now where the server gives one; see `Call`."""
        if self.desk.ids is not None:
            self.take_id(self.desk.ids)
        return self.request_id

    @property
    def is_traced(self) -> bool:
        """Whether its caller wants to know how long each layer took."""
        return self.told is not None and self.told.get(TRACE) == "1"

    @property
    def trace(self) -> Trace | None:
        """The trace that it is part of, if its caller tells one."""
        if self.told is None or "traceparent" not in self.told:
            return None
        parent, state = (self.told.get(name, "").encode() for name in ("traceparent", "tracestate"))
        return trace_of(parent, state)

    @property
    def route(self) -> str:
        """Its method, as "/tailrace.fraud.Fraud/Predict"."""
        return self.rpc.method.decode("latin-1")

    def source(self) -> Source:
        """Return where it comes from; see `Call`."""
        parent = b"" if (trace := self.trace) is None else trace.parent
        return self.request_id.encode(), parent, self._client().encode()

    def _client(self) -> str:
        """Return the address of who calls: the connection's, or where that is a proxy of ours what it tells."""
        peer, proxies = client_of(self.rpc.peer()), self.desk.proxies
        if proxies is None:
            return peer
        header = proxies.header.decode()
        told = [str(value) for name, value in self.rpc.metadata if name == header]
        return proxies.client(peer, ", ".join(told).encode("latin-1", "replace"))


def told_by(rpc: Rpc) -> dict[str, str] | None:
    """Return what the metadata of a call says of `READ`; None for nothing, as of nearly all."""
    found: dict[str, str] | None = None
    for name, value in rpc.metadata:
        if name in READ:
            found = found or {}
            text = str(value)
            found[name] = f"{found[name]}, {text}" if name in found and name != REQUEST_ID else text
    return found


def client_of(peer: str) -> str:
    """Return the address of a peer as the core writes it: `ipv4:127.0.0.1:50051`, or `ipv6:%5B::1%5D:50051`."""
    _, _, place = peer.replace("%5B", "[").replace("%5D", "]").partition(":")
    return place.rpartition(":")[0].strip("[]")
