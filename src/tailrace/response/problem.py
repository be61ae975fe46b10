"""Problem details (RFC 9457): how an error is told."""

from __future__ import annotations

import msgspec

from tailrace.errors import OutOfTimeError, ServingError, TailraceError

CONTENT_TYPE = b"application/problem+json"


class ProblemDetails(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The members of a problem body. `pointer` is the JSON path of the fault, `next` what to do about it."""

    status: int
    title: str
    detail: str = ""
    pointer: str = ""
    next: str = ""
    type: str = ""


_encode = msgspec.json.Encoder().encode


def problem_body(error: ServingError | OutOfTimeError) -> bytes:
    """Return the JSON body that tells of an error."""
    detail, pointer, advice = str(error), "", ""
    if isinstance(error, TailraceError):
        detail, pointer, advice = error.what, error.where, error.next
    slug = error.title.lower().replace(" ", "-")
    return _encode(ProblemDetails(error.status, error.title, detail, pointer, advice, f"urn:tailrace:{slug}"))
