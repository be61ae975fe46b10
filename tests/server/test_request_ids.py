"""Ids that the server gives where callers give none: told back, no two alike, in each protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from http_server import Answer, RawClient, RunningServer, ample, payment_of, post

from tailrace.pipeline import Pipeline
from tailrace.server.request_ids import RequestIds

OIP = "/v2/models/log/infer"


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve a pipeline, and name its calls."""
    with RunningServer([ample(pipeline_of("log"))], ids=RequestIds()) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[RawClient]:
    """Return a client of it."""
    with server.connect() as client:
        yield client


def id_of(answer: Answer) -> str:
    """Return the id that an answer tells."""
    return answer.headers["x-request-id"]


def test_ids_are_never_alike() -> None:
    """Not one after the other, not of two workers, not once the clock goes back; each is fit for a header."""
    seconds = [100.0]
    first, second = (RequestIds(lambda: seconds[0]) for _ in range(2))
    found = [first.take(), *first.take_many(3), first.take(), *second.take_many(5)]
    seconds[0] = 5.0
    first.renew()
    found += first.take_many(5)
    assert len(set(found)) == len(found)
    assert all(name.decode().isprintable() and len(name) < 32 for name in found)
    assert (found[0][:9], found[-1][:9]) == (b"00000064-", b"00000005-")


def test_answers_tell_an_id_each(client: RawClient) -> None:
    """One after the other and pipelined, arrays and errors too."""
    names = [id_of(client.ask(post(payment_of(number)))) for number in range(3)]
    client.send(post(payment_of(1)) * 4 + post("[" + payment_of(1) + "]") + post(payment_of(-1.0)))
    answers = [client.read() for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [500]
    names += map(id_of, answers)
    assert len(set(names)) == 9


def test_id_of_the_caller_is_told_back(client: RawClient) -> None:
    """As it was, beside calls without."""
    client.send(post(payment_of(1), "X-Request-Id: order-1") + post(payment_of(1)) + post(payment_of(1), "X-Trace: 1"))
    told, given, traced = (client.read() for _ in range(3))
    assert id_of(told) == "order-1"
    assert id_of(given) != id_of(traced)
    assert "server-timing" in traced.headers


def test_what_is_refused_is_not_named(client: RawClient) -> None:
    """It is not logged."""
    answer = client.ask(post("{"))
    assert (answer.status, "x-request-id" in answer.headers) == (400, False)


@pytest.mark.parametrize("told", ["tensors-1", "", "with\\nlines", "ü", "x" * 128])
def test_id_of_a_message_is_the_call_s(client: RawClient, told: str) -> None:
    """That of the Open Inference Protocol, where a header can have it; it stands in the body in any case."""
    amount = {"name": "amount", "datatype": "FP64", "shape": [1], "data": [1.0]}
    message = json.dumps({"inputs": [amount], **({"id": json.loads(f'"{told}"')} if told else {})})
    answer = client.ask(post(message, path=OIP))
    assert answer.status == 200, answer.body
    assert answer.json.get("id", "") == json.loads(f'"{told}"')
    assert (id_of(answer) == told) == (told in ("tensors-1", "x" * 128))


def test_without_an_observer_answers_are_as_they_were(pipeline_of: Callable[[str], Pipeline]) -> None:
    """No header more."""
    with RunningServer([ample(pipeline_of("log"))]) as server, server.connect() as client:
        assert "x-request-id" not in client.ask(post(payment_of(1))).headers


def test_last_answers_of_a_server_that_goes_are_named(pipeline_of: Callable[[str], Pipeline]) -> None:
    """While it drains."""
    with RunningServer([ample(pipeline_of("log"))], ids=RequestIds()) as server, server.connect() as client:
        before = client.ask(post(payment_of(1)))
        server.on_loop(server.http.drain)
        last = client.ask(post(payment_of(1)))
        assert last.headers["connection"] == "close"
        assert id_of(last) not in ("", id_of(before))
