"""Who calls, behind proxies: they are believed as far as they are listed, and what a caller makes up is not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from http_server import PATIENCE_S, RawClient, RunningServer, ample, payment_of, post
from hypothesis import given
from hypothesis import strategies as st

from tailrace.batch import Batch
from tailrace.errors import SetupError
from tailrace.pipeline import Pipeline
from tailrace.server.acceptor import Acceptor
from tailrace.server.http.reader import RequestReader
from tailrace.server.options import ServeOptions
from tailrace.server.proxies import TOLD_BYTES_MAX, Proxies

FOR = Proxies(["10.0.0.0/8", "2001:db8:1::/48"], "X-Forwarded-For")
FORWARDED = Proxies(["10.0.0.0/8", "2001:db8:1::/48"], "Forwarded")


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),  # who connects is no proxy of ours
        ("10.0.0.3", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.3", "", "10.0.0.3"),
        ("10.0.0.3", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.3", "1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),  # the caller made up the first
        ("10.0.0.3", "10.0.0.9, 203.0.113.9", "203.0.113.9"),  # even as one of ours
        ("10.0.0.3", "10.0.0.4, 10.0.0.2", "10.0.0.4"),  # all are ours: the first one calls
        ("10.0.0.3", "203.0.113.9:5678", "203.0.113.9"),
        ("10.0.0.3", "2001:db8::9", "2001:db8::9"),
        ("10.0.0.3", "[2001:db8::9]:5678", "2001:db8::9"),
        ("10.0.0.3", "1.1.1.1, unknown", "10.0.0.3"),  # a proxy that hides its caller is who is known
        ("10.0.0.3", "1.1.1.1, ", "10.0.0.3"),
        ("10.0.0.3", "1.1.1.1, 999.1.1.1", "10.0.0.3"),
        ("::ffff:10.0.0.3", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:1::5", "::ffff:203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", "unix"),  # the socket's callers are not listed
    ],
)
def test_client_is_the_last_one_that_is_not_ours(peer: str, told: str, client: str) -> None:
    """The chain is read from its end, as far as each that tells is listed."""
    assert FOR.client(peer, told.encode()) == client


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="203.0.113.9:47011";proto=https;by=10.0.0.3', "203.0.113.9"),
        ('proto=https;for="[2001:db8::9]:47011"', "2001:db8::9"),
        ("for=1.1.1.1, for=203.0.113.9;by=10.0.0.2, for=10.0.0.2", "203.0.113.9"),
        ('for="\\203.0.113.9"', "203.0.113.9"),
        ("for=1.1.1.1, for=_hidden", "10.0.0.3"),
        ("for=1.1.1.1, for=unknown", "10.0.0.3"),
        ("for=1.1.1.1, by=10.0.0.2", "10.0.0.3"),
        ('for=1.1.1.1;x=", for="[2001:db8::9]"', "2001:db8::9"),  # a quote left open swallows no proxy's word
        ('for="1.1.1.1, for=203.0.113.9', "203.0.113.9"),
        ('for="1.1.1.1\\", for="[2001:db8::9]"', "2001:db8::9"),
        ("for=1.1.1.1,by=10.0.0.2;for=203.0.113.9;host=a.amazonaws.com;proto=https", "203.0.113.9"),
        ("x-for=1.1.1.1", "10.0.0.3"),
        ("", "10.0.0.3"),
    ],
)
def test_client_of_a_forwarded_header(told: str, client: str) -> None:
    """RFC 7239's elements, their quotes and names; what a caller left broken to the left changes nothing."""
    assert FORWARDED.client("10.0.0.3", told.encode()) == client


