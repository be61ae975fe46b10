"""Servers as what is in front of them sees them: where they are, which paths they answer, and how long that may take.

The configurations for nginx, HAProxy, Kong and Amazon's API Gateway are written from it, so that they agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import SetupError
from tailrace.ingest.routes import streams_of
from tailrace.pipeline import Pipeline
from tailrace.server.events import BUDGET_NS
from tailrace.server.http.connection import LOST_NS

SERVERS_MAX: Final = 256
CONNECT_MS: Final = 250
"""A handshake that nobody answers goes to another server."""
CHECK_S: Final = 1
CHECKS_FAILED: Final = 2
"""A server is left alone after so many checks, a second apart, that fail; and asked again after so many that do not."""
READY_PATH: Final = "/readyz"
_SWEEP_NS: Final = 1 * NS_PER_S
_WAY_NS: Final = NS_PER_S // 2
"""For the way there and back, and for a loop that is busy."""
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class Operation(msgspec.Struct, frozen=True):
    """One path that calls are posted to. name: a word for it. answer_ms: in which it is answered, whatever fails."""

    name: str
    path: str
    answer_ms: int


class Upstream(msgspec.Struct, frozen=True):
    """Some servers of the same pipelines, each `HOST:PORT`, and what they answer. body_bytes_max: of one request.

    grpc_servers: their ports for gRPC, in the same order; none where it is not asked for.
    """

    servers: tuple[str, ...]
    operations: tuple[Operation, ...]
    body_bytes_max: int
    grpc_servers: tuple[str, ...] = ()

    @property
    def answer_ms(self) -> int:
        """Within how many milliseconds every call is answered."""
        return max(each.answer_ms for each in self.operations)


def upstream_of(
    pipelines: Sequence[Pipeline], servers: Sequence[str], body_bytes_max: int, grpc_servers: Sequence[str] = ()
) -> Upstream:
    """Return the servers of some pipelines. Raises SetupError for an address that is none, or twice the same."""
    for server in (*servers, *grpc_servers):
        check_address(server)
    if len(grpc_servers) not in (0, len(servers)):
        what = f"{len(servers)} servers have {len(grpc_servers)} ports for gRPC"
        raise SetupError(what, where="--grpc-server", next="name one for each --server, in the same order")
    if len(set(servers)) < len(servers) or not 0 < len(servers) <= SERVERS_MAX:
        what = f"one server at least, {SERVERS_MAX} at most, each once"
        raise SetupError(f"the servers are {', '.join(servers) or 'none'}", where="--server", next=f"name {what}")
    predict = [
        Operation(f"predict-{each.name}", f"/v1/pipelines/{each.name}/predict", _answer_ms(each.budget.total_ns))
        for each in pipelines
    ]
    events = [
        Operation(f"events-{each.name}", f"/v1/streams/{each.name}/events", _answer_ms(BUDGET_NS))
        for each in streams_of(pipelines)
    ]
    return Upstream(tuple(servers), (*predict, *events), body_bytes_max, tuple(grpc_servers))


def check_address(address: str) -> None:
    """Raise SetupError for what is no `HOST:PORT`: it becomes part of a configuration."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) <= 65_535:
        raise SetupError(f"{address!r} is no address", where="address", next="write it as HOST:PORT")


def _answer_ms(budget_ns: int) -> int:
    """Return within how long a call of a budget is answered, be it that its answer was lost by a fault of ours."""
    return (budget_ns + LOST_NS + _SWEEP_NS + _WAY_NS) // NS_PER_MS
