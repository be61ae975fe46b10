"""Calls through a real nginx and a real HAProxy, configured as exported: what is sent comes through."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import msgspec
import pytest
from http_server import RawClient, RunningServer, ample, payment_of, post
from real_proxies import PROXIES, start_proxy

from tailrace.batch import Batch
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import lock_path, locked, write_lock
from tailrace.pipeline import Pipeline
from tailrace.server.proxies import Proxies

BODY = payment_of(2.0, "well").encode()


class Origins:
    """A recorder that keeps where calls come from."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Keep those of a batch."""
        self.found += [call.origin() for call in batch.calls]


@dataclass
class Front:
    """A proxy, and the server behind it. origins: of the calls that were answered, so far."""

    address: tuple[str, int]
    server: RunningServer
    origins: list[dict[str, str]]

    def connect(self) -> RawClient:
        """Return a new client of the proxy."""
        return RawClient(self.address)


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Start a proxy in front of a server that believes it who calls."""
    name, folder, pipeline = request.param, tmp_path_factory.mktemp(request.param), ample(pipeline_of("log"))
    write_lock(locked(message_forms(pipeline.request, pipeline.response), None), lock_path(folder, pipeline.name))
    pipeline = replace(pipeline, sources_dir=folder)
    with ExitStack() as stack:
        server = stack.enter_context(RunningServer([pipeline], body_bytes_max=100_000))
        routes = server.http.shared.routes
        routes[b"/readyz"] = routes[b"/livez"]  # type: ignore[index]
        server.on_loop(server.http.shared.trust, Proxies(["127.0.0.1"], "X-Forwarded-For"))
        recorder = Origins()
        server.engines["log"]._recorders += (recorder,)
        yield Front(start_proxy(stack, name, folder, pipeline, server.address), server, recorder.found)


def test_connections_to_the_server_are_kept(front: Front) -> None:
    """Callers that come and go do so at the proxy: it asks over the connections that it has."""
    before = front.server.count("tailrace_requests_total", "log", "200", "")
    opened = set(map(id, front.server.http.connections))
    for _ in range(12):
        with front.connect() as client:
            assert client.ask(post(BODY)).json["label"] == "well"
    assert front.server.count("tailrace_requests_total", "log", "200", "") == before + 12
    assert len(set(map(id, front.server.http.connections)) | opened) <= len(opened) + 2


def test_budget_comes_through(front: Front) -> None:
    """A call with too little time is shed by the server, which says when to come again."""
    with front.connect() as client:
        assert client.ask(post(BODY, "X-Budget-Ms: 10000")).status == 200
        answer = client.ask(post(BODY, "X-Budget-Ms: 0.001"))
        assert (answer.status, answer.problem()["title"]) == (503, "Shed")
        assert int(answer.headers["retry-after"]) >= 0


@pytest.mark.parametrize("is_chunked", [False, True])
def test_codings_come_through(front: Front, is_chunked: bool) -> None:
    """A compressed request, a compressed answer, and a body in chunks."""
    body = gzip.compress(payment_of(2.0, "x" * 2_000).encode())
    headers = ("Content-Encoding: gzip", "Accept-Encoding: gzip")
    request = post(body, *headers)
    if is_chunked:
        head = request.partition(b"\r\n\r\n")[0].replace(
            b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"
        )
        request = head + b"\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with front.connect() as client:
        answer = client.ask(request)
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
        assert msgspec.json.decode(gzip.decompress(answer.body))["label"] == "x" * 2_000


def test_message_pack_comes_through(front: Front) -> None:
    """A body of bytes, zeros and line ends among them."""
    body = msgspec.msgpack.encode({"amount": 2.0, "label": "\0\r\n\r\n"})
    with front.connect() as client:
        answer = client.ask(post(body, "Content-Type: application/msgpack"))
        assert msgspec.msgpack.decode(answer.body)["label"] == "\0\r\n\r\n"


def test_protocol_buffers_come_through(front: Front) -> None:
    """A message each way: the number of `amount` is 1, of `label` 2, and of the answer's score 1."""
    with front.connect() as client:
        body = b"\x09" + struct.pack("<d", 2.0) + b"\x12\x03\0\r\n"
        answer = client.ask(post(body, "Content-Type: application/x-protobuf"))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-protobuf")
        assert struct.unpack("<d", answer.body[1:9])[0] == pytest.approx(math.log(2.0), abs=1e-6)
        assert answer.body.endswith(b"\x03\0\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [(post("{}"), 422), (post("{"), 400), (post(BODY, path="/v1/none"), 404), (post("1" * 100_001), 413)],
)
def test_errors_come_through(front: Front, request_: bytes, status: int) -> None:
    """What the server says is wrong is what the caller reads, and the next call is answered."""
    with front.connect() as client:
        assert client.ask(request_).problem()["status"] == status
    with front.connect() as client:
        assert client.ask(post(BODY)).status == 200


def test_many_callers_at_once_each_have_their_own_answer(front: Front) -> None:
    """Over few connections to the server, no answer comes to another caller."""
    clients = [front.connect() for _ in range(24)]
    for number, client in enumerate(clients):
        client.send(post(payment_of(2.0, f"caller {number}"), f"X-Request-Id: r-{number}"))
    for number, client in enumerate(clients):
        answer = client.read()
        assert (answer.json["label"], answer.headers["x-request-id"]) == (f"caller {number}", f"r-{number}")
        client.sock.close()


def test_server_knows_who_calls_and_of_which_trace(front: Front) -> None:
    """The proxy tells the caller's address; what the caller says of itself is not believed."""
    front.origins.clear()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with front.connect() as client:
        client.sock.close()
    with front.connect() as client:
        for _ in range(3):
            headers = ("X-Forwarded-For: 203.0.113.9", f"traceparent: 00-{trace}-00f067aa0ba902b7-01")
            assert client.ask(post(BODY, *headers)).status == 200
    front.server.settle()
    # The caller is on 127.0.0.1, which is listed: so it is believed that it is a proxy, as 203.0.113.9's.
    assert [(each["client"], each["trace"]) for each in front.origins] == [("203.0.113.9", trace)] * 3
    front.server.http.shared.proxies = Proxies(["127.0.0.2"], "X-Forwarded-For")
    with front.connect() as client:
        assert client.ask(post(BODY, "X-Forwarded-For: 203.0.113.9")).status == 200
    front.server.settle()
    assert front.origins[-1]["client"] == "127.0.0.1"
    front.server.http.shared.proxies = Proxies(["127.0.0.1"], "X-Forwarded-For")


def test_server_that_stops_costs_no_call(front: Front) -> None:
    """Each answer of a server that drains is its connection's last, and the proxy opens another for the next call."""
    front.server.on_loop(front.server.http.drain)
    for _ in range(5):
        with front.connect() as client:
            answer = client.ask(post(BODY))
            assert answer.status == 200
            assert answer.headers.get("connection", "keep-alive") != "close"  # that is between proxy and server