@given(st.text(alphabet='for=",;\\ 1.[]:abx\t', max_size=60))
def test_nothing_that_a_caller_writes_makes_him_another(text: str) -> None:
    """Whatever stands to the left of what our proxy adds, the caller is who the proxy saw."""
    assert FOR.client("10.0.0.3", f"{text}, 203.0.113.9".encode()) == "203.0.113.9"
    for added in ("for=203.0.113.9", 'for="[2001:db8::9]:1";by="10.0.0.3:2"'):
        assert FORWARDED.client("10.0.0.3", f"{text}, {added}".encode()) in {"203.0.113.9", "2001:db8::9"}


def test_socket_at_a_path_is_listed_as_unix() -> None:
    """A proxy on this host that calls over the Unix socket has no address."""
    assert Proxies(["unix"], "X-Forwarded-For").client("", b"203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize(
    "told", [b"," * 16_000, b'"' * 16_000, b'for="' * 3_000, b"for=10.0.0.1, " * 1_000, b"\xff" * 999]
)
def test_long_chain_is_looked_at_from_its_end(told: bytes) -> None:
    """However long it is, a bounded part is read."""
    began_s = time.monotonic()
    for proxies in (FOR, FORWARDED):
        assert proxies.client("10.0.0.3", told) in {"10.0.0.3", "10.0.0.1"}
    assert time.monotonic() - began_s < 1.0
    assert FOR.client("10.0.0.3", b"x" * 2 * TOLD_BYTES_MAX + b", 203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize(
    ("networks", "header", "where"),
    [
        (("10.0.0.0/33",), "X-Forwarded-For", "trusted_proxy"),
        (("10.0.0.1/8",), "X-Forwarded-For", "trusted_proxy"),  # bits beyond the network: one of the two is meant
        (("proxy.example",), "X-Forwarded-For", "trusted_proxy"),
        (("10.0.0.0/8",), "X-Real-IP", "proxy_header"),
    ],
)
def test_setting_that_is_none_is_refused(networks: tuple[str, ...], header: str, where: str) -> None:
    """A server does not start with it."""
    with pytest.raises(SetupError, match=where):
        ServeOptions(files=(), trusted_proxies=networks, proxy_header=header)


# -- at a server ------------------------------------------------------------------------------------------------------


class Clients:
    """A recorder that keeps who calls."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Keep those of a batch."""
        self.found += [call.origin()["client"] for call in batch.calls]


@pytest.fixture
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve one pipeline."""
    with RunningServer([ample(pipeline_of("log"))]) as server:
        server.engines["log"]._recorders += (Clients(),)
        yield server


def clients_of(server: RunningServer, *chains: str) -> list[str]:
    """Return who calls, as the server sees it, of a request with each chain."""
    recorder = server.engines["log"]._recorders[-1]
    recorder.found.clear()
    with server.connect() as client:
        for chain in chains:
            client.ask(post(payment_of(), f"X-Forwarded-For: {chain}", f"Forwarded: for={chain}"))
    server.settle()  # an answer is recorded after it is sent
    return list(recorder.found)


CHAINS = ("203.0.113.1", "203.0.113.2", "203.0.113.3", "1.2.3.4, 203.0.113.4", "203.0.113.5")


def test_nobody_is_believed_where_nobody_is_listed(server: RunningServer) -> None:
    """Without `--trusted-proxy` who calls is who connects."""
    assert clients_of(server, *CHAINS) == ["127.0.0.1"] * 5


def test_listed_proxy_is_believed_for_each_request(server: RunningServer) -> None:
    """Each request of a connection has a caller of its own, also where its head is recognised by its form."""
    server.on_loop(server.http.shared.trust, Proxies(["127.0.0.0/8"], "x-forwarded-for"))
    assert clients_of(server, *CHAINS) == [f"203.0.113.{place}" for place in range(1, 6)]


def test_chain_that_varies_meets_no_parser(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy each request may have another caller; its head is known all the same, from the third on."""
    reads: list[bytes] = []
    read = RequestReader.read
    server.on_loop(server.http.shared.trust, Proxies(["127.0.0.0/8"], "x-forwarded-for"))

    def watched(self: RequestReader, data: bytes, raw: bytes = b"") -> Any:
        reads.append(data)
        return read(self, data, raw)

    monkeypatch.setattr(RequestReader, "read", watched)
    assert clients_of(server, *(f"203.0.113.{place}" for place in range(10, 90))) == [
        f"203.0.113.{place}" for place in range(10, 90)
    ]
    assert len(reads) <= 3


