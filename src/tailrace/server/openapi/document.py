"""The OpenAPI 3.1 document of some pipelines, made once from what they declare: no model and no store is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tailrace.codecs.arrow import CONTENT_TYPE as ARROW
from tailrace.codecs.msgpack import CONTENT_TYPES as MSGPACK
from tailrace.codecs.proto_lock import lock_path
from tailrace.codecs.protobuf import CONTENT_TYPES as PROTOBUF
from tailrace.deadline import NS_PER_MS, format_duration
from tailrace.errors import ServingError
from tailrace.features.streams import Stream
from tailrace.ingest.routes import streams_of
from tailrace.monitor.metrics import error_kinds
from tailrace.pipeline import Pipeline
from tailrace.request.rows import ARRAY_MAX
from tailrace.response.problem import CONTENT_TYPE as PROBLEM
from tailrace.response.problem import ProblemDetails
from tailrace.server.events import BUDGET_NS, Counted
from tailrace.server.openapi.accepted import MODE, ONLY_ACCEPTED, accepted_answer, delivered_message
from tailrace.server.openapi.examples import fault_examples, problem_example, request_example, response_example
from tailrace.server.openapi.schemas import Schemas, expanded_lengths, one_or_many
from tailrace.server.wishes import BUDGET_MS_MAX
from tailrace.version import VERSION

OPENAPI: Final = "3.1.0"
JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = MSGPACK[0].decode()
PROTOBUF_TYPE: Final = PROTOBUF[0].decode()
ARROW_TYPE: Final = ARROW.decode()
NOT_FOUND: Final = (404, 405)
"""Statuses that a caller who keeps to the document does not get."""
OF_KEYS: Final = (401, 403)
"""Statuses of a server that wants keys."""
SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
}

DESCRIPTION: Final = """\
Decisions in real time, inside a latency budget. A body is one request or an array of them, and is answered as a whole
or refused as a whole. It may be JSON or MessagePack; MessagePack carries the same values, with bytes as bytes where
JSON has base64. It may be Protocol Buffers where that is said: the messages are those of `tailrace export proto`. A
whole number is written without a fraction. The answer comes as the request did, unless `Accept` names another. Errors
are problem details (RFC 9457)."""

PARAMETERS: Final[dict[str, Any]] = {
    "X-Budget-Ms": {
        "name": "X-Budget-Ms",
        "in": "header",
        "description": "Shortens the budget of this call, in milliseconds; a longer one than the pipeline's has no "
        "effect. Too short a one is answered 503 or 504.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": BUDGET_MS_MAX},
    },
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Is sent back, its first 128 bytes.",
        "schema": {"type": "string"},
        "example": "4bf92f3577b34da6",
    },
    "X-Trace": {
        "name": "X-Trace",
        "in": "header",
        "description": "`1` asks for `Server-Timing` and `X-Release`.",
        "schema": {"type": "string"},
        "example": "1",
    },
}
HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {"description": "As it was sent, where it was.", "schema": {"type": "string"}},
    "Server-Timing": {
        "description": "Where it was asked for: the wait, the five layers in ms, why the answer is degraded.",
        "schema": {"type": "string"},
    },
    "X-Release": {"description": "Where it was asked for: the id of the release.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    "RateLimit-Policy": {
        "description": "The limits (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "What is left of them, and in how many seconds there is more.",
        "schema": {"type": "string"},
    },
}


OF_STATUS: Final = {429: ("Retry-After", "RateLimit-Policy", "RateLimit"), 503: ("Retry-After",)}
"""By status, the headers of its answers."""


def openapi_document(
    pipelines: Sequence[Pipeline], *, array_max: int = ARRAY_MAX, with_keys: bool = False, with_arrow: bool = False
) -> dict[str, Any]:
    """Return the document of a server of these pipelines.

    array_max: requests in one call. with_keys: whether calls must show a key. with_arrow: whether arrays of requests
    are taken in Arrow.
    """
    schemas = Schemas()
    problem = schemas.of("", ProblemDetails)
    accepts = any(pipeline.results is not None for pipeline in pipelines)
    problems = _problems(problem, with_keys=with_keys, accepts=accepts)
    secured: dict[str, Any] = {"security": [{name: []} for name in SCHEMES]} if with_keys else {}
    paths: dict[str, Any] = {}
    for pipeline in pipelines:
        operation = _predict(pipeline, schemas, array_max, problems, _table() if with_arrow else {})
        paths[f"/v1/pipelines/{pipeline.name}/predict"] = {"post": operation | secured}
    for stream in streams_of(pipelines):
        operation = _events(stream, schemas, array_max, problems)
        paths[f"/v1/streams/{stream.name}/events"] = {"post": operation | secured}
    for path, text in {"/livez": "Whether the server lives", "/readyz": "Whether it takes calls"}.items():
        paths[path] = {"get": _probe(path, text)}
    document = {
        "openapi": OPENAPI,
        "info": {"title": "Tailrace", "version": VERSION, "description": DESCRIPTION.replace("\n", " ")},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "pipelines", "description": "Decisions"},
            *([{"name": "streams", "description": "Events"}] if any("/streams/" in path for path in paths) else []),
            {"name": "probes", "description": "For balancers"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": problems,
        }
        | ({"securitySchemes": SCHEMES} if with_keys else {}),
    }
    if accepts:
        document["webhooks"] = {
            f"result-{each.name}": delivered_message(
                each.name, each.results, one_or_many(schemas.of(each.name, each.response)), problem
            )
            for each in pipelines
            if each.results is not None
        }
    return dict(json.loads(msgspec.json.encode(document)))  # defaults are Python's values in it


def _predict(
    pipeline: Pipeline, schemas: Schemas, array_max: int, problems: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    """Return the operation of a pipeline. more: bodies that it takes and gives beside JSON and its like."""
    asked = schemas.of_request(pipeline.name, pipeline.request, expanded_lengths(pipeline))
    answered = schemas.of(pipeline.name, pipeline.response)
    requests = [request_example(pipeline.request, seed) for seed in (1, 2)]
    answers = [response_example(pipeline, request) for request in requests]
    has_messages = lock_path(pipeline.sources_dir, pipeline.name).exists()
    limits = f"within {format_duration(pipeline.budget.total_ns)}, up to {array_max} requests a call"
    return {
        "operationId": f"predict-{pipeline.name}",
        "tags": ["pipelines"],
        "summary": f"Decide with {pipeline.name}",
        "description": f"Answered {limits}. An array is one call with one budget.",
        "x-budget-ms": pipeline.budget.total_ns / NS_PER_MS,
        "parameters": [
            *({"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS),
            *([] if pipeline.results is None else [MODE]),
        ],
        "requestBody": {
            "required": True,
            "content": _content(one_or_many(asked, array_max), requests)
            | (_message(pipeline.name, pipeline.request) if has_messages else {})
            | more,
        },
        "responses": {
            "200": {
                "description": "A decision, or one for each request of an array, in order",
                "headers": _headers("X-Request-Id", "Server-Timing", "X-Release"),
                "content": _content(one_or_many(answered), answers)
                | (_message(pipeline.name, pipeline.response) if has_messages else {})
                | more,
            },
            **({} if pipeline.results is None else {"202": accepted_answer()}),
            **_refusals(pipeline.request, problems, accepts=pipeline.results is not None),
        },
    }


def _events(stream: Stream, schemas: Schemas, array_max: int, problems: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of a stream."""
    asked = schemas.of_request(f"stream.{stream.name}", stream.schema)
    counted = schemas.of("", Counted)
    events = [request_example(stream.schema, seed) for seed in (1, 2)]
    told = "or is told under `refused`, with its place in the call"
    return {
        "operationId": f"events-{stream.name}",
        "tags": ["streams"],
        "summary": f"Send events of {stream.name}",
        "description": f"Answered once each event is in the store, {told}, within {format_duration(BUDGET_NS)}.",
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS],
        "requestBody": {
            "required": True,
            "content": {JSON_TYPE: _content(one_or_many(asked, array_max), events)[JSON_TYPE]},
        },
        "responses": {
            "200": {
                "description": f"Each event is in the store, {told}",
                "headers": _headers("X-Request-Id", "Server-Timing"),
                "content": {JSON_TYPE: {"schema": counted, "example": {"counted": 1, "duplicates": 0, "refused": []}}},
            },
            **_refusals(stream.schema, problems),
        },
    }


