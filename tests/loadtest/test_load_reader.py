"""The reader frames answers however the socket cuts them, and never guesses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.loadtest.reader import HEAD_BYTES_MAX, AnswerReader

Answer = tuple[int, bytes]
ANSWERS = st.lists(st.tuples(st.sampled_from([200, 201, 404, 422, 500, 503]), st.binary(max_size=300)), max_size=8)
SPELLINGS = st.sampled_from([b"content-length: %d", b"Content-Length:%d", b"CONTENT-LENGTH:  %d "])
NOTE = b"HTTP/1.1 100 Continue\r\n\r\n"


def write(answer: Answer, spelling: bytes = b"content-length: %d", note: bool = False) -> bytes:
    """Return an answer's bytes, with other fields around its length and perhaps an interim answer before it."""
    status, body = answer
    head = b"HTTP/1.1 %d Some reason\r\nserver: x\r\n%s\r\ndate: today" % (status, spelling % len(body))
    return (NOTE if note else b"") + head + b"\r\n\r\n" + body


def feed_in_pieces(data: bytes, cuts: list[int]) -> list[Answer]:
    """Return the answers read from data cut at these places."""
    reader, found = AnswerReader(), []
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(bounds):
        found += reader.feed(data[start:stop])
    assert reader.fault == ""
    return found


@given(answers=ANSWERS, spelling=SPELLINGS, note=st.booleans(), cuts=st.lists(st.integers(0, 5_000), max_size=20))
def test_reader_returns_the_answers_however_they_are_cut(
    answers: list[Answer], spelling: bytes, note: bool, cuts: list[int]
) -> None:
    """Several answers in one piece, one in several, and anything between give the same statuses and bodies."""
    data = b"".join(write(answer, spelling, note) for answer in answers)
    assert feed_in_pieces(data, cuts) == answers


@given(answers=ANSWERS)
def test_reader_fed_one_byte_at_a_time_returns_the_answers(answers: list[Answer]) -> None:
    """The slowest server there can be is read right."""
    data = b"".join(map(write, answers))
    assert feed_in_pieces(data, list(range(len(data)))) == answers


@pytest.mark.parametrize("status", [204, 304])
def test_reader_status_without_body_reads_the_next_answer(status: int) -> None:
    """204 and 304 have no body, whatever their head says."""
    data = b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status + write((200, b"next"))
    assert feed_in_pieces(data, []) == [(status, b""), (200, b"next")]


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"x" * (HEAD_BYTES_MAX + 1),
    ],
)
def test_reader_refuses_what_it_cannot_frame(bad: bytes) -> None:
    """The answers before the fault are returned; the fault is told; nothing after it is believed."""
    reader = AnswerReader()
    assert reader.feed(write((200, b"{}")) + bad) == [(200, b"{}")]
    assert reader.fault


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: Close", b"HTTP/1.0 200 OK"])
def test_reader_after_a_closing_answer_expects_no_more(head: bytes) -> None:
    """An answer that closes the connection is the last one, even if bytes follow."""
    reader = AnswerReader()
    data = head + b"\r\ncontent-length: 2\r\n\r\n{}" + write((200, b"late"))
    assert reader.feed(data) == [(200, b"{}")]
    assert reader.closes
