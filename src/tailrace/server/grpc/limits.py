"""How much one gRPC server takes of its clients."""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.server.options import ServeOptions

INT_MAX: Final = 2**31 - 1
READING_MIN: Final = 64
"""Messages that may be on their way at once, however long one may be."""


class GrpcLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one server; see `ServeOptions`. reading_max: messages that are on their way at once."""

    body_bytes_max: int
    header_bytes_max: int
    connections_max: int
    calls_max: int
    streams_max: int
    reading_max: int
    idle_s: float
    age_s: float
    request_s: float
    drain_s: float

    @classmethod
    def of(cls, options: ServeOptions) -> GrpcLimits:
        """Return those of a worker."""
        return cls(
            body_bytes_max=options.body_bytes_max,
            header_bytes_max=options.header_bytes_max,
            connections_max=options.connections_max,
            calls_max=options.grpc_calls_max,
            streams_max=options.grpc_streams_max,
            reading_max=max(options.partial_bytes_max // options.body_bytes_max, READING_MIN),
            idle_s=options.idle_s,
            age_s=options.grpc_age_s,
            request_s=options.request_s,
            drain_s=options.drain_s,
        )

    def options(self) -> list[tuple[str, int]]:
        """Return what the core is told (grpc/impl/channel_arg_names.h).

        A compressed message is refused: the core of 1.80 inflates 0.9 MB to 976 before it looks at the length.
        """
        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self.body_bytes_max),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", self.header_bytes_max),
            ("grpc.absolute_max_metadata_size", self.header_bytes_max),
            ("grpc.max_concurrent_streams", self.streams_max),
            ("grpc.max_allowed_incoming_connections", self.connections_max),
            ("grpc.max_connection_idle_ms", int(self.idle_s * 1_000)),
            ("grpc.max_connection_age_ms", int(self.age_s * 1_000)),
            ("grpc.max_connection_age_grace_ms", int(self.drain_s * 1_000) or 1),
            ("grpc.server_handshake_timeout_ms", int(self.request_s * 1_000) or 1),
            ("grpc.http2.settings_timeout", int(self.request_s * 1_000) or 1),
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.server.max_pending_requests", self.calls_max),
        ]
        return [(name, min(value, INT_MAX)) for name, value in options]
