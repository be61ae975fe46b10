"""The ids of spans. They are derived, not drawn: a worker and the observer come to the same without a word.

So a worker can tell a remote model which span its call is part of, though the span is made later and elsewhere; and
whoever knows a request's id knows the trace that it began.
"""

from __future__ import annotations

import os
import zlib
from hashlib import blake2b
from typing import Final

TRACE_BYTES: Final = 16
SPAN_BYTES: Final = 8
SAMPLED: Final = 1
"""The bit of a parent's flags that says that its trace is kept."""
_HASHES: Final = 1 << 32


def trace_id_of(request_id: str, parent: bytes = b"") -> bytes:
    """Return the id of a request's trace: its caller's, else one that is derived of the request's id, else any.

    parent: a `traceparent` that is well formed, or empty.
    """
    if parent:
        return bytes.fromhex(parent[3:35].decode("ascii"))
    return blake2b(request_id.encode(), digest_size=TRACE_BYTES).digest() if request_id else os.urandom(TRACE_BYTES)


def parent_span_of(parent: bytes) -> bytes:
    """Return the caller's span; empty where a request begins its trace."""
    return bytes.fromhex(parent[36:52].decode("ascii")) if parent else b""


def span_id_of(trace_id: bytes, parent: bytes, request_id: str, arrival_ns: int) -> bytes:
    """Return the id of a request's own span. arrival_ns: monotonic; a caller may send one id twice."""
    told = b"%b|%b|%b|%d" % (trace_id, parent, request_id.encode(), arrival_ns)
    return blake2b(told, digest_size=SPAN_BYTES).digest()


def child_id_of(span_id: bytes, name: str) -> bytes:
    """Return the id of a part of a request's span, by its name."""
    return blake2b(span_id + name.encode(), digest_size=SPAN_BYTES).digest()


def is_sampled(request_id: str, parent: bytes, share: float) -> bool:
    """Return whether a request is sampled, whatever becomes of it: as its caller says, else by its id, a share of all.

    One that has neither is not: nothing would say the same of it twice.
    """
    if parent:
        return bool(int(parent[53:55], 16) & SAMPLED)
    return bool(request_id) and zlib.crc32(request_id.encode()) < share * _HASHES
