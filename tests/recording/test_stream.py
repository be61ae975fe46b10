"""Bytes are split into messages alike, however they come in pieces, and none is lost or changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.recording.stream import HEAD_BYTES_MAX, Kind, MessageStream, fields_of

POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
WAITS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall that comes"


def split(pieces: Sequence[bytes], *, is_answer: bool) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return all bytes that were passed on, and of each message its heads and its content."""
    stream = MessageStream(is_answer=is_answer)
    passed, messages, head, content = b"", [], b"", b""
    for part in [part for piece in pieces for part in stream.parts(piece)] + list(stream.end()):
        passed += part.raw
        head += part.raw if part.kind is Kind.HEAD else b""
        content += part.content
        if part.kind is Kind.END:
            messages.append((head, content))
            head, content = b"", b""
    return passed, messages


def pieces_of(data: st.DataObject, message: bytes) -> list[bytes]:
    """Return a message in pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=8)))
    return [message[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(message)], strict=True) if begin < end]


@given(st.data(), st.lists(st.sampled_from([POST, GET, CHUNKED]), max_size=4))
def test_requests_are_told_apart_in_any_pieces(data: st.DataObject, messages: list[bytes]) -> None:
    """With a length, without a body, in chunks with trailers."""
    contents = {POST: b"hello", GET: b"", CHUNKED: b"abc0123456789"}
    whole = b"".join(messages)
    passed, found = split(pieces_of(data, whole), is_answer=False)
    assert passed == whole
    assert [content for _, content in found] == [contents[message] for message in messages]


@given(st.data())
def test_answers_are_told_apart_in_any_pieces(data: st.DataObject) -> None:
    """An interim one, one without a body, one that ends with its connection."""
    whole = WAITS + EMPTY + UNTIL_CLOSE
    passed, found = split(pieces_of(data, whole), is_answer=True)
    assert passed == whole
    assert [content for _, content in found] == [b"{}", b"", b"all that comes"]


@given(st.data(), st.binary(max_size=200))
def test_any_bytes_are_passed_on_as_they_came(data: st.DataObject, junk: bytes) -> None:
    """What is no HTTP too, at the front or behind a message."""
    for whole in (junk, POST + junk, CHUNKED[:60] + junk):
        assert split(pieces_of(data, whole), is_answer=False)[0] == whole


@pytest.mark.parametrize(
    "whole",
    [
        b"a" * (HEAD_BYTES_MAX + 1),
        b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\nab",
        *(
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello world"
            for size in (b"zz", b"-5", b"+5", b"0x5", b"1_0", b"", b"f" * 17)
        ),
    ],
)
def test_what_is_no_http_is_not_held_back(whole: bytes) -> None:
    """A head without an end, or a chunk without a size."""
    stream = MessageStream(is_answer=False)
    assert b"".join(part.raw for part in stream.parts(whole)) == whole
    assert [part.kind for part in stream.parts(b"more")] == [Kind.GARBLED]


def test_answer_to_head_has_no_body() -> None:
    """Though it says how long one would be."""
    stream = MessageStream(is_answer=True)
    stream.expect_body = False
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert [part.kind for part in stream.parts(answer)] == [Kind.HEAD, Kind.END]
    assert stream.is_between
    assert fields_of(answer) == {b"content-length": b"5"}
