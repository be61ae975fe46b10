"""The trace that a call is part of, as its caller tells it: W3C Trace Context, level 1.

A worker begins no span of its own: it hands on what it was given unchanged, as the standard has it for who only passes
a trace on, unless the observer makes spans of it (monitor/tracing/); and puts its id into samples and log lines.
"""

from __future__ import annotations

import re
from typing import Final

from tailrace.batch import Trace

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
STATE_BYTES_MAX: Final = 512
"""What a tracestate may have at least, and here at most; a longer one is left out."""
_PARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{1,64})?"
)
_STATE: Final = re.compile(rb"[\x20-\x7e\t]*")


def trace_of(parent: bytes, state: bytes) -> Trace | None:
    """Return the trace that two headers tell; None for one that is not well formed, which is as if it were not there.

    A version after 00 may have more behind it. A state of other than visible ASCII, or too long, is left out.
    """
    if _PARENT.fullmatch(parent) is None or (parent[:2] == b"00" and len(parent) != 55):
        return None
    return Trace(parent, state_of(state))


def state_of(header: bytes) -> bytes:
    """Return a state as it is handed on; empty where it is not well formed, or too long."""
    return header if len(header) <= STATE_BYTES_MAX and _STATE.fullmatch(header) is not None else b""
