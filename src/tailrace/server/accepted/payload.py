"""What is delivered: one JSON object a request, whatever the codec that it came in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.errors import ServingError
from tailrace.response.problem import problem_body
from tailrace.server.accepted.journal import Result, Waiting, accepted_ns


class Delivered(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of what is delivered.

    id: as the answer 202 had it; it comes again with the same one, and may be dropped then. request_id: the caller's
    `X-Request-Id`. status: `answered`, with `response` (of an array of requests an array), or `failed`, with `error`
    (problem details). degraded: why the response is, as the metrics call it.
    """

    id: str
    pipeline: str
    status: str
    release: str
    accepted_at: datetime
    scored_at: datetime
    request_id: str = ""
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    degraded: tuple[str, ...] = ()


_encode: Final = msgspec.json.Encoder().encode


def result_of(
    entry: Waiting, outcome: bytes | ServingError, degraded: tuple[str, ...], release: str, now_ns: int
) -> Result:
    """Return the result of a request. outcome: the JSON that it is answered with, or why it is not."""
    failed = isinstance(outcome, ServingError)
    members = Delivered(
        entry.id,
        entry.pipeline,
        "failed" if failed else "answered",
        release,
        _time(accepted_ns(entry.id)),
        _time(now_ns),
        entry.request_id,
        response=msgspec.UNSET if isinstance(outcome, ServingError) else msgspec.Raw(outcome),
        error=msgspec.Raw(problem_body(outcome)) if isinstance(outcome, ServingError) else msgspec.UNSET,
        degraded=degraded,
    )
    return Result(entry.id, entry.pipeline, _encode(members), now_ns)


def _time(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / NS_PER_S, UTC)
