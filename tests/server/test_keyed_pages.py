"""Where calls need a key, a stranger learns of no pipeline: not from the document, nor from what a wrong path says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import RawClient, RunningServer, head_of, post

from tailrace.errors import SetupError
from tailrace.recording.session import redaction_of
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.logging import logger
from tailrace.server.openapi.page import description_routes

NAMES = (b"log", b"payment")


@pytest.fixture
def keyed(http_server: RunningServer, tmp_path: Path) -> Iterator[tuple[RawClient, str, Keys, Path]]:
    """Return a client of a server that asks for keys, one of them, and its file."""
    file = tmp_path / "keys.json"
    secret, key = make_key("caller", ["pipelines/log"])
    with changing(file, create=True) as known:
        known.append(key)
    shared = http_server.http.shared
    before = dict(shared.routes)
    closed = description_routes(http_server._pipelines, 10, logger(), with_keys=True)
    keys = Keys(file, shared.count_failure)

    def begin(keys: Keys | None, routes: object) -> None:
        shared.keys, shared.heads = keys, HeadMemory(shared.limits.body_bytes_max)
        shared.routes |= routes  # type: ignore[operator]

    http_server.on_loop(begin, keys, closed)
    with http_server.connect() as client:
        yield client, secret, keys, file
    http_server.on_loop(begin, None, before)


def test_stranger_learns_no_name(keyed: tuple[RawClient, str, Keys, Path]) -> None:
    """A path that is there and one that is not are answered alike; the page comes without the document."""
    client, _, _, _ = keyed
    told = [
        client.ask(message).body
        for message in (
            head_of("GET", "/openapi.json"),
            post(b"{}"),
            head_of("GET", "/v1/pipelines/log/predict"),
            post(b"{}", path="/v1/pipelines/none/predict"),
            head_of("GET", "/none"),
        )
    ]
    assert len(set(told)) == 1
    assert b'"status":401' in told[0]
    page = client.ask(head_of("GET", "/docs"))
    assert page.status == 200
    assert not any(name + b"/predict" in page.body for name in NAMES)
    assert client.ask(head_of("GET", "/livez")).status == 200


def test_who_has_a_key_sees_the_document_until_it_ends(keyed: tuple[RawClient, str, Keys, Path]) -> None:
    """Whatever the key opens; a revoked one does not, on a connection that has used it either."""
    client, secret, keys, file = keyed
    asked = head_of("GET", "/openapi.json", f"X-API-Key: {secret}")
    for _ in range(3):
        assert "/v1/pipelines/payment/predict" in client.ask(asked).json["paths"]
    assert client.ask(head_of("GET", "/none", f"X-API-Key: {secret}")).status == 404
    with changing(file) as known:
        known.clear()
        known.append(make_key("another", ["pipelines/*"])[1])
    keys.look()
    assert client.ask(asked).status == 401


@pytest.mark.usefixtures("keyed")
def test_connection_over_the_limit_tells_no_more(http_server: RunningServer) -> None:
    """It is served by other routes, which ask for the key too."""
    shared = http_server.http.shared
    reserve = http_server.on_loop(shared.enter_reserve)
    shared.reserve = None
    assert reserve.keys is shared.keys
    assert not reserve.routes[b"/v1/pipelines/log/predict"][b"POST"].is_open


def test_recorder_asks_with_its_key(http_server: RunningServer, keyed: tuple[RawClient, str, Keys, Path]) -> None:
    """What is redacted is told to who shows one, and nothing is recorded without."""
    url = f"http://{http_server.address[0]}:{http_server.address[1]}"
    redaction_of(url, keyed[1], keep_raw=False)
    with pytest.raises(SetupError, match="answered 401"):
        redaction_of(url, None, keep_raw=False)
