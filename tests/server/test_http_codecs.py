"""Callers of several codecs at one server: each reads what it can, on one connection and in one batch."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest
from http_server import RawClient, payment_of, post

MSGPACK = "application/msgpack"


def packed(amount: Any = 1.5, label: str = "a") -> bytes:
    """Return a request."""
    return msgspec.msgpack.encode({"amount": amount, "label": label})


def test_caller_gets_what_it_sends(client: RawClient) -> None:
    """A request in MessagePack is answered in it, with its type; the next one, in JSON, in JSON."""
    answer = client.ask(post(packed(), f"Content-Type: {MSGPACK}"))
    assert (answer.status, answer.headers["content-type"]) == (200, MSGPACK)
    told = client.ask(post(payment_of(1.5, "a")))
    assert told.headers["content-type"] == "application/json"
    assert msgspec.msgpack.decode(answer.body) == told.json


def test_remembered_head_keeps_its_codec(client: RawClient) -> None:
    """Heads that differ in what they accept alone are told apart, however often they have come."""
    accepts = (MSGPACK, "application/json", "application/x-msgpack")
    for number in range(12):
        wanted = accepts[number % 3]
        answer = client.ask(post(payment_of(label=str(number)), f"Accept: {wanted}"))
        assert answer.headers["content-type"] == wanted
        decode = json.loads if wanted == "application/json" else msgspec.msgpack.decode
        assert decode(answer.body)["label"] == str(number)


def test_callers_of_several_codecs_meet_in_one_batch(client: RawClient) -> None:
    """Pipelined calls of both, single ones and arrays, are answered in order, each in its own."""
    sent = [post(packed(label="0"), f"Content-Type: {MSGPACK}"), post(payment_of(label="1")),
            post(b"\x92" + packed(label="2") + packed(label="3"), f"Content-Type: {MSGPACK}"),
            post(packed(label="4"), f"Content-Type: {MSGPACK}", "Accept: application/json")]  # fmt: skip
    client.send(b"".join(sent))
    first, second, third, fourth = (client.read() for _ in sent)
    assert msgspec.msgpack.decode(first.body)["label"] == "0"
    assert second.json["label"] == "1"
    assert [each["label"] for each in msgspec.msgpack.decode(third.body)] == ["2", "3"]
    assert fourth.json["label"] == "4"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (packed("1"), 422, "$.amount"),
        (packed(float("nan")), 422, "$.amount"),
        (b"\xc1", 400, "$"),
        (b'{"amount": 1.0}', 422, "$"),
        (b"\x82" + 2 * (msgspec.msgpack.encode("amount") + msgspec.msgpack.encode(1.5)), 400, "$"),
    ],
)
def test_fault_is_told_as_a_problem(client: RawClient, body: bytes, status: int, pointer: str) -> None:
    """Errors are problem details in JSON, whatever was sent; the connection goes on."""
    answer = client.ask(post(body, f"Content-Type: {MSGPACK}"))
    assert answer.status == status
    assert answer.problem()["pointer"] == pointer
    assert client.ask(post(payment_of())).status == 200


def test_compressed_body_is_read(client: RawClient) -> None:
    """JSON or MessagePack in gzip; a body that comes as it is meanwhile is read as it is."""
    for number in range(4):
        packs = number % 2 == 1
        body = packed(label=str(number)) if packs else payment_of(label=str(number)).encode()
        headers = ["Content-Encoding: gzip", *([f"Content-Type: {MSGPACK}"] if packs else [])]
        answer = client.ask(post(gzip.compress(body), *headers))
        assert (msgspec.msgpack.decode(answer.body) if packs else answer.json)["label"] == str(number)
        assert client.ask(post(payment_of(label="plain"))).json["label"] == "plain"


def test_compressed_body_that_cannot_be_read_is_refused(client: RawClient) -> None:
    """A coding that is not known is 415 and says which is; what is no gzip 400, what unpacks to too much 413."""
    answer = client.ask(post(b"x", "Content-Encoding: br"))
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, zstd")
    assert client.ask(post(b"x", "Content-Encoding: gzip")).status == 400
    bomb = gzip.compress(b'{"label":"' + b"a" * 50_000_000 + b'"}')
    assert client.ask(post(bomb, "Content-Encoding: gzip")).status == 413
    assert client.ask(post(payment_of())).status == 200
