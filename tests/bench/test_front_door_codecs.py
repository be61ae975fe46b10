"""What the benchmark of the codecs and of the client measures is what its keys say."""

from __future__ import annotations

import random
import re
import socket
import threading

import pytest

import constant_answer
import front_door_client
import front_door_codecs
from part import Session
from tailrace.client import Client


@pytest.mark.parametrize("kind", [front_door_codecs.Numbers, front_door_codecs.Mixed])
def test_every_codec_reads_the_same_request(kind: type) -> None:
    """Of 24 fields, alone and among others; `bodies_of` raises where one differs."""
    assert len(kind.__struct_fields__) == front_door_codecs.FIELDS
    codecs, draw = front_door_codecs.codecs_of(kind), random.Random(1)
    request = front_door_codecs.request_of(kind, draw)
    assert front_door_codecs.bodies_of(kind, codecs, request).keys() == {"json", "msgpack", "protobuf"}
    assert front_door_codecs.bodies_of(kind, codecs, [request] * 3).keys() == {"json", "msgpack", "arrow"}


def test_codecs_have_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two of the table with bounds, and the others beside them."""
    for name, value in (("ROUNDS", 1), ("CALLS", 2), ("MANY", 2)):
        monkeypatch.setattr(front_door_codecs, name, value)
    monkeypatch.setattr(Session, "pick", lambda self, full, quick: full)
    figures = front_door_codecs.measure(Session())
    assert {"msgpack_ratio_json", "protobuf_us"} <= figures["front_door"].keys()
    assert [line.must for line in front_door_codecs.lines(figures)[:2]] == [1.0, 3]


def test_raw_socket_sends_what_the_client_sends() -> None:
    """But for the digits of its budget: else the comparison would be with another call."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                heard.append(sock.recv(65_536))
                sock.sendall(constant_answer.ANSWER)

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            client.predict("log", front_door_client.REQUEST)
        thread.join()
    digits = re.compile(rb"X-Budget-Ms: [0-9.]+|Host: [0-9.:]+")
    assert digits.sub(b"", heard[0]) == digits.sub(b"", front_door_client.message())


def test_differences_are_of_rounds() -> None:
    """A round's client beyond the same round's raw socket; without the peers their lines are empty."""
    found = {"raw_sync": [1.0, 5.0, 9.0], "sync": [11.0, 25.0, 19.0], "raw_async": [2.0], "async": [12.0]}
    figures = front_door_client.summarize(found)
    assert (figures["client_sync_us"], figures["client_async_us"], figures["httpx_us"]) == (10.0, 10.0, None)
    assert len(front_door_client.lines({"front_door": figures})) == 4
