from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from tailrace.batch import Batch, Call
from tailrace.codecs.json import JsonEncoder
from tailrace.errors import (
    ClientError,
    InferenceError,
    InvalidRequestError,
    ServingError,
    ShedError,
)
from tailrace.response.problem import problem_body
from tailrace.response.schema import Response
from tailrace.response.step import ResponseStep


class Answer(Response):
    name: str
    score: float


class Echo(Response):
    sent: msgspec.Raw


class Values:
    """A field of the response whose values a function of the batch gives."""

    def __init__(self, of: Callable[[Batch], list[Any]]) -> None:
        self.of = of


def batch_of(*calls: Any) -> Batch:
    """Return a batch whose calls are given as their requests: a name, or a list of names."""
    batch = Batch([Call(None, None, names, 0, 0, 1) for names in calls], 0, 0)
    if any(isinstance(names, list) for names in calls):
        batch.offsets = np.cumsum([0, *(len(names) if isinstance(names, list) else 1 for names in calls)]).tolist()
    batch.requests = [name for names in calls for name in (names if isinstance(names, list) else [names])]
    batch.rows = len(batch.requests)
    return batch


def encode(batch: Batch) -> list[Any]:
    """Encode a batch whose scores are 0, 1, 2, …; return the bodies, decoded, None for an empty one."""
    fields = [Values(lambda b: b.requests), Values(lambda b: [float(i) for i in range(b.rows)])]
    ResponseStep(Answer, fields, JsonEncoder()).run(batch)
    assert len(batch.bodies) == len(batch.calls)
    return [json.loads(body) if body else None for body in batch.bodies]


def test_bodies_are_one_a_call_in_order() -> None:
    """Single calls, with texts that hold newlines and quotes."""
    names = ["a\nb", 'c"', "\u2028", ""]
    assert encode(batch_of(*names)) == [{"name": name, "score": index} for index, name in enumerate(names)]


def test_arrays_and_single_calls_mix() -> None:
    """An array of one is an array, an array of none is empty, a single one is an object."""
    assert encode(batch_of("a", ["b", "c"], [], ["d"], "e")) == [
        {"name": "a", "score": 0},
        [{"name": "b", "score": 1}, {"name": "c", "score": 2}],
        [],
        [{"name": "d", "score": 3}],
        {"name": "e", "score": 4},
    ]


def test_failed_rows_fail_their_own_calls() -> None:
    """A call with a failed row is a problem that says how many rows of how many."""
    batch = batch_of("a", ["b", "c"], "d")
    batch.failed = np.array([False, False, True, False])
    bodies = encode(batch)
    assert bodies[0] == {"name": "a", "score": 0}
    assert bodies[2] == {"name": "d", "score": 3}
    assert list(batch.errors) == [1]
    error = batch.errors[1]
    assert isinstance(error, InferenceError)
    assert error.what == "the model gave no usable score for 1 of 2 rows"
    assert "fallback" in error.next
    assert bodies[1] is None


def test_problem_carries_the_path_of_the_fault() -> None:
    """RFC 9457 members, and where and what next."""
    error = InvalidRequestError("Expected `int`, got `str`", where="$.customer_id", next="send a number")
    assert json.loads(problem_body(error)) == {
        "type": "urn:tailrace:invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "Expected `int`, got `str`",
        "pointer": "$.customer_id",
        "next": "send a number",
    }


def test_problem_of_a_shed_call_is_told_too() -> None:
    """A refusal for lack of time has a body as well."""
    found = json.loads(problem_body(ShedError("the queue is longer than the call's budget")))
    assert (found["status"], found["title"]) == (503, "Shed")
    assert "queue" in found["detail"]


def subclasses(kind: type) -> list[type]:
    """Return a class and all below it."""
    return [kind, *(each for child in kind.__subclasses__() for each in subclasses(child))]


@pytest.mark.parametrize("kind", sorted({*subclasses(ServingError)}, key=lambda k: k.__name__))
def test_every_serving_error_owns_its_codes(kind: Any) -> None:
    """A client's fault is 4xx and ours 5xx, each with a title, a gRPC code and a body that is JSON."""
    assert 400 <= kind.status < 500 if issubclass(kind, ClientError) else 500 <= kind.status < 600
    assert kind.title
    assert kind.grpc_code.isupper()
    assert (
        json.loads(problem_body(kind("what\x00 \ud800".encode("utf-8", "replace").decode())))["status"] == kind.status
    )


def test_raw_json_with_newlines_shifts_no_answer() -> None:
    """A field that is sent back as it came may hold newlines; each call still gets its own body."""
    sent = [b'{"first":\n1}', b"2", b"[\n\n3]"]
    batch = batch_of("a", "b", "c")
    ResponseStep(Echo, [Values(lambda _: list(map(msgspec.Raw, sent)))], JsonEncoder()).run(batch)
    assert [json.loads(body) for body in batch.bodies] == [{"sent": {"first": 1}}, {"sent": 2}, {"sent": [3]}]


class Shout:
    """A codec of other bytes."""

    content_type = b"text/shout"
    decode: Any = None
    request_type = Answer

    def encode(self, value: Any) -> bytes:
        """Return the JSON in capitals."""
        return msgspec.json.encode(value).upper()

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return each."""
        return list(map(self.encode, values))


@pytest.mark.parametrize("shouting", [(), (1,), (0, 1, 2)])
def test_each_call_is_answered_as_its_caller_reads_it(shouting: tuple[int, ...]) -> None:
    """Callers of several codecs meet in one batch; of one codec the batch knows the type of all its bodies."""
    batch, shout = batch_of("a", ["b", "c"], "d"), Shout()
    for place in shouting:
        batch.calls[place].codec = shout
    encode(batch)
    bodies = [b'{"name":"a","score":0.0}', b'[{"name":"b","score":1.0},{"name":"c","score":2.0}]',
              b'{"name":"d","score":3.0}']  # fmt: skip
    assert batch.bodies == [body.upper() if place in shouting else body for place, body in enumerate(bodies)]
    assert batch.content_type == {0: b"application/json", 1: b"", 3: b"text/shout"}[len(shouting)]
    assert [response.name for response in batch.responses] == ["a", "b", "c", "d"]
