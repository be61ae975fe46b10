"""How an error is answered over gRPC: its class's code, its words, and when to try again."""

from __future__ import annotations

from typing import Final

import grpc

from tailrace.errors import RateLimitedError, ServingError

CODES: Final[dict[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}
DETAILS_MAX: Final = 1_024
"""Characters of what is told."""
PUSHBACK: Final = "grpc-retry-pushback-ms"
"""What a client that retries by its policy waits (gRFC A6), as `Retry-After` is over HTTP."""


def code_of(error: ServingError) -> int:
    """Return the code; of a user's own error without a good one that of an internal error."""
    return CODES.get(error.grpc_code, CODES["INTERNAL"])


def details_of(error: ServingError) -> str:
    """Return what is told of an error: where it is, what it is, what next."""
    text = f"{error.where}: {error.what}" if error.where else error.what
    return (f"{text} ({error.next})" if error.next else text)[:DETAILS_MAX]


def pushback_of(error: ServingError) -> tuple[tuple[str, str], ...]:
    """Return when the client may try again, as metadata; none where that would not help."""
    if isinstance(error, RateLimitedError):
        return ((PUSHBACK, str(1_000 * error.retry_after_s)),)
    return ((PUSHBACK, "1000"),) if error.status == 503 else ()
