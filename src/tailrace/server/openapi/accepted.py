"""What the document says of requests that are accepted: how one is sent, its answer, and what is delivered of it."""

from __future__ import annotations

from typing import Any, Final

from tailrace.response.destinations import Destination, Webhook

MODE: Final[dict[str, Any]] = {
    "name": "mode",
    "in": "query",
    "description": "`accepted`: the request is on disk when the answer comes, 202, and its result goes to where "
    "the server's operator has declared. The same `X-Request-Id` is accepted once.",
    "schema": {"type": "string", "enum": ["accepted"]},
}
ONLY_ACCEPTED: Final = 507
"""A status of requests that are accepted alone."""
_ID: Final = "01940c3f5b2e7d1f60a94b8e2c35d7a1"


def accepted_answer() -> dict[str, Any]:
    """Return the answer to a request that is accepted."""
    schema = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}
    return {
        "description": "Asked for with `mode=accepted`: it is on disk, and its result is delivered under this id",
        "content": {"application/json": {"schema": schema, "example": {"id": _ID}}},
    }


def delivered_message(
    pipeline: str, results: Destination, response: dict[str, Any], problem: dict[str, Any]
) -> dict[str, Any]:
    """Return the message that is delivered of a pipeline. response, problem: the schemas of what is in it."""
    time = {"type": "string", "format": "date-time"}
    properties = {
        "id": {"type": "string", "description": "As the answer 202 had it. A message may come again, under its id."},
        "pipeline": {"type": "string"},
        "status": {"type": "string", "enum": ["answered", "failed"]},
        "release": {"type": "string"},
        "accepted_at": time,
        "scored_at": time,
        "request_id": {"type": "string", "description": "The `X-Request-Id` of the request."},
        "response": response,
        "error": problem,
        "degraded": {"type": "array", "items": {"type": "string"}},
    }
    required = ["id", "pipeline", "status", "release", "accepted_at", "scored_at"]
    names = ("id", "timestamp", "signature")
    headers = [{"name": f"webhook-{n}", "in": "header", "required": True, "schema": {"type": "string"}} for n in names]
    to = "posted to a webhook" if isinstance(results, Webhook) else "added to a Redis stream, as its field `result`"
    return {
        "post": {
            "operationId": f"result-{pipeline}",
            "summary": f"The result of a request that {pipeline} has accepted",
            "description": f"It is {to}, signed as Standard Webhooks 1.0.0 has it.",
            "parameters": headers,
            "requestBody": {
                "content": {
                    "application/json": {"schema": {"type": "object", "required": required, "properties": properties}}
                }
            },
            "responses": {"2XX": {"description": "It has arrived"}, "410": {"description": "It is not wanted"}},
        }
    }
