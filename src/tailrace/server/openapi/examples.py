"""Examples of a document: requests made up from their types, the answers to them, and what is told of a wrong one."""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Any, Final

import msgspec

from tailrace.codecs.json import JsonCodec
from tailrace.errors import ServingError, SetupError
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import Bands, Labels
from tailrace.request.sample import sample_body, sample_value
from tailrace.request.schema import Request
from tailrace.response.problem import problem_body

LIST_LENGTH: Final = 3
"""Elements of a list in an example."""
SCORE: Final = 0.42


def request_example(request_type: type[Request], seed: int = 1) -> Any:
    """Return a valid request, None where none can be made up."""
    try:
        return json.loads(sample_body(request_type, seed=seed, list_length=LIST_LENGTH))
    except SetupError:
        return None


def response_example(pipeline: Pipeline, request: Any) -> Any:
    """Return an answer to a request as its type has it: what was sent comes back, and the decision fits the score."""
    found = sample_value(pipeline.response, list_length=LIST_LENGTH)
    known = {field.name: field.encode_name for field in msgspec.structs.fields(pipeline.request)}
    for field in msgspec.structs.fields(pipeline.response):
        name = field.encode_name
        if (given := known.get(field.name)) is not None and isinstance(request, dict) and given in request:
            found[name] = request[given]
        elif field.name in ("score", "decision", "reasons"):
            found[name] = _decided(pipeline, field.name, found[name])
    return json.loads(msgspec.json.encode(found))


def _decided(pipeline: Pipeline, name: str, value: Any) -> Any:
    """Return the value of a field that the pipeline decides; of each row where a request has many."""
    if name == "reasons":
        return [[] for _ in value] if value and isinstance(value[0], list) else []
    if isinstance(value, list):
        return [_decided(pipeline, name, each) for each in value]
    if name == "score":
        return SCORE if isinstance(value, float) else value
    match pipeline.decision:
        case Bands(labels=labels, edges=edges) if labels:
            return labels[max(bisect_right(edges, SCORE) - 1, 0)]
        case Labels(names=(first, *_)):
            return first
    return value


def fault_examples(request_type: type[Request]) -> dict[int, dict[str, Any]]:
    """Return, by status, problem details as the decoder gives them of bodies with a fault; each by its kind."""
    decode = JsonCodec(request_type, array_max=1).decode
    found: dict[int, dict[str, Any]] = {}
    for body in (b"{", b"null"):
        error = decode(body)
        if isinstance(error, ServingError):
            found.setdefault(error.status, {})[error.title] = {"value": json.loads(problem_body(error))}
    return found


def problem_example(kind: type[ServingError]) -> dict[str, Any]:
    """Return the problem details of a kind of error, with what its class says of it."""
    text = " ".join((kind.__doc__ or kind.title).split())
    return {"value": json.loads(problem_body(kind(text)))}
