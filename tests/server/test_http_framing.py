"""Where requests begin and end: pipelining, pieces, chunks, `Expect`, and what could smuggle a second request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from http_server import (
    PIPELINES,
    Answer,
    RawClient,
    RunningServer,
    ample,
    assert_serves,
    chunked,
    head_of,
    payment_of,
    pieces_of,
    post,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.pipeline import Pipeline
from tailrace.server.http.connection import Connection
from tailrace.server.http.flow import PIPELINE_MAX

ARRAY: Final = json.dumps([{"amount": 1.0 + number, "label": f"row {number}"} for number in range(30)])
KINDS: Final = (
    post(payment_of(1.0, "one")),
    post(payment_of(3.0, "three"), "X-Custom: a"),
    post(payment_of(2.0, "two"), "X-Trace: 0", "X-Request-Id: r-7"),
    post(ARRAY),
    post(ARRAY, "Accept-Encoding: gzip"),
    post("[]"),
    post(payment_of(-1.0)),
    post('{"amount": "much"}'),
    post("{"),
    post(""),
    post("x", path="/no"),
    post(payment_of(), "X-Budget-Ms: no"),
    post(payment_of(1.5, "budget"), "X-Budget-Ms: 19000"),
    chunked(b'{"amount": 4.0, ', b'"label": "chunks"}'),
    chunked(b"[", b"]", last=b"0;a=b\r\nX-Trailer: t\r\n\r\n"),
    head_of("GET"),
    head_of("HEAD"),
    head_of("DELETE"),
    b"\r\n" + head_of("GET"),
    b"\r\n\r\n" + post(payment_of(5.0, "after empty lines")),
    head_of("GET", "/livez", "Connection: Upgrade", "Upgrade: h2c"),
)
"""Requests after which the connection goes on."""


class ByteByByte(Connection):
    """A connection that is handed every byte by itself."""

    def data_received(self, data: bytes) -> None:
        """Pass on one byte at a time."""
        for place in range(len(data)):
            super().data_received(data[place : place + 1])


@pytest.fixture(scope="module")
def byte_server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve through connections that get every byte by itself."""
    pipelines = [ample(pipeline_of(name)) for name in PIPELINES]
    with RunningServer(pipelines, ByteByByte) as server:
        yield server


def read(client: RawClient, request: bytes) -> Answer:
    """Read the answer to a request; without the hour it was given at."""
    answer = client.read(head=request.startswith(b"HEAD"))
    answer.headers.pop("date")
    return answer


@pytest.fixture(scope="module")
def expected(http_server: RunningServer) -> dict[bytes, Answer]:
    """Return the answer to each kind of request when it comes alone, in one piece, on a connection of its own."""
    answers = {}
    for request in KINDS:
        with http_server.connect() as client:
            answers[request] = read(client.send(request), request)
    assert {answer.status for answer in answers.values()} == {200, 400, 404, 405, 422, 500}
    return answers


mixtures = st.lists(st.sampled_from(KINDS), min_size=1, max_size=30)


