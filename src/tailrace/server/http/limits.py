"""How much one HTTP server takes of its clients."""

from __future__ import annotations

import msgspec

from tailrace.server.options import ServeOptions


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one server; see `ServeOptions`. bytes_max: of requests received in part, over all connections.

    priority_header: whether a caller may say the priority of its calls.
    """

    body_bytes_max: int
    header_bytes_max: int
    connections_max: int
    bytes_max: int
    idle_s: float
    request_s: float
    priority_header: bool = False

    @classmethod
    def of(cls, options: ServeOptions) -> HttpLimits:
        """Return those of a worker."""
        return cls(
            body_bytes_max=options.body_bytes_max,
            header_bytes_max=options.header_bytes_max,
            connections_max=options.connections_max,
            bytes_max=options.partial_bytes_max,
            idle_s=options.idle_s,
            request_s=options.request_s,
            priority_header=options.priority_header,
        )
