"""Callers in Protocol Buffers at a server, whose pipeline has its numbers kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from http_server import RawClient, RunningServer, ample, payment_of, post

from proto_types import compiled
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import lock_path, locked, write_lock
from tailrace.pipeline import Pipeline

PATH = "/v1/pipelines/wire/predict"
TYPE = "Content-Type: application/x-protobuf"


@pytest.fixture(scope="module")
def wire(
    pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RawClient, object]]:
    """Return a client of a pipeline that speaks it, and protoc's messages."""
    pipeline = ample(replace(pipeline_of("log"), name="wire"))
    messages = compiled(tmp_path_factory.mktemp("proto"), pipeline.request, pipeline.response, "wire")
    path = lock_path(pipeline.base_dir, "wire")
    write_lock(locked(message_forms(pipeline.request, pipeline.response), None), path)
    try:
        with RunningServer([pipeline]) as server, server.connect() as client:
            yield client, messages
    finally:
        path.unlink()


def test_caller_gets_what_it_sends(wire) -> None:  # type: ignore[no-untyped-def]
    """One request, many at once, and JSON beside them in one batch."""
    client, messages = wire
    one = messages.Amount(amount=1.5, label="a")
    array = messages.AmountArray(items=[one, messages.Amount(amount=2.5)])
    client.send(
        post(one.SerializeToString(), TYPE, path=PATH)
        + post(payment_of(1.5, "a"), path=PATH)
        + post(array.SerializeToString(), "Content-Type: application/protobuf", path=PATH)
        + post(payment_of(1.5, "a"), "Accept: application/protobuf", path=PATH)
    )
    first, told, many, accepted = (client.read() for _ in range(4))
    assert first.headers["content-type"] == "application/x-protobuf"
    answer = messages.Score.FromString(first.body)
    assert (answer.score, answer.decision, answer.label) == tuple(told.json.values())
    assert many.headers["content-type"] == accepted.headers["content-type"] == "application/protobuf"
    both = messages.ScoreArray.FromString(many.body).items
    assert [each.label for each in both] == ["a", ""]
    assert messages.Score.FromString(accepted.body) == both[0] == answer


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"", 422, "$"),
        (b"\x09" + b"\0" * 6 + b"\xf8\x7f", 422, "$.amount"),
        (b"\x09" + b"\0" * 5, 400, "$"),
        (2 * (b"\x09" + b"\0" * 8), 400, "$"),
        (b"\x12\xff\xff\xff\xff\x0f", 400, "$.label"),
        (b"\x09" + b"\0" * 8 + b"\x18\1", 422, "$"),
    ],
)
def test_fault_is_told_as_of_json(wire, body: bytes, status: int, pointer: str) -> None:  # type: ignore[no-untyped-def]
    """A problem in JSON, with the path; and the connection goes on."""
    client, _ = wire
    answer = client.ask(post(body, TYPE, path=PATH))
    assert (answer.status, answer.problem()["pointer"]) == (status, pointer)