@given(requests=mixtures, cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
@settings(max_examples=60, deadline=None)
def test_pipelined_mixture_cut_anywhere_is_answered_in_order(
    http_server: RunningServer, expected: dict[bytes, Answer], requests: list[bytes], cuts: list[int]
) -> None:
    """Any mixture, sent in any pieces without waiting, gets the answers that each would get alone, in order."""
    with http_server.connect() as client:
        for piece in pieces_of(b"".join(requests), cuts):
            client.send(piece)
            http_server.settle()
        for request in requests:
            assert read(client, request) == expected[request]
        http_server.settle()
        assert client.is_silent()


@given(requests=mixtures)
@settings(max_examples=30, deadline=None)
def test_pipelined_mixture_byte_by_byte_is_answered_in_order(
    byte_server: RunningServer, expected: dict[bytes, Answer], requests: list[bytes]
) -> None:
    """A request that comes in pieces of one byte is the same request."""
    with byte_server.connect() as client:
        client.send(b"".join(requests))
        for request in requests:
            assert read(client, request) == expected[request]


@pytest.mark.parametrize("count", [1, 2, PIPELINE_MAX - 1, PIPELINE_MAX, PIPELINE_MAX + 1, 500])
def test_pipelined_requests_are_answered_in_order(client: RawClient, count: int) -> None:
    """As many as 500 requests sent at once, on both sides of where reading pauses, come back in their order."""
    client.send(b"".join(post(payment_of(1.0 + number, str(number))) for number in range(count)))
    for number in range(count):
        answer = client.read()
        assert (answer.status, answer.json["label"]) == (200, str(number))
    assert client.ask(head_of()).status == 200


def test_pipelined_requests_over_the_head_limit_together_are_served(http_server: RunningServer) -> None:
    """The limit is of one head: a read full of requests whose last is cut in its head is no head of that size."""
    request = post(payment_of(label="x" * 200), "X-Filler: " + "y" * 700)
    data = request * 120
    for cut in (10, 60, 500):
        with http_server.connect() as client:
            client.send(data[: cut - len(request)])
            http_server.settle()
            client.send(data[cut - len(request) :])
            assert [client.read().status for _ in range(120)] == [200] * 120


@pytest.mark.parametrize("boundary", ["known", "unknown"])
def test_request_cut_at_every_byte_is_served(http_server: RunningServer, boundary: str) -> None:
    """A head known by its bytes and one read by the parser give the same answer, wherever the request is cut."""
    before, request = post(payment_of(7.0, "before")), post(payment_of(8.0, "cut"))
    if boundary == "unknown":
        request = post(payment_of(8.0, "cut"), "X-Request-Id: r")
    with http_server.connect() as client:
        whole = client.ask(before), client.ask(request)
        for cut in range(1, len(request)):
            client.send(before + request[:cut])
            http_server.settle()
            client.send(request[cut:] + before)
            answers = [client.read() for _ in range(3)]
            assert [answer.body for answer in answers] == [whole[0].body, whole[1].body, whole[0].body]
            assert [answer.headers.get("x-request-id") for answer in answers] == [
                None, whole[1].headers.get("x-request-id"), None
            ]  # fmt: skip


def test_remembered_head_answers_as_the_parser_does(http_server: RunningServer, expected: dict[bytes, Answer]) -> None:
    """Every kind of request is answered alike the first time (by the parser) and later (by its remembered head)."""
    http_server.on_loop(http_server.http.shared.heads.clear)
    with http_server.connect() as client:
        for _ in range(3):
            for request in KINDS:
                assert read(client.send(request), request) == expected[request]
        assert 0 < len(http_server.http.shared.heads) < len(KINDS)


@pytest.mark.parametrize("lines", [b"\r\n\r\n", b"\n\r\n\r\n", b"\r\n\r\n\r\n\r\n"])
def test_empty_lines_never_stand_for_a_head(http_server: RunningServer, lines: bytes) -> None:
    """A head is not remembered by the empty lines before it: the next one's request would be read as its body."""
    first, second = post(payment_of(label="first")), post(payment_of(label="other"), "X-Custom: longer")
    for _ in range(2):
        with http_server.connect() as client:
            assert client.ask(lines + first).json["label"] == "first"
        with http_server.connect() as client:
            assert client.ask(lines + second).json["label"] == "other"
            assert client.ask(lines + head_of("GET")).body == b"live\n"
    assert all(form.stays[0][:1].isalpha() for form in http_server.http.shared.heads)


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"00000\r\n\r\n", b"0;ext\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n"])
def test_chunked_body_is_put_together(client: RawClient, last: bytes) -> None:
    """Chunks of any size, with extensions and trailers, make one body; the connection goes on."""
    body = payment_of(6.0, "chunks").encode()
    whole = client.ask(post(body)).body
    for size in (1, 2, 7, len(body)):
        chunks = [body[place : place + size] for place in range(0, len(body), size)]
        assert client.ask(chunked(*chunks, last=last)).body == whole
        request = chunked(*chunks, last=last).replace(b"\r\n\r\n1\r\n", b'\r\n\r\n1;name="a value";b\r\n', 1)
        assert client.ask(request).body == whole