def test_peer_that_is_not_listed_is_not_believed(server: RunningServer) -> None:
    """A chain from elsewhere is what its sender made up, though it has the form of a proxy's head."""
    server.on_loop(server.http.shared.trust, Proxies(["127.0.0.0/8"], "x-forwarded-for"))
    assert clients_of(server, *CHAINS)[0] == "203.0.113.1"
    server.http.shared.proxies = Proxies(["10.0.0.0/8"], "x-forwarded-for")  # the forms are kept
    assert clients_of(server, *CHAINS) == ["127.0.0.1"] * 5


def test_header_that_proxies_do_not_write_is_not_read(server: RunningServer) -> None:
    """Where they write Forwarded, what stands in X-Forwarded-For came through them from whoever calls."""
    server.on_loop(server.http.shared.trust, Proxies(["127.0.0.1"], "Forwarded"))
    recorder = server.engines["log"]._recorders[-1]
    with server.connect() as client:
        client.ask(post(payment_of(), "X-Forwarded-For: 1.2.3.4", "Forwarded: for=203.0.113.9"))
        client.ask(post(payment_of(), "X-Forwarded-For: 1.2.3.4"))
    server.settle()
    assert recorder.found == ["203.0.113.9", "127.0.0.1"]


def test_proxy_at_the_socket_of_a_path_is_believed_where_it_is_listed(server: RunningServer, tmp_path: Path) -> None:
    """Who connects there has no address; what it tells is believed if `unix` is listed."""
    recorder = server.engines["log"]._recorders[-1]
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        acceptor = server.on_loop(lambda: Acceptor(listener, server.http))
        sock.connect(str(tmp_path / "s"))
        client = RawClient.__new__(RawClient)
        client.sock, client._buffer = sock, b""
        for networks in (["unix"], ["127.0.0.0/8"]):
            server.on_loop(server.http.shared.trust, Proxies(networks, "x-forwarded-for"))
            assert client.ask(post(payment_of(), "X-Forwarded-For: 203.0.113.9")).status == 200
        server.settle()
        drain = acceptor.drain(shut=True)
        asyncio.run_coroutine_threadsafe(drain, server.loop).result(PATIENCE_S)
    assert recorder.found == ["203.0.113.9", "unix"]


def test_document_names_no_host_and_no_scheme(server: RunningServer) -> None:
    """Whatever a proxy says of scheme and host, the document's server is the one that it was fetched from."""
    with server.connect() as client:
        request = b"GET /openapi.json HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Proto: ftp\r\n\r\n"
        assert client.ask(request).json["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("ipv4:127.0.0.1:50051", ["203.0.113.9"], "203.0.113.9"),
        ("ipv4:127.0.0.1:50051", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("ipv6:%5B::1%5D:50051", ["203.0.113.9"], "::1"),
        ("ipv4:127.0.0.1:50051", [], "127.0.0.1"),
    ],
)
def test_call_over_grpc_comes_from_whom_the_proxy_tells(peer: str, told: list[str], client: str) -> None:
    """The same over gRPC, whose metadata are headers."""
    grpc_call = pytest.importorskip("tailrace.server.grpc.call")
    rpc = SimpleNamespace(peer=lambda: peer, metadata=tuple(("x-forwarded-for", each) for each in told))
    desk = grpc_call.Desk(lambda kind: None, int, None, Proxies(["127.0.0.0/8"], "X-Forwarded-For"))
    call = grpc_call.GrpcCall(None, None, None, 0, 0, 1, desk, rpc, None)
    assert call.origin() == {"client": client}
