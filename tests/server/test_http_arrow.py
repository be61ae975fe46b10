"""Callers in Arrow at a server that speaks it, beside callers in JSON; and at one that does not."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

import pytest
from http_server import RawClient, RunningServer, ample, payment_of, post

from tailrace.pipeline import Pipeline

pa = pytest.importorskip("pyarrow")
NAME = "application/vnd.apache.arrow.stream"
TYPE = f"Content-Type: {NAME}"


@pytest.fixture(scope="module")
def arrow_client(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RawClient]:
    """Return a client of a pipeline that speaks Arrow."""
    with RunningServer([ample(pipeline_of("log"))], arrow=True) as server, server.connect() as client:
        yield client


def stream(**columns: object) -> bytes:
    """Return a stream of one batch."""
    batch, sink = pa.record_batch(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


BODY = stream(amount=[1.5, 2.5], label=["a", "b"])


def test_caller_gets_what_it_sends(arrow_client: RawClient) -> None:
    """A row for each row, as JSON has it; either form may be answered in the other, and gzip is taken."""
    arrow_client.send(
        post(BODY, TYPE)
        + post(payment_of(1.5, "a"))
        + post(BODY, TYPE, "Accept: application/json")
        + post(payment_of(1.5, "a"), f"Accept: {NAME}")
        + post(gzip.compress(BODY), TYPE, "Content-Encoding: gzip")
    )
    rows, one, told, row, packed = (arrow_client.read() for _ in range(5))
    assert rows.headers["content-type"] == row.headers["content-type"] == NAME
    found = pa.ipc.open_stream(rows.body).read_all().to_pylist()
    assert found == told.json == pa.ipc.open_stream(packed.body).read_all().to_pylist()
    assert [found[0]] == [one.json] == pa.ipc.open_stream(row.body).read_all().to_pylist()


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (stream(amount=[1.5, None]), 422, "$[1].amount"),
        (stream(label=["a"]), 422, "$[0]"),
        (BODY[:-40], 400, "$"),
        (b"{}", 400, "$"),
        (stream(amount=[1.0], label=pa.nulls(1)), 422, "$[0].label"),
    ],
)
def test_fault_is_told_as_a_problem(arrow_client: RawClient, body: bytes, status: int, pointer: str) -> None:
    """In JSON, with row and column; the connection goes on."""
    answer = arrow_client.ask(post(body, TYPE))
    assert (answer.status, answer.problem()["pointer"]) == (status, pointer)
    assert arrow_client.ask(post(payment_of())).status == 200


def test_server_that_does_not_speak_it_says_so(http_server: RunningServer) -> None:
    """415, with what to do: such a body is no broken JSON."""
    with http_server.connect() as client:
        answer = client.ask(post(BODY, TYPE))
        assert answer.status == 415
        assert "--arrow" in answer.problem()["next"]
        assert "export proto" in client.ask(post(b"x", "Content-Type: application/protobuf")).problem()["next"]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_number_that_no_model_can_hold_is_told(http_server: RunningServer) -> None:
    """422 at the caller's own field, where a model that has no score is a 500."""
    with http_server.connect() as client:
        answer = client.ask(post(payment_of(1e300)))
        assert (answer.status, answer.problem()["pointer"]) == (422, "$.amount")
        assert client.ask(post(payment_of(-1.0))).status == 500