def test_trailer_says_nothing(client: RawClient) -> None:
    """A trailer cannot set what only a head may: neither tracing, nor an id, nor the way the connection ends."""
    last = b"0\r\nX-Trace: 1\r\nX-Request-Id: t\r\nX-Budget-Ms: no\r\nConnection: close\r\n\r\n"
    answer = client.ask(chunked(payment_of().encode(), last=last))
    assert answer.status == 200
    assert not {"server-timing", "x-request-id"} & set(answer.headers)


TOP: Final = "POST /v1/pipelines/log/predict HTTP/1.1\r\nHost: a\r\n"
FAULTS: Final = {
    "both lengths": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, chunked first": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 2\r\nContent-Length: 30\r\n\r\n[]",
    "two equal lengths": "Content-Length: 2\r\nContent-Length: 2\r\n\r\n[]",
    "list of lengths": "Content-Length: 2, 2\r\n\r\n[]",
    "negative length": "Content-Length: -1\r\n\r\n",
    "signed length": "Content-Length: +2\r\n\r\n[]",
    "length over 64 bits": "Content-Length: 99999999999999999999999999\r\n\r\n",
    "length in hex": "Content-Length: 0x2\r\n\r\n[]",
    "empty length": "Content-Length: \r\n\r\n[]",
    "space before colon": "Content-Length : 2\r\n\r\n[]",
    "folded header": "X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n[]",
    "folded length": "Content-Length:\r\n 2\r\n\r\n[]",
    "NUL in a value": "X-A: b\0c\r\nContent-Length: 2\r\n\r\n[]",
    "NUL in a name": "X\0A: b\r\nContent-Length: 2\r\n\r\n[]",
    "bare LF after a header": "X-A: b\nContent-Length: 2\r\n\r\n[]",
    "bare LF before the body": "Content-Length: 2\r\n\n[]\r\n\r\n",
    "bare CR in a value": "X-A: b\rX-B: c\r\n\r\n",
    "no colon": "nonsense\r\n\r\n",
    "empty name": ": a\r\n\r\n",
    "gzip coding": "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "chunked not last": "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk size no number": "Transfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n",
    "chunk size negative": "Transfer-Encoding: chunked\r\n\r\n-2\r\n[]\r\n0\r\n\r\n",
    "chunk size over 64 bits": "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
    "chunk longer than it says": "Transfer-Encoding: chunked\r\n\r\n1\r\n[]\r\n0\r\n\r\n",
    "chunk without its end": "Transfer-Encoding: chunked\r\n\r\n2\r\n[]0\r\n\r\n",
    "chunk size with a space": "Transfer-Encoding: chunked\r\n\r\n2 \r\n[]\r\n0\r\n\r\n",
    "chunk with bare LF": "Transfer-Encoding: chunked\r\n\r\n2\n[]\n0\n\n",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_request_with_unclear_bounds_ends_the_connection(http_server: RunningServer, fault: str) -> None:
    """Where a request could be read in two ways it is refused, and nothing behind it is taken for a request."""
    smuggled = post(payment_of(label="smuggled"))
    with http_server.connect() as client:
        first = post(payment_of(label="before"))
        client.send(first + TOP.encode() + fault.encode() + smuggled)
        assert client.read().json["label"] == "before"
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.problem()["next"]
        client.assert_closed()
    assert_serves(http_server)


@pytest.mark.parametrize(
    "line",
    [b"", b"\0", b"nonsense", b"GET", b"GET /livez", b"get /livez HTTP/1.1", b"FOO /livez HTTP/1.1", b"\x16\x03\x01",
     b"GET /livez HTTP/3.0", b"GET /livez HTTP/1.1 HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /\xff HTTP/1.1",
     b"GET /livez XTTP/1.1", b"HTTP/1.1 200 OK", b"GET\t/livez\tHTTP/1.1", b"GET /livez HTTP/1.1\r"],
)  # fmt: skip
def test_bad_request_line_ends_the_connection(http_server: RunningServer, line: bytes) -> None:
    """What is no request line is answered 400 and closed; after empty lines it is the header that is none."""
    with http_server.connect() as client:
        answer = client.ask(line + b"\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        answer.problem()
        client.assert_closed()
    assert_serves(http_server)


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "identity, chunked"])
def test_coding_beside_chunked_ends_the_connection(client: RawClient, coding: str) -> None:
    """A body that is coded further is not taken for what it says when decoded, nor what is behind it for a request."""
    request = f"{TOP}Transfer-Encoding: {coding}\r\n\r\n2\r\n[]\r\n0\r\n\r\n".encode()
    answer = client.ask(request + post(payment_of(label="smuggled")))
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert answer.problem()["pointer"] == "Transfer-Encoding"
    client.assert_closed()


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n", "Content-Length: 7\r\n"])
def test_chunked_body_of_http_1_0_ends_the_connection(http_server: RunningServer, headers: str) -> None:
    """HTTP/1.0 knows no chunks: what an old proxy makes of them is unclear (RFC 9112 §6.1), kept alive or not."""
    request = chunked(b"[]", headers=headers).replace(b"HTTP/1.1", b"HTTP/1.0")
    with http_server.connect() as client:
        answer = client.ask(request + post(payment_of(label="smuggled")))
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        client.assert_closed()
    assert_serves(http_server)


