"""The lone caller's figures: what is sent, and what is made of the rounds."""

from __future__ import annotations

import socket

import pytest

from front_door import Caller, lines, message, summarize
from machine import BenchError

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'


def test_caller_sends_its_request_and_reads_the_answer() -> None:
    """A request goes out whole, in the caller's form, and the answer comes back decoded; an error ends the part."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        caller = Caller(ours, "/p", [{"a": 1}], "json")
        theirs.sendall(ANSWER)
        assert caller.ask(0) == {"a": 1}
        assert theirs.recv(4_096) == message("/p", b'{"a":1}', "json")
        theirs.sendall(ANSWER.replace(b"200 OK", b"503 Busy"))
        with pytest.raises(BenchError, match="503"):
            caller.ask(0)


def test_ratio_is_that_of_the_pairs() -> None:
    """A round that was slow for all counts as one pair, and moves no ratio."""
    p50s_us = {"tcp_json": [100.0, 900.0, 200.0], "tcp_msgpack": [100.0] * 3, "uds_json": [90.0] * 3,
               "uds_msgpack": [60.0, 540.0, 130.0]}  # fmt: skip
    figures = summarize(p50s_us)
    assert (figures["uds_ratio_tcp"], figures["uds_p50_us"], figures["tcp_json_p50_us"]) == (0.6, 130.0, 200.0)
    first, second, *_ = lines({"front_door": figures})
    assert first.reaches(180)
    assert second.reaches(0.6)
