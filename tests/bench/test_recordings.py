"""What real clients were recorded to send: well-formed, complete, and of no machine but the loopback."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from machine import BenchError
from recording import (
    BODY_MARK,
    CUT_MARK,
    HEX_MARK,
    LENGTH_MARK,
    Recording,
    find_varying,
    make_recording,
    read_recordings,
    split_fields,
    template_of,
)

RECORDINGS = read_recordings()


def test_every_client_is_recorded() -> None:
    """The clients that the benchmark speaks of are there."""
    assert set(RECORDINGS) == {"aiohttp", "browser", "curl", "go", "httpx", "requests"}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording_is_well_formed(name: str) -> None:
    """Two whole requests in as many writes, of lengths that are true, each in a trace of its own."""
    recording = RECORDINGS[name]
    assert recording.client == name
    assert len(recording.requests) == 2
    assert {len(request) for request in recording.requests} == {recording.writes}
    whole = ["".join(request) for request in recording.requests]
    for request in whole:
        assert request.startswith("POST /v1/pipelines/fraud/predict HTTP/1.1\r\n")
        body = request.partition("\r\n\r\n")[2]
        assert split_fields(request)["content-length"] == str(len(body))
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", split_fields(request)["traceparent"])
    assert find_varying(*whole) == recording.varies
    assert set(recording.varies) == {"content-length", "traceparent"}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording_names_no_host(name: str) -> None:
    """The only address in a recording is that of the loopback."""
    recording = RECORDINGS[name]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", recording.authority)
    for request in recording.requests:
        fields = split_fields("".join(request))
        assert fields["host"] == recording.authority
        assert all(re.match(r"http://127\.0\.0\.1:\d+", url) for url in re.findall(r"\w+://\S*", "".join(request)))


@pytest.mark.parametrize("name", RECORDINGS)
def test_template_differs_only_in_what_varies(name: str) -> None:
    """Filled with what the client sent, the template is what the client sent; another server is named throughout."""
    recording = RECORDINGS[name]
    for request in recording.requests:
        whole = "".join(request)
        fields, body = split_fields(whole), whole.partition("\r\n\r\n")[2]
        filled = template_of(recording, recording.authority, "/v1/pipelines/fraud/predict")
        digits = iter("".join(fields["traceparent"].split("-")[1:3]))
        filled = "".join(next(digits) if character == HEX_MARK else character for character in filled)
        filled = filled.replace(LENGTH_MARK, fields["content-length"]).replace(BODY_MARK, body)
        assert filled.split(CUT_MARK) == request
    other = template_of(recording, "127.0.0.1:8080", "/predict")
    assert recording.authority not in other
    assert other.startswith("POST /predict HTTP/1.1\r\n")
    assert split_fields(other)["host"] == "127.0.0.1:8080"


def test_header_that_varies_unknown_is_refused() -> None:
    """A client that varies a header whose next value nobody knows is not replayed with a wrong one."""
    recording = replace(RECORDINGS["curl"], varies=["traceparent", "x-nonce"])
    with pytest.raises(BenchError, match="curl varies x-nonce"):
        template_of(recording, "127.0.0.1:8080", "/predict")


def test_recording_is_the_finest_pair() -> None:
    """Where a late reader saw two writes as one, the pair is taken in which they are two."""
    head, body = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", (b"{}", b"[1]", b"[12]")
    whole = [[head % len(each), each] for each in body]
    found = make_recording("curl", "1", "127.0.0.1:1", [[[b"".join(whole[0])], whole[1], whole[2]], []])
    assert isinstance(found, Recording)
    assert found.requests == [[part.decode() for part in request] for request in whole[1:]]
    assert found.varies == ["content-length"]
    with pytest.raises(BenchError, match="no two requests after each other"):
        make_recording("curl", "1", "127.0.0.1:1", [[whole[0]], [whole[1]]])
