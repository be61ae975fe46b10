"""HTTP over TLS: what a client may do on a plain port it may do here; a handshake that goes wrong ends alone."""

from __future__ import annotations

import gc
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
from http_server import RawClient, RunningServer, assert_serves, head_of, payment_of, pieces_of, post, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secret_port import SecretPort, secret_port
from tls_client import TlsClient
from tls_files import Authority

from tailrace.server.http.connection import Connection
from tailrace.server.http.secure import Handshake
from tailrace.server.tls.certificates import Certificates, TlsFiles
from tailrace.server.tls.records import Records
from tailrace.server.tls.transport import TlsTransport


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return who signs."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    """Return the files of a server."""
    signed = authority.server()
    return TlsFiles(str(signed.cert), str(signed.key))


@pytest.fixture
def port(http_server: RunningServer, files: TlsFiles) -> Iterator[SecretPort]:
    """Return a port of the shared server that speaks TLS."""
    with secret_port(http_server, Certificates(files)) as port:
        yield port


@pytest.fixture
def client(port: SecretPort, authority: Authority) -> Iterator[TlsClient]:
    """Return a client."""
    with TlsClient(port.address, authority.trusting()) as client:
        yield client


@pytest.fixture
def failed(port: SecretPort) -> Callable[[], int]:
    """Return what counts the handshakes that have failed since the test began."""

    def count() -> int:
        return port.server.count("tailrace_errors_total", "", "handshake-failed")

    before = count()
    return lambda: count() - before


def answered(client: RawClient, label: str = "well") -> bool:
    """Say whether a call is answered."""
    return bool(client.ask(post(payment_of(2.0, label))).json["label"] == label)


def test_calls_are_answered_on_one_connection(client: TlsClient) -> None:
    """It speaks HTTP/1.1, which the handshake has agreed on, over TLS 1.3."""
    assert all(answered(client, str(number)) for number in range(3))
    assert client.wrapped.tls.version() == "TLSv1.3"


def test_oldest_version_is_1_2(port: SecretPort, authority: Authority, failed: Callable[[], int]) -> None:
    """TLS 1.2 is spoken, with forward secrecy, and 1.1 is not."""
    context = authority.trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsClient(port.address, context) as client:
        assert answered(client)
        tls = client.wrapped.tls
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.2", "http/1.1")
        assert (tls.cipher() or ("",))[0].startswith("ECDHE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        TlsClient(port.address, context)
    wait_for(lambda: failed() == 1, "counted")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_nothing_is_renegotiated(port: SecretPort, authority: Authority, client: TlsClient) -> None:
    """A client that asks for it, which would be costly again and again, is told no; others are served."""
    place = f"127.0.0.1:{port.address[1]}"
    command = ["openssl", "s_client", "-connect", place, "-tls1_2", "-CAfile", str(authority.file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        wait_for(lambda: len(port.server.http.connections) == 2, "connected")
        asking.stdin.write(b"R\n")
        asking.stdin.flush()
        told = asking.stdout.read()
    assert b"no renegotiation" in told
    assert answered(client)


@pytest.mark.hypothesis
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=12), sizes=st.lists(st.integers(0, 40_000), max_size=4))
def test_records_may_be_cut_anywhere(client: TlsClient, cuts: list[int], sizes: list[int]) -> None:
    """However the bytes of records come in, each request is answered, in order."""
    labels = [str(number) + "x" * size for number, size in enumerate(sizes)]
    wrapped = client.wrapped
    sealed = b"".join(wrapped.sealed(post(payment_of(1.0, label))) for label in labels)
    for piece in pieces_of(sealed, cuts):
        wrapped.raw.sendall(piece)
    assert [client.read().json["label"] for _ in labels] == labels


def test_long_bodies_come_and_go(port: SecretPort, authority: Authority, client: TlsClient) -> None:
    """A megabyte is many records each way, and what is read at once is as much as the loop reads."""
    label = "x" * 1_000_000
    assert answered(client, label)
    assert answered(client)


def test_head_and_body_may_come_apart(port: SecretPort, client: TlsClient) -> None:
    """Many clients send them in two writes, so in two records."""
    whole = post(payment_of(3.0, "parts"))
    head, body = whole[: whole.index(b"{")], whole[whole.index(b"{") :]
    for _ in range(3):
        assert client.send(head).ask(body).json["label"] == "parts"
        assert client.ask(whole).json["label"] == "parts"


def test_caller_may_end_its_side_and_read_on(client: TlsClient) -> None:
    """A goodbye ends what is sent, not what is owed; the server says its own behind the last answer."""
    client.send(post(payment_of(1.0, "a")) + post(payment_of(1.0, "b"))).end()
    assert [client.read().json["label"] for _ in range(2)] == ["a", "b"]
    client.assert_closed()


def test_caller_that_leaves_without_goodbye_is_forgotten(port: SecretPort, client: TlsClient) -> None:
    """Nothing is left of it, whether or not it was owed an answer."""
    client.send(post(payment_of()))
    client.sock.close()
    wait_for(lambda: not port.server.http.connections, "gone")
    assert_serves(port.server)


def test_refused_caller_gets_its_answer_though_it_sends_on(port: SecretPort, client: TlsClient) -> None:
    """The answer, a goodbye, and what is sent meanwhile is passed over."""
    head = post(b"")[:-4].replace(b"Length: 0", b"Length: 900000000") + b"\r\n\r\n"
    client.send(head + b"x" * 300_000)
    assert client.read().status == 413
    client.assert_closed()
    client.sock.close()
    wait_for(lambda: not port.server.http.connections, "gone")


def test_altered_record_ends_its_connection_alone(port: SecretPort, client: TlsClient, authority: Authority) -> None:
    """A record that was changed on its way is no request, and the sender is told."""
    sealed = bytearray(client.wrapped.sealed(post(payment_of())))
    sealed[-1] ^= 1
    with TlsClient(port.address, authority.trusting()) as other:
        assert answered(other)
        client.wrapped.raw.sendall(sealed)
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            client.read()
        assert answered(other)


def test_plain_http_is_told_what_the_port_speaks(port: SecretPort, failed: Callable[[], int]) -> None:
    """Who forgot the s learns of it in a way that it can read."""
    with RawClient(port.address) as client:
        answer = client.ask(post(payment_of()))
        assert (answer.status, answer.problem()["detail"]) == (400, "this port speaks TLS")
        client.assert_closed()
    wait_for(lambda: failed() == 1, "counted")


@pytest.mark.parametrize(
    "garbage", [b"\0" * 600, b"\x16\x03\x01\xff\xff" + b"z" * 70_000, b"PRI * HTTP/2.0\r\n\r\n", b"\xff"]
)
def test_garbage_is_no_handshake(
    port: SecretPort, client: TlsClient, failed: Callable[[], int], garbage: bytes
) -> None:
    """It ends that connection, at once or when its time is over, and is counted; others are served."""
    with RawClient(port.address) as stranger:
        stranger.try_send(garbage)
        stranger.end()
        stranger.read_to_end()
        wait_for(lambda: len(port.server.http.connections) == 1, "gone")
    assert failed() <= 1
    assert answered(client)


def test_caller_that_does_not_take_the_certificate_is_counted(port: SecretPort, failed: Callable[[], int]) -> None:
    """The server hears why, by the alert."""
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsClient(port.address, ssl.create_default_context())
    wait_for(lambda: failed() == 1, "counted")


def test_handshake_that_hangs_is_ended(
    serve: Callable[..., RunningServer], files: TlsFiles, authority: Authority
) -> None:
    """A thousand that say nothing, or half of a hello, have a place for `request_s`; who calls meanwhile is served."""
    server = serve("log", request_s=3.0)
    hello, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        authority.trusting().wrap_bio(hello, outgoing, server_hostname="localhost").do_handshake()
    half = outgoing.read()[:100]
    with secret_port(server, Certificates(files)) as port, ExitStack() as stack:
        hanging = [stack.enter_context(RawClient(port.address)) for _ in range(1_000)]
        for client in hanging[::2]:
            client.send(half)
        wait_for(lambda: len(server.http.connections) == 1_000, "accepted")
        server.sweep(3)
        with TlsClient(port.address, authority.trusting()) as client:
            assert answered(client)
            server.sweep()
            wait_for(lambda: len(server.http.connections) == 1, "gone")
            assert answered(client)
        for client in hanging:
            client.read_to_end()
        assert server.count("tailrace_errors_total", "", "handshake-failed") == 1_000


def test_probe_is_answered_however_many_handshakes_hang(
    serve: Callable[..., RunningServer], files: TlsFiles, authority: Authority
) -> None:
    """Handshakes take places as connections do; over the limit one call is refused and a probe is answered."""
    server = serve("log", connections_max=2)
    with secret_port(server, Certificates(files)) as port, RawClient(port.address), RawClient(port.address):
        wait_for(lambda: len(server.http.connections) == 2, "accepted")
        for request, status in ((post(payment_of()), 503), (head_of(), 200)):
            with TlsClient(port.address, authority.trusting()) as client:
                assert client.ask(request).status == status
                client.assert_closed()


def test_idle_connection_is_closed_with_a_goodbye(
    serve: Callable[..., RunningServer], files: TlsFiles, authority: Authority
) -> None:
    """One on which a part of a record has come is not idle."""
    server = serve("log", idle_s=2.0)
    with (
        secret_port(server, Certificates(files)) as port,
        TlsClient(port.address, authority.trusting()) as idle,
        TlsClient(port.address, authority.trusting()) as halfway,
    ):
        assert answered(idle)
        assert answered(halfway)
        sealed = halfway.wrapped.sealed(post(payment_of(1.0, "late")))
        halfway.wrapped.raw.sendall(sealed[:50])
        server.sweep(3)
        idle.assert_closed()
        halfway.wrapped.raw.sendall(sealed[50:])
        assert halfway.read().json["label"] == "late"


def test_record_that_never_ends_holds_no_connection(
    serve: Callable[..., RunningServer], files: TlsFiles, authority: Authority
) -> None:
    """A byte of a record makes it no idle one; `request_s` later it is told that it takes too long, and is gone."""
    server = serve("log", idle_s=2.0, request_s=2.0)
    with secret_port(server, Certificates(files)) as port, TlsClient(port.address, authority.trusting()) as halfway:
        assert answered(halfway)
        halfway.wrapped.raw.sendall(halfway.wrapped.sealed(post(payment_of()))[:1])
        wait_for(
            lambda: all(cast(TlsTransport, each._transport).records.is_partial for each in server.http.connections),
            "come",
        )
        server.sweep(3)
        assert len(server.http.connections) == 1
        server.sweep(3)
        assert halfway.read().status == 408
        server.sweep(3)
        wait_for(lambda: not server.http.connections, "gone")


def test_reader_that_does_not_read_is_bounded_and_ended(
    serve: Callable[..., RunningServer], files: TlsFiles, authority: Authority
) -> None:
    """Its requests are not read while its answers wait, and after `request_s` it is gone."""
    server = serve("log", request_s=2.0)
    with secret_port(server, Certificates(files)) as port, TlsClient(port.address, authority.trusting()) as client:
        client.wrapped.raw.settimeout(0.3)
        sent = 0
        with suppress(TimeoutError):
            for number in range(200):
                sealed = client.wrapped.sealed(post(payment_of(1.0, str(number) + "x" * 500_000)))
                while sealed:
                    taken = client.wrapped.raw.send(sealed)
                    sealed, sent = sealed[taken:], sent + taken
        assert sent < 60_000_000
        server.sweep(4)
        wait_for(lambda: not server.http.connections, "gone")


def test_certificate_is_renewed_without_a_restart(
    http_server: RunningServer, tmp_path: Path, authority: Authority
) -> None:
    """New connections have the new one, old ones go on; between the writes of its two files the old one is shown."""
    other = Authority(tmp_path, "other")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(*parts: tuple[Path, Path]) -> None:
        for source, target in parts:
            draft = target.with_suffix(".draft")
            draft.write_bytes(source.read_bytes())
            draft.replace(target)

    first, second = authority.server("first"), other.server("second")
    put((first.cert, cert), (first.key, key))
    with (
        secret_port(http_server, Certificates(TlsFiles(str(cert), str(key)))) as port,
        TlsClient(port.address, authority.trusting()) as old,
    ):
        put((second.cert, cert))
        port.look()
        with TlsClient(port.address, authority.trusting()) as client:
            assert answered(client)
        put((second.key, key))
        port.look()
        with TlsClient(port.address, other.trusting()) as client:
            assert answered(client)
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsClient(port.address, authority.trusting())
        assert answered(old)
        cert.unlink()
        port.look()
        with TlsClient(port.address, other.trusting()) as client:
            assert answered(client)


def test_connections_leave_no_garbage(port: SecretPort, authority: Authority) -> None:
    """What a connection was is freed as it ends, with the collector off; so is a handshake that failed."""

    def visit() -> None:
        with TlsClient(port.address, authority.trusting()) as client:
            assert answered(client)
        with RawClient(port.address) as stranger:
            stranger.ask(head_of())
        wait_for(lambda: not port.server.http.connections, "gone")
        port.server.settle()

    def alive() -> int:
        return sum(isinstance(each, (Records, TlsTransport, Handshake, Connection)) for each in gc.get_objects())

    visit()
    gc.collect()
    before = alive()
    gc.disable()
    try:
        for _ in range(5):
            visit()
        assert alive() <= before
    finally:
        gc.enable()
