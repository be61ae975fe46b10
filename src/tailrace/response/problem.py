"""Problem details (RFC 9457): how an error is answered."""

from __future__ import annotations

import msgspec

from tailrace.errors import ServingError

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


def problem_body(error: ServingError) -> bytes:
    """Return the JSON body of an error."""
    slug = error.title.lower().replace(" ", "-")
    return _encode(
        ProblemDetails(error.status, error.title, error.what, error.where, error.next, f"urn:tailrace:{slug}")
    )