def test_expected_continue_is_sent_before_the_body(client: RawClient) -> None:
    """`Expect: 100-continue` gets its word, then the answer; with chunks too, again and again."""
    for body, length in ((payment_of(label="a"), None), (payment_of(label="b"), "Transfer-Encoding: chunked")):
        head = head_of(
            "POST", "/v1/pipelines/log/predict", "Expect: 100-continue", length or f"Content-Length: {len(body)}"
        )
        answer = client.ask(head, head=True)
        assert (answer.status, answer.headers) == (100, {})
        rest = body.encode() if length is None else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body.encode())
        assert client.ask(rest).json["label"] == json.loads(body)["label"]


def test_expected_continue_is_sent_in_its_turn(http_server: RunningServer) -> None:
    """Behind pipelined requests the word comes after their answers, not between them, nor never."""
    body = payment_of(label="last")
    head = head_of("POST", "/v1/pipelines/log/predict", "Expect: 100-continue", f"Content-Length: {len(body)}")
    with http_server.connect() as client:
        client.send(post(payment_of(label="first")) + post(payment_of(label="second")) + head)
        assert [client.read().json["label"] for _ in range(2)] == ["first", "second"]
        assert client.read().status == 100
        assert client.ask(body.encode()).json["label"] == "last"


def test_expected_continue_without_body_is_not_sent(client: RawClient) -> None:
    """There is nothing to wait for where no body comes, and HTTP/1.0 knows no such word."""
    assert client.ask(head_of("GET", "/livez", "Expect: 100-continue")).status == 200
    answer = client.ask(post(payment_of(), "Expect: 100-continue", version="1.0"))
    assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/pipelines/log/predict", ("Content-Length: 2000000",), 413),
        ("/no", ("Content-Length: 20",), 404),
        ("/livez", ("Content-Length: 20",), 405),
        ("/v1/pipelines/log/predict", ("Content-Length: 20", "X-Budget-Ms: no"), 400),
    ],
)
def test_client_that_waits_is_refused_before_it_sends(
    client: RawClient, path: str, headers: tuple[str, ...], status: int
) -> None:
    """A body that would be refused is not asked for: the answer comes at once, in place of the word."""
    answer = client.ask(head_of("POST", path, "Expect: 100-continue", *headers))
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    answer.problem()
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    client.assert_closed()


def test_other_expectations_are_refused(http_server: RunningServer) -> None:
    """An `Expect` that cannot be met is 417, told with the header's name; where no body waits, the connection stays."""
    with http_server.connect() as client:
        answer = client.ask(post(payment_of(), "Expect: a-miracle"))
        assert (answer.status, answer.problem()["pointer"]) == (417, "Expect")
        client.assert_closed()
    with http_server.connect() as client:
        assert client.ask(head_of("GET", "/livez", "Expect: a-miracle")).status == 417
        assert client.ask(head_of()).status == 200