def _probe(path: str, text: str) -> dict[str, Any]:
    """Return the operation of a probe."""
    word = "live" if path == "/livez" else "ready"
    not_ready = {"503": {"$ref": "#/components/responses/503"}}
    return {
        "operationId": path.strip("/"),
        "tags": ["probes"],
        "summary": text,
        "responses": {
            "200": {
                "description": f"It is {word}",
                "content": {"text/plain": {"schema": {"type": "string"}, "example": f"{word}\n"}},
            },
            **not_ready,
        },
    }


def _content(schema: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """Return a body in every codec. values: as examples, one alone and all of them as an array."""
    known = [value for value in values if value is not None]
    examples = {"one": {"value": known[0]}, "many": {"value": known}} if known else {}
    return {
        name: {"schema": schema} | ({"examples": examples} if examples else {}) for name in (JSON_TYPE, MSGPACK_TYPE)
    }


def _message(pipeline: str, kind: type[Any]) -> dict[str, Any]:
    """Return a body in Protocol Buffers, of which JSON Schema can say no more than where it is declared."""
    name = kind.__name__
    text = f"The message {name} of {pipeline}.proto; of many, {name}Array."
    return {PROTOBUF_TYPE: {"schema": {"contentMediaType": PROTOBUF_TYPE, "description": text}}}


def _table() -> dict[str, Any]:
    """Return a body in Arrow, of which JSON Schema can say no more than how it is meant."""
    text = "A stream of record batches (Arrow IPC): a row for each of an array, a column for each field, by its name."
    return {ARROW_TYPE: {"schema": {"contentMediaType": ARROW_TYPE, "description": text}}}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problems(schema: dict[str, Any], *, with_keys: bool, accepts: bool) -> dict[str, Any]:
    """Return the answer of each status that is an error, ascending."""
    kinds_of: dict[int, list[type[ServingError]]] = {}
    left_out = (*NOT_FOUND, *(() if with_keys else OF_KEYS), *(() if accepts else (ONLY_ACCEPTED,)))
    for kind in sorted(error_kinds(), key=lambda kind: kind.status):
        if kind.status not in left_out and kind is not ServingError:
            kinds_of.setdefault(kind.status, []).append(kind)
    return {
        str(status): {
            "description": " or ".join(kind.title for kind in kinds),
            "headers": _headers("X-Request-Id", *OF_STATUS.get(status, ())),
            "content": {
                PROBLEM.decode(): {
                    "schema": schema,
                    "examples": {kind.title.replace(" ", "-"): problem_example(kind) for kind in kinds},
                }
            },
        }
        for status, kinds in kinds_of.items()
    }


def _refusals(request_type: type[Any], problems: dict[str, Any], *, accepts: bool = False) -> dict[str, Any]:
    """Return the errors of an operation; those of its decoder with what it says itself."""
    left = [status for status in problems if accepts or status != str(ONLY_ACCEPTED)]
    found: dict[str, Any] = {status: {"$ref": f"#/components/responses/{status}"} for status in left}
    for status, examples in fault_examples(request_type).items():
        answer = problems[str(status)]
        media = answer["content"][PROBLEM.decode()] | {
            "examples": {title.replace(" ", "-"): example for title, example in examples.items()}
        }
        found[str(status)] = answer | {"content": {PROBLEM.decode(): media}}
    return found
